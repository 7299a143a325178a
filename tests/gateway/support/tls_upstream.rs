//! An upstream with TLS.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::support::certificates::CertificateAndKey;
use crate::support::*;

fn tls_acceptor(pair: &CertificateAndKey) -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn documented() -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{DOCUMENTED}", DOCUMENTED.len())
}

/// Starts an upstream with TLS that replies with the documented share, and returns its port.
pub async fn tls_upstream(pair: &CertificateAndKey) -> u16 {
    tls_upstream_sending(pair, documented()).await
}

/// Starts an upstream with TLS that serves its first connection, and is silent in the handshake of every other one. Returns
/// its port and how many handshakes have begun.
pub async fn tls_upstream_with_one_connection(pair: &CertificateAndKey) -> (u16, watch::Receiver<usize>) {
    let acceptor = tls_acceptor(pair);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (silent, count) = watch::channel(0);
    tokio::spawn(async move {
        let mut first = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        tokio::spawn(async move {
            while read_head(&mut first).await.is_ok() {
                first.write_all(documented().as_bytes()).await.unwrap();
            }
        });
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            silent.send_replace(held.len());
        }
    });
    (port, count)
}

/// Starts a service with TLS that sends this response to every request, and closes the connection. Returns its port.
pub async fn tls_upstream_sending(pair: &CertificateAndKey, response: String) -> u16 {
    let acceptor = tls_acceptor(pair);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, response) = (acceptor.clone(), response.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                read_head(&mut stream).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                stream.write_all(response.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}
