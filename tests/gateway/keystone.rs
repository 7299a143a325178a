//! Tokens of the gateway's own account, for its one project: the token request, and the replies of the identity service.
//! `keystone_renewal.rs` has the renewal, `keystone_projects.rs` the tokens of many projects. A genuine Keystone is tested in
//! `tests/e2e`; here the identity service returns what a genuine one rarely does.

use serde_json::{Value, json};
use tonic::Code;

use crate::support::certificates::{SPIFFE, TlsFiles};
use crate::support::keystone::{
    ACCOUNT, GATEWAY_TOKEN, KeystoneGateway, PASSWORD, issuing_tokens, service, start_process, summary,
    token_document, token_reply,
};
use crate::support::process;
use crate::support::*;

#[tokio::test]
async fn token_request_follows_api_and_token_is_sent_upstream() {
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
        let (identity, upstream) = (issuing_tokens(3600).await, Upstream::documented().await);
        let url = upstream.url_flag();
        let gateway = KeystoneGateway::start(&identity, &[&ACCOUNT[..], &more].concat(), &[&url]).await;
        gateway.get().await.unwrap();
        let sent = &identity.requests()[0];
        assert_eq!(sent.line, "POST /v3/auth/tokens?nocatalog=true HTTP/1.1");
        assert_eq!(sent.header("content-type"), Some("application/json"));
        assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap(), body);
        let sent = &upstream.requests()[0];
        assert_eq!(
            sent.header("x-auth-token"),
            Some(format!("{GATEWAY_TOKEN}-1").as_str()),
            "not the token of the caller"
        );
    }
}

/// Type, interface, region and URL.
type Service<'a> = (&'a str, &'a str, &'a str, &'a str);

#[tokio::test]
async fn endpoint_is_selected_from_catalog() {
    let upstream = Upstream::documented().await;
    let right = &*format!("{}/v2/{PROJECT}", upstream.url());
    let without_project = &*format!("{}/v2/", upstream.url());
    let without_version = &*upstream.url();
    let wrong = "http://127.0.0.1:1/v2/p";
    // Case, region, interface, catalog.
    let cases: [(_, _, _, &[Service<'_>]); 9] = [
        (
            "vbsv2 before vbs",
            "eu-de",
            "",
            &[("vbs", "public", "eu-de", wrong), ("vbsv2", "public", "eu-de", right)],
        ),
        (
            "vbs without vbsv2",
            "eu-de",
            "",
            &[("evs", "public", "eu-de", wrong), ("vbs", "public", "eu-de", right)],
        ),
        (
            "the region before *",
            "eu-de",
            "",
            &[("vbsv2", "public", "*", wrong), ("vbsv2", "public", "eu-de", right)],
        ),
        (
            "* without the region",
            "eu-de",
            "",
            &[("vbsv2", "public", "eu-nl", wrong), ("vbsv2", "public", "*", right)],
        ),
        (
            "the configured interface",
            "eu-de",
            "internal",
            &[("vbsv2", "public", "eu-de", wrong), ("vbsv2", "internal", "eu-de", right)],
        ),
        (
            "the older form of the interface",
            "eu-de",
            "internalURL",
            &[("vbsv2", "public", "eu-de", wrong), ("vbsv2", "internal", "eu-de", right)],
        ),
        ("the only region", "", "", &[("vbsv2", "public", "eu-nl", right)]),
        ("a URL without a project", "", "", &[("vbsv2", "public", "eu-de", without_project)]),
        ("a URL without a version", "", "", &[("vbsv2", "public", "eu-de", without_version)]),
    ];
    for (case, region, interface, services) in cases {
        let services =
            services.iter().map(|(kind, interface, region, url)| service(kind, interface, region, url));
        let catalog = services.collect::<Value>();
        let identity = Upstream::scripted(move |_, _| token_reply(GATEWAY_TOKEN, 3600, &catalog)).await;
        let more = [&ACCOUNT[..], &[("OS_REGION_NAME", region), ("OS_INTERFACE", interface)]].concat();
        let gateway = KeystoneGateway::start(&identity, &more, &[]).await;
        gateway.get().await.unwrap_or_else(|error| panic!("{case}: {error:?}"));
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
async fn catalog_without_upstream_is_logged_with_its_entries() {
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
        (
            "",
            json!([service("vbsv2", "public", "eu-de", "http://127.0.0.1:1/v2/$(tenant_id)s")]),
            "still has the placeholder tenant_id",
        ),
        (
            "",
            json!([service("vbs", "public", "*", "http://127.0.0.1:1/v2/%(project_id)s")]),
            "still has the placeholder project_id",
        ),
        (
            "",
            json!([service("vbsv2", "public", "eu-de", &format!("http://127.0.0.1:1/v3/{PROJECT}"))]),
            "the catalog's URL of the upstream is of version v3, not v2; correct the catalog or set --upstream-url",
        ),
    ] {
        let identity = Upstream::scripted(move |_, _| token_reply(GATEWAY_TOKEN, 3600, &catalog)).await;
        let (mut gateway, _files) = start_process(&identity, &[("OS_REGION_NAME", region)], &[]).await;
        with_timeout(words, async { while !gateway.line().await.to_string().contains(words) {} }).await;
    }
}

#[tokio::test]
async fn parts_of_a_token_that_are_not_read_may_be_odd() {
    let upstream = Upstream::documented().await;
    let right = service("vbs", "public", "eu-de", &format!("{}/v2/{PROJECT}", upstream.url()));
    let evs = |endpoint: Value| json!({"type": "evs", "name": 1, "endpoints": [endpoint]});
    let odd = [
        json!(null),
        json!(1),
        json!(["vbsv2", []]),
        json!({"type": null, "endpoints": []}),
        json!({"endpoints": []}),
        json!({"type": "evs", "endpoints": null}),
        json!({"type": "evs", "endpoints": "x"}),
        json!({"type": "evs"}),
        json!({"type": "vbsv2", "endpoints": null}),
        evs(json!({"interface": "public", "region": "eu-de", "url": null})),
        evs(json!({"interface": "public", "region": "eu-de"})),
        evs(json!({"region": "eu-de", "url": "https://evs.example"})),
        evs(json!({"interface": "public", "region": 1, "url": "https://evs.example"})),
    ];
    let one_by_one = odd.iter().map(|entry| (json!([entry, right]), json!({"id": PROJECT}), false));
    let projects = [json!(null), json!({}), json!({"id": 1, "name": 1}), json!([])];
    let projects = projects.map(|project| (json!([right]), project, false));
    // Nothing of these is read if the URL is given.
    let unread = [json!(null), json!({}), json!("x"), json!([null])];
    let unread = unread.map(|catalog| (catalog, json!(null), true));
    let cases = one_by_one.chain(projects).chain(unread).map(async |(catalog, project, is_url_given)| {
        let mut document = token_document(3600, &catalog);
        document["token"]["project"] = project;
        document["token"]["user"] = json!(1);
        let script = reply(201, &[("x-subject-token", GATEWAY_TOKEN)], document.to_string());
        let identity = Upstream::scripted(move |_, _| script.clone()).await;
        let url = is_url_given.then(|| upstream.url_flag());
        let flags: Vec<&str> = url.as_deref().into_iter().collect();
        let gateway = KeystoneGateway::start(&identity, &ACCOUNT, &flags).await;
        gateway.get().await.unwrap_or_else(|error| panic!("{document}: {error:?}"));
    });
    futures_util::future::join_all(cases).await;
    assert!(upstream.requests().iter().all(|seen| seen.line.starts_with(&format!("GET /v2/{PROJECT}/os-"))));
}

#[tokio::test]
async fn identity_service_code_and_message_are_logged_and_no_caller_gets_them() {
    let cases = [
        (
            r#"{"error_msg":"The API does not exist","error_code":"APIGW.0101","request_id":"r"}"#,
            "HTTP status 503 (APIGW.0101: The API does not exist)",
        ),
        (r#"{"error":{"message":"No.","code":503,"title":"x"}}"#, "HTTP status 503 (503: No.)"),
        (r#"{"error":{"message":"No."}}"#, "HTTP status 503 (No.)"),
        (r#"{"code":"IAM.0011","message":"flat"}"#, "HTTP status 503 (IAM.0011: flat)"),
        (r#"{"errorCode":"IAM.0011","errorMsg":"camel"}"#, "HTTP status 503 (IAM.0011: camel)"),
        (r#"{"serviceUnavailable":{"message":"wrapped","code":503}}"#, "HTTP status 503 (503: wrapped)"),
        (
            r#"{"error_msg":"ak QTWAOYTT not exist","error_code":"APIGW.0301"}"#,
            "HTTP status 503 (APIGW.0301)",
        ),
        ("<html>No</html>", "HTTP status 503; this may be temporary"),
    ];
    futures_util::future::join_all(cases.map(async |(body, words)| {
        let identity = Upstream::replying(503, &[], body).await;
        let upstream = Upstream::documented().await;
        let (mut gateway, files) = start_process(&identity, &[], &[&upstream.url_flag()]).await;
        let output = process::run(gateway.get_command(PROJECT, SHARE, &strs(&files.client_flags()))).await;
        let stderr = process::to_text(&output.stderr);
        assert!(stderr.contains("UPSTREAM_UNREACHABLE") && stderr.contains("identity"), "{stderr}");
        for part in ["APIGW", "IAM.", "exist", "No.", "flat", "camel", "wrapped"] {
            assert!(!stderr.contains(part), "{part} in {stderr}");
        }
        with_timeout(words, async {
            loop {
                let line = gateway.line().await.to_string();
                assert!(!line.contains("QTWAOYTT"), "{line}");
                if line.contains(words) {
                    break;
                }
            }
        })
        .await;
    }))
    .await;
}

#[tokio::test]
async fn identity_service_errors_are_never_not_found() {
    let error = |status: u16| {
        let message = "Could not find Application Credential: 0123";
        reply(
            status,
            &[],
            json!({"error": {"code": status, "message": message, "title": "Not Found"}}).to_string(),
        )
    };
    let token = [("x-subject-token", GATEWAY_TOKEN)];
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
    let whole = token_document(3600, &json!([])).to_string();
    cases.push((reply(201, &[], &whole), unreachable));
    cases.push((reply(201, &[("x-subject-token", "a token")], &whole), unreachable));
    cases.push((vec![Step::Close], unreachable));
    cases.push((
        vec![Step::Send(b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n{".to_vec()), Step::Close],
        unreachable,
    ));
    // The cases run together: in each of them the call waits for a second attempt.
    let checks = cases.into_iter().map(|(script, outcome)| check_identity_error(script, outcome));
    futures_util::future::join_all(checks).await;
}

async fn check_identity_error(script: Script, (code, reason): (Code, &str)) {
    let case = format!("{script:?}");
    let upstream = Upstream::documented().await;
    let identity = Upstream::scripted(move |_, _| script.clone()).await;
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    let error = gateway.get().await.unwrap_err();
    assert_eq!(summary(&error), (code, reason, Some("identity")), "{case}");
    assert_eq!(error.attempts(), Some("0"));
    assert!(!error.message.contains("0123"), "the account is not shown to callers: {}", error.message);
    assert!(!gateway.is_ready().await, "{case}");
    assert!(upstream.requests().is_empty());
}

const OTHER: &str = "722513ed0a324dadaabe5b2d0fe848c9";

#[tokio::test]
async fn call_for_another_project_than_the_account_s_is_denied_before_anything_is_asked() {
    let denied = |error: ErrorStatus| {
        assert_eq!(summary(&error), (Code::PermissionDenied, "CALLER_NOT_ALLOWED", None));
        assert_eq!(
            error.message,
            "The gateway's own account is for another project; no caller may read this one through it"
        );
    };
    let credential = [("OS_APPLICATION_CREDENTIAL_ID", "c1"), ("OS_APPLICATION_CREDENTIAL_SECRET", "s1")];
    let name = [("OS_PROJECT_ID", ""), ("OS_PROJECT_NAME", "eu-de")];
    for more in [&[][..], &name, &credential] {
        let (upstream, identity) = (Upstream::documented().await, issuing_tokens(3600).await);
        let variables = [&ACCOUNT[..], more].concat();
        let gateway = KeystoneGateway::start(&identity, &variables, &[&upstream.url_flag()]).await;
        gateway.becomes_ready().await;
        denied(gateway.call(request(OTHER, SHARE)).await.unwrap_err());
        gateway.get().await.unwrap();
        assert_eq!((identity.requests().len(), upstream.requests().len()), (1, 1), "{more:?}");
        assert_eq!(gateway.gateway.metric("auth_tokens").await, 1.0);
    }
    // The ID is known before the first token.
    let (upstream, identity) = (Upstream::documented().await, Upstream::stalled().await);
    let gateway = KeystoneGateway::with_upstream(&upstream, &identity).await;
    denied(gateway.call(request(OTHER, SHARE)).await.unwrap_err());
}

#[tokio::test]
async fn token_that_does_not_tell_the_project_of_a_name_is_not_used() {
    let mut document = token_document(3600, &json!([]));
    document["token"]["project"] = json!({"name": "eu-de"});
    let script = reply(201, &[("x-subject-token", GATEWAY_TOKEN)], document.to_string());
    let identity = Upstream::scripted(move |_, _| script.clone()).await;
    let upstream = Upstream::documented().await;
    let variables = [&ACCOUNT[..], &[("OS_PROJECT_ID", ""), ("OS_PROJECT_NAME", "eu-de")]].concat();
    let gateway = KeystoneGateway::start(&identity, &variables, &[&upstream.url_flag()]).await;
    let error = gateway.get().await.unwrap_err();
    assert_eq!(summary(&error), (Code::Unavailable, "UPSTREAM_UNREACHABLE", Some("identity")));
}

#[tokio::test]
async fn rule_for_another_project_than_the_account_s_is_an_error_or_a_warning() {
    let files = TlsFiles::new();
    let identity = issuing_tokens(3600).await;
    let flags = [
        files.mutual_tls_flags(),
        vec![format!("--allow={SPIFFE}={PROJECT},{OTHER}"), "--auth=keystone".into(), PLAINTEXT.into()],
        vec!["--upstream-url=https://vbs.example".into()],
    ]
    .concat();
    let url = identity.url();
    let account = [&ACCOUNT[..], &[("OS_AUTH_URL", &*url)]].concat();
    let conflict = format!(
        "the rules name {OTHER}, but the gateway's account is for the project {PROJECT}: remove them"
    );
    for command in ["serve", "check"] {
        let mut command = process::gateway_command(&[&[command], &strs(&flags)[..]].concat());
        command.envs(account.clone());
        process::run_error(command, 64, &["--allow (GATEWAY_ALLOW)", &conflict]).await;
    }
    let mut command = process::serve_command(&strs(&flags));
    command.envs(account.clone()).env("OS_PROJECT_ID", "").env("OS_PROJECT_NAME", "eu-de");
    let mut gateway = process::GatewayProcess::spawn(command).await;
    with_timeout("the warning", async {
        loop {
            let line = gateway.line().await;
            if line["level"] == "WARN" && line["message"].as_str().unwrap().starts_with(&conflict) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn account_errors_are_reported_together() {
    let files = TlsFiles::new();
    let authorized_flags = files.authorized_flags();
    let authorized = strs(&authorized_flags);
    let whole = [("OS_AUTH_URL", "https://iam.example/v3")];
    let account = [&whole[..], &ACCOUNT].concat();
    for (variables, flags, parts) in [
        (
            vec![],
            authorized.clone(),
            vec!["OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_USER_DOMAIN_NAME"],
        ),
        (account.clone(), vec![], vec!["requires mutual TLS"]),
        (
            [&account[..], &[("OS_AUTH_URL", "http://iam.example/v3")]].concat(),
            authorized.clone(),
            vec!["OS_AUTH_URL is http"],
        ),
        (
            [&account[..], &[("OS_INTERFACE", "private"), ("OS_CACERT", "/nonexistent")]].concat(),
            authorized.clone(),
            vec!["OS_INTERFACE must be public, internal or admin", "OS_CACERT: cannot read /nonexistent"],
        ),
        (
            [&account[..], &[("OS_CACERT", "/nonexistent")]].concat(),
            authorized.clone(),
            vec!["OS_CACERT: cannot read /nonexistent"],
        ),
        (
            [&whole[..], &[("OS_APPLICATION_CREDENTIAL_ID", "c")]].concat(),
            authorized.clone(),
            vec!["OS_APPLICATION_CREDENTIAL_SECRET"],
        ),
        (
            [&whole[..], &[("OS_APPLICATION_CREDENTIAL_SECRET", PASSWORD)]].concat(),
            authorized.clone(),
            vec!["OS_APPLICATION_CREDENTIAL_ID (or _NAME)"],
        ),
        (
            [&account[..], &[("OS_PROJECT_ID", ""), ("OS_PROJECT_DOMAIN_ID", "default")]].concat(),
            authorized.clone(),
            vec!["OS_PROJECT_ID (or _NAME) is needed where OS_PROJECT_DOMAIN_NAME (or _ID) is set"],
        ),
        (
            [&account[..], &[("OS_PROJECT_ID", "eu-de/p")]].concat(),
            authorized.clone(),
            vec!["OS_PROJECT_ID must be 1 to 64 characters"],
        ),
    ] {
        let fixed = ["serve", "--auth=keystone", "--upstream-url=https://vbs.example"];
        let mut command = process::gateway_command(&[&fixed[..], &flags].concat());
        command.envs(variables);
        let output = process::run(command).await;
        let stderr = process::to_text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{parts:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part} in {stderr}");
        }
        assert!(!stderr.contains(PASSWORD));
    }
}
