//! Certificates for TLS in front of the gateway and behind it, and the other sides of both.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the certificate of the caller, as rules name it.
pub(crate) const CALLER: &str = "client.example";

const CERT: &str = "tls-cert";
const KEY: &str = "tls-key";
const CLIENT_CA: &str = "tls-client-ca";

/// One CA that has issued all certificates. The files are its own: benches may run at the same time.
pub(crate) struct Pki {
    folder: TempDir,
    ca: Certificate,
    issuer: Issuer<'static, KeyPair>,
    flags: [String; 3],
    dialer: Dialer,
}

/// The side of a caller with a certificate.
#[derive(Clone)]
pub(crate) struct Dialer(TlsConnector);

impl Dialer {
    pub(crate) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }
}

impl Pki {
    pub(crate) fn new() -> Self {
        let (ca, issuer) = new_ca();
        let (client, client_key) = issue(&issuer, &[CALLER]);
        let key = PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
        let dialer = Dialer(connector(ca.der(), client.der(), key));
        let folder = tempfile::tempdir().unwrap();
        let flag = |name| format!("--{name}={}", folder.path().join(name).display());
        let flags = [CERT, KEY, CLIENT_CA].map(flag);
        let pki = Self { folder, ca, issuer, flags, dialer };
        pki.write_files(&pki.ca.pem());
        pki
    }

    /// The gateway's flags for mutual TLS.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.iter().map(String::as_str)
    }

    /// Its flags for TLS without client certificates.
    pub(crate) fn server_flags(&self) -> impl Iterator<Item = &str> {
        self.flags().take(2)
    }

    /// Its flag for an upstream with a certificate of this CA.
    pub(crate) fn upstream_flag(&self) -> String {
        format!("--upstream-ca={}", self.path(CLIENT_CA).display())
    }

    /// Replaces the files: another certificate and key, and a bundle that has an unknown CA as well.
    pub(crate) fn renew(&self) {
        self.write_files(&(self.ca.pem() + &new_ca().0.pem()));
    }

    /// Where a file is that is removed with this.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_files(&self, bundle: &str) {
        let (server, key) = issue(&self.issuer, &["localhost"]);
        replace(&self.path(CERT), &server.pem());
        replace(&self.path(KEY), &key.serialize_pem());
        replace(&self.path(CLIENT_CA), bundle);
    }

    /// The side of an upstream at a loopback address.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let (certificate, key) = issue(&self.issuer, &["localhost", "127.0.0.1"]);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn dialer(&self) -> Dialer {
        self.dialer.clone()
    }
}

/// Replaces a file as a whole.
pub(crate) fn replace(path: &PathBuf, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, path).unwrap();
}

fn new_ca() -> (Certificate, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap(), Issuer::new(params, key))
}

fn issue(issuer: &Issuer<'static, KeyPair>, names: &[&str]) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    (CertificateParams::new(names).unwrap().signed_by(&key, issuer).unwrap(), key)
}

fn connector(
    ca: &CertificateDer<'_>,
    client: &CertificateDer<'_>,
    key: PrivateKeyDer<'static>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.clone().into_owned()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}
