//! Renewal of the token of the gateway's own account: before it expires, after a 401, after another password, and while the
//! identity service is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tonic::Code;

use crate::support::keystone::{
    ACCOUNT, GATEWAY_TOKEN, KeystoneGateway, issuing_tokens, start_process, summary, token_reply,
    upstream_refusing_tokens,
};
use crate::support::*;

#[tokio::test]
async fn retry_after_of_identity_service_delays_renewal() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
    let over_limit = r#"{"overLimit":{"message":"x","code":413,"retryAfter":"60"}}"#;
    let cases = [
        (503, "60", "", 59.0, 60.0),
        (413, "", over_limit, 59.0, 60.0),
        (429, "86400", "", 3599.0, 3600.0),
        (401, date.as_str(), "", 500.0, 600.0),
        // Never shorter than without it.
        (401, "1", "", 7.0, 10.0),
    ];
    futures_util::future::join_all(cases.map(async |(status, value, body, least, most)| {
        let identity = Upstream::replying(status, &[("retry-after", value)], body).await;
        let flags = ["--upstream-url=https://vbs.example"];
        let (mut gateway, _files) = start_process(&identity, &[], &flags).await;
        let mut line = Value::Null;
        while line["next_s"].is_null() {
            line = with_timeout("a failed renewal", gateway.line()).await;
        }
        let next_s = line["next_s"].as_f64().unwrap();
        assert!((least..=most).contains(&next_s), "{status} {value}: {next_s}");
    }))
    .await;
}

#[tokio::test]
async fn token_is_used_until_expiry_while_identity_service_is_down() {
    let is_down = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&is_down);
    let identity = Upstream::scripted(move |_, _| match switch.load(Ordering::Relaxed) {
        false => token_reply(GATEWAY_TOKEN, 3, &json!([])),
        true => reply(503, &[], ""),
    })
    .await;
    let upstream = Upstream::documented().await;
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    identity.wait_for_requests(1).await;
    assert!(!gateway.is_ready().await);
    is_down.store(false, Ordering::Relaxed);
    gateway.becomes_ready().await;
    is_down.store(true, Ordering::Relaxed);
    let failed = gateway.renewals("unreachable").await;
    with_timeout("a renewal that fails", async {
        // Until then, every call succeeds.
        while gateway.renewals("unreachable").await <= failed {
            gateway.get().await.unwrap();
        }
    })
    .await;
    gateway.get().await.unwrap();
    with_timeout("the expiry of the token", async { while gateway.get().await.is_ok() {} }).await;
    assert!(gateway.is_ready().await, "an identity service that is down does not make the gateway unready");
    is_down.store(false, Ordering::Relaxed);
    with_timeout("the next token", async { while gateway.get().await.is_err() {} }).await;
}

#[tokio::test]
async fn refused_token_is_renewed_once_for_concurrent_calls() {
    let (upstream, identity) =
        (upstream_refusing_tokens(|number| number == 1).await, issuing_tokens(3600).await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    let calls = (0..100).map(|_| gateway.get());
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(identity.requests().len(), 2);
    assert_eq!(gateway.gateway.metric("upstream_retry_tokens").await, 10.0);
    assert_eq!(gateway.renewals("success").await, 2.0);
}

#[tokio::test]
async fn upstream_that_refuses_every_token_gets_few_renewals() {
    let (upstream, identity) = (upstream_refusing_tokens(|_| true).await, issuing_tokens(3600).await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    let first = gateway.get().await.unwrap_err();
    assert_eq!(summary(&first), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("vbs")));
    assert_eq!((first.attempts(), upstream.requests().len(), identity.requests().len()), (Some("2"), 2, 2));
    // The next renewal waits for the next second, and each further one longer.
    for _ in 0..20 {
        let error = gateway.get().await.unwrap_err();
        assert_eq!(summary(&error), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("vbs")));
    }
    assert!(identity.requests().len() <= 5, "{} renewals", identity.requests().len());
    assert!(upstream.requests().len() <= 2 + 20 + 3, "{} requests", upstream.requests().len());
}

#[tokio::test]
async fn no_call_fails_after_three_revocations_in_a_row() {
    let valid = Arc::new(AtomicUsize::new(1));
    let expected = Arc::clone(&valid);
    let upstream = upstream_refusing_tokens(move |number| number < expected.load(Ordering::Relaxed)).await;
    let identity = issuing_tokens(3600).await;
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    for next in 2..=4 {
        gateway.get().await.unwrap();
        valid.store(next, Ordering::Relaxed);
        gateway.get().await.unwrap();
    }
    assert_eq!(identity.requests().len(), 4);
}

#[tokio::test]
async fn token_refused_after_renewal_is_renewed_in_next_second() {
    let (upstream, identity) =
        (upstream_refusing_tokens(|number| number <= 2).await, issuing_tokens(3600).await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    gateway.get().await.unwrap_err();
    gateway.get().await.unwrap();
    assert_eq!(identity.requests().len(), 3);
}

#[tokio::test]
async fn client_retry_gets_401_and_next_call_a_new_token() {
    let (upstream, identity) =
        (upstream_refusing_tokens(|number| number == 1).await, issuing_tokens(3600).await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    let error = gateway.call(client_retry()).await.unwrap_err();
    assert_eq!(error.attempts(), Some("1"));
    identity.wait_for_requests(2).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn failed_renewal_after_401_names_identity_service() {
    let upstream = upstream_refusing_tokens(|_| true).await;
    let identity = Upstream::scripted(|_, number| match number {
        1 => token_reply(&format!("{GATEWAY_TOKEN}-1"), 3600, &json!([])),
        _ => reply(404, &[], ""),
    })
    .await;
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    let error = gateway.get().await.unwrap_err();
    assert_eq!(summary(&error), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("identity")));
    assert_eq!(error.attempts(), Some("1"));
}

#[tokio::test]
async fn changed_account_files_are_reloaded() {
    let (upstream, identity) = (Upstream::documented().await, issuing_tokens(3600).await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    gateway.get().await.unwrap();
    gateway.files.write_secrets(&[("OS_PASSWORD", "another")]);
    identity.wait_for_requests(2).await;
    let body: Value = serde_json::from_slice(&identity.requests()[1].body).unwrap();
    assert_eq!(body["auth"]["identity"]["password"]["user"]["password"], "another");
}

#[tokio::test]
async fn refusal_of_a_replaced_account_is_discarded() {
    let upstream = Upstream::documented().await;
    let identity = Upstream::scripted(|seen, _| {
        if String::from_utf8_lossy(&seen.body).contains("another") {
            return token_reply(&format!("{GATEWAY_TOKEN}-1"), 3600, &json!([]));
        }
        // Later than the next look at the files.
        [vec![Step::Pause(Duration::from_millis(500))], reply(404, &[], "")].concat()
    })
    .await;
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    identity.wait_for_requests(1).await;
    gateway.files.write_secrets(&[("OS_PASSWORD", "another")]);
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn deadline_ends_wait_for_token() {
    let upstream = Upstream::documented().await;
    let identity = Upstream::stalled().await;
    let url = upstream.url_flag();
    let gateway = KeystoneGateway::start(&identity, &ACCOUNT, &[&url, "--default-deadline=200ms"]).await;
    assert_eq!(
        summary(&gateway.get().await.unwrap_err()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None)
    );
    let invalid = gateway.call(request("..", "count")).await.unwrap_err();
    assert_eq!(invalid.reason, "INVALID_REQUEST", "an invalid request does not wait for a token");
}
