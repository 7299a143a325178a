//! The accept loop of the benchmarks' servers, and HTTP/1.1 for those that need no more than this: one request at a time on a
//! connection, read completely before it is answered.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Accepts connections without end and serves each in a task.
pub(crate) async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> !
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // The peer may have gone already.
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream));
    }
}

/// The same in the background, on a loopback port.
async fn listen_raw<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { accept(listener, serve).await });
    address
}

/// Serves HTTP on a loopback port. `answer` gets each connection.
pub(crate) async fn listen<F>(answer: impl Fn(Connection) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    listen_raw(move |stream| answer(Connection::new(stream))).await
}

/// The same with TLS.
pub(crate) async fn listen_tls<F>(
    tls: TlsAcceptor,
    answer: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    listen_raw(move |stream| {
        let (handshake, answer) = (tls.accept(stream), answer.clone());
        async move { answer(Connection::new(handshake.await?)).await }
    })
    .await
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A client's connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
}

impl Connection {
    fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), request: Vec::with_capacity(4096) }
    }

    /// The next request, head and body. `None` if the client has closed the connection.
    pub(crate) async fn request(&mut self) -> io::Result<Option<&[u8]>> {
        self.request.clear();
        while self.stream.read_buf(&mut self.request).await? != 0 {
            if is_complete(&self.request) {
                return Ok(Some(&self.request));
            }
        }
        Ok(None)
    }

    pub(crate) async fn send(&mut self, response: &[u8]) -> io::Result<()> {
        self.stream.write_all(response).await?;
        self.stream.flush().await
    }
}

/// Whether the head and as many bytes as it announces have come. A GET ends with an empty line, also if it has Envoy's empty
/// body in chunks, which comes together with the head.
fn is_complete(request: &[u8]) -> bool {
    if request.starts_with(b"GET ") {
        return request.ends_with(b"\r\n\r\n");
    }
    let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
    request.len() >= end + 4 + length.trim().parse::<usize>().unwrap()
}

/// A response with a body of JSON. Each of `headers` ends with CR and LF.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
