//! TLS and mutual TLS on a port, by files that may change while it runs.
//!
//! [`Config`] is plain data: where the files are and what they held at the start. [`Tls`] is what the port uses: a new
//! certificate, key or client CA is taken as soon as all of them can be read and fit together; connections that are open
//! stay. A bad new file is refused, and the old one stays in use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{Loaded, Snapshot};
use crate::pem::Certificate;

/// Where the PEM files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The port's certificate and those between it and the root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who may sign the callers' certificates. With it every caller must have one.
    pub client_ca: Option<PathBuf>,
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// The files and what they held when the configuration was read.
#[derive(Debug)]
pub struct Config {
    files: Files,
    material: Loaded<Material>,
}

impl Config {
    /// Reads the files. The error says which of them is wrong and how.
    pub fn load(files: Files) -> Result<Self, String> {
        let material = Loaded::read(files.paths(), || Material::read(&files))?;
        Ok(Self { files, material })
    }

    /// The port's certificate.
    pub(crate) fn certificate(&self) -> &Certificate {
        &self.material.value.certificate
    }
}

/// The certificate in use.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    snapshot: Snapshot,
    current: ArcSwap<Material>,
}

/// What the files hold, once it was seen that they fit together.
#[derive(Debug)]
struct Material {
    config: Arc<ServerConfig>,
    certificate: Certificate,
}

impl Tls {
    /// Starts with what the configuration has read.
    pub fn new(config: Config) -> Self {
        let Config { files, material } = config;
        Self { files, snapshot: material.snapshot, current: ArcSwap::from_pointee(material.value) }
    }

    /// Reads the files again. After an error what was in use stays.
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(Material::read(&self.files)?));
        Ok(())
    }

    /// The files as they were when they were read for the first time.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// When the certificate in use expires, in seconds since 1970.
    pub fn expires(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a date has no 53 bits")]
        let expires = self.current.load().certificate.expires as f64;
        expires
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().config))
    }
}

impl Material {
    fn read(files: &Files) -> Result<Self, String> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&files.key)?)
            .map_err(|error| format!("{}: holds no private key ({error})", files.key.display()))?;
        let certificate = chain.first().and_then(Certificate::read);
        let certificate =
            certificate.ok_or_else(|| format!("{}: is no X.509 certificate", files.certificate.display()))?;

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &files.client_ca {
            Some(path) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                    .build()
                    .map_err(|error| format!("{}: cannot be used ({error})", path.display()))?,
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            format!(
                "{} and {}: do not fit together ({error})",
                files.certificate.display(),
                files.key.display()
            )
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: cannot be read ({error})", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
    let read = read.map_err(|error| format!("{}: is not PEM ({error})", path.display()))?;
    if read.is_empty() { Err(format!("{}: holds no certificate", path.display())) } else { Ok(read) }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| format!("{}: cannot be used ({error})", path.display()))?;
    }
    Ok(store)
}

/// The names that a caller's certificate, already verified, proves: its one SPIFFE ID, or else its DNS names.
pub(super) fn names(chain: Option<&[CertificateDer<'_>]>) -> io::Result<Arc<[String]>> {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Ok(Arc::default()) };
    let unreadable = |_| io::Error::from(io::ErrorKind::InvalidData);
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(unreadable)?;
    let extension = leaf.subject_alternative_name().map_err(|_| io::ErrorKind::InvalidData)?;
    let all = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'_>| {
        if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
    };
    let spiffe: Vec<String> = all.iter().filter_map(uri).filter(|uri| uri.starts_with("spiffe://")).collect();
    // The SPIFFE standard: a certificate with more than one is to be refused.
    if spiffe.len() > 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let dns = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }
    };
    Ok(if spiffe.is_empty() { all.iter().filter_map(dns).collect() } else { spiffe.into() })
}
