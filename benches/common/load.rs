//! The caller: gRPC by hand on h2, so that it costs little beside what it measures.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use backup_share_gateway::proto::GetBackupShareRequest;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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

/// Open connections to one server, and the calls that are made on them, one after the other.
pub(crate) struct Callers {
    senders: Vec<SendRequest<Bytes>>,
    calls: Vec<Call>,
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
            senders.push(sender(connect_tcp(source, server).await.unwrap()).await.unwrap());
        }
        Self { senders, calls: vec![Call::documented()] }
    }

    /// The same with TLS and a client certificate.
    pub(crate) async fn connect_tls(
        source: Ipv4Addr,
        server: SocketAddr,
        connections: usize,
        pki: &Pki,
    ) -> Self {
        let mut senders = Vec::new();
        for _ in 0..connections {
            let stream = connect_tcp(source, server).await.unwrap();
            senders.push(sender(pki.dialer().handshake(stream).await.unwrap()).await.unwrap());
        }
        Self { senders, calls: vec![Call::documented()] }
    }

    /// The same connections, with other calls.
    pub(crate) fn with_calls(self, calls: Vec<Call>) -> Self {
        Self { calls, ..self }
    }

    /// The same connections, with calls for another share.
    pub(crate) fn of_share(self, id: &str) -> Self {
        self.with_calls(vec![Call::of_share(id)])
    }

    /// Makes one call and keeps what comes back: the messages with their frames.
    pub(crate) async fn ask(&self) -> (Code, Vec<u8>) {
        let mut body = Vec::new();
        let code = self.calls[0].exchange(self.senders[0].clone(), |data| body.extend_from_slice(data)).await;
        (code.unwrap(), body)
    }

    /// Keeps `in_flight` calls under way until `enough` of them have begun.
    pub(crate) async fn keep(&self, in_flight: usize, mut enough: impl FnMut() -> bool) -> Vec<Ended> {
        let mut calls = self.calls.iter().cycle().cloned();
        self.keep_each(in_flight, || if enough() { None } else { calls.next() }).await
    }

    /// Makes each of the calls once, and at least one on each connection.
    pub(crate) async fn each_once(&self, in_flight: usize) -> Vec<Ended> {
        let count = self.calls.len().max(self.senders.len());
        let mut calls = self.calls.iter().cycle().take(count).cloned();
        self.keep_each(in_flight, || calls.next()).await
    }

    /// Keeps `in_flight` of the calls that `next` gives under way, until it gives none.
    pub(crate) async fn keep_each(
        &self,
        in_flight: usize,
        mut next: impl FnMut() -> Option<Call>,
    ) -> Vec<Ended> {
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
        let calls = &mut self.calls.iter().cycle();
        let mut sent = 0_u32;
        while began.elapsed() < time {
            let due = began.elapsed().as_secs_f64() * rate;
            while f64::from(sent) < due {
                let call = calls.next().unwrap().clone();
                let (sender, ended) = (senders.next().unwrap().clone(), ended.clone());
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

pub(crate) async fn connect_tcp(source: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) async fn sender(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Bytes>, h2::Error> {
    let (sender, connection) = h2::client::handshake(stream).await?;
    // It ends with its last sender; an error before that fails the calls.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
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

/// Connections on which nothing is sent but what makes them HTTP/2 connections: both have the SETTINGS of the other one.
pub(crate) async fn idle_connections(server: SocketAddr, count: usize) -> Vec<TcpStream> {
    const SETTINGS: u8 = 4;
    const ACK: u8 = 1;
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut stream = connect_tcp(Ipv4Addr::LOCALHOST, server).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            match (head[3], head[4]) {
                (SETTINGS, ACK) => break,
                (SETTINGS, _) => stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).await.unwrap(),
                _ => {}
            }
        }
        connections.push(stream);
    }
    connections
}

/// The message of a request for a share, with its gRPC frame.
pub(crate) fn message(project: &str, id: &str) -> Bytes {
    let request = GetBackupShareRequest { project_id: project.into(), id: id.into() }.encode_to_vec();
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
    /// For the documented share.
    pub(crate) fn documented() -> Self {
        Self::of_share(SHARE)
    }

    pub(crate) fn of_share(id: &str) -> Self {
        Self::new(PROJECT, id, &token())
    }

    pub(crate) fn new(project: &str, id: &str, token: &str) -> Self {
        // The authority is not looked at.
        let head = Request::post("http://gateway.example/vbs.v2.BackupShareService/GetBackupShare")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "10S")
            .header("user-agent", "benchmark")
            .header("x-auth-token", token);
        Self { head: head.body(()).unwrap(), message: message(project, id) }
    }

    /// The same with another `grpc-timeout`.
    pub(crate) fn within(mut self, timeout: &'static str) -> Self {
        self.head.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
        self
    }

    async fn make(&self, sender: SendRequest<Bytes>) -> Ended {
        let since = Instant::now();
        let code = self.exchange(sender, |_| ()).await.unwrap_or(Code::Unavailable);
        Ended { code, time: since.elapsed(), at: Instant::now() }
    }

    /// Sends the call and takes its response. `came` gets each part of that.
    pub(crate) async fn exchange(
        &self,
        sender: SendRequest<Bytes>,
        came: impl FnMut(&[u8]),
    ) -> Result<Code, h2::Error> {
        self.exchange_slowly(sender, Duration::ZERO, came).await
    }

    /// The same, with a pause before each window update.
    pub(crate) async fn exchange_slowly(
        &self,
        sender: SendRequest<Bytes>,
        pause: Duration,
        mut came: impl FnMut(&[u8]),
    ) -> Result<Code, h2::Error> {
        let (reply, mut body) = sender.ready().await?.send_request(self.head.clone(), false)?;
        // A call that is refused may have been answered, and its stream closed, before.
        let _ = body.send_data(self.message.clone(), true);
        let (head, mut reply) = reply.await?.into_parts();
        while let Some(data) = reply.data().await {
            let data = data?;
            came(&data);
            if !pause.is_zero() {
                sleep(pause).await;
            }
            reply.flow_control().release_capacity(data.len())?;
        }
        let trailers = reply.trailers().await?;
        Ok(code(&trailers.unwrap_or(head.headers)))
    }
}

fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}
