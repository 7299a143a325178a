//! One HTTP/1.1 exchange with the upstream or the identity service, over a pool of our own.
//!
//! It stands on hyper itself and not on the clients that hyper-util and reqwest make of it: those give each connection a task
//! that a call has to wake up and is woken up by, perhaps on another core, and a pool that knows of no cores.
//!
//! What other clients do unasked is not there to be switched off: no redirects (they would take the token along), no proxy
//! variables, no compression. The body is capped while it streams, pooled connections have a lifetime, and of a connection
//! that is lost it is known whether the upstream may have closed it before it was asked.

mod connector;
mod link;
mod pool;

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Uri, header, uri::Scheme};
use http_body_util::Full;

pub(crate) use connector::tls;
pub use connector::{Proxy, Roots};

use connector::Connector;
use link::{Failed, Link};
use pool::Pool;

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

/// The client. Its pool is the process's.
pub(crate) struct HttpClient {
    config: Config,
    connector: Connector,
    pool: Pool,
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
        Ok(Self { pool: Pool::new(&config), connector, config })
    }

    /// Sends a GET and reads the whole reply. It takes as long as it takes: the time is the caller's to limit, and
    /// dropping the future closes the connection.
    pub(crate) async fn get(
        &self,
        uri: Uri,
        headers: HeaderMap,
        connection: Connection,
    ) -> Result<Reply, Fault> {
        let mut request = self.request(Method::GET, &uri, headers, Bytes::new());
        loop {
            let pooled = if connection == Connection::Any { self.pool.take(&uri) } else { None };
            let mut link = match pooled {
                Some(link) => link,
                // Boxed: it is rare, and every call would have room for it.
                None => Box::pin(self.open(uri.clone())).await?,
            };
            match link.exchange(&uri, request, self.config.max_response_bytes).await {
                Ok(reply) => {
                    self.pool.put(link);
                    return Ok(reply);
                }
                // Nobody has seen it.
                Err(Failed { unsent: Some(unsent), .. }) if link.is_reused() => request = *unsent,
                Err(failed) => return Err(failed.fault),
            }
        }
    }

    /// The same with a POST, on a connection of its own.
    pub(crate) async fn post(&self, uri: Uri, headers: HeaderMap, body: Bytes) -> Result<Reply, Fault> {
        let mut link = self.open(uri.clone()).await?;
        let request = self.request(Method::POST, &uri, headers, body);
        let reply = link.exchange(&uri, request, self.config.max_response_bytes).await;
        reply.map_err(|failed| failed.fault)
    }

    async fn open(&self, uri: Uri) -> Result<Box<Link>, Fault> {
        let wire = self.connector.open(uri.clone()).await.map_err(|error| {
            let detail = describe(error.as_ref());
            match detail.contains("proxy authorization required") {
                true => Fault::ProxyAuthentication(detail),
                false => Fault::Unreachable(detail),
            }
        })?;
        Link::begin(wire, uri).await.map(Box::new)
    }

    fn request(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let is_plaintext = uri.scheme() == Some(&Scheme::HTTP);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        // Within TLS it would be the upstream that reads it; the proxy was told when it made the tunnel.
        if let Some(proof) =
            self.config.proxy.as_ref().and_then(Proxy::authorization).filter(|_| is_plaintext)
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, proof.clone());
        }
        request
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
