//! The names, the validity and the purpose of an X.509 certificate (RFC 5280).

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// What the gateway reads of a certificate. The names are its subject alternative names (section 4.2.1.6).
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) subject: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) ip_addresses: Vec<IpAddr>,
    /// Whether it may sign certificates or revocation lists (sections 4.2.1.3 and 4.2.1.9).
    pub(crate) may_sign: bool,
    /// When it becomes valid.
    pub(crate) not_before: SystemTime,
    /// When it expires.
    pub(crate) not_after: SystemTime,
}

impl Certificate {
    /// Parses the DER encoding, which must contain nothing else.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there are bytes behind it".into());
        }
        let constraints = certificate.basic_constraints().map_err(|error| error.to_string())?;
        let usage = certificate.key_usage().map_err(|error| error.to_string())?;
        let mut parsed = Self {
            subject: certificate.subject().to_string(),
            dns_names: vec![],
            uris: vec![],
            ip_addresses: vec![],
            may_sign: constraints.is_some_and(|constraints| constraints.value.ca)
                || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        };
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
                // A DNS name or a URI that is no text. Without the URI, a DNS name would count in its place.
                GeneralName::Invalid(Tag(2 | 6), _) => {
                    return Err("a subject alternative name is malformed".into());
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Whether it is valid at `now`. The error says since when it is not, or from when on it will be.
    pub(crate) fn check_validity(&self, now: SystemTime) -> Result<(), String> {
        if now < self.not_before {
            let from = httpdate::fmt_http_date(self.not_before);
            return Err(format!("is not valid before {from}; check the clock"));
        }
        if now > self.not_after {
            return Err(format!("expired on {}: renew it", httpdate::fmt_http_date(self.not_after)));
        }
        Ok(())
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

fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
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
    fn certificate_with_a_name_that_is_no_text_is_an_error() {
        // A sequence of a DNS name (tag 2) or URI (tag 6), and the DNS name `team`. One byte is not UTF-8.
        for tag in [0x82, 0x86] {
            let names = [&[0x30, 14, tag, 6][..], b"spiff\xff", &[0x82, 4], b"team"].concat();
            let mut params = rcgen::CertificateParams::default();
            params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            let error = Certificate::parse(certificate.der()).unwrap_err();
            assert_eq!(error, "a subject alternative name is malformed");
        }
    }

    #[test]
    fn certificate_is_shown_with_its_names_and_expiry() {
        let names = ["a.example".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::parse(certificate.der()).unwrap();
        let expected = "for a.example, 127.0.0.1, ::1; expires Thu, 01 Jan 2099 00:00:00 GMT";
        assert_eq!(certificate.to_string(), expected);
        let at = |time: SystemTime| certificate.check_validity(time);
        assert_eq!(at(certificate.not_before), Ok(()));
        assert_eq!(at(certificate.not_after), Ok(()));
        let day = Duration::from_secs(86_400);
        let early = at(certificate.not_before - day).unwrap_err();
        assert!(early.contains("not valid before Mon, 01 Jan 2001"), "{early}");
        let late = at(certificate.not_after + day).unwrap_err();
        assert!(late.contains("expired on Thu, 01 Jan 2099"), "{late}");
    }
}
