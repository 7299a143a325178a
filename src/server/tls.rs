//! TLS and mutual TLS of a port, from PEM files that may change while it runs.
//!
//! [`Config`] is plain data: the paths, and what the files contained at startup. [`Tls`] is what the port uses. A reload
//! replaces certificate, key and client CA together, and only if all of them are valid; open connections are kept.
//! Tests: `tests/gateway/tls.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::files::{Loaded, Snapshot};
use crate::pem::{self, Certificate, SubjectAltName};

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

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.client_ca.clone());
        paths
    }
}

/// The files, and what they contained when the configuration was read.
#[derive(Debug)]
pub struct Config {
    files: Files,
    material: Loaded<Material>,
}

impl Config {
    /// Reads the files. The error names the file at fault and the reason.
    pub fn load(files: Files) -> Result<Self, String> {
        let material = Loaded::read(files.paths(), || Material::read(&files))?;
        Ok(Self { files, material })
    }

    /// The port's certificate.
    pub(crate) fn certificate(&self) -> &Certificate {
        &self.material.value.certificate
    }
}

/// The certificate, key and client CA in use.
#[derive(Debug)]
pub struct Tls {
    files: Files,
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
    /// Uses what the configuration has read.
    pub fn new(config: Config) -> Self {
        let Config { files, material } = config;
        Self { files, snapshot: material.snapshot, current: ArcSwap::from_pointee(material.value) }
    }

    /// Reads the files again. After an error, the previous content stays in use.
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(Material::read(&self.files)?));
        Ok(())
    }

    /// The files as they were when they were first read.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// When the certificate in use expires, in seconds since 1970.
    pub fn expiry_timestamp(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a date needs fewer than 53 bits")]
        let timestamp = self.current.load().certificate.not_after as f64;
        timestamp
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().config))
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

/// The names of a peer, from its certificate chain, which has been verified. None without mutual TLS.
pub(super) fn peer_names(chain: Option<&[CertificateDer<'_>]>) -> io::Result<Arc<[String]>> {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Arc::default()) };
    let certificate = Certificate::parse(leaf).map_err(io::Error::other)?;
    caller_names(certificate.names).map(Arc::from).map_err(io::Error::other)
}

/// The one SPIFFE ID of a certificate, or else its DNS names. SPIFFE requires that a certificate with more than one SPIFFE
/// ID is rejected (X509-SVID, section 2).
fn caller_names(names: Vec<SubjectAltName>) -> Result<Vec<String>, &'static str> {
    let mut spiffe_ids = Vec::new();
    let mut dns_names = Vec::new();
    for name in names {
        match name {
            SubjectAltName::Uri(uri) if uri.starts_with("spiffe://") => spiffe_ids.push(uri),
            SubjectAltName::Dns(name) => dns_names.push(name),
            SubjectAltName::Uri(_) | SubjectAltName::Ip(_) => {}
        }
    }
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
        let uri = |uri: &str| SubjectAltName::Uri(uri.into());
        let dns = |name: &str| SubjectAltName::Dns(name.into());
        let (id, other_id) = ("spiffe://example.org/reader", "spiffe://example.org/other");
        for (names, expected) in [
            (vec![], Some(vec![])),
            (vec![uri(id)], Some(vec![id])),
            (vec![dns("a.example"), uri(id)], Some(vec![id])),
            (vec![dns("a.example"), dns("b.example")], Some(vec!["a.example", "b.example"])),
            (vec![uri("https://a.example"), dns("b.example")], Some(vec!["b.example"])),
            (vec![SubjectAltName::Ip([127, 0, 0, 1].into())], Some(vec![])),
            (vec![uri(id), uri(other_id)], None),
        ] {
            let found = caller_names(names.clone()).ok();
            assert_eq!(
                found,
                expected.map(|names| names.into_iter().map(str::to_owned).collect()),
                "{names:?}"
            );
        }
    }
}
