//! Tokens of the gateway's own account for many projects: where no project is configured, each project that a call names has a
//! token of its own, and nothing that happens to one of them costs a call of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::certificates::{SPIFFE, TlsFiles};
use crate::support::keystone::{
    ACCOUNT, ACCOUNT_OF_EACH, GATEWAY_TOKEN, KeystoneGateway, issuing_project_tokens, project_token, refusal,
    requested_project, requests_for, service, start_process, summary, token_reply_for, upstream_of_projects,
};
use crate::support::process;
use crate::support::*;

const REFUSED: (Code, &str, Option<&str>) = (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("identity"));
const UNREACHABLE: (Code, &str, Option<&str>) = (Code::Unavailable, "UPSTREAM_UNREACHABLE", Some("identity"));

#[tokio::test]
async fn each_project_has_a_token_of_its_own_that_is_requested_on_demand() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.becomes_ready().await;
    assert_eq!((identity.requests().len(), gateway.gateway.metric("auth_tokens").await), (0, 0.0));
    for project in ["first", "second", "first", "second"] {
        gateway.get_in(project).await.unwrap();
    }
    let requested: Vec<_> = identity.requests().iter().map(requested_project).collect();
    assert_eq!(requested, [Some("first".to_owned()), Some("second".to_owned())]);
    let body: Value = serde_json::from_slice(&identity.requests()[0].body).unwrap();
    assert_eq!(body["auth"]["scope"], json!({"project": {"id": "first"}}));
    assert_eq!(gateway.gateway.metric("auth_tokens").await, 2.0);
    assert_eq!(gateway.renewals("success").await, 2.0);
}

#[tokio::test]
async fn identity_service_that_is_away_does_not_make_the_gateway_unready() {
    let (upstream, identity) = (Upstream::documented().await, Upstream::replying(503, &[], "").await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.becomes_ready().await;
    let error = gateway.get_in("first").await.unwrap_err();
    assert_eq!(summary(&error), UNREACHABLE);
    assert!(gateway.is_ready().await);
}

#[tokio::test]
async fn thousand_calls_for_a_new_project_make_one_request() {
    let upstream = upstream_of_projects().await;
    let (arrived, released) = (Arc::new(AtomicUsize::new(0)), Duration::from_millis(500));
    let count = Arc::clone(&arrived);
    let identity = Upstream::scripted(move |request, number| {
        count.fetch_add(1, Ordering::Relaxed);
        [vec![Step::Pause(released)], project_token(&requested_project(request).unwrap(), number)].concat()
    })
    .await;
    let flags = [&upstream.url_flag(), "--max-in-flight=2000"];
    let gateway = KeystoneGateway::start(&identity, &ACCOUNT_OF_EACH, &flags).await;
    for result in gateway.get_in_all(&["first"; 1000]).await {
        result.unwrap();
    }
    assert_eq!(arrived.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn caller_that_leaves_does_not_cancel_the_request_for_the_others() {
    let (upstream, is_held) = (upstream_of_projects().await, Arc::new(AtomicBool::new(true)));
    let identity = Upstream::scripted(|request, number| {
        let token = project_token(&requested_project(request).unwrap(), number);
        [vec![Step::Pause(Duration::from_secs(2))], token].concat()
    })
    .await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let leaving = {
        let (mut client, is_held) = (gateway.client.clone(), Arc::clone(&is_held));
        tokio::spawn(async move {
            let _ = client.get_backup_share(request("first", SHARE)).await;
            is_held.store(false, Ordering::Relaxed);
        })
    };
    identity.wait_for_requests(1).await;
    let (other, ()) = tokio::join!(gateway.get_in("first"), async { leaving.abort() });
    other.unwrap();
    assert!(is_held.load(Ordering::Relaxed), "the first caller has left before its response");
    assert_eq!(identity.requests().len(), 1);
}

#[tokio::test]
async fn call_does_not_wait_beyond_its_deadline() {
    let (upstream, identity) = (Upstream::documented().await, Upstream::stalled().await);
    let flags = [&upstream.url_flag(), "--default-deadline=200ms"];
    let gateway = KeystoneGateway::start(&identity, &ACCOUNT_OF_EACH, &flags).await;
    let error = gateway.get_in("first").await.unwrap_err();
    assert_eq!(summary(&error), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None));
}

#[tokio::test]
async fn no_token_is_requested_for_a_project_that_no_rule_grants() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_AUTH_URL", &format!("{}/v3", identity.url()))]);
    files.write_secrets(&ACCOUNT_OF_EACH);
    let rule = format!("--allow={SPIFFE}=first");
    let flags = [
        files.mutual_tls_flags(),
        vec![files.flag("secrets-dir", "secrets"), "--auth=keystone".into(), PLAINTEXT.into(), rule],
        vec![upstream.url_flag()],
    ]
    .concat();
    let gateway = Gateway::start(&strs(&flags)).await;
    let mut client = files.authorized_client(&gateway).await;
    let status = client.get_backup_share(request("second", SHARE)).await.unwrap_err();
    assert_eq!(ErrorStatus::decode(status).outcome(), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
    let status = client.get_backup_share(request("first", "count")).await.unwrap_err();
    assert_eq!(ErrorStatus::decode(status).reason, "INVALID_REQUEST");
    assert_eq!(identity.requests().len(), 0);
    client.get_backup_share(request("first", SHARE)).await.unwrap();
}

#[tokio::test]
async fn refused_project_is_remembered_and_does_not_disturb_the_others() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("first").await.unwrap();
    for _ in 0..50 {
        let error = gateway.get_in("refused").await.unwrap_err();
        assert_eq!(summary(&error), REFUSED);
        gateway.get_in("first").await.unwrap();
    }
    assert_eq!(requests_for(&identity, "refused"), 1);
    gateway.get_in("second").await.unwrap();
    assert_eq!((requests_for(&identity, "first"), requests_for(&identity, "second")), (1, 1));
    assert_eq!(gateway.gateway.metric("auth_tokens").await, 2.0);
}

#[tokio::test]
async fn project_that_is_refused_first_is_told_from_a_wrong_password() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    assert_eq!(summary(&gateway.get_in("refused").await.unwrap_err()), REFUSED);
    gateway.get_in("first").await.unwrap();
}

#[tokio::test]
async fn wrong_password_is_tried_once_for_all_projects() {
    let (upstream, identity) = (upstream_of_projects().await, Upstream::scripted(|_, _| refusal()).await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let projects: Vec<String> = (0..100).map(|number| format!("project-{number}")).collect();
    for result in gateway.get_in_all(&strs(&projects)).await {
        assert_eq!(summary(&result.unwrap_err()), REFUSED);
    }
    for project in &projects {
        assert_eq!(summary(&gateway.get_in(project).await.unwrap_err()), REFUSED);
    }
    // One request, and one without a project, which shows that the password is wrong.
    assert_eq!(identity.requests().len(), 2);
    assert_eq!(gateway.renewals("refused").await, 1.0);
}

#[tokio::test]
async fn password_that_becomes_wrong_is_tried_for_three_projects() {
    let is_wrong = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_wrong);
    let identity = Upstream::scripted(move |request, number| match requested_project(request) {
        Some(project) if !switch.load(Ordering::Relaxed) => project_token(&project, number),
        _ => refusal(),
    })
    .await;
    let upstream = upstream_of_projects().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("held").await.unwrap();
    is_wrong.store(true, Ordering::Relaxed);
    let before = identity.requests().len();
    let projects: Vec<String> = (0..100).map(|number| format!("project-{number}")).collect();
    for result in gateway.get_in_all(&strs(&projects)).await {
        assert_eq!(summary(&result.unwrap_err()), REFUSED);
    }
    assert_eq!(gateway.renewals("refused").await, 3.0);
    // With one that shows that the password is wrong.
    assert_eq!(identity.requests().len() - before, 4);
    gateway.get_in("held").await.unwrap();
}

#[tokio::test]
async fn password_that_becomes_wrong_under_load_is_not_tried_for_all_that_wait() {
    const RIGHT: usize = 150;
    let identity = Upstream::scripted(|request, number| {
        let reply = match requested_project(request) {
            Some(project) if number <= RIGHT => project_token(&project, number),
            _ => refusal(),
        };
        [vec![Step::Pause(Duration::from_millis(20))], reply].concat()
    })
    .await;
    let upstream = upstream_of_projects().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let projects: Vec<String> = (0..300).map(|number| format!("project-{number}")).collect();
    let results = gateway.get_in_all(&strs(&projects)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), RIGHT);
    // Three, and one that shows that the password is wrong; two more if the last success arrives after the first refusal.
    let attempts = identity.requests().len() - RIGHT;
    assert!((4..=6).contains(&attempts), "{attempts} attempts");
}

#[tokio::test]
async fn three_refused_projects_in_a_row_stop_requests_for_new_ones_and_not_the_tokens_in_use() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("held").await.unwrap();
    for project in ["refused-1", "refused-2"] {
        assert_eq!(summary(&gateway.get_in(project).await.unwrap_err()), REFUSED);
    }
    gateway.get_in("between").await.unwrap();
    for project in ["refused-3", "refused-4"] {
        assert_eq!(summary(&gateway.get_in(project).await.unwrap_err()), REFUSED);
    }
    gateway.get_in("not-yet").await.unwrap();
    for project in ["refused-5", "refused-6", "refused-7", "new", "new"] {
        assert_eq!(summary(&gateway.get_in(project).await.unwrap_err()), REFUSED, "{project}");
        gateway.get_in("held").await.unwrap();
    }
    assert_eq!(requests_for(&identity, "new"), 0);
    // The back-off ends after 7.5 to 10 s. Then the token that is in use shows first that the password is right.
    poll_until("the end of the back-off", async || gateway.get_in("new").await.ok()).await;
    let requested: Vec<_> = identity.requests().iter().filter_map(requested_project).collect();
    assert_eq!(requested[requested.len() - 2..], ["held", "new"], "{requested:?}");
}

#[tokio::test]
async fn projects_that_stay_refused_do_not_make_a_new_one_wait_longer_each_time() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    for project in ["refused-1", "refused-2", "refused-3", "new"] {
        assert_eq!(summary(&gateway.get_in(project).await.unwrap_err()), REFUSED, "{project}");
    }
    // No token is held that could show that the password is right; a second refusal comes first.
    poll_until("the end of the back-off", async || {
        gateway.get_in("refused-1").await.unwrap_err();
        (requests_for(&identity, "refused-1") == 2).then_some(())
    })
    .await;
    gateway.get_in("new").await.unwrap();
}

#[tokio::test]
async fn token_for_another_project_than_the_requested_one_is_not_used() {
    let upstream = Upstream::documented().await;
    let identity = Upstream::scripted(|_, number| project_token("another", number)).await;
    for account in [&ACCOUNT[..], &ACCOUNT_OF_EACH] {
        let gateway = KeystoneGateway::start(&identity, account, &[&upstream.url_flag()]).await;
        assert_eq!(summary(&gateway.get().await.unwrap_err()), UNREACHABLE);
    }
    assert_eq!(upstream.requests().len(), 0);
    let (mut gateway, _files) = start_process(&identity, &[], &[&upstream.url_flag()]).await;
    let line = gateway.line_with_message("no token: the request for a new one failed").await;
    assert_eq!(line["detail"], "the identity service's response has a token for another project, another");
}

#[tokio::test]
async fn token_of_the_caller_is_not_read() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let mut request = request("first", SHARE);
    request.metadata_mut().insert("x-auth-token", "token-of-the-caller".parse().unwrap());
    gateway.call(request).await.unwrap();
    let sent = upstream.requests()[0].header("x-auth-token").map(str::to_owned);
    assert_eq!(sent.unwrap(), format!("{GATEWAY_TOKEN}.first.1"));
}

#[tokio::test]
async fn identity_service_that_limits_the_rate_gets_no_request_for_other_projects() {
    let identity = Upstream::scripted(|request, number| match requested_project(request).unwrap() {
        project if project == "limited" => reply(429, &[("retry-after", "60")], ""),
        project => project_token(&project, number),
    })
    .await;
    let upstream = upstream_of_projects().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("held").await.unwrap();
    for project in ["limited", "limited", "new"] {
        let error = gateway.get_in(project).await.unwrap_err();
        assert_eq!((summary(&error), error.metadata("httpStatus")), (UNREACHABLE, Some("429")));
        gateway.get_in("held").await.unwrap();
    }
    assert_eq!(identity.requests().len(), 2);
}

#[tokio::test]
async fn least_recently_used_token_goes_beyond_256() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let projects: Vec<String> = (0..300).map(|number| format!("project-{number}")).collect();
    for project in &projects {
        gateway.get_in(project).await.unwrap();
        // It stays the most recently used one but one.
        gateway.get_in("project-0").await.unwrap();
    }
    assert_eq!(gateway.gateway.metric("auth_tokens").await, 256.0);
    assert_eq!(identity.requests().len(), 300);
    gateway.get_in("project-299").await.unwrap();
    gateway.get_in("project-45").await.unwrap();
    assert_eq!(
        identity.requests().len(),
        300,
        "the 255 most recent ones and the one that is used all the time"
    );
    gateway.get_in("project-44").await.unwrap();
    assert_eq!(requests_for(&identity, "project-44"), 2);
    assert_eq!(gateway.gateway.metric("auth_tokens").await, 256.0);
}

#[tokio::test]
async fn more_projects_at_once_than_tokens_are_held_are_all_served() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let projects: Vec<String> = (0..300).map(|number| format!("project-{number}")).collect();
    for result in gateway.get_in_all(&strs(&projects)).await {
        result.unwrap();
    }
    gateway.gateway.metric_becomes("auth_tokens", 256.0).await;
    assert_eq!(identity.requests().len(), 300);
}

#[tokio::test]
async fn refused_projects_never_take_the_place_of_tokens() {
    let upstream = upstream_of_projects().await;
    // A 200 without a token: neither a refusal, which would make all projects wait, nor a token.
    let identity = Upstream::scripted(|request, number| match requested_project(request) {
        Some(project) if project.starts_with("bad") => reply(200, &[("retry-after", "0")], ""),
        Some(project) => project_token(&project, number),
        None => refusal(),
    })
    .await;
    let flags = [&upstream.url_flag(), "--default-deadline=5s"];
    let gateway = KeystoneGateway::start(&identity, &ACCOUNT_OF_EACH, &flags).await;
    gateway.get_in("held").await.unwrap();
    let projects: Vec<String> = (0..300).map(|number| format!("bad-{number}")).collect();
    for result in gateway.get_in_all(&strs(&projects)).await {
        result.unwrap_err();
    }
    gateway.get_in("held").await.unwrap();
    assert_eq!(requests_for(&identity, "held"), 1);
}

#[tokio::test]
async fn upstream_that_refuses_one_project_gets_few_renewals_and_others_keep_their_tokens() {
    let upstream = Upstream::scripted(|request, _| {
        if request.line.contains("/bad/") { reply(401, &[], "") } else { documented_reply() }
    })
    .await;
    let identity = issuing_project_tokens().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    for _ in 0..40 {
        let error = gateway.get_in("bad").await.unwrap_err();
        assert_eq!(summary(&error), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("vbs")));
        gateway.get_in("good").await.unwrap();
    }
    // The first, at once, after 1 s twice, 2 s, 4 s, …
    let renewals = requests_for(&identity, "bad");
    assert!(renewals <= 8, "{renewals} renewals");
    assert_eq!(requests_for(&identity, "good"), 1);
}

#[tokio::test]
async fn revoked_token_of_one_project_is_renewed_and_no_call_fails() {
    // Of the project `revoked`, tokens are taken from the third one on.
    let upstream = Upstream::scripted(|request, _| {
        let token = request.header("x-auth-token").unwrap().to_owned();
        let number: usize = token.rsplit('.').next().unwrap().parse().unwrap();
        if token.contains(".revoked.") && number < 3 { reply(401, &[], "") } else { documented_reply() }
    })
    .await;
    let identity = issuing_project_tokens().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("other").await.unwrap();
    let calls = (0..100).map(|number| gateway.get_in(if number % 2 == 0 { "revoked" } else { "other" }));
    for result in join_all(calls).await {
        result.unwrap();
    }
    assert_eq!((requests_for(&identity, "revoked"), requests_for(&identity, "other")), (2, 1));
}

#[tokio::test]
async fn token_that_is_used_is_renewed_and_one_that_is_not_is_dropped() {
    // Valid for 2 s.
    let identity = Upstream::scripted(|request, number| {
        let project = requested_project(request).unwrap();
        token_reply_for(&project, &format!("{GATEWAY_TOKEN}.{project}.{number}"), 3, &json!([]))
    })
    .await;
    let upstream = upstream_of_projects().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("unused").await.unwrap();
    with_timeout("the end of the unused token", async {
        while gateway.gateway.metric("auth_tokens").await != 1.0 || requests_for(&identity, "used") < 3 {
            gateway.get_in("used").await.unwrap();
        }
    })
    .await;
    assert_eq!(requests_for(&identity, "unused"), 1);
    gateway.gateway.metric_becomes("auth_tokens", 0.0).await;
    gateway.get_in("unused").await.unwrap();
}

#[tokio::test]
async fn outage_for_one_project_is_not_one_for_the_others() {
    let is_down = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&is_down);
    let identity = Upstream::scripted(move |request, number| {
        let project = requested_project(request).unwrap();
        let is_away = project == "first" && switch.load(Ordering::Relaxed);
        if is_away { reply(503, &[], "") } else { project_token(&project, number) }
    })
    .await;
    let upstream = upstream_of_projects().await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    assert_eq!(summary(&gateway.get_in("first").await.unwrap_err()), UNREACHABLE);
    gateway.get_in("second").await.unwrap();
    is_down.store(false, Ordering::Relaxed);
    poll_until("the token of the first project", async || gateway.get_in("first").await.ok()).await;
}

/// An identity service whose catalog has a URL for each of these projects.
async fn issuing_catalogs(urls: &[(&'static str, String)]) -> Upstream {
    let urls = urls.to_vec();
    Upstream::scripted(move |request, number| {
        let project = requested_project(request).unwrap();
        let entry = urls.iter().find(|(name, _)| *name == project);
        let services: Value = entry
            .map(|(name, url)| service("vbsv2", "public", "eu-de", &format!("{url}/v2/{name}")))
            .into_iter()
            .collect();
        token_reply_for(&project, &format!("{GATEWAY_TOKEN}.{project}.{number}"), 3600, &services)
    })
    .await
}

#[tokio::test]
async fn endpoint_is_that_of_the_catalog_of_each_project() {
    let (first, second) = (upstream_of_projects().await, upstream_of_projects().await);
    let identity = issuing_catalogs(&[("first", first.url()), ("second", second.url())]).await;
    let gateway = KeystoneGateway::start(&identity, &ACCOUNT_OF_EACH, &[]).await;
    assert_eq!(summary(&gateway.get_in("third").await.unwrap_err()), UNREACHABLE);
    for project in ["first", "second"] {
        gateway.get_in(project).await.unwrap();
    }
    assert_eq!(summary(&gateway.get_in("third").await.unwrap_err()), UNREACHABLE);
    let lines = |upstream: &Upstream| -> Vec<String> {
        upstream.requests().into_iter().map(|request| request.line).collect()
    };
    let line = |project: &str| vec![format!("GET /v2/{project}/os-vendor-backup-sharing/{SHARE} HTTP/1.1")];
    assert_eq!((lines(&first), lines(&second)), (line("first"), line("second")));
}

#[tokio::test]
async fn upstream_url_goes_before_the_catalogs() {
    let (upstream, other) = (upstream_of_projects().await, upstream_of_projects().await);
    let identity = issuing_catalogs(&[("first", other.url())]).await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    for project in ["first", "second"] {
        gateway.get_in(project).await.unwrap();
    }
    assert_eq!((upstream.requests().len(), other.requests().len()), (2, 0));
    assert_eq!(identity.requests()[0].line, "POST /v3/auth/tokens?nocatalog=true HTTP/1.1");
}

#[tokio::test]
async fn new_password_renews_the_tokens_in_use_and_a_wrong_one_leaves_them() {
    let upstream = upstream_of_projects().await;
    let identity = Upstream::scripted(|request, number| {
        let is_wrong = String::from_utf8_lossy(&request.body).contains("wrong");
        match requested_project(request) {
            Some(project) if !is_wrong => project_token(&project, number),
            _ => refusal(),
        }
    })
    .await;
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    let projects = ["first", "second", "third", "fourth", "fifth"];
    let all_succeed = async || join_all(projects.map(|project| gateway.get_in(project))).await;
    let unwrap_all = |results: Vec<Result<(), ErrorStatus>>| results.into_iter().for_each(Result::unwrap);
    unwrap_all(all_succeed().await);
    gateway.files.write_secrets(&[("OS_PASSWORD", "another")]);
    with_timeout("new tokens of all projects", async {
        while gateway.renewals("success").await < 10.0 {
            unwrap_all(all_succeed().await);
        }
    })
    .await;
    gateway.files.write_secrets(&[("OS_PASSWORD", "wrong")]);
    with_timeout("a refusal", async {
        while gateway.renewals("refused").await < 1.0 {
            unwrap_all(all_succeed().await);
        }
    })
    .await;
    unwrap_all(all_succeed().await);
    // One back-off for all of them: one request, and one that shows why it was refused.
    assert_eq!((gateway.renewals("refused").await, identity.requests().len()), (1.0, 12));
}

#[tokio::test]
async fn form_of_the_account_does_not_change_while_the_gateway_runs() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let gateway = KeystoneGateway::of_each_project(&upstream, &identity).await;
    gateway.get_in("first").await.unwrap();
    gateway.files.write_secrets(&[("OS_PROJECT_ID", "first")]);
    gateway.gateway.metric_becomes("tls_reload_failures_total", 1.0).await;
    gateway.get_in("second").await.unwrap();
}

#[tokio::test]
async fn log_names_the_project_of_each_token_and_failure() {
    let (upstream, identity) = (upstream_of_projects().await, issuing_project_tokens().await);
    let (mut gateway, files) =
        start_process(&identity, &[("OS_PROJECT_ID", "")], &[&upstream.url_flag()]).await;
    let flags = files.client_flags();
    for (project, message) in [
        ("first", "the identity service issued a token"),
        ("refused", "no token: the request for a new one failed"),
    ] {
        process::run(gateway.get_command(project, SHARE, &strs(&flags))).await;
        let line = gateway.line_with_message(message).await;
        assert_eq!(line["project"], project, "{line}");
    }
}
