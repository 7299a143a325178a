//! No secret is told, whatever happens: every kind of call and of failure, in every mode, at the log level trace, with
//! traces. The
//! upstream and the identity service repeat all that they were sent wherever a reply has room for it.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::certificates::{Files, SPIFFE};
use crate::support::collector::Collector;
use crate::support::process::{self, Served};
use crate::support::*;

#[tokio::test]
async fn no_part_of_a_token_gets_out_wherever_the_upstream_puts_it() {
    let most = &TOKEN[1..];
    let parted = format!("{} {}", &TOKEN[..20], &TOKEN[20..]);
    for echo in [TOKEN, most, &TOKEN[..14], &TOKEN[20..], &TOKEN.to_uppercase(), &parted] {
        let body = format!(r#"{{"error":{{"message":"bad {echo}","code":"{echo}"}}}}"#);
        let upstream = Upstream::replying(400, &[("x-request-id", &echo.replace(' ', ""))], body).await;
        let told = format!("{:?}", Running::before(&upstream).await.failure().await).to_lowercase();
        for part in [&TOKEN[1..14], &TOKEN[22..]] {
            assert!(!told.contains(&part.to_lowercase()), "{part} of {echo} in {told}");
        }
    }
    // As a key, of a reply that cannot be read.
    let body = format!(r#"{{"shared":{{"{TOKEN}":tru}}}}"#);
    let upstream = Upstream::replying(200, &[], body).await;
    assert_eq!(Running::before(&upstream).await.failure().await.reason, "UPSTREAM_MALFORMED_RESPONSE");
}

#[tokio::test]
async fn the_words_for_a_refused_signature_stay_here() {
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
        let failure = Running::before(&upstream).await.failure().await;
        assert_eq!(failure.reason, "UPSTREAM_UNAUTHENTICATED");
        assert!(!format!("{failure:?}").contains("QTWAOYTT"), "{failure:?}");
    }
}

const PASSWORD: &str = "correct-horse-battery-staple";

/// One with what is no visible ASCII.
const PASSPHRASE: &str = "correct horse battery \u{fc}staple";

const ACCESS: &str = "QTWAOYTTINDUT2QVKYUC";
const SECRET: &str = "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc";
const TEMPORARY: &str = "gQpjbi1ub3J0aC00-security-token-of-temporary-keys";
const OWN: &str = "gAAAAABl-token-of-the-gateways-own";

/// In the documented share's `service_metadata`, as it is and as JSON.
const KEY_MATERIAL: &str = "key-material-0123456789abcdef";

/// What the upstream does, by the end of the share's ID.
const CASES: [&str; 13] = [
    "200", "201", "302", "400", "401", "404", "429", "503",
    "600", // a status with echoes in every place
    "901", // malformed, with echoes as keys
    "902", // the connection breaks
    "903", // silence
    "904", // malformed where the key material stands
];

fn id(case: &str) -> String {
    format!("00000000-0000-4000-8000-000000000{case}")
}

/// Everything that the request held.
fn echo(seen: &Seen) -> String {
    let values: Vec<&str> = seen.headers.iter().map(|(_, value)| value.as_str()).collect();
    format!("{} {}", values.join(" "), String::from_utf8_lossy(&seen.body))
}

/// The header that proves who asks, as far as a header may hold it.
fn proof(seen: &Seen) -> &str {
    ["x-security-token", "x-auth-token", "authorization"].iter().find_map(|name| seen.header(name)).unwrap()
}

fn answer(seen: &Seen, _: usize) -> Script {
    let path = seen.line.split(' ').nth(1).unwrap();
    let (case, asked) = (&path[path.len() - 3..], &path[path.len() - 36..]);
    let (all, proof) = (echo(seen), proof(seen));
    let headers = [("x-request-id", proof), ("location", proof), ("server", proof)];
    match case {
        "200" => {
            let metadata = json!({"key": KEY_MATERIAL, "volume": "v"}).to_string();
            let share = json!({"id": asked, "backup_id": "b", "from_project_id": "f", "to_project_id": "t", proof: 1,
                "backup": {"id": "b", "service_metadata": metadata, "description": metadata, "x": all}});
            reply(200, &headers, json!({"shared": share}).to_string())
        }
        "901" => reply(
            200,
            &headers,
            json!({"shared": {"id": asked, "backup": {"size": proof, proof: [all]}, proof: "x"}}).to_string(),
        ),
        "904" => {
            let share = json!({"id": asked, "backup": {"service_metadata": {KEY_MATERIAL: KEY_MATERIAL}}});
            reply(200, &headers, json!({"shared": share}).to_string())
        }
        "902" => vec![
            Step::Send(format!("HTTP/1.1 200 OK\r\nx-request-id: {proof}\r\n\r\n{all}").into_bytes()),
            Step::Reset,
        ],
        "903" => vec![Step::Stall],
        status => {
            let body = json!({"itemNotFound": {"code": proof, "message": format!("who is {all}? ")}, "request_id": proof});
            reply(status.parse().unwrap(), &headers, body.to_string())
        }
    }
}

/// First away, then issuing, then refusing.
fn identify(seen: &Seen, number: usize) -> Script {
    let error = json!({"error": {"message": echo(seen), "title": echo(seen)}}).to_string();
    let document = json!({"token": {"issued_at": "2026-11-23T08:00:00Z", "expires_at": "2026-11-24T08:00:00Z", "x": echo(seen)}});
    match number {
        1 => reply(503, &[], error),
        2 => reply(201, &[("x-subject-token", OWN)], document.to_string()),
        _ => {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap();
            let password = asked["auth"]["identity"]["password"]["user"]["password"].as_str().unwrap();
            reply(404, &[("x-openstack-request-id", password)], error)
        }
    }
}

/// A gateway in one of the modes, and what its one caller calls it with.
async fn start(
    files: &Files,
    (mode, password): (&str, &str),
    upstream: &Upstream,
    identity: &Upstream,
    collector: &Collector,
) -> (Served, Vec<String>) {
    let flags = [
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--drain-delay=0s",
        "--allow-plaintext-upstream",
        "--attempt-timeout=300ms",
        "--log=trace",
    ];
    let own = [
        format!("--auth={mode}"),
        format!("--upstream-url={}", upstream.url()),
        format!("--allow={SPIFFE}={PROJECT}"),
    ];
    let mutual = files.mutual();
    let all: Vec<&str> = flags.into_iter().chain(own.iter().chain(&mutual).map(String::as_str)).collect();
    let mut command = process::gateway(&all);
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
    (Served::spawn(command).await, files.get())
}

fn get(served: &Served, tls: &[String], project: &str, share: &str) -> Command {
    let fixed = ["get", "--address", &served.grpc, "--project-id", project, share];
    let all: Vec<&str> = fixed.into_iter().chain(tls.iter().map(String::as_str)).collect();
    let mut command = process::gateway(&all);
    command.env("OS_TOKEN", TOKEN);
    command
}

#[tokio::test]
async fn no_secret_is_told_in_any_mode_whatever_happens() {
    let modes = [("passthrough", ""), ("keystone", PASSWORD), ("keystone", PASSPHRASE), ("aksk", "")];
    for (mode, password) in modes {
        let (upstream, identity) = (Upstream::scripted(answer).await, Upstream::scripted(identify).await);
        let files = Files::new();
        let collector = Collector::start().await;
        let (mut served, tls) = start(&files, (mode, password), &upstream, &identity, &collector).await;
        let mut told = Vec::new();
        if mode == "keystone" {
            soon("readiness", async {
                while admin_get(served.admin, "/readyz").await.0 != 200 {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        for case in CASES {
            let output = process::output(get(&served, &tls, PROJECT, &id(case))).await;
            assert_eq!(output.status.success(), case == "200", "{mode} {case}: {output:?}");
            told.push(process::text(&output.stderr));
            // A share is the caller's own.
            let share = process::text(&output.stdout);
            assert_eq!(share.contains(KEY_MATERIAL), case == "200", "{mode} {case}");
            assert!(!share.contains(TOKEN) && !share.contains(PASSWORD) && !share.contains(SECRET));
        }
        for (project, share) in [(PROJECT, "count"), ("another", SHARE)] {
            told.push(process::text(&process::output(get(&served, &tls, project, share)).await.stderr));
        }
        told.push(admin_get(served.admin, "/metrics").await.1);
        served.signal(rustix::process::Signal::TERM);
        let mut calls = 0;
        while let Some(line) = soon("the log", served.log.next_line()).await.unwrap() {
            calls += usize::from(line.contains(r#""message":"call""#));
            told.push(line);
        }
        assert_eq!(calls, CASES.len() + 2, "{mode}");
        let spans = collector.everything();
        assert!(spans.contains("GetBackupShare"), "no spans: {spans}");
        told.push(spans);
        assert!(told.iter().any(|line| line.contains(r#""level":"TRACE""#)), "the level is not trace");
        for text in &told {
            for secret in [TOKEN, OWN, PASSWORD, PASSPHRASE, ACCESS, SECRET, TEMPORARY, KEY_MATERIAL] {
                // A telling part is as bad.
                let part = &secret[..secret.len().min(16)];
                assert!(!text.contains(part), "{mode}: {secret} in {text}");
            }
        }
    }
}
