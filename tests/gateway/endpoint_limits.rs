//! The limits of the endpoints that need no token: health and reflection, on both ports, and the rest of the admin port.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use prost::Message;
use tonic::Code;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::support::h2_peer::{self, RawRequest, connect, connect_from, framed};
use crate::support::process::GatewayProcess;
use crate::support::*;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

fn endpoints(gateway: &Gateway) -> Vec<(SocketAddr, &'static str)> {
    let grpc = [CHECK, WATCH, REFLECTION, REFLECTION_ALPHA].map(|path| (gateway.grpc, path));
    let admin = [CHECK, WATCH].map(|path| (gateway.admin, path));
    [&grpc[..], &admin[..]].concat()
}

/// A stream whose request stays open.
struct OpenStream {
    response: h2::client::ResponseFuture,
    request: h2::SendStream<Bytes>,
}

fn open(connection: &mut SendRequest<Bytes>, path: &str) -> OpenStream {
    let raw = RawRequest::call().without("x-auth-token").path(path);
    let (response, request) = connection.send_request(raw.request, false).unwrap();
    OpenStream { response, request }
}

/// The status with which the gateway ends a stream.
async fn status_of(stream: OpenStream) -> tonic::Status {
    let response = with_timeout("the head", stream.response).await.unwrap();
    if let Some(status) = tonic::Status::from_header_map(response.headers()) {
        return status;
    }
    let mut body = response.into_body();
    while let Some(data) = with_timeout("the body", body.data()).await {
        data.unwrap();
    }
    let trailers = with_timeout("the trailers", body.trailers()).await.unwrap().unwrap();
    tonic::Status::from_header_map(&trailers).unwrap()
}

/// Two connections, and 256 health watches on them, which are all that one address may have.
async fn hold_all_streams(port: SocketAddr) -> (SendRequest<Bytes>, Vec<h2::RecvStream>) {
    let connections = [connect(port).await, connect(port).await];
    let mut held = Vec::new();
    for at in 0..256 {
        let mut connection = connections[at % 2].clone().ready().await.unwrap();
        let mut stream = open(&mut connection, WATCH);
        stream.request.send_data(framed(0, &[]), true).unwrap();
        held.push(with_timeout("the head", stream.response).await.unwrap().into_body());
    }
    let [connection, _] = connections;
    (connection, held)
}

#[tokio::test]
async fn streams_of_one_address_are_limited_on_each_port() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    for port in [gateway.grpc, gateway.admin] {
        let (mut connection, mut held) = hold_all_streams(port).await;
        let refused = status_of(open(&mut connection, CHECK)).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{port}");
        // Another peer is served meanwhile, such as the kubelet.
        let mut other = connect_from("127.0.0.2", port).await;
        let health = RawRequest::call().path(CHECK).parts(vec![framed(0, &[])]);
        assert_eq!(health.send_on(&mut other).await.status().code(), Code::Ok);
        // A stream that ends makes room for another.
        held.clear();
        let has_room = async || {
            let health = RawRequest::call().path(CHECK).parts(vec![framed(0, &[])]);
            let code = health.send_on(&mut connection.clone()).await.status().code();
            (code == Code::Ok).then_some(())
        };
        poll_until("room for a stream", has_room).await;
    }
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn requests_of_the_admin_port_are_limited_too() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let (mut connection, _held) = hold_all_streams(gateway.admin).await;
    let request = http::Request::get("http://admin/metrics").body(()).unwrap();
    let (response, _) = connection.send_request(request, true).unwrap();
    assert_eq!(with_timeout("the response", response).await.unwrap().status(), 429);
}

#[tokio::test]
async fn connection_with_many_refused_streams_is_closed() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    for port in [gateway.grpc, gateway.admin] {
        let (mut connection, _held) = hold_all_streams(port).await;
        for _ in 0..128 {
            let refused = status_of(open(&mut connection, CHECK)).await;
            assert_eq!(refused.code(), Code::ResourceExhausted, "{port}");
        }
        let is_closed = async || connection.clone().ready().await.is_err().then_some(());
        poll_until("the end of the connection", is_closed).await;
        // The streams that it held are free.
        let has_room = async || {
            let health = RawRequest::call().path(CHECK).parts(vec![framed(0, &[])]);
            let code = health.send_on(&mut connect(port).await).await.status().code();
            (code == Code::Ok).then_some(())
        };
        poll_until("room for a stream", has_room).await;
    }
}

#[tokio::test]
async fn call_on_connection_with_refused_streams_finishes() {
    let (gateway, upstream) =
        gateway_with_stalled_upstream(&["--attempt-timeout=1s", "--max-attempts=1"]).await;
    let (mut connection, _held) = hold_all_streams(gateway.grpc).await;
    let call = RawRequest::call().start(&mut connection);
    upstream.wait_for_requests(1).await;
    for _ in 0..128 {
        status_of(open(&mut connection, CHECK)).await;
    }
    let response = with_timeout("the response", call).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn message_over_4_kib_is_refused_before_it_is_complete() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    for (port, path) in endpoints(&gateway) {
        let mut connection = connect(port).await;
        let mut stream = open(&mut connection, path);
        // The prefix is enough.
        stream.request.send_data(Bytes::from_static(&[0, 0, 0, 0x10, 0x01]), false).unwrap();
        assert_eq!(status_of(stream).await.code(), Code::ResourceExhausted, "{port} {path}");
    }
}

#[tokio::test]
async fn message_must_be_complete_within_handshake_timeout() {
    let gateway = Gateway::start(&["--sandbox", "--handshake-timeout=300ms"]).await;
    let message = framed(0, &[0x12, 0]);
    for (port, path) in endpoints(&gateway) {
        let mut connection = connect(port).await;
        for length in [0, 3, message.len() - 1] {
            let mut stream = open(&mut connection, path);
            if length > 0 {
                stream.request.send_data(message.slice(..length), false).unwrap();
            }
            assert_eq!(status_of(stream).await.code(), Code::DeadlineExceeded, "{port} {path} {length}");
        }
    }
}

fn list_services() -> Bytes {
    let message_request = Some(MessageRequest::ListServices(String::new()));
    framed(0, &ServerReflectionRequest { host: String::new(), message_request }.encode_to_vec())
}

#[tokio::test]
async fn reflection_may_be_idle_between_messages_but_not_within_one() {
    let gateway = Gateway::start(&["--sandbox", "--handshake-timeout=300ms"]).await;
    let mut connection = connect(gateway.grpc).await;
    let mut stream = open(&mut connection, REFLECTION);
    stream.request.send_data(list_services(), false).unwrap();
    let response = with_timeout("the head", stream.response).await.unwrap();
    let mut body = response.into_body();
    with_timeout("the first reply", body.data()).await.unwrap().unwrap();
    // Longer than the timeout, which another stream shows to be over.
    assert_eq!(status_of(open(&mut connection, REFLECTION)).await.code(), Code::DeadlineExceeded);
    stream.request.send_data(list_services(), false).unwrap();
    with_timeout("the second reply", body.data()).await.unwrap().unwrap();
    stream.request.send_data(list_services().slice(..4), false).unwrap();
    assert!(with_timeout("the end", body.data()).await.is_none());
    let trailers = with_timeout("the trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "4", "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn reflection_requests_that_nobody_reads_the_replies_of_are_refused() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let mut connection = h2_peer::connect_with_window(gateway.grpc, 0).await;
    let mut stream = open(&mut connection, REFLECTION);
    for _ in 0..100 {
        stream.request.send_data(list_services(), false).unwrap();
    }
    // The window lets no reply through, but trailers need none.
    assert_eq!(status_of(stream).await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn open_watch_does_not_keep_an_idle_connection() {
    let gateway = Gateway::start(&["--sandbox", "--max-connection-idle=200ms"]).await;
    let mut connection = connect(gateway.grpc).await;
    let mut stream = open(&mut connection, WATCH);
    stream.request.send_data(framed(0, &[]), true).unwrap();
    let mut body = with_timeout("the head", stream.response).await.unwrap().into_body();
    with_timeout("the state", body.data()).await.unwrap().unwrap();
    gateway.metric_becomes("server_connections", 0.0).await;
}

/// The most memory that open streams may cost, in bytes.
const GROWTH: f64 = 64.0 * 1024.0 * 1024.0;

#[tokio::test]
async fn open_streams_of_many_peers_cost_bounded_memory() {
    // The log is not read, so that it may hold no line for each call.
    let quiet = "--log=warn,backup_share_gateway::app=info";
    let gateway = GatewayProcess::start(&["--sandbox", quiet, "--handshake-timeout=60s"]).await;
    let memory = async || metric(gateway.admin, "process_resident_memory_bytes").await;
    let before = memory().await;
    let grpc: SocketAddr = gateway.grpc.parse().unwrap();
    // Six addresses with 500 streams each, on both ports. Half of the streams hold back the end of a message of 4 MiB, the others
    // the end of a short one, which arrives byte by byte.
    let mut held = Vec::new();
    for (port, path) in [(gateway.admin, CHECK), (grpc, REFLECTION)] {
        for at in 0..30 {
            let mut connection = connect_from(&format!("127.0.0.{}", 2 + at % 6), port).await;
            for _ in 0..50 {
                connection = connection.ready().await.unwrap();
                let mut large = open(&mut connection, path);
                // The stream may have been refused already.
                let _ = large.request.send_data(framed(0, &vec![0; 60_000]).slice(..50_000), false);
                connection = connection.ready().await.unwrap();
                let mut slow = open(&mut connection, path);
                for byte in framed(0, &[0; 100]).slice(..30).chunks(1) {
                    let _ = slow.request.send_data(Bytes::copy_from_slice(byte), false);
                }
                held.extend([large, slow]);
            }
        }
    }
    assert!(gateway.get(PROJECT, SHARE).await.status.success(), "a call meanwhile");
    let grown = memory().await - before;
    assert!(grown < GROWTH, "{} MiB", grown / 1024.0 / 1024.0);
    drop(held);
}
