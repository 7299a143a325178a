//! An HTTP/1.1 upstream that follows a script, byte by byte.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::*;

/// Each worker has a pool of its own: with one worker, a second call can reuse the connection of the first.
pub const ONE_WORKER: &str = "--workers=1";

/// Without it, an upstream URL with `http` is refused.
pub const PLAINTEXT: &str = "--allow-plaintext-upstream";

/// A port that refuses connections. While it is bound, nothing else can listen on it.
pub fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// Reads a request without a body.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(())
}

/// What the upstream does after it has read a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again until the peer closes.
    SendForever(Vec<u8>),
    /// Waits before the next step.
    Pause(Duration),
    /// Sends nothing more, and waits until the peer closes.
    Stall,
    /// Closes with a FIN.
    Close,
    /// Closes with an RST.
    Reset,
}

pub type Script = Vec<Step>;

/// A request that the upstream received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub line: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The number of its connection, counted from 1.
    pub connection: usize,
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An upstream that follows a script, request by request.
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

pub struct Log {
    requests: Mutex<Vec<ReceivedRequest>>,
    connections: watch::Sender<usize>,
    arrived: watch::Sender<usize>,
    hangups: watch::Sender<usize>,
    closed: watch::Sender<usize>,
}

impl Upstream {
    /// `script` gets the request and its number, counted from 1.
    pub async fn scripted(
        script: impl Fn(&ReceivedRequest, usize) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    pub fn on(
        listener: TcpListener,
        script: impl Fn(&ReceivedRequest, usize) -> Script + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log {
            requests: Mutex::default(),
            connections: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
            hangups: watch::Sender::new(0),
            closed: watch::Sender::new(0),
        });
        let (script, shared) = (Arc::new(script), Arc::clone(&log));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.send_modify(|count| *count += 1);
                let number = *shared.connections.borrow();
                let (script, log) = (Arc::clone(&script), Arc::clone(&shared));
                tokio::spawn(async move {
                    drop(log.serve(stream, number, script.as_ref()).await);
                    log.closed.send_modify(|count| *count += 1);
                });
            }
        });
        Self { address, log, accepting }
    }

    /// An upstream that replies with the documented share.
    pub async fn documented() -> Self {
        Self::scripted(|_, _| documented_reply()).await
    }

    /// An upstream that replies with the documented share once, and then follows `script`.
    pub async fn documented_once_then(script: Script) -> Self {
        Self::scripted(move |_, number| if number == 1 { documented_reply() } else { script.clone() }).await
    }

    /// An upstream that accepts requests and never replies.
    pub async fn stalled() -> Self {
        Self::scripted(|_, _| vec![Step::Stall]).await
    }

    /// An upstream with the same reply for every request.
    pub async fn replying(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let bytes = reply(status, headers, body);
        Self::scripted(move |_, _| bytes.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The flag that names this upstream.
    pub fn url_flag(&self) -> String {
        format!("--upstream-url={}", self.url())
    }

    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.log.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.log.connections.borrow()
    }

    /// Waits until the upstream has received `count` requests.
    pub async fn wait_for_requests(&self, count: usize) {
        with_timeout("a request at the upstream", self.log.arrived.subscribe().wait_for(|n| *n >= count))
            .await
            .unwrap();
    }

    /// Waits until the peer has closed `count` connections on which the script stalled.
    pub async fn stalled_requests_end(&self, count: usize) {
        with_timeout(
            "the end of an upstream request",
            self.log.hangups.subscribe().wait_for(|n| *n >= count),
        )
        .await
        .unwrap();
    }

    /// Waits until `count` connections have ended, closed by either side.
    pub async fn wait_for_closed_connections(&self, count: usize) {
        with_timeout("the end of a connection", self.log.closed.subscribe().wait_for(|n| *n >= count))
            .await
            .unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Log {
    async fn serve(
        &self,
        mut stream: TcpStream,
        connection: usize,
        script: &(dyn Fn(&ReceivedRequest, usize) -> Script + Send + Sync),
    ) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let Some(seen) = read_request(&mut stream, &mut buffer, connection).await? else { return Ok(()) };
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(seen.clone());
                requests.len()
            };
            self.arrived.send_replace(number);
            for step in script(&seen, number) {
                match step {
                    Step::Send(bytes) => stream.write_all(&bytes).await?,
                    Step::SendForever(bytes) => loop {
                        stream.write_all(&bytes).await?;
                    },
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Close => return Ok(()),
                    Step::Reset => return stream.set_zero_linger(),
                    Step::Stall => {
                        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                        self.hangups.send_modify(|count| *count += 1);
                        return Ok(());
                    }
                }
            }
        }
    }
}

pub async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> io::Result<Option<ReceivedRequest>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen = ReceivedRequest { line, headers, connection, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    seen.body = buffer.drain(..length).collect();
    Ok(Some(seen))
}

/// A complete reply with Content-Length, after which the connection stays open.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Script {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    vec![Step::Send([bytes.as_bytes(), b"\r\n", body].concat())]
}

/// The documented share, as a reply.
pub fn documented_reply() -> Script {
    reply(200, &[("content-type", "application/json")], DOCUMENTED)
}
