//! Secrets stay out of logs, statuses, metrics and spans: every kind of call and of error, with every way to authenticate,
//! at the log level trace. The upstream and the identity service repeat what they received in every field of a reply.

use serde_json::{Value, json};

use crate::support::certificates::{SPIFFE, TlsFiles};
use crate::support::collector::Collector;
use crate::support::process::{self, GatewayProcess};
use crate::support::*;

#[tokio::test]
async fn echoed_token_parts_are_redacted() {
    let most = &TOKEN[1..];
    let parted = format!("{} {}", &TOKEN[..20], &TOKEN[20..]);
    for echo in [TOKEN, most, &TOKEN[..14], &TOKEN[20..], &TOKEN.to_uppercase(), &parted] {
        let body = format!(r#"{{"error":{{"message":"bad {echo}","code":"{echo}"}}}}"#);
        let upstream = Upstream::replying(400, &[("x-request-id", &echo.replace(' ', ""))], body).await;
        let text = format!("{:?}", Gateway::with_upstream(&upstream).await.get_error().await).to_lowercase();
        for part in [&TOKEN[1..14], &TOKEN[22..]] {
            assert!(!text.contains(&part.to_lowercase()), "{part} of {echo} in {text}");
        }
    }
    // As a key of a malformed reply.
    let body = format!(r#"{{"shared":{{"{TOKEN}":tru}}}}"#);
    let upstream = Upstream::replying(200, &[], body).await;
    assert_eq!(
        Gateway::with_upstream(&upstream).await.get_error().await.reason,
        "UPSTREAM_MALFORMED_RESPONSE"
    );
}

#[tokio::test]
async fn refused_signature_message_is_withheld() {
    for body in [
        r#"{"error":{"code":"APIGW.0301","message":"canonical QTWAOYTT"}}"#,
        r#"{"error_code":"PAP5.0011","error_msg":"QTWAOYTT","details":[{"error_code":"APIG.0301"}]}"#,
        r#"{"error_msg":"verify aksk signature fail, canonicalRequest:GET|QTWAOYTT"}"#,
        r#"{"error_msg":"verify aksk signature fail, canonicalR\u0000equest:GET|QTWAOYTT"}"#,
        r#"{"error_msg":"verify aksk signature fail, Canonical Request: GET|QTWAOYTT"}"#,
        r#"{"error_msg":"Get secretKey failed,ak:QTWAOYTT,err:ak not exist"}"#,
        r#"{"error_msg":"ak QTWAOYTT not exist"}"#,
        r#"{"error_code":"APIGW.0301\u0000","error_msg":"QTWAOYTT"}"#,
        r#"{"error_code":"apigw.0301 ","error_msg":"QTWAOYTT"}"#,
        r#"{"error_code":"APIGW.03\u00301","error_msg":"QTWAOYTT"}"#,
        r#"{"error_code":"APIGW.0301","error_code":"X.1","error_msg":"QTWAOYTT"}"#,
        r#"{"error_code":"X.1","error_msg":"APIGW.0301: QTWAOYTT"}"#,
        r#"{"message":"{\"error_code\":\"APIGW.0301\",\"error_msg\":\"QTWAOYTT\"}"}"#,
        r#"{"APIGW.0301":{"message":"QTWAOYTT"}}"#,
    ] {
        let upstream = Upstream::replying(401, &[], body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.reason, "UPSTREAM_UNAUTHENTICATED");
        assert!(!format!("{error:?}").contains("QTWAOYTT"), "{error:?}");
    }
}

const PASSWORD: &str = "correct-horse-battery-staple";

/// With characters other than visible ASCII.
const PASSPHRASE: &str = "correct horse battery \u{fc}staple";

const ACCESS: &str = "QTWAOYTTINDUT2QVKYUC";
const SECRET: &str = "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc";
const TEMPORARY: &str = "gQpjbi1ub3J0aC00-security-token-of-temporary-keys";
const GATEWAY_TOKEN: &str = "gAAAAABl-token-of-the-gateways-own";

/// Stands in the `service_metadata` of a share.
const KEY_MATERIAL: &str = "key-material-0123456789abcdef";

/// The replies of the upstream, by the end of the share's ID.
const CASES: [&str; 13] = [
    "200", "201", "302", "400", "401", "404", "429", "503",
    "600", // a status with echoes in every field
    "901", // malformed, with echoes as keys
    "902", // the connection is reset
    "903", // no reply
    "904", // malformed at the key material
];

fn id(case: &str) -> String {
    format!("00000000-0000-4000-8000-000000000{case}")
}

/// All headers and the body of the request.
fn echo(seen: &ReceivedRequest) -> String {
    let values: Vec<&str> = seen.headers.iter().map(|(_, value)| value.as_str()).collect();
    format!("{} {}", values.join(" "), String::from_utf8_lossy(&seen.body))
}

/// The credential in the request.
fn credential(seen: &ReceivedRequest) -> &str {
    ["x-security-token", "x-auth-token", "authorization"].iter().find_map(|name| seen.header(name)).unwrap()
}

fn upstream_reply(seen: &ReceivedRequest, _: usize) -> Script {
    let path = seen.line.split(' ').nth(1).unwrap();
    let (case, share_id) = (&path[path.len() - 3..], &path[path.len() - 36..]);
    let (all, credential) = (echo(seen), credential(seen));
    let headers = [("x-request-id", credential), ("location", credential), ("server", credential)];
    match case {
        "200" => {
            let metadata = json!({"key": KEY_MATERIAL, "volume": "v"}).to_string();
            let share = json!({"id": share_id, "backup_id": "b", "from_project_id": "f", "to_project_id": "t", credential: 1,
                "backup": {"id": "b", "service_metadata": metadata, "description": metadata, "x": all}});
            reply(200, &headers, json!({"shared": share}).to_string())
        }
        "901" => reply(
            200,
            &headers,
            json!({"shared": {"id": share_id, "backup": {"size": credential, credential: [all]}, credential: "x"}}).to_string(),
        ),
        "904" => {
            let share = json!({"id": share_id, "backup": {"service_metadata": {KEY_MATERIAL: KEY_MATERIAL}}});
            reply(200, &headers, json!({"shared": share}).to_string())
        }
        "902" => vec![
            Step::Send(format!("HTTP/1.1 200 OK\r\nx-request-id: {credential}\r\n\r\n{all}").into_bytes()),
            Step::Reset,
        ],
        "903" => vec![Step::Stall],
        status => {
            let body = json!({"itemNotFound": {"code": credential, "message": format!("unknown: {all}")}, "request_id": credential});
            reply(status.parse().unwrap(), &headers, body.to_string())
        }
    }
}

/// Unavailable first, then a token, then refusals.
fn identity_reply(seen: &ReceivedRequest, number: usize) -> Script {
    let said = echo(seen);
    let error = json!({"error_msg": said, "error_code": said, "request_id": said, "error": {"message": said, "code": said, "title": said}});
    let error = error.to_string();
    let document = json!({"token": {"issued_at": "2026-11-23T08:00:00Z", "expires_at": "2026-11-24T08:00:00Z", "x": echo(seen)}});
    match number {
        1 => reply(503, &[], error),
        2 => reply(201, &[("x-subject-token", GATEWAY_TOKEN)], document.to_string()),
        _ => {
            let body: Value = serde_json::from_slice(&seen.body).unwrap();
            let password = body["auth"]["identity"]["password"]["user"]["password"].as_str().unwrap();
            reply(404, &[("x-openstack-request-id", password)], error)
        }
    }
}

/// A gateway with one way to authenticate.
async fn start(
    files: &TlsFiles,
    (auth, password): (&str, &str),
    upstream: &Upstream,
    identity: &Upstream,
    collector: &Collector,
) -> GatewayProcess {
    let mut flags = files.mutual_tls_flags();
    flags.extend([format!("--auth={auth}"), upstream.url_flag(), format!("--allow={SPIFFE}={PROJECT}")]);
    let fixed = ["--drain-delay=0s", PLAINTEXT, "--attempt-timeout=500ms", LOG_EVERYTHING];
    let mut command = process::serve_command(&[&fixed[..], &strs(&flags)].concat());
    command.envs([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address).as_str()),
        ("OS_AUTH_URL", identity.url().as_str()),
        ("OS_USERNAME", "reader"),
        ("OS_PASSWORD", password),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_ID", PROJECT),
        ("OS_ACCESS_KEY", ACCESS),
        ("OS_SECRET_KEY", SECRET),
        ("OS_SECURITY_TOKEN", TEMPORARY),
    ]);
    GatewayProcess::spawn(command).await
}

#[tokio::test]
async fn secrets_are_redacted_in_every_auth_mode() {
    let modes = [("passthrough", ""), ("keystone", PASSWORD), ("keystone", PASSPHRASE), ("aksk", "")];
    futures_util::future::join_all(modes.map(|(auth, password)| check_secrets(auth, password))).await;
}

async fn check_secrets(auth: &str, password: &str) {
    let upstream = Upstream::scripted(upstream_reply).await;
    let identity = Upstream::scripted(identity_reply).await;
    let (files, collector) = (TlsFiles::new(), Collector::start().await);
    let mut gateway = start(&files, (auth, password), &upstream, &identity, &collector).await;
    let client_flags = files.client_flags();
    let get = async |project: &str, share: &str| {
        process::run(gateway.get_command(project, share, &strs(&client_flags))).await
    };
    let mut outputs = Vec::new();
    if auth == "keystone" {
        let is_ready = async || (admin_get(gateway.admin, "/readyz").await.0 == 200).then_some(());
        poll_until("readiness", is_ready).await;
    }
    for case in CASES {
        let output = get(PROJECT, &id(case)).await;
        assert_eq!(output.status.success(), case == "200", "{auth} {case}: {output:?}");
        outputs.push(process::to_text(&output.stderr));
        // The share itself belongs to the caller.
        let share = process::to_text(&output.stdout);
        assert_eq!(share.contains(KEY_MATERIAL), case == "200", "{auth} {case}");
        assert!(!share.contains(TOKEN) && !share.contains(PASSWORD) && !share.contains(SECRET));
    }
    for (project, share) in [(PROJECT, "count"), ("another", SHARE)] {
        outputs.push(process::to_text(&get(project, share).await.stderr));
    }
    outputs.push(admin_get(gateway.admin, "/metrics").await.1);
    gateway.signal(rustix::process::Signal::TERM);
    let mut calls = 0;
    while let Some(line) = with_timeout("the log", gateway.log.next_line()).await.unwrap() {
        calls += usize::from(line.contains(r#""message":"call""#));
        outputs.push(line);
    }
    assert_eq!(calls, CASES.len() + 2, "{auth}");
    let spans = collector.debug_text();
    assert!(spans.contains("GetBackupShare"), "no spans: {spans}");
    outputs.push(spans);
    assert!(outputs.iter().any(|line| line.contains(r#""level":"TRACE""#)), "the level is not trace");
    for text in &outputs {
        for secret in [TOKEN, GATEWAY_TOKEN, PASSWORD, PASSPHRASE, ACCESS, SECRET, TEMPORARY, KEY_MATERIAL] {
            // A long part of a secret counts as the secret.
            let part = &secret[..secret.len().min(16)];
            assert!(!text.contains(part), "{auth}: {secret} in {text}");
        }
    }
}
