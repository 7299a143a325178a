//! The only reader of PEM files (RFC 7468), and of the names and expiry of X.509 certificates.
//!
//! Everything in a file that is of the requested kind must be readable: a certificate that cannot be read is an error and
//! is not skipped. An error contains the path and the reason; the caller puts the name of the flag or variable before it.
//! This module must not know what the certificates are used for.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Reads every certificate of a file. There must be at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_file(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is not valid PEM ({error})", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{} contains no certificate", path.display()));
    }
    Ok(certificates)
}

/// Reads the first private key of a file.
pub(crate) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read_file(path)?)
        .map_err(|error| format!("{} contains no private key ({error})", path.display()))
}

/// Reads a file of CA certificates.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| {
            format!("{} contains a certificate that cannot be used ({error})", path.display())
        })?;
    }
    Ok(roots)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {} ({error})", path.display()))
}

/// The subject alternative names (RFC 5280, section 4.2.1.6) and the expiry of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) dns_names: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) ip_addresses: Vec<IpAddr>,
    /// When it expires.
    pub(crate) not_after: SystemTime,
}

impl Certificate {
    /// Parses the DER encoding.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let not_after = UNIX_EPOCH + Duration::from_secs(seconds);
        let mut parsed = Self { dns_names: vec![], uris: vec![], ip_addresses: vec![], not_after };
        let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        for name in names {
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "other kinds name neither a server nor a workload"
            )]
            match name {
                GeneralName::DNSName(name) => parsed.dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) => parsed.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(octets) => parsed.ip_addresses.extend(ip_address(octets)),
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Whether it has expired.
    pub(crate) fn has_expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = [self.dns_names.as_slice(), &self.uris].concat();
        names.extend(self.ip_addresses.iter().map(ToString::to_string));
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        write!(f, "for {names}; expires {}", httpdate::fmt_http_date(self.not_after))
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(ipv4) = <[u8; 4]>::try_from(octets) {
        return Some(ipv4.into());
    }
    let ipv6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(ipv6.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_file_is_an_error_with_path_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let read = || (read_roots(&path).unwrap_err(), read_private_key(&path).unwrap_err());
        let shown = path.display();
        let (roots, key) = read();
        assert!(roots.starts_with(&format!("cannot read {shown} (")), "{roots}");
        assert_eq!(roots, key);
        for (pem, roots, key) in [
            ("", "contains no certificate", "contains no private key"),
            ("-----BEGIN CERTIFICATE-----\nAA==\n", "is not valid PEM", "contains no private key"),
            (
                "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
                "contains a certificate that cannot be used",
                "contains no private key",
            ),
        ] {
            std::fs::write(&path, pem).unwrap();
            let errors = read();
            assert!(errors.0.starts_with(&format!("{shown} {roots}")), "{errors:?}");
            assert!(errors.1.starts_with(&format!("{shown} {key}")), "{errors:?}");
        }
    }

    #[test]
    fn certificate_is_shown_with_its_names_and_expiry() {
        let names = ["a.example".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::parse(certificate.der()).unwrap();
        let expected = "for a.example, 127.0.0.1, ::1; expires Thu, 01 Jan 2099 00:00:00 GMT";
        assert_eq!(certificate.to_string(), expected);
        assert!(!certificate.has_expired(SystemTime::UNIX_EPOCH));
    }
}
