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
    /// When it expires, in seconds since 1970.
    pub(crate) not_after: i64,
}

impl Certificate {
    /// Parses the DER encoding.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let not_after = certificate.validity().not_after.timestamp();
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
        now >= self.expiry()
    }

    fn expiry(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_after).unwrap_or_default())
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = [self.dns_names.as_slice(), &self.uris].concat();
        names.extend(self.ip_addresses.iter().map(ToString::to_string));
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        write!(f, "for {names}; expires {}", httpdate::fmt_http_date(self.expiry()))
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(ipv4) = <[u8; 4]>::try_from(octets) {
        return Some(ipv4.into());
    }
    let ipv6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(ipv6.into())
}
