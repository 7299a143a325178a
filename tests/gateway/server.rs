//! The gRPC port beside the call, and the admin port.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::*;
use crate::peer;

const SERVICE: &str = "vbs.v2.BackupShareService";

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn health_knows_the_gateway_and_its_service_on_both_ports() {
    let gateway = Running::start(&["--sandbox"]).await;
    let admin = tonic::transport::Endpoint::from_shared(format!("http://{}", gateway.admin)).unwrap();
    for channel in [gateway.channel().await, admin.connect().await.unwrap()] {
        let mut health = HealthClient::new(channel);
        for service in ["", SERVICE] {
            let reply = health.check(about(service)).await.unwrap().into_inner();
            assert_eq!(reply.status(), ServingStatus::Serving);
        }
        assert_eq!(health.check(about("nope")).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_watch_of_an_unknown_service_says_so_and_stays() {
    let gateway = Running::start(&["--sandbox"]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut unknown = health.watch(about("nope")).await.unwrap().into_inner();
    let first = soon("a state", unknown.next()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    // It is still open once another watch on the same connection has been through a whole exchange.
    let mut known = health.watch(about(SERVICE)).await.unwrap().into_inner();
    assert_eq!(soon("a state", known.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert!(futures_util::FutureExt::now_or_never(unknown.next()).is_none());
}

#[tokio::test]
async fn reflection_answers_in_both_versions_and_can_be_turned_off() {
    let gateway = Running::start(&["--sandbox"]).await;
    let off = Running::start(&["--sandbox", "--no-reflection"]).await;

    let ask = || {
        let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
        tokio_stream::once(v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) })
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(gateway.channel().await);
    let reply =
        client.server_reflection_info(ask()).await.unwrap().into_inner().next().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains(SERVICE), "{reply:?}");
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(off.channel().await);
    assert_eq!(client.server_reflection_info(ask()).await.unwrap_err().code(), Code::Unimplemented);

    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = tokio_stream::once(v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    });
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(gateway.channel().await);
    let reply = client.server_reflection_info(ask).await.unwrap().into_inner().next().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains(SERVICE), "{reply:?}");
}

#[tokio::test]
async fn the_admin_port_tells_what_is_there() {
    let gateway = Running::start(&["--sandbox"]).await;
    gateway.get().await.unwrap();
    for (path, status, part) in [
        ("/", 200, "/metrics"),
        ("/livez", 200, "ok"),
        ("/readyz", 200, "ok"),
        ("/metrics", 200, "rpc_server_call_duration_seconds_count"),
        ("/nope", 404, "not found"),
    ] {
        let (found, body) = gateway.admin_get(path).await;
        assert_eq!(found, status, "{path}");
        assert!(body.contains(part), "{path}: {body}");
    }
}

#[tokio::test]
async fn metrics_count_calls_attempts_and_sheds_and_hold_no_id() {
    let gateway = Running::start(&["--sandbox", "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    gateway.call(request(PROJECT, "00000000-0000-4000-8000-000000000503")).await.unwrap_err();
    gateway.call(without_token(PROJECT, SHARE)).await.unwrap_err();
    let call = |code: &str| {
        format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_method="{SERVICE}/GetBackupShare",rpc_response_status_code="{code}"}}"#
        )
    };
    let attempt = |status: &str| {
        format!(
            r#"http_client_request_duration_seconds_count{{error_type="",http_response_status_code="{status}"}}"#
        )
    };
    for name in [call("OK"), call("UNAVAILABLE"), call("UNAUTHENTICATED"), attempt("200"), attempt("503")] {
        assert!((gateway.metric(&name).await - 1.0).abs() < f64::EPSILON, "{name}");
    }
    let (_, text) = gateway.admin_get("/metrics").await;
    for family in [
        "rpc_server_active_requests",
        "upstream_retry_tokens",
        "upstream_unknown_fields_total",
        "panics_total",
        "shed_total",
        "server_connections",
        "build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
    for secret in [PROJECT, SHARE, TOKEN] {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn other_protocols_than_http2_are_closed() {
    let gateway = Running::start(&["--sandbox"]).await;
    let mut stream = TcpStream::connect(gateway.grpc).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
    let mut reply = Vec::new();
    // An RST is as good an end as a FIN.
    let _ = soon("the end of the connection", stream.read_to_end(&mut reply)).await;
    assert!(reply.is_empty());
}

#[tokio::test]
async fn a_header_list_over_64_kib_is_refused_and_the_connection_lives() {
    let gateway = Running::start(&["--sandbox"]).await;
    let mut connection = peer::connect(gateway.grpc).await;
    let big = "x".repeat(33 * 1024);
    let answer = peer::Raw::call().header("x-one", &big).header("x-two", &big).send_on(&mut connection).await;
    assert_eq!(answer.http_status, 431);
    assert_eq!(peer::Raw::call().send_on(&mut connection).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_header_list_far_over_the_limit_ends_the_connection_and_no_other() {
    let gateway = Running::start(&["--sandbox"]).await;
    let mut bystander = peer::connect(gateway.grpc).await;
    let connection = peer::connect(gateway.grpc).await;
    let mut ready = connection.ready().await.unwrap();
    let (far_over, big) = (1024 / 16, "x".repeat(16 * 1024));
    let raw = (0..far_over).fold(peer::Raw::call(), |raw, _| raw.header("x-big", &big));
    let (response, _) = ready.send_request(raw.request, true).unwrap();
    soon("the end of the connection", response).await.expect_err("no reply");
    assert_eq!(peer::Raw::call().send_on(&mut bystander).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_ends_in_order() {
    let gateway = Running::start(&["--sandbox", "--drain-delay=200ms"]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watch = health.watch(about("")).await.unwrap().into_inner();
    assert_eq!(soon("a state", watch.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    gateway.shutdown.drain.cancel();
    assert_eq!(soon("a state", watch.next()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(gateway.admin_get("/readyz").await.0, 503);
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
    // Callers that have not heard of it yet are still served.
    gateway.get().await.unwrap();
    let mut gateway = gateway;
    soon("the end", &mut gateway.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(gateway.grpc).await.is_err());
    assert_eq!(soon("the watch's end", watch.next()).await.unwrap().unwrap_err().code(), Code::Unavailable);
}
