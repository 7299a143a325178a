//! Verification of client certificates: the chain, and the rules of SPIFFE for one that has a SPIFFE ID (X509-SVID, sections 2,
//! 3.1 and 5.2; <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>).
//!
//! Both are part of the handshake, so that a caller that is refused receives a TLS alert.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use crate::domain::spiffe_id;
use crate::pem::Certificate;

/// rustls's verifier of the chain, with the rules of SPIFFE.
#[derive(Debug)]
pub(super) struct ClientVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now).map_err(unknown_issuer)?;
        let certificate = Certificate::parse(end_entity);
        if let Err(problem) =
            certificate.and_then(|certificate| caller_names(certificate).map_err(Into::into))
        {
            return Err(CertificateError::Other(OtherError(Arc::from(Box::from(problem)))).into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A chain whose signature does not match is one of an unknown CA that has the name of a known one, such as its predecessor.
fn unknown_issuer(error: Error) -> Error {
    use CertificateError::{BadSignature, UnsupportedSignatureAlgorithmForPublicKeyContext as OtherKeyType};
    if let Error::InvalidCertificate(BadSignature | OtherKeyType { .. }) = error {
        return CertificateError::UnknownIssuer.into();
    }
    error
}

/// The names of a caller: the SPIFFE ID of its certificate, or else the DNS names. A certificate that has the scheme of a SPIFFE
/// ID must be a valid X509-SVID; its DNS names are not used instead.
pub(super) fn caller_names(certificate: Certificate) -> Result<Vec<String>, &'static str> {
    let Certificate { uris, dns_names, may_sign, .. } = certificate;
    let Some(id) = uris.iter().find_map(|uri| spiffe_id(uri)) else { return Ok(dns_names) };
    if uris.len() > 1 {
        return Err("a certificate with a SPIFFE ID must have no other URI");
    }
    if may_sign {
        return Err(
            "a certificate with a SPIFFE ID must not be allowed to sign certificates or revocation lists",
        );
    }
    Ok(vec![id?])
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const ID: &str = "spiffe://example.org/ns/backup/sa/Reader_1.a-b";

    fn names(uris: &[&str], dns_names: &[&str], may_sign: bool) -> Option<Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        caller_names(Certificate {
            subject: String::new(),
            dns_names: owned(dns_names),
            uris: owned(uris),
            ip_addresses: vec![],
            may_sign,
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH,
        })
        .ok()
    }

    #[test]
    fn caller_is_named_by_its_spiffe_id_or_else_by_its_dns_names() {
        for (uris, dns_names, expected) in [
            (&[][..], &[][..], &[][..]),
            (&[ID], &["a.example"], &[ID]),
            (&["SPIFFE://example.org/ns/backup/sa/Reader_1.a-b"], &["a.example"], &[ID]),
            (&[], &["a.example", "b.example"], &["a.example", "b.example"]),
            (&["https://a.example", "urn:spiffe:x"], &["b.example"], &["b.example"]),
            (&["https://a.example"], &[], &[]),
        ] {
            let expected = expected.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(names(uris, dns_names, false), Some(expected), "{uris:?}");
        }
        assert_eq!(names(&[], &["a.example"], true), Some(vec!["a.example".to_owned()]));
    }

    #[test]
    fn certificate_with_a_spiffe_id_must_be_an_x509_svid() {
        for uris in [
            &[ID, "spiffe://example.org/other"][..],
            &[ID, ID],
            &[ID, "https://a.example"],
            &["https://a.example", "Spiffe://example.org/x"],
            &["spiffe://example.org"],
            &["spiffe:///a"],
            &["SPIFFE:"],
        ] {
            assert_eq!(names(uris, &["a.example"], false), None, "{uris:?}");
        }
        assert_eq!(names(&[ID], &[], true), None);
    }
}
