//! New connections: name, TCP, a forward proxy on the way, TLS, all within one time; and what has been heard on each.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Scheme, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;
use url::Url;

type BoxError = Box<dyn StdError + Send + Sync>;
type Direct = HttpsConnector<HttpConnector>;

/// A forward proxy's URL; it may hold a password and is never shown.
#[derive(Clone)]
pub struct Proxy(Intercept);

impl Proxy {
    /// Reads an `http` or `https` URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_http =
            Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let everywhere = Matcher::builder().all(text).build();
        let found = everywhere.intercept(&Uri::from_static("https://upstream.example"));
        let proxy = found.filter(|_| is_http).map(Self);
        proxy.ok_or_else(|| "must be a URL such as http://proxy.example:3128".into())
    }

    /// What proves to it who asks.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy([redacted])")
    }
}

/// The certificates that the upstream's is checked against.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Nobody: for an upstream without TLS.
    pub fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    /// The system's.
    pub fn system() -> Self {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self(Arc::new(store))
    }

    /// Those of a PEM file, in place of the system's.
    pub fn from_pem_file(path: &Path) -> Result<Self, String> {
        let pem = std::fs::read(path).map_err(|error| format!("cannot be read ({error})"))?;
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("is not PEM ({error})"))?;
            store
                .add(certificate)
                .map_err(|error| format!("holds a certificate that cannot be used ({error})"))?;
        }
        let roots = Self(Arc::new(store));
        if roots.is_empty() { Err("holds no certificate".into()) } else { Ok(roots) }
    }

    /// As rustls takes them.
    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.0
    }

    /// Whether there is none, so that nobody can be believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// TLS as it is spoken to a service.
pub(crate) fn tls(roots: &Roots) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(Arc::clone(&roots.0)).with_no_client_auth())
}

/// Opens connections.
pub(super) struct Connector {
    direct: Direct,
    proxy: Option<(Uri, HttpsConnector<Tunnel<Direct>>)>,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(roots: &Roots, proxy: Option<&Proxy>, limit: Duration) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared out among a name's addresses, so that one that is silent does not take the time of all.
        tcp.set_connect_timeout(Some(limit));
        let mut tls = tls(roots)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = Arc::new(tls);
        let direct = HttpsConnector::from((tcp, Arc::clone(&tls)));
        let proxy = proxy.map(|Proxy(proxy)| {
            let tunnel = Tunnel::new(proxy.uri().clone(), direct.clone());
            let tunnel = match proxy.basic_auth() {
                Some(proof) => tunnel.with_auth(proof.clone()),
                None => tunnel,
            };
            (proxy.uri().clone(), HttpsConnector::from((tunnel, tls)))
        });
        Ok(Self { direct, proxy, limit })
    }

    /// A connection that leads to where `to` is, within the time for it.
    pub(super) async fn open(&self, to: Uri) -> Result<Wire, BoxError> {
        let late = |_| format!("no connection within {} s", self.limit.as_secs_f64());
        tokio::time::timeout(self.limit, self.reach(to)).await.map_err(late)?
    }

    async fn reach(&self, to: Uri) -> Result<Wire, BoxError> {
        match &self.proxy {
            None => Ok(Wire::new(connect(self.direct.clone(), to).await?, false)),
            Some((_, tunnel)) if to.scheme() == Some(&Scheme::HTTPS) => {
                Ok(Wire::new(connect(tunnel.clone(), to).await?, false))
            }
            Some((proxy, _)) => Ok(Wire::new(connect(self.direct.clone(), proxy.clone()).await?, true)),
        }
    }
}

async fn connect<S: Service<Uri>>(mut service: S, to: Uri) -> Result<S::Response, S::Error> {
    poll_fn(|context| service.poll_ready(context)).await?;
    service.call(to).await
}

/// A connection.
pub(super) struct Wire {
    stream: Pin<Box<dyn Stream>>,
    /// It leads to a proxy, which must be told the whole URL.
    pub(super) to_proxy: bool,
    pub(super) talk: Talk,
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// What has been said on a connection, so far as it must be known of one that is lost: whether a byte has come since the
/// last request.
#[derive(Clone, Debug, Default)]
pub(super) struct Talk(Arc<AtomicBool>);

impl Talk {
    pub(super) fn has_heard(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn note_written(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn note_heard(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wire {
    pub(super) fn new<S>(stream: S, to_proxy: bool) -> Self
    where
        S: hyper::rt::Read + hyper::rt::Write + Send + 'static,
    {
        Self { stream: Box::pin(TokioIo::new(stream)), to_proxy, talk: Talk::default() }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.stream.as_mut().poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.talk.note_heard();
        }
        polled
    }
}

/// Not vectored: a request is short and goes out in one piece.
impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.talk.note_written();
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
