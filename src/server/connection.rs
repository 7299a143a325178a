//! One connection: the handshakes, HTTP on it, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use super::connection_age::{Action, ConnectionAge};
use super::handshake_failures::{CLOSED, HandshakeFailures, TIMEOUT, reason};
use super::in_flight::InFlight;
use super::rewind::Rewind;
use super::tls::{Tls, peer_names};
use super::{Config, ConnectionService, Peer, Reply, ResponseBody, ServerShutdown, Service, hold};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request header list, in bytes: twice the longest token.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// The streams that a peer may have reset before they were accepted, and the streams that may have been reset for its
/// protocol errors, until the connection is closed. These are hyper's defaults, against rapid-reset floods (CVE-2023-44487).
const MAX_PENDING_ACCEPT_RESETS: usize = 20;
const MAX_LOCAL_ERROR_RESETS: usize = 1024;
/// What a peer may send before it is read, in bytes, on a stream and on a connection: the longest message of a call.
const WINDOW_BYTES: u32 = 64 * 1024;
/// What h2 buffers of a response for a peer that does not read, in bytes.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long a connection may be read after its handshake failed, and how many connections at the same time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_CLOSING: usize = 64;

/// Serves the connections of one port.
pub(super) struct ConnectionHandler {
    pub(super) config: Config,
    pub(super) shutdown: ServerShutdown,
    pub(super) failures: HandshakeFailures,
    tls: Option<Arc<Tls>>,
    builder: auto::Builder<TrackedExecutor>,
    /// A permit for each connection that may still be closed slowly.
    closing: Semaphore,
}

/// A connection in plaintext or with TLS.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;
/// A connection after its handshakes.
type NegotiatedStream = Rewind<Stream>;

/// A handshake that failed.
struct HandshakeError {
    error: io::Error,
    /// The peer has begun a TLS handshake, so that the failure counts.
    counts: bool,
    stream: Stream,
}

impl ConnectionHandler {
    /// hyper's tasks are spawned in `tasks`.
    pub(super) fn new(
        config: Config,
        tls: Option<Arc<Tls>>,
        shutdown: ServerShutdown,
        failures: HandshakeFailures,
        tasks: TaskTracker,
    ) -> Self {
        let builder = http_builder(&config, TrackedExecutor(tasks));
        Self { config, shutdown, failures, tls, builder, closing: Semaphore::new(MAX_CLOSING) }
    }

    /// Serves a connection until it is closed.
    pub(super) async fn run(&self, stream: TcpStream, address: SocketAddr, service: impl Service) {
        // An error means that the peer has disconnected, which the handshake reports, too.
        let _ = stream.set_nodelay(true);
        let negotiated = tokio::select! {
            // Boxed, so that the memory of the handshake is freed after it.
            negotiated = timeout(self.config.handshake_timeout, Box::pin(self.handshake(stream))) => negotiated,
            () = self.shutdown.graceful.cancelled() => return,
        };
        match negotiated {
            Ok(Ok((stream, names))) => {
                let peer = Peer { address, addr_display: address.to_string().into(), names };
                self.serve_connection(stream, service.connect(peer)).await;
            }
            Ok(Err(HandshakeError { error, counts, stream })) => {
                tracing::debug!(peer = %address, %error, "connection closed: handshake failed");
                if counts {
                    self.failures.record(reason(&error), address, &error);
                }
                // Boxed, so that other connections do not have its memory.
                Box::pin(self.close_after_failure(stream)).await;
            }
            Err(_) => {
                tracing::debug!(peer = %address, "connection closed: handshake timeout");
                if self.tls.is_some() {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "no complete handshake in time");
                    self.failures.record(TIMEOUT, address, &error);
                }
            }
        }
    }

    /// Performs the handshakes. The names are those in the peer's certificate.
    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(NegotiatedStream, Arc<[String]>), HandshakeError> {
        let (mut stream, names) = match &self.tls {
            None => (Either::Left(stream), Arc::default()),
            Some(tls) => accept_tls(tls, stream).await?,
        };
        let mut prefix = BytesMut::with_capacity(HTTP2_PREFACE.len());
        match read_preface(&mut stream, &mut prefix, self.config.http1).await {
            Ok(()) => Ok((Rewind { prefix: prefix.freeze(), inner: stream }, names)),
            Err(error) => {
                // A connection that is closed unused has not failed.
                let is_unused = prefix.is_empty() && reason(&error) == CLOSED;
                Err(HandshakeError { error, counts: self.tls.is_some() && !is_unused, stream })
            }
        }
    }

    /// Closes a connection so that what was written last, such as a TLS alert, reaches the peer: closing a socket that has unread
    /// bytes resets the connection, and the peer then discards what it has not read.
    async fn close_after_failure(&self, stream: Stream) {
        let Ok(_permit) = self.closing.try_acquire() else { return };
        let close = async {
            let mut socket = match stream {
                Either::Left(socket) => socket,
                Either::Right(mut tls) => {
                    // After a TLS error this may fail, and the alert is written nevertheless.
                    let _ = tls.shutdown().await;
                    tls.into_inner().0
                }
            };
            socket.shutdown().await?;
            while socket.read(&mut [0; 1024]).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        tokio::select! {
            // An error means that the peer has closed, too.
            _ = timeout(CLOSE_TIMEOUT, close) => {}
            () = self.shutdown.graceful.cancelled() => {}
        }
    }

    /// Serves HTTP until the connection is closed, by its peer or by [`ConnectionAge`].
    async fn serve_connection<S: ConnectionService>(&self, stream: NegotiatedStream, service: S) {
        let in_flight = InFlight::new();
        let http_service = service_fn(|request| {
            let guard = in_flight.start();
            let response = service.call(request);
            IS_READY.set(matches!(response, Reply::Left(_)));
            async move {
                let response = response.await;
                let deadline = response.body().deadline();
                // HTTP/1.1 has no task for each request: its connections are few.
                let _ = STREAM_DEADLINE.try_with(|stream| stream.set(deadline));
                // A request is in flight until its body is dropped. A stream without a deadline, such as a health `Watch`, does not
                // keep its connection from being idle.
                let guard = deadline.map(|_| guard);
                Ok::<_, Infallible>(response.map(|body| hold(body, guard)))
            }
        });
        let mut serving = pin!(self.builder.serve_connection(TokioIo::new(stream), http_service));
        let mut age = ConnectionAge::new(&self.config, Instant::now(), fastrand::f64());
        loop {
            let deadline = age.next_deadline(Instant::now(), in_flight.idle_since());
            let action = tokio::select! {
                // A request may change `is_misused`, which has no waker.
                biased;
                // An error means that the peer has violated the protocol or disconnected.
                _ = serving.as_mut() => Action::Close,
                () = self.shutdown.graceful.cancelled(), if !age.is_draining() => age.drain(Instant::now()),
                () = misuse(&service), if !age.is_draining() => age.drain_within(Duration::ZERO, Instant::now()),
                () = sleep_until(deadline) => age.check_expiry(Instant::now(), in_flight.idle_since()),
            };
            match action {
                Action::Continue => {}
                Action::SendGoaway => serving.as_mut().graceful_shutdown(),
                Action::Close => return,
            }
        }
    }
}

/// Ready if the connection is misused. It is polled after each request.
async fn misuse(service: &impl ConnectionService) {
    poll_fn(|_| if service.is_misused() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Performs the TLS handshake. The names are those in the peer's certificate.
async fn accept_tls(tls: &Tls, stream: TcpStream) -> Result<(Stream, Arc<[String]>), HandshakeError> {
    // A peer that closes without a byte, such as a TCP probe, has begun no handshake.
    if let Err(error) = wait_for_first_byte(&stream).await {
        return Err(HandshakeError { error, counts: false, stream: Either::Left(stream) });
    }
    let stream = match tls.acceptor().accept(stream).into_fallible().await {
        Ok(stream) => Box::new(stream),
        Err((error, stream)) => {
            return Err(HandshakeError { error, counts: true, stream: Either::Left(stream) });
        }
    };
    match peer_names(stream.get_ref().1.peer_certificates()) {
        Ok(names) => Ok((Either::Right(stream), names)),
        Err(error) => Err(HandshakeError { error, counts: true, stream: Either::Right(stream) }),
    }
}

async fn wait_for_first_byte(stream: &TcpStream) -> io::Result<()> {
    if stream.peek(&mut [0]).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Reads into `prefix` until the peer has shown its HTTP version, and checks that the port supports it.
async fn read_preface(
    stream: &mut (impl AsyncRead + Unpin),
    prefix: &mut BytesMut,
    http1: bool,
) -> io::Result<()> {
    while prefix.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(prefix) {
        if stream.read_buf(prefix).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if !http1 && !prefix.starts_with(HTTP2_PREFACE) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not speak HTTP/2"));
    }
    Ok(())
}

fn http_builder(config: &Config, executor: TrackedExecutor) -> auto::Builder<TrackedExecutor> {
    let builder = auto::Builder::new(executor);
    let mut builder = if config.http1 { builder } else { builder.http2_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.handshake_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESETS)
        // gRPC servers send no `date`. It would add an entry per second to the HPACK table of each connection.
        .auto_date_header(false)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    builder
}

thread_local! {
    /// Whether the response to the latest request is ready. hyper calls the service and then the executor.
    static IS_READY: Cell<bool> = const { Cell::new(false) };
}

tokio::task_local! {
    /// The deadline of the response on this HTTP/2 stream, once there is a response.
    static STREAM_DEADLINE: Cell<Option<Instant>>;
}

/// Spawns hyper's tasks, one for each HTTP/2 stream, in the tracker that the shutdown waits for.
#[derive(Clone)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let stream = STREAM_DEADLINE.scope(Cell::new(None), UntilDeadline { stream, timer: None });
        if !IS_READY.get() {
            self.0.spawn(stream);
            return;
        }
        // Refused streams get no task: thousands of tasks would wait before the first of the responses is written.
        let mut stream = Box::pin(stream);
        if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.0.spawn(stream);
        }
    }
}

pin_project! {
    /// The task of a stream, which ends, and so resets the stream, at the deadline of its response. A timer inside the body
    /// could not do this: hyper does not poll a body while the peer's window is 0.
    ///
    /// Not an `async fn`, which would store the stream twice.
    struct UntilDeadline<F> {
        #[pin]
        stream: F,
        // Runs if the response was not read at once.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for UntilDeadline<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(context).is_ready() {
            return Poll::Ready(());
        }
        match STREAM_DEADLINE.with(Cell::get) {
            None => Poll::Pending,
            Some(at) => this.timer.get_or_insert_with(|| Box::pin(sleep_until(at))).as_mut().poll(context),
        }
    }
}
