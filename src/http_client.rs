//! One HTTP/1.1 exchange with the upstream or the identity service. The only file that names reqwest.
//!
//! What reqwest would do unasked is switched off: redirects (it would take the token along), proxy variables, retries,
//! compression. What it does not do is done here: the body is capped while it streams, pooled connections have a
//! lifetime, and whether a connection was a reused one is found out.

use std::cell::Cell;
use std::error::Error as StdError;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use reqwest::{Client, Request, redirect, retry};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tower_layer::Layer;
use tower_service::Service;
use url::Url;

/// Limits and roots of the connections to the upstream.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who may sign the upstream's certificate.
    pub roots: Roots,
    /// A forward proxy, if one is to be used. Proxy variables of the environment are never read.
    pub proxy: Option<Proxy>,
    /// The longest time for name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept: less than the upstream keeps it.
    pub idle_timeout: Duration,
    /// How long a connection may be reused, so that changes of the upstream's addresses are seen.
    pub connection_lifetime: Duration,
    /// The longest body that is read, in bytes.
    pub max_response_bytes: usize,
}

/// A forward proxy's URL; it may hold a password and is never shown.
#[derive(Clone)]
pub struct Proxy(reqwest::Proxy);

impl Proxy {
    /// Reads an `http` or `https` URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_http =
            Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let proxy = is_http.then(|| reqwest::Proxy::all(text).ok()).flatten();
        proxy.map(Self).ok_or_else(|| "must be a URL such as http://proxy.example:3128".into())
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// The most headers of a reply: far more than any upstream sends, and hyper's own limit is for no reason 100.
const MAX_HEADERS: usize = 1000;

/// The client. Its pool is the process's.
pub(crate) struct HttpClient {
    config: Config,
    pooled: ArcSwap<Pool>,
    /// Keeps nothing in its pool: for attempts that need a new connection.
    fresh: Client,
}

struct Pool {
    client: Client,
    made: Instant,
}

/// Which connection an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// One of the pool, or a new one.
    Any,
    /// A new one.
    New,
}

/// A whole reply by HTTP's framing.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// The body of a whole reply.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    /// Longer than the limit; the rest was not read.
    TooLarge,
}

/// Why there is no whole reply. The text is for the log and holds no URL.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection came about.
    Unreachable(String),
    /// A proxy on the way asks for credentials.
    ProxyAuthentication(String),
    /// The connection broke, or spoke no HTTP.
    Lost {
        detail: String,
        /// The connection was a reused one: the upstream may have closed it before the request reached it.
        stale: bool,
    },
}

impl HttpClient {
    /// Makes the client; it connects to nothing yet.
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let pool = Pool { client: client(&config, usize::MAX)?, made: Instant::now() };
        let fresh = client(&config, 0)?;
        Ok(Self { config, pooled: ArcSwap::from_pointee(pool), fresh })
    }

    /// Sends a GET and reads the whole reply. It takes as long as it takes: the time is the caller's to limit, and
    /// dropping the future closes the connection.
    pub(crate) async fn get(
        &self,
        url: Url,
        headers: HeaderMap,
        connection: Connection,
    ) -> Result<Reply, Fault> {
        let client = match connection {
            Connection::Any => self.pooled_client(),
            Connection::New => self.fresh.clone(),
        };
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        self.exchange(&client, request).await
    }

    /// The same with a POST, on a connection of its own.
    pub(crate) async fn post(&self, url: Url, headers: HeaderMap, body: Bytes) -> Result<Reply, Fault> {
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        self.exchange(&self.fresh, request).await
    }

    async fn exchange(&self, client: &Client, request: Request) -> Result<Reply, Fault> {
        OPENED.scope(Cell::new(false), self.read(client, request)).await
    }

    async fn read(&self, client: &Client, request: Request) -> Result<Reply, Fault> {
        let mut response =
            client.execute(request).await.map_err(|error| fault(&error, !OPENED.with(Cell::get)))?;
        let limit = self.config.max_response_bytes;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Ok(Reply { status, headers, body: Body::TooLarge });
        }
        let mut body = BytesMut::new();
        // Whatever reqwest calls an error here, the reply was not whole.
        let lost = |error: reqwest::Error| Fault::Lost { detail: describe(&error), stale: false };
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > limit {
                return Ok(Reply { status, headers, body: Body::TooLarge });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, headers, body: Body::Whole(body.freeze()) })
    }

    /// The client whose connections are young enough. An old one ends with the calls that still use it.
    fn pooled_client(&self) -> Client {
        let pool = self.pooled.load();
        if pool.made.elapsed() < self.config.connection_lifetime {
            return pool.client.clone();
        }
        match client(&self.config, usize::MAX) {
            Ok(client) => {
                let young = Arc::new(Pool { client: client.clone(), made: Instant::now() });
                // Where two calls come here at once one of them wins, and the other's client serves its own call only.
                self.pooled.compare_and_swap(&pool, young);
                client
            }
            Err(_) => pool.client.clone(),
        }
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

fn client(config: &Config, max_idle: usize) -> Result<Client, String> {
    let tls = tls(&config.roots)?;
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .http1_max_headers(MAX_HEADERS)
        .connector_layer(NoteOpened);
    let builder = match &config.proxy {
        Some(Proxy(proxy)) => builder.proxy(proxy.clone()),
        None => builder,
    };
    builder.build().map_err(|error| describe(&error))
}

/// Connect comes first: a timeout while connecting is both.
fn fault(error: &reqwest::Error, reused: bool) -> Fault {
    let detail = describe(error);
    if detail.contains("proxy authorization required") {
        Fault::ProxyAuthentication(detail)
    } else if error.is_connect() {
        Fault::Unreachable(detail)
    } else {
        // What cannot be parsed has come. That half a head came before the end, hyper does not tell.
        Fault::Lost { detail, stale: reused && !is_parse(error) }
    }
}

/// Whether the upstream said something that is no HTTP.
fn is_parse(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

/// The causes of an error in words, outermost first.
fn describe(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = causes(error).map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

/// The causes of an error, without reqwest's own, which holds the URL.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// Header values of a reply, as text where they are visible ASCII.
pub(crate) fn first_text<'a>(headers: &'a HeaderMap, names: &[&str]) -> Option<&'a str> {
    let visible = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    names.iter().find_map(|name| headers.get(*name)?.to_str().ok().filter(visible))
}

/// Whether the body is coded (gzip and the like), which was never asked for.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

tokio::task_local! {
    /// Whether this attempt opened a connection of its own.
    static OPENED: Cell<bool>;
}

/// Notes in [`OPENED`] that a connection was opened; reqwest does not tell.
#[derive(Clone)]
struct NoteOpened;

impl<S> Layer<S> for NoteOpened {
    type Service = Noting<S>;
    fn layer(&self, inner: S) -> Noting<S> {
        Noting(inner)
    }
}

#[derive(Clone)]
struct Noting<S>(S);

impl<S, R> Service<R> for Noting<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connecting = self.0.call(request);
        Box::pin(async move {
            let connection = connecting.await?;
            // Outside an attempt (the pool goes on connecting for later) there is nothing to note.
            let _ = OPENED.try_with(|opened| opened.set(true));
            Ok(connection)
        })
    }
}
