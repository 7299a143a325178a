//! The HTTP/1.1 client of the program. This is the only file that names reqwest.
//!
//! It sends one request and reads the whole response, up to a limit. It must not know the upstream's API or gRPC: a status of
//! 404 or 503 is a response like any other, and retries are made by the caller.
//!
//! What reqwest would do by itself, and what is switched off here:
//!
//! - follow redirects, which would send the token to another host;
//! - retry requests, and clone each of them for that purpose;
//! - read `HTTP_PROXY` and similar variables;
//! - send `Referer`.
//!
//! Its TCP keepalive (15 s) and `TCP_USER_TIMEOUT` (30 s) are kept: they end connections to a host that is gone. Its features
//! that decompress bodies and store cookies are not compiled in.
//!
//! What reqwest does not do, and what is done here:
//!
//! - The body is limited while it is read.
//! - Each worker thread has a client of its own, so that the task of a connection runs on the thread of its calls.
//! - reqwest has no maximum lifetime of a connection: the client of a worker is replaced, and its connections with it.
//! - It is found out whether a request was sent on a reused connection: see [`Error::Lost`].
//!
//! What reqwest cannot tell: whether a connection that was not opened for a request was used before (hyper-util finishes
//! one that was opened for another request in the background, and then puts it into the pool); whether the server sent a part of a response head before it closed a connection. hyper reports
//! both as an incomplete message. A request that hyper-util has not begun to send when its connection closes is sent on
//! another connection without notice.

mod base_url;
mod roots;

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, header};
use reqwest::{Client, ClientBuilder, Request, redirect, retry};
use rustls::ClientConfig;
use thread_local::ThreadLocal;
use tower::util::MapResponseLayer;
use url::Url;

pub use base_url::BaseUrl;
use base_url::is_https_to_ipv6;
pub use roots::Roots;
pub(crate) use roots::tls_config;

/// Limits and CA certificates of a client.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CA certificates that the server's certificate is verified against.
    pub roots: Roots,
    /// The forward proxy, if one is used. Proxy variables of the environment are never read.
    pub proxy: Option<Proxy>,
    /// The longest time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. It should be shorter than the server's own idle timeout.
    pub idle_timeout: Duration,
    /// How long a connection may be reused, so that changes of the server's addresses are seen.
    pub connection_lifetime: Duration,
    /// The longest body that is read, in bytes.
    pub max_response_bytes: usize,
}

/// A forward proxy. Its URL may hold a password and is never shown.
#[derive(Clone)]
pub struct Proxy(reqwest::Proxy);

impl Proxy {
    /// Reads an `http` or `https` URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_http =
            Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        match reqwest::Proxy::all(text) {
            Ok(proxy) if is_http => Ok(Self(proxy)),
            Ok(_) | Err(_) => Err("must be a URL such as http://proxy.example:3128".into()),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy([redacted])")
    }
}

/// The HTTP client of one service.
pub(crate) struct HttpClient {
    config: Config,
    tls: ClientConfig,
    /// One for each thread that has sent a request.
    pooled: ThreadLocal<RefCell<Option<PooledClient>>>,
    /// A client without a pool: each request opens a connection.
    fresh: Client,
}

/// The client of one thread.
struct PooledClient {
    client: Client,
    created: Instant,
    /// How long it is used before it is replaced.
    lifetime: Duration,
}

/// Which connection a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// A connection from the pool of this thread, or a new one if none is idle.
    Pooled,
    /// A new connection, which is closed afterwards.
    Fresh,
}

/// A response that is complete by HTTP framing.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// The body of a response.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it.
    Complete(Bytes),
    /// It is longer than the limit, and the rest was not read.
    TooLarge,
}

/// Why there is no complete response. The text is for the log and holds no URL.
#[derive(Debug)]
pub(crate) enum Error {
    /// No connection could be opened.
    Unreachable(String),
    /// The forward proxy requires authentication.
    ProxyAuthentication(String),
    /// The connection was closed, or what came is not HTTP.
    Lost {
        detail: String,
        /// The connection was not opened for this request, and was lost before a complete response head: the server may
        /// have closed it before the request arrived.
        stale: bool,
    },
}

/// The most header fields of a response. hyper's own limit is 100.
const MAX_HEADERS: usize = 1000;
/// The smallest part of the configured lifetime after which a worker's client is replaced. The part is random, so that the
/// workers do not all open new connections at the same time.
const MIN_LIFETIME_PART: f64 = 0.8;

impl HttpClient {
    /// Makes the client. It connects to nothing yet.
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let tls = tls_config(&config.roots)?;
        let fresh = build_client(&config, &tls, 0).map_err(describe)?;
        Ok(Self { config, tls, pooled: ThreadLocal::new(), fresh })
    }

    /// Sends a GET and reads the whole response. It has no time limit of its own; dropping the future closes the connection.
    pub(crate) async fn get(&self, url: Url, headers: HeaderMap, reuse: Reuse) -> Result<Response, Error> {
        let client = match reuse {
            Reuse::Pooled => self.pooled(),
            Reuse::Fresh => self.fresh.clone(),
        };
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        self.execute(&client, request).await
    }

    /// Sends a POST on a new connection and reads the whole response, as [`HttpClient::get`] does.
    pub(crate) async fn post(&self, url: Url, headers: HeaderMap, body: Bytes) -> Result<Response, Error> {
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        self.execute(&self.fresh, request).await
    }

    /// The client of this thread. One whose lifetime is over is replaced; requests in flight finish on the old one.
    fn pooled(&self) -> Client {
        let now = Instant::now();
        let mut slot = self.pooled.get_or_default().borrow_mut();
        if let Some(pooled) = slot.as_ref()
            && now.duration_since(pooled.created) < pooled.lifetime
        {
            return pooled.client.clone();
        }
        match build_client(&self.config, &self.tls, usize::MAX) {
            Ok(client) => {
                let lifetime = jittered(self.config.connection_lifetime);
                *slot = Some(PooledClient { client: client.clone(), created: now, lifetime });
                client
            }
            // Not expected, since `new` has built a client from the same parts. Calls need not fail for it.
            Err(error) => {
                tracing::error!(error = describe(error), "cannot make a client with a pool");
                self.fresh.clone()
            }
        }
    }

    async fn execute(&self, client: &Client, request: Request) -> Result<Response, Error> {
        if self.config.proxy.is_some() && is_https_to_ipv6(request.url()) {
            // reqwest takes the brackets for a part of the name that the certificate must have.
            return Err(Error::Unreachable(
                "TLS through a forward proxy is not possible to an IPv6 address; use a name".into(),
            ));
        }
        let sent = async {
            let response = client.execute(request).await;
            response.map_err(|error| request_error(error, HAS_OPENED.with(Cell::get)))
        };
        let mut response = HAS_OPENED.scope(Cell::new(false), sent).await?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let body = read_body(response, self.config.max_response_bytes).await?;
        Ok(Response { status, headers, body })
    }
}

/// Reads a body to its end or to the limit.
async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Body, Error> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Ok(Body::TooLarge);
    }
    let mut body = BytesMut::new();
    // Every error here means that the body is incomplete.
    let lost = |error| Error::Lost { detail: describe(error), stale: false };
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > limit {
            return Ok(Body::TooLarge);
        }
        // What is left of the length is 0: a body of one chunk is not copied.
        if body.is_empty() && response.content_length() == Some(0) {
            return Ok(Body::Complete(chunk));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body::Complete(body.freeze()))
}

/// The client that sends OTLP over HTTP. `timeout` limits each request, with its response.
pub(crate) fn otlp_client(
    roots: &Roots,
    timeout: Duration,
) -> Result<impl opentelemetry_http::HttpClient + use<>, String> {
    client_builder(tls_config(roots)?).timeout(timeout).build().map_err(describe)
}

/// What every client has in common.
fn client_builder(tls: ClientConfig) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(redirect::Policy::none())
        // `never` alone would still clone each request.
        .retry(retry::never().max_retries_per_request(0))
        .referer(false)
        .no_proxy()
}

fn build_client(config: &Config, tls: &ClientConfig, max_idle: usize) -> reqwest::Result<Client> {
    let builder = client_builder(tls.clone())
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .http1_max_headers(MAX_HEADERS)
        .connector_layer(MapResponseLayer::new(|connection| {
            note_opened();
            connection
        }));
    match &config.proxy {
        Some(Proxy(proxy)) => builder.proxy(proxy.clone()).build(),
        None => builder.build(),
    }
}

tokio::task_local! {
    /// Whether a connection was opened for this request.
    static HAS_OPENED: Cell<bool>;
}

fn note_opened() {
    // hyper-util may finish opening a connection after the request that wanted it has got another one; then no request waits.
    let _ = HAS_OPENED.try_with(|has_opened| has_opened.set(true));
}

/// A random time of [`MIN_LIFETIME_PART`] of the lifetime to all of it.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(MIN_LIFETIME_PART + (1.0 - MIN_LIFETIME_PART) * fastrand::f64())
}

/// What failed before a complete response head came.
fn request_error(error: reqwest::Error, has_opened: bool) -> Error {
    let (is_connect, is_parse) = (error.is_connect(), is_parse(&error));
    let detail = describe(error);
    // The error type of a CONNECT request is private to hyper-util.
    if detail.contains("proxy authorization required") {
        Error::ProxyAuthentication(detail)
    } else if is_connect {
        Error::Unreachable(detail)
    } else {
        // A head that cannot be parsed has come, so the connection was not closed before the request arrived.
        Error::Lost { detail, stale: !has_opened && !is_parse }
    }
}

/// Whether the server sent something that is not HTTP.
fn is_parse(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

/// An error and its causes, outermost first, without the URL.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut texts: Vec<String> = causes(&error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// An error and its causes, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let outermost: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(outermost), |&cause| cause.source())
}

/// The first of these headers whose value is visible ASCII and not empty.
pub(crate) fn first_text<'a>(headers: &'a HeaderMap, names: &[HeaderName]) -> Option<&'a str> {
    let visible = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    names.iter().find_map(|name| headers.get(name)?.to_str().ok().filter(visible))
}

/// Whether the body has a content coding (such as gzip), which was not asked for.
pub(crate) fn has_content_encoding(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.any(|encoding| !encoding.is_empty() && !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            roots: Roots::none(),
            proxy: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            connection_lifetime: Duration::from_secs(60),
            max_response_bytes: 1024,
        }
    }

    /// When the client of this thread was made.
    fn created(client: &HttpClient) -> Instant {
        let _ = client.pooled();
        client.pooled.get().unwrap().borrow().as_ref().unwrap().created
    }

    #[test]
    fn lifetime_varies_and_never_exceeds_the_configured_one() {
        let configured = Duration::from_secs(100);
        let lifetimes: Vec<Duration> = (0..1000).map(|_| jittered(configured)).collect();
        let (shortest, longest) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*shortest >= Duration::from_secs(80) && *longest <= configured, "{shortest:?} {longest:?}");
        assert!(*longest - *shortest > Duration::from_secs(1), "{shortest:?} {longest:?}");
    }

    #[test]
    fn client_is_kept_for_its_lifetime_and_made_for_each_thread() {
        let client = HttpClient::new(config()).unwrap();
        let first = created(&client);
        assert_eq!(created(&client), first);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_ne!(created(&client), first));
        });
        client.pooled.get().unwrap().borrow_mut().as_mut().unwrap().lifetime = Duration::ZERO;
        assert_ne!(created(&client), first);
    }

    #[tokio::test]
    async fn error_text_holds_no_url() {
        let client = HttpClient::new(config()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = Url::parse(&format!("http://127.0.0.1:{port}/secret/path")).unwrap();
        let Err(Error::Unreachable(detail)) = client.get(url, HeaderMap::new(), Reuse::Pooled).await else {
            panic!("not unreachable")
        };
        assert!(detail.contains("refused") && !detail.contains("secret"), "{detail}");
    }
}
