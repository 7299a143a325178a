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
async fn invalid_request_id_is_replaced() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let reply = gateway.call(request_with(&[("x-request-id", "with a blank")])).await.unwrap();
    let seen = upstream.requests().pop().unwrap();
    let request_id = seen.header("x-request-id").unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), request_id);
    assert!(request_id.len() == 32 && request_id.bytes().all(|b| b.is_ascii_hexdigit()), "{request_id}");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

/// The `traceparent` and the `tracestate` that the upstream gets.
async fn sent(
    gateway: &Gateway,
    upstream: &Upstream,
    metadata: &[(&'static str, &str)],
) -> (Option<String>, Option<String>) {
    let mut call = request(PROJECT, SHARE);
    for (name, value) in metadata {
        call.metadata_mut().append(*name, value.parse().unwrap());
    }
    gateway.call(call).await.unwrap();
    let seen = upstream.requests().pop().unwrap();
    let header = |name| seen.header(name).map(str::to_owned);
    (header("traceparent"), header("tracestate"))
}

#[tokio::test]
async fn traceparent_is_forwarded_as_version_00_or_not_at_all() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let trailing = format!("01-{TRACE}-01-{}", "x".repeat(30_000));
    for (traceparent, expected) in [
        (format!("00-{TRACE}-01"), Some("01")),
        (format!("00-{TRACE}-00"), Some("00")),
        (format!("00-{TRACE}-03"), Some("03")),
        (format!("01-{TRACE}-01"), Some("01")),
        (format!("01-{TRACE}-01-"), Some("01")),
        (format!("cc-{TRACE}-01-what-the.future=holds"), Some("01")),
        (format!("fe-{TRACE}-fe"), Some("00")),
        (trailing, Some("01")),
        (format!("00-{TRACE}-01-more"), None),
        (format!("00-{TRACE}-01-"), None),
        (format!("01-{TRACE}-01more"), None),
        (format!("01-{TRACE}-01.more"), None),
        (format!("ff-{TRACE}-01"), None),
        (format!("0A-{TRACE}-01"), None),
        (format!("0-{TRACE}-01"), None),
        (format!("00-{TRACE}-1"), None),
        (format!("00-{TRACE}-0g"), None),
        (format!("00-{TRACE}-0A"), None),
        (format!("00-{}-01", TRACE.to_uppercase()), None),
        (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
        (format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16)), None),
        (format!("00_{TRACE}-01"), None),
        ("nonsense".into(), None),
        (String::new(), None),
    ] {
        let metadata = [("traceparent", traceparent.as_str()), ("tracestate", "vendor=1")];
        let expected = match expected {
            Some(flags) => (Some(format!("00-{TRACE}-{flags}")), Some("vendor=1".to_owned())),
            None => (None, None),
        };
        assert_eq!(sent(&gateway, &upstream, &metadata).await, expected, "{traceparent:.100}");
    }
    let parent = format!("00-{TRACE}-01");
    let twice = [("traceparent", parent.as_str()), ("traceparent", &parent), ("tracestate", "vendor=1")];
    assert_eq!(sent(&gateway, &upstream, &twice).await, (None, None));
    assert_eq!(sent(&gateway, &upstream, &[("tracestate", "vendor=1")]).await, (None, None));
}

#[tokio::test]
async fn tracestate_is_forwarded_if_it_follows_the_grammar() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let members = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
    let of_length = |length: usize| format!("k={}", "v".repeat(length - 2));
    let longest_key = format!("{}@{}=1", "t".repeat(241), "s".repeat(14));
    let (fits, long) = (of_length(120), of_length(200));
    for (values, expected) in [
        (vec!["vendor=1"], Some("vendor=1")),
        (vec!["a=1,b=2"], Some("a=1,b=2")),
        (vec!["a=1", "b=2"], Some("a=1,b=2")),
        (vec!["a=1 ,\t b=2, ,,c= 3"], Some("a=1,b=2,c= 3")),
        (vec!["0a_-*/z=!~<>", "t@s=1"], Some("0a_-*/z=!~<>,t@s=1")),
        (vec![&members(32)], Some(&members(32))),
        (vec![&of_length(258)], Some(&of_length(258))),
        (vec![&longest_key], Some(&longest_key)),
        // Over 512 bytes: members over 128 bytes go first, then the last ones.
        (vec![&long, "a=1", &long, "b=2", &long], Some(&format!("{long},a=1,{long},b=2"))),
        (vec![&fits, &fits, &fits, &fits, &fits], Some(&[fits.as_str(); 4].join(","))),
        (vec![&members(33)], None),
        (vec![&of_length(259)], None),
        (vec![&format!("{}=1", "k".repeat(257))], None),
        (vec![&format!("{}@s=1", "t".repeat(242))], None),
        (vec![&format!("t@{}=1", "s".repeat(15))], None),
        (vec!["vendor"], None),
        (vec!["a=1,vendor"], None),
        (vec!["a=1", "B=2"], None),
        (vec!["=1"], None),
        (vec!["a="], None),
        (vec!["a=1=2"], None),
        (vec!["a =1"], None),
        (vec!["a.b=1"], None),
        (vec!["_a=1"], None),
        (vec!["a@=1"], None),
        (vec!["@a=1"], None),
        (vec!["a@b@c=1"], None),
        (vec!["a=\t1"], None),
        (vec![" , ,"], None),
        (vec![""], None),
    ] {
        let parent = format!("00-{TRACE}-01");
        let mut metadata = vec![("traceparent", parent.as_str())];
        metadata.extend(values.iter().map(|value| ("tracestate", *value)));
        let (traceparent, tracestate) = sent(&gateway, &upstream, &metadata).await;
        assert_eq!(traceparent.as_ref(), Some(&parent), "{values:?}");
        assert_eq!(tracestate.as_deref(), expected, "{values:?}");
    }
}
