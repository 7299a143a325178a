//! When the gateway tries again by itself, what it tells the caller, and what it costs the upstream.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

/// An upstream whose first replies are these, and then the documented share.
async fn failing_first(first: Vec<Script>) -> Upstream {
    Upstream::scripted(move |_, number| first.get(number - 1).cloned().unwrap_or_else(documented)).await
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    for first in [
        reply(503, &[], ""),
        reply(502, &[], ""),
        reply(504, &[], ""),
        reply(408, &[], ""),
        vec![Step::Close],
    ] {
        let upstream = failing_first(vec![first.clone(), first]).await;
        let gateway = Running::before(&upstream).await;
        gateway.get().await.unwrap();
        assert_eq!(upstream.requests().len(), 3);
    }
}

#[tokio::test]
async fn a_reset_connection_is_tried_again_on_a_new_one() {
    let upstream = failing_first(vec![vec![Step::Reset], vec![Step::Reset]]).await;
    Running::before(&upstream).await.get().await.unwrap();
    let connections: Vec<usize> = upstream.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2, 3]);
}

#[tokio::test]
async fn every_attempt_carries_the_same_request_id_and_token() {
    let upstream = failing_first(vec![reply(503, &[], "")]).await;
    Running::before(&upstream).await.get().await.unwrap();
    let requests = upstream.requests();
    assert_eq!(requests[0].headers, requests[1].headers);
}

#[tokio::test]
async fn max_attempts_of_one_is_no_retry() {
    let upstream = Upstream::replying(503, &[], "").await;
    let failure = Running::before_with(&upstream, &["--max-attempts=1"]).await.failure().await;
    assert_eq!((failure.attempts(), upstream.requests().len()), (Some("1"), 1));
}

#[tokio::test]
async fn a_client_that_retries_by_itself_is_not_helped() {
    let upstream = failing_first(vec![reply(503, &[], "")]).await;
    let gateway = Running::before(&upstream).await;
    let mut asked = request(PROJECT, SHARE);
    asked.metadata_mut().insert("grpc-previous-rpc-attempts", "1".parse().unwrap());
    let failure = Failure::of(gateway.call(asked).await.unwrap_err());
    assert_eq!((failure.reason.as_str(), failure.attempts()), ("UPSTREAM_UNAVAILABLE", Some("1")));
}

#[tokio::test]
async fn retry_after_is_waited_for_whole_if_it_fits_the_deadline() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    for (status, value, least) in [(429, "1", 1000), (503, "1", 1000), (503, date.as_str(), 0), (429, "0", 0)]
    {
        let upstream = failing_first(vec![reply(status, &[("retry-after", value)], "")]).await;
        let gateway = Running::before(&upstream).await;
        let began = Instant::now();
        gateway.get().await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(least), "{status} {value}");
        assert_eq!(upstream.requests().len(), 2);
    }
}

#[tokio::test]
async fn retry_after_that_does_not_fit_ends_the_call_at_once_and_is_passed_on() {
    let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200));
    for (status, code, value, delay) in [
        (429, Code::ResourceExhausted, "60", 60),
        (503, Code::Unavailable, "60", 60),
        (503, Code::Unavailable, "86400", 3600),
        (503, Code::Unavailable, "99999999999999999999999", 3600),
        (429, Code::ResourceExhausted, far.as_str(), 3600),
    ] {
        let upstream = Upstream::replying(status, &[("retry-after", value)], "").await;
        let failure = Running::before(&upstream).await.failure().await;
        assert_eq!((failure.code, failure.attempts()), (code, Some("1")), "{status} {value}");
        assert_eq!(failure.retry_delay(), Some(Duration::from_secs(delay)));
        assert_eq!(failure.pushback(), Some((delay * 1000).to_string().as_str()));
    }
}

#[tokio::test]
async fn retry_after_that_cannot_be_read_counts_as_none() {
    for value in ["soon", "-1", "1.5", ""] {
        let limited = Upstream::replying(429, &[("retry-after", value)], "").await;
        let failure = Running::before(&limited).await.failure().await;
        assert_eq!(
            (failure.attempts(), failure.retry_delay()),
            (Some("1"), Some(Duration::from_secs(1))),
            "{value}"
        );
        let unavailable = failing_first(vec![reply(503, &[("retry-after", value)], "")]).await;
        Running::before(&unavailable).await.get().await.unwrap();
    }
}

#[tokio::test]
async fn no_retry_sleeps_past_the_deadline() {
    let upstream = Upstream::replying(503, &[("retry-after", "2")], "").await;
    let gateway = Running::before(&upstream).await;
    let mut asked = request(PROJECT, SHARE);
    asked.set_timeout(Duration::from_secs(1));
    let failure = Failure::of(gateway.call(asked).await.unwrap_err());
    assert_eq!((failure.reason.as_str(), failure.attempts()), ("UPSTREAM_UNAVAILABLE", Some("1")));
}

#[tokio::test]
async fn a_dead_upstream_costs_five_retries_and_then_none() {
    let upstream = Upstream::replying(503, &[], "").await;
    let gateway = Running::before(&upstream).await;
    let mut client = gateway.client().await;
    for _ in 0..100 {
        soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap_err();
    }
    assert_eq!(upstream.requests().len(), 105);
    assert!((gateway.metric("upstream_retry_tokens").await - 5.0).abs() < f64::EPSILON);
    assert!((gateway.metric(r#"upstream_retries_total{reason="status"}"#).await - 5.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn ten_successes_earn_a_retry_back() {
    let upstream = Upstream::scripted(|_, number| match number {
        1..=20 | 31.. => reply(503, &[], ""),
        _ => documented(),
    })
    .await;
    let gateway = Running::before(&upstream).await;
    let mut client = gateway.client().await;
    let mut outcomes = Vec::new();
    while upstream.requests().len() < 30 {
        outcomes.push(soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.is_ok());
    }
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 10);
    assert!((gateway.metric("upstream_retry_tokens").await - 6.0).abs() < 1e-9);
    let failure = Failure::of(client.get_backup_share(request(PROJECT, SHARE)).await.unwrap_err());
    assert_eq!(failure.attempts(), Some("2"), "one token over five is one retry");
}
