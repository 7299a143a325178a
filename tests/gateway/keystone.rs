//! A token of the gateway's own: how it asks the identity service, what it makes of the answers, and when it asks again.
//! A genuine Keystone is asked in `.ci/keystone`; here the identity service does what a genuine one does seldom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::child::{self, Served};
use crate::harness::*;
use crate::tls::{Files, SPIFFE, connect, uri};
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

const OWN: &str = "gAAAAABl-token-of-the-gateways-own";
const PASSWORD: &str = "correct horse battery \u{fc}staple";
const ACCOUNT: [(&str, &str); 4] = [
    ("OS_USERNAME", "reader"),
    ("OS_PASSWORD", PASSWORD),
    ("OS_USER_DOMAIN_NAME", "OTC00000000001000000000"),
    ("OS_PROJECT_ID", PROJECT),
];

/// A document of a token that holds so many seconds, with a catalog.
fn document(seconds: usize, catalog: &Value) -> Value {
    json!({"token": {
        "methods": ["password"],
        "issued_at": "2026-11-23T08:00:00.000000Z",
        "expires_at": format!("2026-11-23T{:02}:{:02}:{:02}.855000Z", 8 + seconds / 3600, seconds / 60 % 60, seconds % 60),
        "user": {"password_expires_at": "2016-11-06T15:32:17.000000"},
        "project": {"id": PROJECT, "name": "eu-de"},
        "catalog": catalog,
    }})
}

fn issued(token: &str, seconds: usize, catalog: &Value) -> Script {
    reply(201, &[("x-subject-token", token)], document(seconds, catalog).to_string())
}

/// A service of the catalog, with an endpoint.
fn service(kind: &str, interface: &str, region: &str, url: &str) -> Value {
    json!({"type": kind, "name": kind, "endpoints": [{"id": "e", "interface": interface, "region": region, "region_id": region, "url": url}]})
}

/// An identity service that issues `OWN-1`, `OWN-2`, … for so long.
async fn issuing(seconds: usize) -> Upstream {
    Upstream::scripted(move |_, number| issued(&format!("{OWN}-{number}"), seconds, &json!([]))).await
}

struct Party {
    files: Files,
    gateway: Running,
    client: BackupShareServiceClient<Channel>,
}

fn put(files: &Files, variables: &[(&str, &str)]) {
    std::fs::create_dir_all(files.path("secrets")).unwrap();
    for (name, value) in variables {
        std::fs::write(files.path("secrets").join(name), format!("{value}\n")).unwrap();
    }
}

impl Party {
    /// A gateway that has an account at `identity`, and its one caller.
    async fn start(identity: &Upstream, variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let files = Files::new();
        put(&files, &[("OS_AUTH_URL", &format!("{}/v3", identity.url()))]);
        put(&files, variables);
        let secrets = files.flag("secrets-dir", "secrets");
        let rule = format!("--allow={SPIFFE}=*");
        let fixed = ["--allow-plaintext-upstream", "--auth=keystone", &secrets, &rule];
        let mutual = files.mutual();
        let all: Vec<&str> =
            mutual.iter().map(String::as_str).chain(fixed).chain(flags.iter().copied()).collect();
        let gateway = Running::start(&all).await;
        let caller = files.caller(Some(&files.callers.issue(&[uri(SPIFFE)])));
        let client = BackupShareServiceClient::new(connect(&gateway, caller).await.unwrap());
        Self { files, gateway, client }
    }

    /// The same before `upstream`.
    async fn before(upstream: &Upstream, identity: &Upstream) -> Self {
        Self::start(identity, &ACCOUNT, &[&format!("--upstream-url={}", upstream.url())]).await
    }

    async fn get(&self) -> Result<(), Failure> {
        let answer = soon("a call", self.client.clone().get_backup_share(request(PROJECT, SHARE))).await;
        answer.map(drop).map_err(Failure::of)
    }

    async fn is_ready(&self) -> bool {
        self.gateway.admin_get("/readyz").await.0 == 200
    }

    async fn becomes_ready(&self) {
        soon("readiness", async {
            while !self.is_ready().await {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn renewals(&self, outcome: &str) -> f64 {
        self.gateway.metric(&format!(r#"auth_token_renewals_total{{outcome="{outcome}"}}"#)).await
    }
}

fn told(failure: &Failure) -> (Code, &str, Option<&str>) {
    (failure.code, failure.reason.as_str(), failure.metadata("service"))
}

#[tokio::test]
async fn it_asks_as_the_documents_say_and_sends_the_token_that_it_gets() {
    let user = json!({"name": "reader", "domain": {"name": "OTC00000000001000000000"}, "password": PASSWORD});
    let with_password = |scope: Value| json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}});
    let credential = |credential: Value| json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}});
    let owner = json!({"name": "reader", "domain": {"name": "OTC00000000001000000000"}});
    for (more, body) in [
        (vec![], with_password(json!({"project": {"id": PROJECT}}))),
        (
            vec![("OS_PROJECT_ID", ""), ("OS_PROJECT_NAME", "eu-de"), ("OS_PROJECT_DOMAIN_ID", "default")],
            with_password(json!({"project": {"name": "eu-de", "domain": {"id": "default"}}})),
        ),
        (
            vec![("OS_PROJECT_ID", ""), ("OS_PROJECT_NAME", "eu-de")],
            with_password(
                json!({"project": {"name": "eu-de", "domain": {"name": "OTC00000000001000000000"}}}),
            ),
        ),
        (
            vec![("OS_APPLICATION_CREDENTIAL_ID", "c1"), ("OS_APPLICATION_CREDENTIAL_SECRET", "s1")],
            credential(json!({"id": "c1", "secret": "s1"})),
        ),
        (
            vec![("OS_APPLICATION_CREDENTIAL_NAME", "n1"), ("OS_APPLICATION_CREDENTIAL_SECRET", "s1")],
            credential(json!({"name": "n1", "user": owner, "secret": "s1"})),
        ),
    ] {
        let (identity, upstream) = (issuing(3600).await, Upstream::scripted(|_, _| documented()).await);
        let url = format!("--upstream-url={}", upstream.url());
        let party = Party::start(&identity, &[&ACCOUNT[..], &more].concat(), &[&url]).await;
        party.get().await.unwrap();
        let asked = &identity.requests()[0];
        assert_eq!(asked.line, "POST /v3/auth/tokens?nocatalog=true HTTP/1.1");
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(serde_json::from_slice::<Value>(&asked.body).unwrap(), body);
        let sent = &upstream.requests()[0];
        assert_eq!(sent.header("x-auth-token"), Some(format!("{OWN}-1").as_str()), "and not the caller's");
    }
}

#[tokio::test]
async fn the_endpoint_comes_from_the_catalog() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let right = format!("{}/v2/{PROJECT}", upstream.url());
    let wrong = "http://127.0.0.1:1/v2/p".to_owned();
    for (case, region, interface, catalog) in [
        (
            "vbsv2 before vbs",
            "eu-de",
            "",
            vec![service("vbs", "public", "eu-de", &wrong), service("vbsv2", "public", "eu-de", &right)],
        ),
        (
            "vbs where there is no vbsv2",
            "eu-de",
            "",
            vec![service("evs", "public", "eu-de", &wrong), service("vbs", "public", "eu-de", &right)],
        ),
        (
            "the region before *",
            "eu-de",
            "",
            vec![service("vbsv2", "public", "*", &wrong), service("vbsv2", "public", "eu-de", &right)],
        ),
        (
            "* where there is no such region",
            "eu-de",
            "",
            vec![service("vbsv2", "public", "eu-nl", &wrong), service("vbsv2", "public", "*", &right)],
        ),
        (
            "the interface asked for",
            "eu-de",
            "internal",
            vec![service("vbsv2", "public", "eu-de", &wrong), service("vbsv2", "internal", "eu-de", &right)],
        ),
        (
            "the older form of its name",
            "eu-de",
            "internalURL",
            vec![service("vbsv2", "public", "eu-de", &wrong), service("vbsv2", "internal", "eu-de", &right)],
        ),
        ("the only one there is", "", "", vec![service("vbsv2", "public", "eu-nl", &right)]),
        (
            "without a project",
            "",
            "",
            vec![service("vbsv2", "public", "eu-de", &format!("{}/v2/", upstream.url()))],
        ),
        ("without a version", "", "", vec![service("vbsv2", "public", "eu-de", &upstream.url())]),
    ] {
        let catalog = json!(catalog);
        let identity = Upstream::scripted(move |_, _| issued(OWN, 3600, &catalog)).await;
        let more = [&ACCOUNT[..], &[("OS_REGION_NAME", region), ("OS_INTERFACE", interface)]].concat();
        let party = Party::start(&identity, &more, &[]).await;
        party.get().await.unwrap_or_else(|failure| panic!("{case}: {failure:?}"));
        assert_eq!(identity.requests()[0].line, "POST /v3/auth/tokens HTTP/1.1");
        let sent = upstream.requests().pop().unwrap();
        assert_eq!(
            sent.line,
            format!("GET /v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1"),
            "{case}"
        );
    }
}

#[tokio::test]
async fn a_catalog_without_the_upstream_is_told_with_what_is_in_it() {
    let elsewhere = service("vbsv2", "public", "eu-nl", "https://vbs.example/v2/p");
    let there = service("vbsv2", "public", "eu-de", "https://other.example/v2/p");
    for (region, catalog, words) in [
        (
            "eu-de",
            json!([elsewhere, service("evs", "public", "eu-de", "https://x")]),
            "it has evs (public eu-de), vbsv2 (public eu-nl)",
        ),
        ("eu-de", json!([]), "it has nothing"),
        ("", json!([elsewhere, there]), "in several regions (eu-de, eu-nl): set OS_REGION_NAME"),
        (
            "",
            json!([service("vbsv2", "public", "eu-de", "ftp://vbs.example/v2/p")]),
            "the catalog's URL of the upstream must begin with https://",
        ),
    ] {
        let identity = Upstream::scripted(move |_, _| issued(OWN, 3600, &catalog)).await;
        let (mut served, _files) = served(&identity, &[("OS_REGION_NAME", region)], &[]).await;
        soon(words, async { while !served.line().await.to_string().contains(words) {} }).await;
    }
}

#[tokio::test]
async fn whatever_the_identity_service_answers_is_no_missing_share() {
    let error = |status: u16| {
        let message = "Could not find Application Credential: 0123";
        reply(
            status,
            &[],
            json!({"error": {"code": status, "message": message, "title": "Not Found"}}).to_string(),
        )
    };
    let token = [("x-subject-token", OWN)];
    let (refused, unreachable) =
        ((Code::Internal, "UPSTREAM_UNAUTHENTICATED"), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    let mut cases: Vec<_> = [400, 401, 403, 404].map(|status| (error(status), refused)).into();
    cases.extend([200, 302, 409, 429, 500, 502, 503].map(|status| (error(status), unreachable)));
    let expired =
        json!({"token": {"issued_at": "2026-11-23T08:00:00Z", "expires_at": "2026-11-23T08:00:00Z"}})
            .to_string();
    for malformed in ["", "[]", "{}", "<html>", r#"{"token": {"expires_at": "soon"}}"#, &expired] {
        cases.push((reply(201, &token, malformed), unreachable));
    }
    let whole = document(3600, &json!([])).to_string();
    cases.push((reply(201, &[], &whole), unreachable));
    cases.push((reply(201, &[("x-subject-token", "a token")], &whole), unreachable));
    cases.push((vec![Step::Close], unreachable));
    cases.push((
        vec![Step::Send(b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n{".to_vec()), Step::Close],
        unreachable,
    ));
    for (script, (code, reason)) in cases {
        let case = format!("{script:?}");
        let upstream = Upstream::scripted(|_, _| documented()).await;
        let identity = Upstream::scripted(move |_, _| script.clone()).await;
        let party = Party::before(&upstream, &identity).await;
        let failure = party.get().await.unwrap_err();
        assert_eq!(told(&failure), (code, reason, Some("identity")), "{case}");
        assert_eq!(failure.attempts(), Some("0"));
        assert!(
            !failure.message.contains("0123"),
            "the account is the operator's business: {}",
            failure.message
        );
        assert!(!party.is_ready().await, "{case}");
        assert!(upstream.requests().is_empty());
    }
}

#[tokio::test]
async fn it_serves_from_its_first_token_on_and_keeps_it_while_it_holds() {
    let away = Arc::new(AtomicUsize::new(1));
    let switch = Arc::clone(&away);
    let identity = Upstream::scripted(move |_, _| match switch.load(Ordering::Relaxed) {
        0 => issued(OWN, 4, &json!([])),
        _ => reply(503, &[], ""),
    })
    .await;
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let party = Party::before(&upstream, &identity).await;
    identity.received(1).await;
    assert!(!party.is_ready().await);
    away.store(0, Ordering::Relaxed);
    party.becomes_ready().await;
    away.store(1, Ordering::Relaxed);
    let failed = party.renewals("unreachable").await;
    soon("a renewal that fails", async {
        // Every call until then is served.
        while party.renewals("unreachable").await <= failed {
            party.get().await.unwrap();
        }
    })
    .await;
    party.get().await.unwrap();
    soon("the end of the token", async { while party.get().await.is_ok() {} }).await;
    assert!(party.is_ready().await, "that the identity service is away is no reason to take the pod out");
    away.store(0, Ordering::Relaxed);
    soon("the next token", async { while party.get().await.is_err() {} }).await;
}

/// An upstream that takes no token of those that `refuses` names by their number.
async fn refusing(refuses: impl Fn(usize) -> bool + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |seen, _| {
        let number = seen.header("x-auth-token").and_then(|token| token.rsplit('-').next()?.parse().ok());
        if refuses(number.unwrap()) { reply(401, &[], "") } else { documented() }
    })
    .await
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all_calls_and_none_fails() {
    let (upstream, identity) = (refusing(|number| number == 1).await, issuing(3600).await);
    let party = Party::before(&upstream, &identity).await;
    let calls = (0..100).map(|_| party.get());
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(identity.requests().len(), 2);
    assert!((party.gateway.metric("upstream_retry_tokens").await - 10.0).abs() < f64::EPSILON);
    assert!((party.renewals("success").await - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_upstream_that_takes_no_token_is_not_asked_for_ever() {
    let (upstream, identity) = (refusing(|_| true).await, issuing(3600).await);
    let party = Party::before(&upstream, &identity).await;
    let first = party.get().await.unwrap_err();
    assert_eq!(told(&first), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("vbs")));
    assert_eq!((first.attempts(), upstream.requests().len(), identity.requests().len()), (Some("2"), 2, 2));
    // The next renewal waits for the next second, and each one after that for longer.
    for _ in 0..20 {
        let failure = party.get().await.unwrap_err();
        assert_eq!(told(&failure), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("vbs")));
    }
    assert!(identity.requests().len() <= 5, "{} renewals", identity.requests().len());
    assert!(upstream.requests().len() <= 2 + 20 + 3, "{} requests", upstream.requests().len());
}

#[tokio::test]
async fn a_token_of_the_second_of_a_revocation_is_followed_by_one_of_the_next() {
    let (upstream, identity) = (refusing(|number| number <= 2).await, issuing(3600).await);
    let party = Party::before(&upstream, &identity).await;
    party.get().await.unwrap_err();
    party.get().await.unwrap();
    assert_eq!(identity.requests().len(), 3);
}

#[tokio::test]
async fn a_client_that_tries_again_itself_gets_the_401_and_the_next_call_a_new_token() {
    let (upstream, identity) = (refusing(|number| number == 1).await, issuing(3600).await);
    let party = Party::before(&upstream, &identity).await;
    let mut asked = request(PROJECT, SHARE);
    asked.metadata_mut().insert("grpc-previous-rpc-attempts", "1".parse().unwrap());
    let failure = Failure::of(party.client.clone().get_backup_share(asked).await.unwrap_err());
    assert_eq!(failure.attempts(), Some("1"));
    identity.received(2).await;
    party.get().await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_fails_after_a_401_is_the_identity_services() {
    let upstream = refusing(|_| true).await;
    let identity = Upstream::scripted(|_, number| match number {
        1 => issued(&format!("{OWN}-1"), 3600, &json!([])),
        _ => reply(404, &[], ""),
    })
    .await;
    let party = Party::before(&upstream, &identity).await;
    let failure = party.get().await.unwrap_err();
    assert_eq!(told(&failure), (Code::Internal, "UPSTREAM_UNAUTHENTICATED", Some("identity")));
    assert_eq!(failure.attempts(), Some("1"));
}

#[tokio::test]
async fn another_account_is_taken_when_its_files_change() {
    let (upstream, identity) = (Upstream::scripted(|_, _| documented()).await, issuing(3600).await);
    let party = Party::before(&upstream, &identity).await;
    party.get().await.unwrap();
    put(&party.files, &[("OS_PASSWORD", "another")]);
    identity.received(2).await;
    let asked: Value = serde_json::from_slice(&identity.requests()[1].body).unwrap();
    assert_eq!(asked["auth"]["identity"]["password"]["user"]["password"], "another");
}

#[tokio::test]
async fn a_deadline_ends_the_wait_for_a_token() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let identity = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let url = format!("--upstream-url={}", upstream.url());
    let party = Party::start(&identity, &ACCOUNT, &[&url, "--default-deadline=200ms"]).await;
    assert_eq!(told(&party.get().await.unwrap_err()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None));
    let bad = Failure::of(party.client.clone().get_backup_share(request("..", "count")).await.unwrap_err());
    assert_eq!(bad.reason, "INVALID_REQUEST", "a bad request waits for nothing");
}

/// A `serve` process with an account at `identity`, at the log level trace.
pub async fn served(identity: &Upstream, more: &[(&str, &str)], flags: &[&str]) -> (Served, Files) {
    let files = Files::new();
    let (mutual, rule) = (files.mutual(), format!("--allow={SPIFFE}=*"));
    let fixed = [
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--allow-plaintext-upstream",
        "--auth=keystone",
        "--log=trace",
        &rule,
    ];
    let all: Vec<&str> =
        fixed.into_iter().chain(flags.iter().copied()).chain(mutual.iter().map(String::as_str)).collect();
    let mut command = child::gateway(&all);
    command.env("OS_AUTH_URL", identity.url()).envs(ACCOUNT).envs(more.iter().copied());
    (Served::spawn(command).await, files)
}

#[tokio::test]
async fn all_that_is_wrong_with_an_account_is_said_at_once() {
    let files = Files::new();
    let mutual = files.mutual();
    let rule = format!("--allow={SPIFFE}=*");
    let proving: Vec<&str> = mutual.iter().map(String::as_str).chain([rule.as_str()]).collect();
    let whole = [("OS_AUTH_URL", "https://iam.example/v3")];
    let account = [&whole[..], &ACCOUNT].concat();
    for (variables, flags, parts) in [
        (
            vec![],
            proving.clone(),
            vec!["OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_USER_DOMAIN_NAME", "OS_PROJECT_ID"],
        ),
        (account.clone(), vec![], vec!["must prove who they are"]),
        (
            [&account[..], &[("OS_AUTH_URL", "http://iam.example/v3")]].concat(),
            proving.clone(),
            vec!["OS_AUTH_URL is http"],
        ),
        (
            [&account[..], &[("OS_INTERFACE", "private"), ("OS_CACERT", "/nonexistent")]].concat(),
            proving.clone(),
            vec!["OS_INTERFACE must be public, internal or admin", "OS_CACERT: /nonexistent "],
        ),
        (
            [&account[..], &[("OS_CACERT", "/nonexistent")]].concat(),
            proving.clone(),
            vec!["OS_CACERT: /nonexistent "],
        ),
        (
            [&whole[..], &[("OS_APPLICATION_CREDENTIAL_ID", "c")]].concat(),
            proving.clone(),
            vec!["OS_APPLICATION_CREDENTIAL_SECRET"],
        ),
        (
            [&whole[..], &[("OS_APPLICATION_CREDENTIAL_SECRET", PASSWORD)]].concat(),
            proving.clone(),
            vec!["OS_APPLICATION_CREDENTIAL_ID (or _NAME)"],
        ),
    ] {
        let all: Vec<&str> = ["serve", "--auth=keystone", "--upstream-url=https://vbs.example"]
            .into_iter()
            .chain(flags)
            .collect();
        let mut command = child::gateway(&all);
        command.envs(variables);
        let refused = child::output(command).await;
        let words = child::text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{parts:?}: {words}");
        for part in parts {
            assert!(words.contains(part), "{part} in {words}");
        }
        assert!(!words.contains(PASSWORD));
    }
}
