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
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use super::client_verifier::{ClientVerifier, caller_names};
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
    /// CA certificates that are not valid now.
    warnings: Vec<String>,
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

    /// What is wrong with the files in use, which can be used nevertheless: one line for each expired CA certificate.
    pub fn warnings(&self) -> Vec<String> {
        self.current.load().warnings.clone()
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
        for warning in &material.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Box::new(|| self.current.store(Arc::new(material))))
    }
}

impl Material {
    fn read(files: &Files) -> Result<Self, String> {
        let (chain, certificate) = pem::read_chain(&files.certificate)?;
        let key = pem::read_private_key(&files.key)?;
        let mut warnings = Vec::new();
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &files.client_ca {
            Some(path) => {
                let bundle = pem::read_roots(path)?;
                warnings = bundle.warnings;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(bundle.roots), provider)
                    .build()
                    .map_err(|error| format!("cannot use {} ({error})", path.display()))?;
                builder.with_client_cert_verifier(Arc::new(ClientVerifier(verifier)))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable_pair(files, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        if files.client_ca.is_some() {
            // The client certificate is not verified again in a resumed session, however long ago it expired.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self { config: Arc::new(config), certificate, warnings })
    }
}

/// Why a certificate and a key cannot be used together.
fn unusable_pair(files: &Files, error: rustls::Error) -> String {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        return format!("{certificate} and {key} do not match ({error})");
    }
    format!("the certificate of {certificate} with the key of {key} cannot be used ({error})")
}

/// The names of a peer, from its verified certificate chain. None without mutual TLS.
pub(super) fn peer_names(chain: Option<&[CertificateDer<'_>]>) -> io::Result<Arc<[String]>> {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Arc::default()) };
    let certificate = Certificate::parse(leaf).map_err(io::Error::other)?;
    caller_names(certificate).map(Arc::from).map_err(io::Error::other)
}
