//! One open connection, and one request at a time on it. The call that uses it carries it: there is no task between the
//! call and the socket that would have to be woken up both ways, perhaps on another core.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::connector::{Talk, Wire};
use super::{Body, Fault, Reply, describe};

/// The most headers of a reply: far more than any upstream sends, and hyper's own limit is for no reason 100.
const MAX_HEADERS: usize = 1000;

type Wanted = Request<Full<Bytes>>;

/// An open connection.
pub(super) struct Link {
    sender: http1::SendRequest<Full<Bytes>>,
    carrier: Carrier,
    talk: Talk,
    /// It leads to a proxy, which must be told the whole URL.
    to_proxy: bool,
    /// A URL that it leads to.
    to: Uri,
    pub(super) opened: Instant,
    /// When the last request on it ended. None before that.
    pub(super) idle_since: Option<Instant>,
    /// The thread whose runtime hears of the socket.
    pub(super) home: ThreadId,
}

/// Why there is no whole reply.
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// The request, if the connection had ended before it was begun.
    pub(super) unsent: Option<Box<Wanted>>,
}

impl Link {
    pub(super) async fn begin(wire: Wire, to: Uri) -> Result<Self, Fault> {
        let (talk, to_proxy) = (wire.talk(), wire.leads_to_proxy());
        let handshake = http1::Builder::new().max_headers(MAX_HEADERS).handshake(TokioIo::new(wire));
        let (sender, connection) = handshake.await.map_err(|error| lost(&error, false))?;
        let carrier = Carrier { connection, is_over: false };
        let (opened, home) = (Instant::now(), thread::current().id());
        Ok(Self { sender, carrier, talk, to_proxy, to, opened, idle_since: None, home })
    }

    /// Whether a request to `uri` may go out on it.
    pub(super) fn leads_to(&self, uri: &Uri) -> bool {
        self.to.scheme() == uri.scheme() && self.to.authority() == uri.authority()
    }

    /// Whether it can take a request now. What the other side has done meanwhile is seen here.
    pub(super) fn is_open(&mut self) -> bool {
        self.carrier.carry(&mut Context::from_waker(Waker::noop()));
        !self.carrier.is_over && self.sender.is_ready()
    }

    /// Whether it has come from the pool.
    pub(super) fn is_reused(&self) -> bool {
        self.idle_since.is_some()
    }

    /// Sends a request to `uri` and reads the whole reply. Afterwards [`Link::is_open`] tells whether another one may follow;
    /// if the future is dropped before it ends, none may.
    pub(super) async fn exchange(
        &mut self,
        uri: &Uri,
        mut request: Wanted,
        limit: usize,
    ) -> Result<Reply, Failed> {
        *request.uri_mut() = if self.to_proxy { uri.clone() } else { origin_form(uri) };
        let response = self.carrier.until(self.sender.try_send_request(request)).await;
        let (head, body) = response
            .map_err(|mut error| Failed {
                fault: lost(error.error(), self.is_reused() && !self.talk.has_heard()),
                unsent: error.take_message().map(Box::new),
            })?
            .into_parts();
        let body = self.carrier.read(body, limit).await;
        let body = body.map_err(|fault| Failed { fault, unsent: None })?;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// hyper's end of the connection, which moves only while it is polled.
struct Carrier {
    connection: http1::Connection<TokioIo<Wire>, Full<Bytes>>,
    /// It has ended and must not be polled again. Whoever waits for something on it has been told.
    is_over: bool,
}

impl Carrier {
    fn carry(&mut self, context: &mut Context<'_>) {
        self.is_over = self.is_over || Pin::new(&mut self.connection).poll(context).is_ready();
    }

    /// Waits for something that comes on the connection.
    async fn until<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        poll_fn(|context| {
            // It may have come already; and only to one who has asked, more will come.
            if let Poll::Ready(it) = something.as_mut().poll(context) {
                return Poll::Ready(it);
            }
            self.carry(context);
            something.as_mut().poll(context)
        })
        .await
    }

    /// Reads a body to its end or to the limit.
    async fn read(&mut self, mut stream: Incoming, limit: usize) -> Result<Body, Fault> {
        if stream.size_hint().lower() > limit as u64 {
            return Ok(Body::TooLarge);
        }
        let mut body = BytesMut::new();
        while let Some(frame) = self.until(stream.frame()).await {
            // Whatever hyper calls an error here, the reply was not whole.
            let frame = frame.map_err(|error| lost(&error, false))?;
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
}

fn lost(error: &hyper::Error, stale: bool) -> Fault {
    Fault::Lost { detail: describe(error), stale }
}

/// As a server that is no proxy is told it.
fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into()
}
