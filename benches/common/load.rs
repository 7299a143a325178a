//! The caller: gRPC by hand on h2, so that it costs little beside what it measures.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use backup_share_gateway::proto::GetBackupShareRequest;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::tls::Pki;
use super::{PROJECT, SHARE, token};

/// How one call ended, and after what time.
pub(crate) struct Ended {
    pub(crate) code: Code,
    pub(crate) time: Duration,
    pub(crate) at: Instant,
}

/// Open connections to one server, and what is sent on them.
pub(crate) struct Callers {
    senders: Vec<SendRequest<Bytes>>,
    server: SocketAddr,
    call: Call,
}

impl Callers {
    /// Opens so many connections.
    pub(crate) async fn connect(server: SocketAddr, connections: usize) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, server, connections).await
    }

    /// The same from another address, as another caller.
    pub(crate) async fn connect_from(source: Ipv4Addr, server: SocketAddr, connections: usize) -> Self {
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(sender(connect_tcp(source, server).await).await);
        }
        Self { senders, server, call: Call::new(server, SHARE) }
    }

    /// The same with mutual TLS.
    pub(crate) async fn connect_tls(
        source: Ipv4Addr,
        server: SocketAddr,
        connections: usize,
        pki: &Pki,
    ) -> Self {
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(sender(pki.handshake(connect_tcp(source, server).await).await).await);
        }
        Self { senders, server, call: Call::new(server, SHARE) }
    }

    /// The same connections, with calls for another share.
    pub(crate) fn of_share(self, id: &str) -> Self {
        Self { call: Call::new(self.server, id), ..self }
    }

    /// Makes one call and keeps what comes back: the messages with their frames.
    pub(crate) async fn ask(&self) -> (Code, Vec<u8>) {
        let mut body = Vec::new();
        let code = self.call.exchange(self.senders[0].clone(), |data| body.extend_from_slice(data)).await;
        (code.unwrap(), body)
    }

    /// Keeps `in_flight` calls under way until `enough` of them have begun.
    pub(crate) async fn keep(&self, in_flight: usize, mut enough: impl FnMut() -> bool) -> Vec<Ended> {
        self.keep_each(in_flight, || (!enough()).then(|| self.call.clone())).await
    }

    /// The same, each call for another share.
    pub(crate) async fn keep_varied(&self, in_flight: usize, mut enough: impl FnMut() -> bool) -> Vec<Ended> {
        let other = || {
            let id = format!("{:08x}-0000-4000-8000-{:012x}", fastrand::u32(..), fastrand::u32(..));
            Call::new(self.server, &id)
        };
        self.keep_each(in_flight, || (!enough()).then(other)).await
    }

    async fn keep_each(&self, in_flight: usize, mut next: impl FnMut() -> Option<Call>) -> Vec<Ended> {
        let mut running = FuturesUnordered::new();
        let mut ended = Vec::new();
        let senders = &mut self.senders.iter().cycle();
        loop {
            while running.len() < in_flight
                && let Some(call) = next()
            {
                let sender = senders.next().unwrap().clone();
                running.push(async move { call.make(sender).await });
            }
            match running.next().await {
                Some(call) => ended.push(call),
                None => return ended,
            }
        }
    }

    /// Offers `rate` calls a second for `time`, whether earlier ones have been answered or not.
    pub(crate) async fn offer(&self, rate: f64, time: Duration) -> Vec<Ended> {
        let (ended, mut each) = mpsc::unbounded_channel();
        let began = Instant::now();
        let senders = &mut self.senders.iter().cycle();
        let mut sent = 0_u32;
        while began.elapsed() < time {
            let due = began.elapsed().as_secs_f64() * rate;
            while f64::from(sent) < due {
                let (call, sender, ended) =
                    (self.call.clone(), senders.next().unwrap().clone(), ended.clone());
                sent += 1;
                tokio::spawn(async move { drop(ended.send(call.make(sender).await)) });
            }
            sleep(Duration::from_millis(1)).await;
        }
        drop(ended);
        let mut calls = Vec::new();
        while let Some(call) = each.recv().await {
            calls.push(call);
        }
        calls
    }
}

async fn connect_tcp(source: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let stream = socket.connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn sender(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // It ends with its last sender; an error before that fails the calls.
    tokio::spawn(async move { drop(connection.await) });
    sender
}

/// The times of the calls that ended with `code`, shortest first.
pub(crate) fn times(ended: &[Ended], code: Code) -> Vec<Duration> {
    let mut times: Vec<_> = ended.iter().filter(|call| call.code == code).map(|call| call.time).collect();
    times.sort_unstable();
    times
}

/// In milliseconds; `per_mille` 990 is the 99th percentile.
pub(crate) fn percentile(times: &[Duration], per_mille: usize) -> f64 {
    let at = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// The message of a request for a share, with its gRPC frame.
pub(crate) fn message(id: &str) -> Bytes {
    let request = GetBackupShareRequest { project_id: PROJECT.into(), id: id.into() }.encode_to_vec();
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(request.len()).unwrap());
    message.put_slice(&request);
    message.freeze()
}

/// One call, ready to be sent.
#[derive(Clone)]
pub(crate) struct Call {
    head: Request<()>,
    message: Bytes,
}

impl Call {
    fn new(server: SocketAddr, id: &str) -> Self {
        let uri = format!("http://{server}/vbs.v2.BackupShareService/GetBackupShare");
        let head = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "10S")
            .header("user-agent", "benchmark")
            .header("x-auth-token", token());
        Self { head: head.body(()).unwrap(), message: message(id) }
    }

    async fn make(&self, sender: SendRequest<Bytes>) -> Ended {
        let since = Instant::now();
        let code = self.exchange(sender, |_| ()).await.unwrap_or(Code::Unavailable);
        Ended { code, time: since.elapsed(), at: Instant::now() }
    }

    async fn exchange(
        &self,
        sender: SendRequest<Bytes>,
        mut came: impl FnMut(&[u8]),
    ) -> Result<Code, h2::Error> {
        let (reply, mut body) = sender.ready().await?.send_request(self.head.clone(), false)?;
        // A call that is refused may have been answered, and its stream closed, before.
        let _ = body.send_data(self.message.clone(), true);
        let (head, mut reply) = reply.await?.into_parts();
        while let Some(data) = reply.data().await {
            let data = data?;
            came(&data);
            reply.flow_control().release_capacity(data.len())?;
        }
        let trailers = reply.trailers().await?;
        Ok(code(&trailers.unwrap_or(head.headers)))
    }
}

fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}
