//! The CA certificates that servers are verified against, and their file, which is reloaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;

use crate::files::{Loaded, Reload, Snapshot};
use crate::pem;

/// The CA certificates that a server's certificate is verified against. Clones share them: if they are replaced, new
/// connections of every client are verified against the new ones.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<ArcSwap<RootCertStore>>,
    warnings: Arc<[String]>,
}

impl Roots {
    /// No certificate: for a server without TLS.
    pub fn none() -> Self {
        Self::new(RootCertStore::empty(), Vec::new())
    }

    /// The system's certificates.
    pub fn system() -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::new(store, Vec::new())
    }

    /// The certificates of a PEM file, which replace the system's. The error names the path.
    pub fn from_pem_file(path: &Path) -> Result<Self, String> {
        let bundle = pem::read_roots(path)?;
        Ok(Self::new(bundle.roots, bundle.warnings))
    }

    fn new(store: RootCertStore, warnings: Vec<String>) -> Self {
        Self { store: Arc::new(ArcSwap::from_pointee(store)), warnings: warnings.into() }
    }

    /// What is wrong with the file, which can be used nevertheless: one line for each expired certificate.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Replaces the certificates, for all clones, by those of `other`.
    pub(crate) fn replace(&self, other: &Self) {
        self.store.store(other.store());
    }

    /// The same certificates as a rustls type.
    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        self.store.load_full()
    }

    /// Whether these are the certificates in use.
    pub(super) fn is(&self, store: &Arc<RootCertStore>) -> bool {
        Arc::ptr_eq(store, &self.store.load())
    }

    /// Whether there is no certificate, so that every TLS handshake would fail.
    pub fn is_empty(&self) -> bool {
        self.store.load().is_empty()
    }
}

/// The CA certificates of a PEM file that may change.
#[derive(Clone, Debug)]
pub struct RootsFile {
    path: PathBuf,
    loaded: Loaded<Roots>,
}

impl RootsFile {
    /// Reads the file. The error names the path.
    pub fn load(path: PathBuf) -> Result<Self, String> {
        let loaded = Loaded::read(vec![path.clone()], || Roots::from_pem_file(&path))?;
        Ok(Self { path, loaded })
    }

    /// The certificates. A reload replaces them.
    pub fn roots(&self) -> &Roots {
        &self.loaded.value
    }
}

impl Reload for RootsFile {
    fn subject(&self) -> &'static str {
        "upstream CA"
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn snapshot(&self) -> Snapshot {
        self.loaded.snapshot.clone()
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let roots = Roots::from_pem_file(&self.path)?;
        for warning in roots.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(Box::new(move || self.roots().replace(&roots)))
    }
}
