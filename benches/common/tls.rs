//! Certificates for TLS in front of the gateway, and a caller's side of it.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::process::output;

/// The name in the certificate of the caller, as rules name it.
const CALLER: &str = "client.example";

/// One CA that has issued the certificates of both sides.
pub(crate) struct Pki {
    flags: [String; 3],
    connector: TlsConnector,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, server_key) = issue("localhost");
        let file = |flag: &str, pem: String| {
            let path = output(&format!("{flag}.pem"));
            fs::write(&path, pem).unwrap();
            format!("--{flag}={}", path.display())
        };
        let flags = [
            file("tls-cert", server.pem()),
            file("tls-key", server_key.serialize_pem()),
            file("tls-client-ca", ca.pem()),
        ];
        let (client, client_key) = issue(CALLER);
        let key = PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
        Self { flags, connector: connector(ca.der(), client.der(), key) }
    }

    /// The gateway's flags for mutual TLS.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.iter().map(String::as_str)
    }

    pub(crate) async fn handshake(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }
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
