//! An HTTP/2 peer that may violate the protocol: raw requests with any frames in any order.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::*;
use backup_share_gateway::proto::GetBackupShareRequest;

/// The client's preface with empty SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The types of all frames until the peer closes or resets the connection.
pub async fn frame_types_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut types = Vec::new();
    let mut head = [0; 9];
    while with_timeout("the end of a connection", stream.read_exact(&mut head)).await.is_ok() {
        types.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
    }
    types
}

pub const GOAWAY: u8 = 7;

pub async fn connect_tcp(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.grpc).await.unwrap()
}

/// A peer that has sent its preface and acknowledges no SETTINGS and no PING.
pub async fn connect_without_acks(gateway: &Gateway) -> TcpStream {
    let mut stream = connect_tcp(gateway).await;
    stream.write_all(PREFACE).await.unwrap();
    stream
}

pub const METHOD: &str = "/vbs.v2.BackupShareService/GetBackupShare";

/// A request; each part of the body is a DATA frame.
pub struct RawRequest {
    pub request: Request<()>,
    pub parts: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
}

/// The response.
#[derive(Debug)]
pub struct RawResponse {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
}

impl RawResponse {
    /// The gRPC status, from the headers or the trailers.
    pub fn status(&self) -> tonic::Status {
        let headers = if self.headers.contains_key("grpc-status") { &self.headers } else { &self.trailers };
        tonic::Status::from_header_map(headers).unwrap_or_else(|| panic!("no gRPC status: {self:?}"))
    }

    /// The status with its details.
    pub fn error(&self) -> ErrorStatus {
        ErrorStatus::decode(self.status())
    }
}

impl RawRequest {
    /// A valid call, to be changed.
    pub fn call() -> Self {
        let request = Request::post(format!("http://gateway{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-auth-token", TOKEN);
        Self { request: request.body(()).unwrap(), parts: vec![message()], trailers: None }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.request.headers_mut().remove(name);
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        *self.request.uri_mut() = format!("http://gateway{path}").parse().unwrap();
        self
    }

    pub fn parts(mut self, parts: Vec<Bytes>) -> Self {
        self.parts = parts;
        self
    }

    pub async fn send(self, address: SocketAddr) -> RawResponse {
        self.send_on(&mut connect(address).await).await
    }

    /// Sends the request. Dropping the future of the response cancels the call.
    pub fn start(self, connection: &mut SendRequest<Bytes>) -> ResponseFuture {
        let ends = self.parts.is_empty() && self.trailers.is_none();
        let (response, mut body) = connection.send_request(self.request, ends).unwrap();
        let count = self.parts.len();
        for (at, part) in self.parts.into_iter().enumerate() {
            // The gateway may have replied and reset the stream before all was sent.
            let _ = body.send_data(part, at + 1 == count && self.trailers.is_none());
        }
        if let Some(trailers) = self.trailers {
            let _ = body.send_trailers(trailers);
        }
        response
    }

    pub async fn send_on(self, connection: &mut SendRequest<Bytes>) -> RawResponse {
        let mut ready = connection.clone().ready().await.unwrap();
        let response = self.start(&mut ready);
        let (head, mut stream) = with_timeout("a raw call", response).await.unwrap().into_parts();
        while let Some(data) = with_timeout("the body", stream.data()).await {
            let Ok(data) = data else { break };
            let _ = stream.flow_control().release_capacity(data.len());
        }
        let trailers = with_timeout("trailers", stream.trailers()).await.ok().flatten().unwrap_or_default();
        RawResponse { http_status: head.status.as_u16(), headers: head.headers, trailers }
    }
}

pub async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    handshake(TcpStream::connect(address).await.unwrap(), &Builder::new()).await
}

/// Connects from another address of the loopback interface, as another caller.
pub async fn connect_from(source: &str, address: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    handshake(socket.connect(address).await.unwrap(), &Builder::new()).await
}

/// Connects as a peer that accepts only `window` bytes of each response until it has released them.
pub async fn connect_with_window(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    handshake(stream, Builder::new().initial_window_size(window)).await
}

async fn handshake(stream: TcpStream, builder: &Builder) -> SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// The request for the documented share, as a gRPC message.
pub fn message() -> Bytes {
    framed(0, &GetBackupShareRequest { project_id: PROJECT.into(), id: SHARE.into() }.encode_to_vec())
}

/// A gRPC message: flag, length, content.
pub fn framed(flag: u8, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(content.len()).unwrap());
    bytes.put_slice(content);
    bytes.freeze()
}
