//! A TLS client that shows what the handshake was, and why it failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, Error, HandshakeKind, RootCertStore, SupportedProtocolVersion, crypto,
};

use crate::support::certificates::CertificateAndKey;
use crate::support::h2_peer::PREFACE;
use crate::support::*;

/// A client of servers named `localhost`. Clones share the store of sessions.
#[derive(Clone)]
pub struct TlsClient(pub ClientConfig);

/// The end of a connection that the server has refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Alert(AlertDescription),
    Closed,
    Other(String),
}

impl TlsClient {
    pub fn new(
        ca: &str,
        identity: Option<&CertificateAndKey>,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self(config)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(self.0.clone()));
        with_timeout("a TLS handshake", connector.connect(name, socket)).await
    }

    /// Opens an HTTP/2 connection, and reads until the server has sent its SETTINGS, and its session tickets before.
    pub async fn handshake_kind(&self, address: SocketAddr) -> HandshakeKind {
        let mut stream = self.connect(address).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        with_timeout("the SETTINGS", stream.read_exact(&mut [0; 9])).await.unwrap();
        stream.get_ref().1.handshake_kind().unwrap()
    }

    /// Opens a connection that the server must refuse, and sends much that the server does not serve. After a reset, this
    /// would fail.
    pub async fn refusal(&self, address: SocketAddr) -> Refusal {
        let ended = async {
            let mut stream = self.connect(address).await?;
            for _ in 0..50 {
                stream.write_all(&[0; 4096]).await?;
                stream.flush().await?;
                // The server is on the same thread.
                tokio::task::yield_now().await;
            }
            with_timeout("the end", stream.read_to_end(&mut Vec::new())).await
        };
        let Err(error) = ended.await else { return Refusal::Closed };
        match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(alert)) => Refusal::Alert(*alert),
            _ => Refusal::Other(error.to_string()),
        }
    }
}
