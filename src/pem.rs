//! What a certificate says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The part of a certificate that operators ask about.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// DNS names, URIs and IP addresses, as they stand in it.
    pub(crate) names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub(crate) expires: i64,
}

impl Certificate {
    /// Reads one; `None` is what is none.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let extension = certificate.subject_alternative_name().ok().flatten();
        let all = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let names = all.iter().filter_map(text).collect();
        Some(Self { names, expires: certificate.validity().not_after.timestamp() })
    }

    /// Whether it has expired by now.
    pub(crate) fn has_expired(&self, now: SystemTime) -> bool {
        now >= self.expiry()
    }

    /// Names and expiry, for people.
    pub(crate) fn describe(&self) -> String {
        let names = if self.names.is_empty() { "no name".into() } else { self.names.join(", ") };
        format!("for {names}; expires {}", httpdate::fmt_http_date(self.expiry()))
    }

    fn expiry(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.expires).unwrap_or_default())
    }
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds of names name no server")]
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
            Ok(octets) => Some(std::net::Ipv4Addr::from(octets).to_string()),
            Err(_) => {
                <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string())
            }
        },
        _ => None,
    }
}
