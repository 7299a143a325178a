//! Retries: which errors are retried, Retry-After, and the retry throttle.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

/// An upstream with these first replies; the documented share follows.
async fn failing_first(first: Vec<Script>) -> Upstream {
    Upstream::scripted(move |_, number| first.get(number - 1).cloned().unwrap_or_else(documented_reply)).await
}

#[tokio::test]
async fn transient_errors_are_retried() {
    for first in [
        reply(503, &[], ""),
        reply(502, &[], ""),
        reply(504, &[], ""),
        reply(408, &[], ""),
        vec![Step::Close],
    ] {
        let upstream = failing_first(vec![first.clone(), first]).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        gateway.get().await.unwrap();
        assert_eq!(upstream.requests().len(), 3);
    }
}

#[tokio::test]
async fn reset_connection_is_retried_on_new_connection() {
    let upstream = failing_first(vec![vec![Step::Reset], vec![Step::Reset]]).await;
    Gateway::with_upstream(&upstream).await.get().await.unwrap();
    let connections: Vec<usize> = upstream.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2, 3]);
}

#[tokio::test]
async fn attempts_have_equal_headers() {
    let upstream = failing_first(vec![reply(503, &[], "")]).await;
    Gateway::with_upstream(&upstream).await.get().await.unwrap();
    let requests = upstream.requests();
    assert_eq!(requests[0].headers, requests[1].headers);
}

#[tokio::test]
async fn max_attempts_1_disables_retries() {
    let upstream = Upstream::replying(503, &[], "").await;
    let error = Gateway::with_flags(&upstream, &["--max-attempts=1"]).await.get_error().await;
    assert_eq!((error.attempts(), upstream.requests().len()), (Some("1"), 1));
}

#[tokio::test]
async fn client_retry_disables_gateway_retries() {
    let upstream = failing_first(vec![reply(503, &[], "")]).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let error = gateway.call_error(client_retry()).await;
    assert_eq!((error.reason.as_str(), error.attempts()), ("UPSTREAM_UNAVAILABLE", Some("1")));
}

#[tokio::test]
async fn retry_after_within_deadline_is_waited() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let wrapper = r#"{"overLimit":{"message":"x","code":413,"retryAfter":"1"}}"#;
    let cases = [
        (429, Some("1"), "", 1000),
        (503, Some("1"), "", 1000),
        (413, Some("1"), "", 1000),
        (413, None, wrapper, 1000),
        (503, Some(date.as_str()), "", 0),
    ];
    futures_util::future::join_all(cases.map(async |(status, value, body, least)| {
        let headers: Vec<_> = value.iter().map(|value| ("retry-after", *value)).collect();
        let upstream = failing_first(vec![reply(status, &headers, body)]).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        let began = Instant::now();
        gateway.get().await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(least), "{status} {value:?}");
        assert_eq!(upstream.requests().len(), 2);
    }))
    .await;
}

#[tokio::test]
async fn retry_after_of_0_or_in_the_past_is_retried_with_backoff_and_told_as_1_s() {
    for (status, value) in [429, 413, 502, 503]
        .into_iter()
        .flat_map(|status| ["0", "000", "Sun, 06 Nov 1994 08:49:37 GMT"].map(|value| (status, value)))
    {
        let upstream = Upstream::replying(status, &[("retry-after", value)], "").await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.attempts(), Some("3"), "{status} {value}");
        assert_eq!(error.retry_delay(), Some(Duration::from_secs(1)), "{status} {value}");
        assert_eq!(error.pushback(), (status != 502).then_some("1000"), "{status} {value}");
    }
}

#[tokio::test]
async fn retry_after_beyond_deadline_ends_call_and_is_passed_on() {
    let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200));
    for (status, code, value, delay) in [
        (429, Code::ResourceExhausted, "60", 60),
        (503, Code::Unavailable, "60", 60),
        (503, Code::Unavailable, "86400", 3600),
        (503, Code::Unavailable, "99999999999999999999999", 3600),
        (429, Code::ResourceExhausted, far.as_str(), 3600),
    ] {
        let upstream = Upstream::replying(status, &[("retry-after", value)], "").await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!((error.code, error.attempts()), (code, Some("1")), "{status} {value}");
        assert_eq!(error.retry_delay(), Some(Duration::from_secs(delay)));
        assert_eq!(error.pushback(), Some((delay * 1000).to_string().as_str()));
    }
}

#[tokio::test]
async fn unreadable_retry_after_counts_as_missing() {
    for value in ["soon", "-1", "1.5", ""] {
        let limited = Upstream::replying(429, &[("retry-after", value)], "").await;
        let error = Gateway::with_upstream(&limited).await.get_error().await;
        assert_eq!(
            (error.attempts(), error.retry_delay()),
            (Some("1"), Some(Duration::from_secs(1))),
            "{value}"
        );
        let unavailable = failing_first(vec![reply(503, &[("retry-after", value)], "")]).await;
        Gateway::with_upstream(&unavailable).await.get().await.unwrap();
    }
}

#[tokio::test]
async fn retry_never_waits_past_deadline() {
    let upstream = Upstream::replying(503, &[("retry-after", "2")], "").await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut call = request(PROJECT, SHARE);
    call.set_timeout(Duration::from_secs(1));
    let error = gateway.call_error(call).await;
    assert_eq!((error.reason.as_str(), error.attempts()), ("UPSTREAM_UNAVAILABLE", Some("1")));
}

#[tokio::test]
async fn failing_upstream_gets_five_retries_then_none() {
    let upstream = Upstream::replying(503, &[], "").await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut client = gateway.client().await;
    for _ in 0..100 {
        get_share(&mut client).await.unwrap_err();
    }
    assert_eq!(upstream.requests().len(), 105);
    assert_eq!(gateway.metric("upstream_retry_tokens").await, 5.0);
    assert_eq!(gateway.metric(r#"upstream_retries_total{reason="status"}"#).await, 5.0);
}

#[tokio::test]
async fn ten_successes_return_one_retry_token() {
    let upstream = Upstream::scripted(|_, number| match number {
        1..=20 | 31.. => reply(503, &[], ""),
        _ => documented_reply(),
    })
    .await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut client = gateway.client().await;
    let mut outcomes = Vec::new();
    while upstream.requests().len() < 30 {
        outcomes.push(get_share(&mut client).await.is_ok());
    }
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 10);
    assert!((gateway.metric("upstream_retry_tokens").await - 6.0).abs() < 1e-9);
    let error = ErrorStatus::decode(get_share(&mut client).await.unwrap_err());
    assert_eq!(error.attempts(), Some("2"), "one token over five is one retry");
}
