//! The HTTP/1.1 client. This is the only file that names reqwest.
//!
//! It sends one request and reads the whole response, up to a limit. It must not know the upstream's API or gRPC: a status of
//! 404 or 503 is a response like any other, and the caller retries. Tests: `upstream_pool.rs` and `upstream_tls.rs` in
//! `tests/gateway`.
//!
//! Disabled in reqwest: redirects (they would send the token to another host), retries (it would clone each request),
//! `HTTP_PROXY` and similar variables, `Referer`. Its features for compression and cookies are not compiled in. Its TCP
//! keepalive (15 s) and `TCP_USER_TIMEOUT` (30 s) stay: they end connections to a dead host.
//!
//! Added to reqwest:
//!
//! - The body is limited while it is read.
//! - Each worker thread has its own client, so that the task of a connection runs on the thread of its calls.
//! - The client of a thread is replaced after a while, since reqwest has no maximum lifetime of a connection, and when the CA
//!   certificates are replaced.
//! - [`Error::Lost`] tells whether the connection may have been reused.
//! - The connections that are being opened are limited.
//! - Names are resolved once for all requests that wait, and connections are spread over the addresses (`http/resolver.rs`).
//!
//! Known limits: a connection that hyper-util opened for another request and put into the pool counts as reused. hyper reports
//! a partial response head like none. hyper-util repeats a request by itself if the connection closed before it was written.

mod base_url;
mod connect;
mod resolver;
mod roots;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Request, redirect, retry};
use rustls::{ClientConfig, RootCertStore};
use thread_local::ThreadLocal;
use url::Url;

use crate::domain::error_chain;
pub use base_url::BaseUrl;
use base_url::is_https_to_ipv6;
use connect::ConnectLayer;
use resolver::Resolver;
pub use roots::{Roots, RootsFile};

/// Limits and CA certificates of a client.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CA certificates that the server's certificate is verified against.
    pub roots: Roots,
    /// The forward proxy, if one is used. Proxy variables of the environment are never read.
    pub proxy: Option<Proxy>,
    /// The longest time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How many connections may be in the course of being opened. hyper-util goes on with one after its request got another
    /// connection, so that without a limit a slow TLS handshake lets them grow with the number of requests.
    pub max_connecting: usize,
    /// How long an unused connection is kept. It should be shorter than the server's own idle timeout.
    pub idle_timeout: Duration,
    /// How long a connection may be reused, so that changes of the server's addresses are seen.
    pub connection_lifetime: Duration,
    /// The longest body of a successful response that is read, in bytes.
    pub max_response_bytes: usize,
}

/// A forward proxy. Its URL may hold a password and is never printed.
#[derive(Clone)]
pub struct Proxy(reqwest::Proxy);

impl Proxy {
    /// Parses an `http` or `https` URL.
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
    connector: Connector,
    tls: ArcSwap<TlsClient>,
    /// One for each thread that has sent a request.
    pooled: ThreadLocal<RefCell<Option<PooledClient>>>,
}

/// How all clients open connections.
struct Connector {
    resolver: DnsResolver,
    layer: ConnectLayer,
}

/// What depends on the CA certificates, and is made anew when they are replaced.
struct TlsClient {
    roots: Arc<RootCertStore>,
    config: ClientConfig,
    /// Has no pool: each request opens a connection.
    fresh: Client,
}

/// The client of one thread.
struct PooledClient {
    client: Client,
    /// Those that its connections were verified against.
    roots: Arc<RootCertStore>,
    expires: Instant,
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
    /// `None` if it is longer than the limit: the rest was not read, and the connection is closed.
    pub(crate) body: Option<Bytes>,
}

/// Why there is no complete response. The detail is for the log and holds no URL.
#[derive(Debug)]
pub(crate) enum Error {
    /// No connection could be opened.
    Unreachable(String),
    /// The forward proxy requires authentication.
    ProxyAuthentication(String),
    /// The connection was closed, or the server sent something that is not HTTP.
    Lost {
        detail: String,
        /// The connection was not opened for this request, and was lost before a complete response head: the server may
        /// have closed it before the request arrived.
        is_stale: bool,
    },
}

/// The longest body of any other response that is read, in bytes. Those of errors are short.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// The most header fields of a response. hyper's own limit is 100.
const MAX_HEADERS: usize = 1000;
/// A client is replaced after a random part of the configured lifetime, from this to 1, so that the threads do not all open
/// new connections at the same time.
const MIN_LIFETIME_FRACTION: f64 = 0.8;

impl HttpClient {
    /// Creates the client, which does not connect yet.
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let connector = Connector {
            resolver: DnsResolver(Arc::new(Resolver::new(config.connect_timeout))),
            layer: ConnectLayer::new(config.max_connecting, || {
                // No request waits if it got another connection meanwhile.
                let _ = CONNECTING.try_with(|connecting| connecting.has_opened.set(true));
            }),
        };
        let tls = ArcSwap::from_pointee(TlsClient::new(&config, &connector)?);
        Ok(Self { config, connector, tls, pooled: ThreadLocal::new() })
    }

    /// What belongs to the CA certificates of now.
    fn tls(&self) -> Result<Guard<Arc<TlsClient>>, Error> {
        let tls = self.tls.load();
        if self.config.roots.is(&tls.roots) {
            return Ok(tls);
        }
        let tls = TlsClient::new(&self.config, &self.connector).map_err(Error::Unreachable)?;
        self.tls.store(Arc::new(tls));
        Ok(self.tls.load())
    }

    /// Sends a GET and reads the whole response. It has no time limit of its own; dropping the future closes the connection.
    pub(crate) fn get(
        &self,
        url: Url,
        headers: HeaderMap,
        reuse: Reuse,
    ) -> impl Future<Output = Result<Response, Error>> {
        let client = match reuse {
            Reuse::Pooled => self.pooled(),
            Reuse::Fresh => self.fresh(),
        };
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        self.execute(client, request, StatusCode::OK)
    }

    /// Sends a POST on a new connection and reads the whole response, as [`HttpClient::get`] does.
    pub(crate) fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> impl Future<Output = Result<Response, Error>> {
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        self.execute(self.fresh(), request, StatusCode::CREATED)
    }

    /// The client without a pool.
    fn fresh(&self) -> Result<Client, Error> {
        Ok(self.tls()?.fresh.clone())
    }

    /// The client of this thread. It is replaced when it has expired, and when the CA certificates have been; requests in
    /// flight finish on it.
    fn pooled(&self) -> Result<Client, Error> {
        let tls = self.tls()?;
        let mut slot = self.pooled.get_or_default().borrow_mut();
        if let Some(pooled) = slot.as_ref()
            && Instant::now() < pooled.expires
            && Arc::ptr_eq(&pooled.roots, &tls.roots)
        {
            return Ok(pooled.client.clone());
        }
        let client = build_client(&self.config, &self.connector, &tls.config, usize::MAX)
            .map_err(|error| Error::Unreachable(error_text(error)))?;
        let expires = Instant::now() + jittered(self.config.connection_lifetime);
        *slot = Some(PooledClient { client: client.clone(), roots: Arc::clone(&tls.roots), expires });
        Ok(client)
    }

    /// Closes the idle connections of this thread: after a timeout they may all be dead. Requests in flight finish on theirs.
    pub(crate) fn discard_pool(&self) {
        self.pooled.get_or_default().replace(None);
    }

    /// Sends a request whose success has the status `success`.
    ///
    /// Not an `async fn`, whose future would store the request, which `Client::execute` has taken apart by then.
    fn execute(
        &self,
        client: Result<Client, Error>,
        request: Request,
        success: StatusCode,
    ) -> impl Future<Output = Result<Response, Error>> {
        let sent = match client {
            Ok(_) if self.config.proxy.is_some() && is_https_to_ipv6(request.url()) => {
                // reqwest would compare the name in the certificate with the address in brackets.
                let detail = "TLS through a forward proxy does not work with an IPv6 address; use a name";
                Err(Error::Unreachable(detail.into()))
            }
            Ok(client) => Ok(client.execute(request)),
            Err(error) => Err(error),
        };
        async move {
            let sent = CONNECTING.scope(Connecting::default(), self.observe(sent?));
            let mut response = sent.await?;
            let status = response.status();
            let headers = std::mem::take(response.headers_mut());
            let limit = if status == success { self.config.max_response_bytes } else { MAX_ERROR_BYTES };
            let body = read_body(response, limit).await?;
            Ok(Response { status: status.as_u16(), headers, body })
        }
    }

    /// Awaits the response head, and learns from how it has come.
    async fn observe(
        &self,
        sent: impl Future<Output = reqwest::Result<reqwest::Response>>,
    ) -> Result<reqwest::Response, Error> {
        let result = sent.await;
        CONNECTING.with(|connecting| {
            self.report_addresses(connecting, &result);
            result.map_err(|error| request_error(error, connecting.has_opened.get()))
        })
    }

    /// Tells the resolver which of the addresses that it gave for this request have answered.
    fn report_addresses(&self, connecting: &Connecting, result: &reqwest::Result<reqwest::Response>) {
        let offered = connecting.offered.borrow();
        let connected = match result {
            Ok(response) if connecting.has_opened.get() => response.remote_addr(),
            Err(error) if error.is_connect() => None,
            Ok(_) | Err(_) => return,
        };
        self.connector.resolver.0.report(&offered, connected, tokio::time::Instant::now());
    }
}

impl TlsClient {
    fn new(config: &Config, connector: &Connector) -> Result<Self, String> {
        let roots = config.roots.store();
        let tls = tls_config_of(Arc::clone(&roots))?;
        let fresh = build_client(config, connector, &tls, 0).map_err(error_text)?;
        Ok(Self { roots, config: tls, fresh })
    }
}

/// Reads a body to its end. `None` if it is longer than the limit.
async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Option<Bytes>, Error> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    // Every error here means that the body is incomplete.
    let lost = |error| Error::Lost { detail: error_text(error), is_stale: false };
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        // A body of one chunk is not copied.
        if body.is_empty() && response.content_length() == Some(0) {
            return Ok(Some(chunk));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

/// The client that sends OTLP over HTTP. `timeout` limits each request, with its response.
pub(crate) fn otlp_client(
    roots: &Roots,
    timeout: Duration,
) -> Result<impl opentelemetry_http::HttpClient + use<>, String> {
    client_builder(tls_config(roots)?).timeout(timeout).build().map_err(error_text)
}

/// The TLS configuration of a client: TLS 1.2 and 1.3, HTTP/1.1 as the only ALPN protocol, no client certificate.
pub(crate) fn tls_config(roots: &Roots) -> Result<ClientConfig, String> {
    tls_config_of(roots.store())
}

fn tls_config_of(roots: Arc<RootCertStore>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The settings of every client.
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

fn build_client(
    config: &Config,
    connector: &Connector,
    tls: &ClientConfig,
    max_idle: usize,
) -> reqwest::Result<Client> {
    let builder = client_builder(tls.clone())
        .dns_resolver(connector.resolver.clone())
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .http1_max_headers(MAX_HEADERS)
        .connector_layer(connector.layer.clone());
    match &config.proxy {
        Some(Proxy(proxy)) => builder.proxy(proxy.clone()).build(),
        None => builder.build(),
    }
}

tokio::task_local! {
    static CONNECTING: Connecting;
}

/// The connection that is opened for one request, if one is.
#[derive(Default)]
struct Connecting {
    has_opened: Cell<bool>,
    /// The addresses of the server, in the order in which they are tried.
    offered: RefCell<Vec<SocketAddr>>,
}

/// The resolver in the form that reqwest calls.
#[derive(Clone)]
struct DnsResolver(Arc<Resolver>);

impl Resolve for DnsResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            // No request waits if it got another connection meanwhile.
            let _ = CONNECTING.try_with(|connecting| connecting.offered.replace(addresses.clone()));
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// From [`MIN_LIFETIME_FRACTION`] of the lifetime to all of it.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(MIN_LIFETIME_FRACTION + (1.0 - MIN_LIFETIME_FRACTION) * fastrand::f64())
}

/// The error of a request that got no complete response head.
fn request_error(error: reqwest::Error, has_opened: bool) -> Error {
    let is_connect = error.is_connect();
    // The server sent something that is not HTTP.
    let is_parse = error_chain(&error)
        .any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse));
    let detail = error_text(error);
    // The error type of a CONNECT request is private to hyper-util.
    if detail.contains("proxy authorization required") {
        Error::ProxyAuthentication(detail)
    } else if is_connect {
        Error::Unreachable(detail)
    } else {
        // After an invalid response head, the connection was not closed before the request arrived.
        Error::Lost { detail, is_stale: !has_opened && !is_parse }
    }
}

/// An error and its causes, outermost first, without the URL.
fn error_text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut texts: Vec<String> = error_chain(&error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// The first of these headers whose value is visible ASCII and not empty.
pub(crate) fn first_text<'a>(headers: &'a HeaderMap, names: &[HeaderName]) -> Option<&'a str> {
    let is_visible = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    names.iter().find_map(|name| headers.get(name)?.to_str().ok().filter(is_visible))
}

/// Whether the body has a content encoding (such as gzip). No request accepts one.
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
            max_connecting: 1,
            idle_timeout: Duration::from_secs(60),
            connection_lifetime: Duration::from_secs(60),
            max_response_bytes: 1024,
        }
    }

    /// When the client of this thread expires, which differs for each.
    fn expires(client: &HttpClient) -> Instant {
        client.pooled().unwrap();
        client.pooled.get().unwrap().borrow().as_ref().unwrap().expires
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
        let first = expires(&client);
        assert_eq!(expires(&client), first);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_ne!(expires(&client), first));
        });
        client.pooled.get().unwrap().borrow_mut().as_mut().unwrap().expires = Instant::now();
        assert_ne!(expires(&client), first);
    }

    #[tokio::test]
    async fn error_text_holds_no_url() {
        let client = HttpClient::new(config()).unwrap();
        // A port that is bound and not listening refuses connections.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}/secret/path", socket.local_addr().unwrap()).parse().unwrap();
        let Err(Error::Unreachable(detail)) = client.get(url, HeaderMap::new(), Reuse::Pooled).await else {
            panic!("not unreachable")
        };
        assert!(detail.contains("refused") && !detail.contains("secret"), "{detail}");
    }
}
