//! One HTTP/1.1 exchange with the upstream or the identity service, over hyper-util's pool.
//!
//! What other clients do unasked is not there to be switched off: no redirects (they would take the token along), no proxy
//! variables, no compression. The body is capped while it streams, pooled connections have a lifetime, and of a connection
//! that is lost it is known whether the upstream may have closed it before it was asked.

mod connector;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Request, Uri, header, uri::Scheme};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub(crate) use connector::tls;
pub use connector::{Proxy, Roots};

use connector::{Connector, Talk};

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

/// The most headers of a reply: far more than any upstream sends, and hyper's own limit is for no reason 100.
const MAX_HEADERS: usize = 1000;

type Client = legacy::Client<Connector, Full<Bytes>>;

/// The client. Its pool is the process's.
pub(crate) struct HttpClient {
    config: Config,
    connector: Connector,
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
        /// The connection came from the pool: the upstream may have closed it before the request reached it.
        stale: bool,
    },
}

impl HttpClient {
    /// Makes the client; it connects to nothing yet.
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let connector = Connector::new(&config.roots, config.proxy.as_ref(), config.connect_timeout)?;
        let pooled = ArcSwap::from_pointee(Pool::new(&connector, &config));
        let fresh = client(&connector, &config, 0);
        Ok(Self { config, connector, pooled, fresh })
    }

    /// Sends a GET and reads the whole reply. It takes as long as it takes: the time is the caller's to limit, and
    /// dropping the future closes the connection.
    pub(crate) fn get(
        &self,
        uri: Uri,
        headers: HeaderMap,
        connection: Connection,
    ) -> impl Future<Output = Result<Reply, Fault>> + use<> {
        let request = self.request(Method::GET, uri, headers, Bytes::new());
        let response = match connection {
            Connection::Any => self.pool().client.request(request),
            Connection::New => self.fresh.request(request),
        };
        whole(response, self.config.max_response_bytes)
    }

    /// The same with a POST, on a connection of its own.
    pub(crate) async fn post(&self, uri: Uri, headers: HeaderMap, body: Bytes) -> Result<Reply, Fault> {
        let response = self.fresh.request(self.request(Method::POST, uri, headers, body));
        whole(response, self.config.max_response_bytes).await
    }

    fn request(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let is_plaintext = uri.scheme() == Some(&Scheme::HTTP);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        // Within TLS it would be the upstream that reads it; the proxy was told when it made the tunnel.
        if let Some(proof) =
            self.config.proxy.as_ref().and_then(Proxy::authorization).filter(|_| is_plaintext)
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, proof.clone());
        }
        request
    }

    /// The pool whose connections are young enough. An old one ends with the calls that still use it.
    fn pool(&self) -> Arc<Pool> {
        let pool = self.pooled.load_full();
        if pool.made.elapsed() < self.config.connection_lifetime {
            return pool;
        }
        let young = Arc::new(Pool::new(&self.connector, &self.config));
        // Where two calls come here at once one of them wins, and the other's pool serves its own call only.
        self.pooled.compare_and_swap(&pool, Arc::clone(&young));
        young
    }
}

impl Pool {
    fn new(connector: &Connector, config: &Config) -> Self {
        Self { client: client(connector, config, usize::MAX), made: Instant::now() }
    }
}

/// The reply to a request that was sent.
async fn whole(response: legacy::ResponseFuture, limit: usize) -> Result<Reply, Fault> {
    let began = Instant::now();
    let (head, body) = response.await.map_err(|error| fault(&error, began))?.into_parts();
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: read(body, limit).await? })
}

async fn read(mut stream: Incoming, limit: usize) -> Result<Body, Fault> {
    if stream.size_hint().lower() > limit as u64 {
        return Ok(Body::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(frame) = stream.frame().await {
        // Whatever hyper calls an error here, the reply was not whole.
        let frame = frame.map_err(|error| Fault::Lost { detail: describe(&error), stale: false })?;
        let Ok(chunk) = frame.into_data() else { continue };
        if body.len() + chunk.len() > limit {
            return Ok(Body::TooLarge);
        }
        if body.is_empty() && stream.is_end_stream() {
            return Ok(Body::Whole(chunk));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body::Whole(body.freeze()))
}

/// Left as it is: a request that was not begun, since its pooled connection had just closed, goes to another one.
fn client(connector: &Connector, config: &Config, max_idle: usize) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .http1_max_headers(MAX_HEADERS)
        .build(connector.clone())
}

fn fault(error: &legacy::Error, began: Instant) -> Fault {
    let detail = describe(error);
    if detail.contains("proxy authorization required") {
        Fault::ProxyAuthentication(detail)
    } else if error.is_connect() {
        Fault::Unreachable(detail)
    } else {
        let stale = error.connect_info().and_then(Talk::on).is_some_and(|talk| talk.is_stale(began));
        Fault::Lost { detail, stale }
    }
}

/// An error and its causes in words, outermost first.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&cause| cause.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

/// Header values of a reply, as text where they are visible ASCII.
pub(crate) fn first_text<'a>(headers: &'a HeaderMap, names: &[HeaderName]) -> Option<&'a str> {
    let visible = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    names.iter().find_map(|name| headers.get(name)?.to_str().ok().filter(visible))
}

/// Whether the body is coded (gzip and the like), which was never asked for.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
