//! The CA certificates that a server's certificate is verified against, and the TLS configuration made from them.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::pem;

/// The CA certificates that a server's certificate is verified against.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// No certificate: for a server without TLS.
    pub fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    /// The system's certificates.
    pub fn system() -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self(Arc::new(store))
    }

    /// The certificates of a PEM file, which replace the system's. The error names the path.
    pub fn from_pem_file(path: &Path) -> Result<Self, String> {
        Ok(Self(Arc::new(pem::read_roots(path)?)))
    }

    /// The same certificates as a rustls type.
    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.0
    }

    /// Whether there is no certificate, so that every TLS handshake would fail.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The TLS configuration of a client: TLS 1.2 and 1.3, HTTP/1.1 as the only ALPN protocol, no client certificate.
pub(crate) fn tls_config(roots: &Roots) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(Arc::clone(&roots.0)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
