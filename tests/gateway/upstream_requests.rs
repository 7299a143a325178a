//! The request that the upstream receives: route, headers, trace context.

use crate::support::*;

#[tokio::test]
async fn upstream_request_holds_only_contract_headers() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut call = request(PROJECT, &SHARE.to_uppercase());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (name, value) in [
        ("x-request-id", "my-request"),
        ("traceparent", traceparent),
        ("tracestate", "vendor=1"),
        ("authorization", "Bearer caller"),
        ("cookie", "session=caller"),
        ("x-project-id", "caller"),
        ("x-forwarded-for", "10.0.0.1"),
        ("accept-encoding", "gzip"),
    ] {
        call.metadata_mut().insert(name, value.parse().unwrap());
    }
    let reply = gateway.call(call).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "my-request");

    let requests = upstream.requests();
    let [seen] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(seen.line, format!("GET /v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1"));
    let mut headers = seen.headers.clone();
    headers.sort();
    let mut expected: Vec<(String, String)> = [
        ("host", upstream.address.to_string()),
        ("x-auth-token", TOKEN.into()),
        ("accept", "application/json".into()),
        ("user-agent", concat!("backup-share-gateway/", env!("CARGO_PKG_VERSION")).into()),
        ("x-request-id", "my-request".into()),
        ("traceparent", traceparent.into()),
        ("tracestate", "vendor=1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    expected.sort();
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn upstream_url_path_precedes_route() {
    let upstream = Upstream::documented().await;
    let url = format!("--upstream-url={}/vbs/", upstream.url());
    let gateway = Gateway::start(&[&url, PLAINTEXT]).await;
    gateway.get().await.unwrap();
    assert_eq!(
        upstream.requests()[0].line,
        format!("GET /vbs/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1")
    );
}

#[tokio::test]
async fn invalid_trace_context_and_request_id_are_replaced() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    for traceparent in [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "nonsense",
    ] {
        let call = request_with(&[
            ("traceparent", traceparent),
            ("tracestate", "vendor=1"),
            ("x-request-id", "with a blank"),
        ]);
        let reply = gateway.call(call).await.unwrap();
        let seen = upstream.requests().pop().unwrap();
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (None, None), "{traceparent}");
        let request_id = seen.header("x-request-id").unwrap();
        assert_eq!(reply.metadata().get("x-request-id").unwrap(), request_id);
        assert!(request_id.len() == 32 && request_id.bytes().all(|b| b.is_ascii_hexdigit()), "{request_id}");
    }
}
