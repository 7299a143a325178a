//! Validation of requests: each rule of the contract with its bounds; invalid requests never reach the upstream.

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::h2_peer::{self, RawRequest, framed, message};
use crate::support::*;

async fn gateway_and_upstream() -> (Gateway, Upstream) {
    let upstream = Upstream::documented().await;
    (Gateway::with_upstream(&upstream).await, upstream)
}

fn violated(error: &ErrorStatus) -> Vec<&str> {
    let request = error.details.bad_request().expect("BadRequest");
    request.field_violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[tokio::test]
async fn invalid_share_id_is_refused_without_upstream_request() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let (long, short) = (format!("{SHARE}0"), &SHARE[..35]);
    for id in [
        "",
        "detail",
        "count",
        "DETAIL",
        ".",
        "..",
        "%2e%2e",
        "%2f",
        "a/b",
        "a%2Fb",
        "x?y=1",
        "x#y",
        "\t",
        "a\r\nx: y",
        "\0",
        " ",
        &long,
        short,
        "8332443e-9866-41d8-8a58-a898cf5db03g",
        "8332443e98669-41d8-8a58-a898cf5db030",
        "{8332443e-9866-41d8-8a58-a898cf5db0}",
        "8332443e986641d88a58a898cf5db030",
        "8332443e-9866-41d8-8a58-a898cf5db0\r\n",
        "../../../../../../../backups/xxxxxxxx",
        "ü332443e-9866-41d8-8a58-a898cf5db03",
    ] {
        let error = gateway.call_error(request(PROJECT, id)).await;
        assert_eq!(error.outcome(), (Code::InvalidArgument, "INVALID_REQUEST"), "{id:?}");
        assert_eq!(violated(&error), ["id"], "{id:?}");
        assert!(error.metadata.is_empty(), "there is no upstream metadata");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn project_id_has_1_to_64_allowed_characters() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let (longest, too_long) = ("p".repeat(64), "p".repeat(65));
    for project in ["", ".", "..", "a/b", "a b", "a?b", "a#b", "a%b", "a\tb", "a\r\nb", "ü", &too_long] {
        let error = gateway.call_error(request(project, SHARE)).await;
        assert_eq!(error.reason, "INVALID_REQUEST", "{project:?}");
        assert_eq!(violated(&error), ["project_id"], "{project:?}");
    }
    assert_eq!(upstream.requests().len(), 0);
    for project in ["p", "_", "-", "Az09_-", &longest] {
        gateway.call(request(project, SHARE)).await.unwrap();
        let line = upstream.requests().pop().unwrap().line;
        assert!(line.starts_with(&format!("GET /v2/{project}/os-vendor-backup-sharing/")), "{line}");
    }
}

#[tokio::test]
async fn upper_case_share_id_is_sent_in_lower_case() {
    let upper = DOCUMENTED.replace(SHARE, &SHARE.to_uppercase());
    let upstream = Upstream::replying(200, &[], upper).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let share = gateway
        .call(request(PROJECT, &SHARE.to_uppercase()))
        .await
        .unwrap()
        .into_inner()
        .backup_share
        .unwrap();
    assert!(upstream.requests()[0].line.contains(SHARE));
    assert_eq!(share.id, Some(SHARE.to_uppercase()), "the upstream's own spelling");
}

#[tokio::test]
async fn field_violations_are_reported_together() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let bad =
        backup_share_gateway::proto::GetBackupShareRequest { project_id: "a/b".into(), id: "detail".into() };
    let content = prost::Message::encode_to_vec(&bad);
    let response = RawRequest::call()
        .header("grpc-timeout", "soon")
        .parts(vec![framed(0, &content)])
        .send(gateway.grpc)
        .await;
    let error = response.error();
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(violated(&error), ["project_id", "id", "grpc-timeout"]);
    assert!(!format!("{error:?}").contains("a/b"), "values are not repeated");
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn token_header_must_be_single_and_visible_ascii() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let longest = "t".repeat(32_768);
    let too_long = "t".repeat(32_769);
    let token = |values: &[&str]| {
        let raw = RawRequest::call().without("x-auth-token");
        values.iter().fold(raw, |raw, value| raw.header("x-auth-token", value))
    };
    for (values, reason) in [
        (&[][..], "TOKEN_MISSING"),
        (&[""][..], "TOKEN_MISSING"),
        (&["one", "two"][..], "TOKEN_INVALID"),
        (&["same", "same"][..], "TOKEN_INVALID"),
        (&["", "two"][..], "TOKEN_INVALID"),
        (&["with a blank"][..], "TOKEN_INVALID"),
        (&["with\ta tab"][..], "TOKEN_INVALID"),
        (&["ümlaut"][..], "TOKEN_INVALID"),
        (&[too_long.as_str()][..], "TOKEN_INVALID"),
    ] {
        let error = token(values).send(gateway.grpc).await.error();
        assert_eq!(error.outcome(), (Code::Unauthenticated, reason));
        for value in values.iter().filter(|value| value.len() > 4) {
            assert!(!format!("{error:?}").contains(value), "the token is repeated");
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    for value in ["t", "!~", &longest] {
        let response = token(&[value]).send(gateway.grpc).await;
        assert_eq!(response.status().code(), Code::Ok);
        assert_eq!(upstream.requests().pop().unwrap().header("x-auth-token"), Some(value));
    }
}

#[tokio::test]
async fn token_in_trailers_is_ignored() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-auth-token", "token-of-the-trailers".parse().unwrap());
    let without =
        RawRequest { trailers: Some(trailers.clone()), ..RawRequest::call().without("x-auth-token") };
    assert_eq!(without.send(gateway.grpc).await.error().reason, "TOKEN_MISSING");
    assert_eq!(upstream.requests().len(), 0);
    let with = RawRequest { trailers: Some(trailers), ..RawRequest::call() };
    assert_eq!(with.send(gateway.grpc).await.status().code(), Code::Ok);
    assert_eq!(upstream.requests()[0].header("x-auth-token"), Some(TOKEN));
}

#[tokio::test]
async fn token_is_checked_before_message() {
    let (gateway, _upstream) = gateway_and_upstream().await;
    let error = gateway.call_error(request_without_token("a/b", "detail")).await;
    assert_eq!(error.reason, "TOKEN_MISSING");
    let huge = framed(0, &vec![0; 70_000]);
    let response = RawRequest::call().without("x-auth-token").parts(vec![huge]).send(gateway.grpc).await;
    assert_eq!(response.error().reason, "TOKEN_MISSING");
}

#[tokio::test]
async fn request_must_hold_exactly_one_valid_message() {
    let (gateway, upstream) = gateway_and_upstream().await;
    let one = message();
    let cut = one.slice(..one.len() - 1);
    let two = Bytes::from([one.as_ref(), one.as_ref()].concat());
    for (parts, code) in [
        (vec![], Code::Unimplemented),
        (vec![one.clone(), one.clone()], Code::Unimplemented),
        (vec![two], Code::Unimplemented),
        (vec![cut], Code::Internal),
        (vec![Bytes::from_static(b"\0\0")], Code::Internal),
        (vec![framed(0, b"\xff\xff\xff")], Code::Internal),
        // A string that is not UTF-8.
        (vec![framed(0, b"\x0a\x01\xff")], Code::Internal),
        // Compressed without grpc-encoding; and an undefined flag.
        (vec![framed(1, b"x")], Code::Internal),
        (vec![framed(7, b"x")], Code::Internal),
    ] {
        let case = format!("{parts:?}");
        let error = RawRequest::call().parts(parts).send(gateway.grpc).await.error();
        assert_eq!(error.outcome(), (code, "INVALID_REQUEST"), "{case}");
    }
    let gzip = RawRequest::call().header("grpc-encoding", "gzip").send(gateway.grpc).await;
    assert_eq!(gzip.headers.get("grpc-accept-encoding").unwrap(), "identity");
    assert_eq!(gzip.error().code, Code::Unimplemented);
    assert_eq!(upstream.requests().len(), 0);
    let in_pieces = one.chunks(3).map(Bytes::copy_from_slice).collect();
    assert_eq!(RawRequest::call().parts(in_pieces).send(gateway.grpc).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn message_over_64_kib_is_refused() {
    let (gateway, upstream) = gateway_and_upstream().await;
    // Field 15 is unknown: it makes a valid request of any length.
    let request = |length: usize| {
        let content = message().slice(5..);
        let filler = length - content.len() - 4;
        let head = [&content[..], &[0x7a], &varint(filler)].concat();
        let padded = [head.as_slice(), &vec![b'x'; length - head.len()]].concat();
        RawRequest::call().parts(vec![framed(0, &padded)])
    };
    assert_eq!(request(65_536).send(gateway.grpc).await.status().code(), Code::Ok);
    let error = request(65_537).send(gateway.grpc).await.error();
    assert_eq!(error.outcome(), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    assert_eq!(upstream.requests().len(), 1);
}

/// A varint of three bytes, for 16,384 to 2,097,151.
fn varint(value: usize) -> [u8; 3] {
    let low = |shift: usize| u8::try_from(value >> shift & 0x7f).unwrap();
    [low(0) | 0x80, low(7) | 0x80, low(14)]
}

#[tokio::test]
async fn malformed_grpc_timeout_is_refused() {
    let (gateway, upstream) = gateway_and_upstream().await;
    for value in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "1 S", "soon"] {
        let error = RawRequest::call().header("grpc-timeout", value).send(gateway.grpc).await.error();
        assert_eq!(error.outcome(), (Code::InvalidArgument, "INVALID_REQUEST"), "{value}");
        assert_eq!(violated(&error), ["grpc-timeout"]);
    }
    let twice = RawRequest::call().header("grpc-timeout", "1S").header("grpc-timeout", "2S");
    assert_eq!(violated(&twice.send(gateway.grpc).await.error()), ["grpc-timeout"]);
    assert_eq!(upstream.requests().len(), 0);
    for value in ["1H", "1M", "9S", "99999m", "99999999u", "10000000u", "99999999H"] {
        let response = RawRequest::call().header("grpc-timeout", value).send(gateway.grpc).await;
        assert_eq!(response.status().code(), Code::Ok, "{value}");
    }
}

#[tokio::test]
async fn non_grpc_request_gets_http_status() {
    let (gateway, upstream) = gateway_and_upstream().await;
    for method in ["GET", "PUT", "OPTIONS", "HEAD"] {
        let mut raw = RawRequest::call().parts(vec![]);
        *raw.request.method_mut() = method.parse().unwrap();
        let response = raw.send(gateway.grpc).await;
        assert_eq!(
            (response.http_status, response.headers.get("allow").unwrap()),
            (405, &"POST".parse().unwrap()),
            "{method}"
        );
    }
    for content_type in [
        None,
        Some("application/json"),
        Some("text/plain"),
        Some("application/grpc-web"),
        Some("application/grpcx"),
    ] {
        let raw = RawRequest::call().without("content-type");
        let raw = content_type.map_or(RawRequest { ..raw }, |value| {
            RawRequest::call().without("content-type").header("content-type", value)
        });
        assert_eq!(raw.send(gateway.grpc).await.http_status, 415, "{content_type:?}");
    }
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
        let response = RawRequest::call()
            .without("content-type")
            .header("content-type", content_type)
            .send(gateway.grpc)
            .await;
        assert_eq!(response.status().code(), Code::Ok, "{content_type}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn unknown_method_is_unimplemented_with_details() {
    let (gateway, _upstream) = gateway_and_upstream().await;
    for path in [
        "/vbs.v2.BackupShareService/ListBackupShares",
        "/vbs.v2.Other/GetBackupShare",
        "/vbs.v2.BackupShareService/getbackupshare",
        "/vbs.v2.BackupShareService/GetBackupShare/",
        "/grpc.health.v1.Health/Nope",
        "/",
    ] {
        let error = RawRequest::call().path(path).send(gateway.grpc).await.error();
        assert_eq!(error.outcome(), (Code::Unimplemented, "METHOD_NOT_FOUND"), "{path}");
    }
}

/// A body that panics when it is polled, like a bug in a handler.
struct Panicking;

impl http_body::Body for Panicking {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        panic!("for the test")
    }
}

#[tokio::test]
async fn handler_panic_is_internal_and_counted() {
    use backup_share_gateway::{
        config, credentials, grpc, grpc::health::Readiness, metrics, server, telemetry, upstream,
    };
    let line = ["gateway", "serve", "--upstream-url=http://127.0.0.1:1", PLAINTEXT];
    let Ok(config::Command::Serve(config)) = config::parse(line.map(Into::into)) else {
        panic!("not the flags of serve")
    };
    let metrics = metrics::Metrics::new(telemetry::dropped_log_lines).unwrap();
    let url = upstream::BaseUrl::parse("http://127.0.0.1:1", true).unwrap();
    let credentials =
        credentials::CredentialProvider::new(config.credentials, &config.upstream.http).unwrap();
    let shares = upstream::Upstream::new(Some(url), config.upstream, credentials, metrics.clone()).unwrap();
    let (readiness, stop) = (Readiness::default(), Default::default());
    let router = grpc::Router::new(config.grpc, None, shares, &readiness, metrics.clone(), stop).unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let peer = server::Peer { address, addr_display: "127.0.0.1:1".into(), names: [].into() };
    let response = router.connect(peer).handle(RawRequest::call().request.map(|()| Panicking)).await;
    let error = ErrorStatus::decode(tonic::Status::from_header_map(response.headers()).unwrap());
    assert_eq!(error.outcome(), (Code::Internal, "INTERNAL"));
    assert!(!error.message.contains("for the test"));
    assert_eq!((metrics.panics.get(), metrics.active_requests.get()), (1, 0));
}

#[tokio::test]
async fn http1_connection_is_closed() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let mut stream = TcpStream::connect(gateway.grpc).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
    let mut reply = Vec::new();
    // The connection may end with an RST or a FIN.
    let _ = with_timeout("the end of the connection", stream.read_to_end(&mut reply)).await;
    assert!(reply.is_empty());
}

#[tokio::test]
async fn header_list_over_64_kib_is_refused_on_open_connection() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let mut connection = h2_peer::connect(gateway.grpc).await;
    let big = "x".repeat(33 * 1024);
    let response =
        RawRequest::call().header("x-one", &big).header("x-two", &big).send_on(&mut connection).await;
    assert_eq!(response.http_status, 431);
    assert_eq!(RawRequest::call().send_on(&mut connection).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn oversized_header_list_closes_only_its_connection() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let mut bystander = h2_peer::connect(gateway.grpc).await;
    let connection = h2_peer::connect(gateway.grpc).await;
    let mut ready = connection.ready().await.unwrap();
    let (far_over, big) = (1024 / 16, "x".repeat(16 * 1024));
    let raw = (0..far_over).fold(RawRequest::call(), |raw, _| raw.header("x-big", &big));
    let (response, _) = ready.send_request(raw.request, true).unwrap();
    with_timeout("the end of the connection", response).await.expect_err("no reply");
    assert_eq!(RawRequest::call().send_on(&mut bystander).await.status().code(), Code::Ok);
}
