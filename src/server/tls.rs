//! TLS and mutual TLS of a port, from PEM files that may change while it runs.
//!
//! A reload replaces certificate, key and client CA together, and only if all of them are valid. Open connections are kept.
//! This module must not know when files change: `app` watches them. Tests: `tests/gateway/tls.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::files::{Loaded, Reload, Snapshot};
use crate::pem::{self, Certificate};

/// The paths of the PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The port's certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The CA certificates of the callers. With it, every caller must present a certificate (mutual TLS).
    pub client_ca: Option<PathBuf>,
}

/// The certificate, key and client CA in use.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    /// The files as they were when they were first read.
    snapshot: Snapshot,
    current: ArcSwap<Material>,
}

/// A certificate with its key and client CA, as a rustls configuration.
#[derive(Debug)]
struct Material {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

impl Tls {
    /// Reads the files. The error names the file at fault and the reason.
    pub fn load(files: Files) -> Result<Self, String> {
        let Loaded { value, snapshot } = Loaded::read(files.paths(), || Material::read(&files))?;
        Ok(Self { files, snapshot, current: ArcSwap::from_pointee(value) })
    }

    /// The port's certificate.
    pub(crate) fn certificate(&self) -> Certificate {
        self.current.load().certificate.clone()
    }

    /// When the certificate in use expires, in seconds since 1970.
    pub fn expiry_timestamp(&self) -> f64 {
        let not_after = self.current.load().certificate.not_after;
        not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().config))
    }
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.client_ca.clone());
        paths
    }
}

impl Reload for Tls {
    fn subject(&self) -> &'static str {
        "certificate"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.paths()
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let material = Material::read(&self.files)?;
        Ok(Box::new(|| self.current.store(Arc::new(material))))
    }
}

impl Material {
    fn read(files: &Files) -> Result<Self, String> {
        let (certificate_path, key_path) = (files.certificate.display(), files.key.display());
        let chain = pem::read_certificates(&files.certificate)?;
        let key = pem::read_private_key(&files.key)?;
        let leaf = chain.first().ok_or_else(|| format!("{certificate_path} contains no certificate"))?;
        let certificate = Certificate::parse(leaf)
            .map_err(|error| format!("{certificate_path} is not a valid X.509 certificate ({error})"))?;

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &files.client_ca {
            Some(path) => {
                let roots = Arc::new(pem::read_roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| format!("cannot use {} ({error})", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("{certificate_path} and {key_path} do not match ({error})"))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }
}

/// The names of a peer, from its verified certificate chain. None without mutual TLS.
pub(super) fn peer_names(chain: Option<&[CertificateDer<'_>]>) -> io::Result<Arc<[String]>> {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Arc::default()) };
    let Certificate { uris, dns_names, .. } = Certificate::parse(leaf).map_err(io::Error::other)?;
    caller_names(uris, dns_names).map(Arc::from).map_err(io::Error::other)
}

/// The one SPIFFE ID of a certificate, or else its DNS names. SPIFFE requires that a certificate with more than one SPIFFE
/// ID is rejected (X509-SVID, section 2).
fn caller_names(uris: Vec<String>, dns_names: Vec<String>) -> Result<Vec<String>, &'static str> {
    let mut spiffe_ids = uris;
    spiffe_ids.retain(|uri| uri.starts_with("spiffe://"));
    match spiffe_ids.len() {
        0 => Ok(dns_names),
        1 => Ok(spiffe_ids),
        _ => Err("the client certificate has more than one SPIFFE ID"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_is_named_by_its_spiffe_id_or_else_by_its_dns_names() {
        let (id, other_id) = ("spiffe://example.org/reader", "spiffe://example.org/other");
        for (uris, dns_names, expected) in [
            (vec![], vec![], Some(vec![])),
            (vec![id], vec!["a.example"], Some(vec![id])),
            (vec![], vec!["a.example", "b.example"], Some(vec!["a.example", "b.example"])),
            (vec!["https://a.example"], vec!["b.example"], Some(vec!["b.example"])),
            (vec!["https://a.example"], vec![], Some(vec![])),
            (vec![id, other_id], vec![], None),
        ] {
            let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let found = caller_names(owned(uris.clone()), owned(dns_names));
            assert_eq!(found.ok(), expected.map(owned), "{uris:?}");
        }
    }
}
