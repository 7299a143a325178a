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
use tokio::task::unconstrained;

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
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) fault: Fault,
    /// The request, if the connection had ended before it was begun.
    pub(super) unsent: Option<Box<Wanted>>,
}

impl Link {
    pub(super) async fn begin(wire: Wire, to: Uri) -> Result<Self, Fault> {
        let (talk, to_proxy) = (wire.talk.clone(), wire.to_proxy);
        let handshake = http1::Builder::new().max_headers(MAX_HEADERS).handshake(TokioIo::new(wire));
        let (sender, connection) = handshake.await.map_err(|error| lost(&error, false))?;
        let carrier = Carrier { connection: Some(connection) };
        let (opened, home) = (Instant::now(), thread::current().id());
        Ok(Self { sender, carrier, talk, to_proxy, to, opened, idle_since: None, home })
    }

    /// Whether a request to `uri` may go out on it.
    pub(super) fn leads_to(&self, uri: &Uri) -> bool {
        self.to.scheme() == uri.scheme() && self.to.authority() == uri.authority()
    }

    /// Whether it can take a request now. What the other side has done meanwhile is seen here.
    pub(super) fn is_open(&mut self) -> bool {
        let carried = poll_fn(|context| {
            self.carrier.carry(context);
            Poll::Ready(())
        });
        // Many may be looked at in one go, and after some tokio would have the task wait for its next turn.
        let _ = pin!(unconstrained(carried)).poll(&mut Context::from_waker(Waker::noop()));
        self.carrier.connection.is_some() && self.sender.is_ready()
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
    /// None when it has ended: a request that it had not begun comes back when it is dropped, and not before.
    connection: Option<http1::Connection<TokioIo<Wire>, Full<Bytes>>>,
}

impl Carrier {
    fn carry(&mut self, context: &mut Context<'_>) {
        self.connection.take_if(|connection| Pin::new(connection).poll(context).is_ready());
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

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    pub(in super::super) const SOMEWHERE: &str = "http://vbs.example/";

    /// A connection, and its other end.
    pub(in super::super) async fn link() -> (Box<Link>, DuplexStream) {
        let (here, there) = tokio::io::duplex(1024);
        let link = Link::begin(Wire::new(TokioIo::new(here), false), Uri::from_static(SOMEWHERE)).await;
        (Box::new(link.unwrap_or_else(|_| panic!("no handshake"))), there)
    }

    async fn exchange(link: &mut Link) -> Result<Reply, Failed> {
        link.exchange(&Uri::from_static(SOMEWHERE), Request::new(Full::default()), 1024).await
    }

    async fn answer(there: &mut DuplexStream, reply: &str) {
        while there.read_u8().await.unwrap() != b'\n' {}
        there.write_all(reply.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_comes_back_if_the_connection_had_ended_before_it() {
        let (mut link, mut there) = link().await;
        let whole = answer(&mut there, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        tokio::join!(exchange(&mut link), whole).0.unwrap();
        assert!(link.is_open());
        drop(there);
        let failed = tokio::time::timeout(Duration::from_secs(30), exchange(&mut link)).await.expect("hung");
        assert!(failed.unwrap_err().unsent.is_some());
        assert!(!link.is_open());
    }

    #[tokio::test]
    async fn a_request_that_somebody_may_have_seen_does_not_come_back() {
        let (mut link, mut there) = link().await;
        let broken = async move { answer(&mut there, "HTTP/1.1 200 OK\r\n").await };
        assert!(tokio::join!(exchange(&mut link), broken).0.unwrap_err().unsent.is_none());
    }
}
