//! Credentials of the gateway's own: signed by access key and secret key, for callers that prove who they are. That the
//! signatures are right is shown by the known answers beside the signer, and against the vendor's own (`.ci/aksk`).

use tonic::Code;

use crate::harness::*;
use crate::tls::{Files, SPIFFE, connect, uri};
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use tonic::transport::Channel;

const ACCESS: &str = "QTWAOYTTINDUT2QVKYUC";
const SECRET: &str = "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc";

/// A gateway that holds keys, before `upstream`, and its one caller.
async fn start(
    files: &Files,
    upstream: &Upstream,
    more: &[&str],
) -> (Running, BackupShareServiceClient<Channel>) {
    let url = format!("--upstream-url={}", upstream.url());
    let secrets = files.flag("secrets-dir", "secrets");
    let rule = format!("--allow={SPIFFE}=*");
    let fixed = [&url, "--allow-plaintext-upstream", "--auth=aksk", &secrets, &rule];
    let mutual = files.mutual();
    let flags: Vec<&str> =
        mutual.iter().map(String::as_str).chain(fixed).chain(more.iter().copied()).collect();
    let gateway = Running::start(&flags).await;
    let channel = connect(&gateway, files.caller(Some(&files.callers.issue(&[uri(SPIFFE)])))).await.unwrap();
    (gateway, BackupShareServiceClient::new(channel))
}

fn put(files: &Files, secrets: &[(&str, &str)]) {
    std::fs::create_dir_all(files.path("secrets")).unwrap();
    for (name, value) in secrets {
        std::fs::write(files.path("secrets").join(name), format!("{value}\n")).unwrap();
    }
}

fn with_keys() -> Files {
    let files = Files::new();
    put(&files, &[("OS_ACCESS_KEY", ACCESS), ("OS_SECRET_KEY", SECRET)]);
    files
}

#[tokio::test]
async fn the_request_is_signed_and_the_callers_token_stays_here() {
    for (scheme, token, authorization, signed) in [
        ("sdk", None, "Access=", "host;x-project-id;x-sdk-date"),
        ("sdk", Some("temporary"), "Access=", "host;x-project-id;x-sdk-date;x-security-token"),
        ("legacy", None, "Credential=", "accept;host;user-agent;x-sdk-date"),
        ("legacy", Some("temporary"), "Credential=", "accept;host;user-agent;x-sdk-date"),
    ] {
        let files = with_keys();
        if let Some(token) = token {
            put(&files, &[("OS_SECURITY_TOKEN", token)]);
        }
        let upstream = Upstream::scripted(|_, _| documented()).await;
        let (_gateway, mut client) = start(&files, &upstream, &[&format!("--aksk-scheme={scheme}")]).await;
        for asked in [request(PROJECT, SHARE), without_token(PROJECT, SHARE)] {
            soon("a call", client.get_backup_share(asked)).await.unwrap();
            let seen = upstream.requests().pop().unwrap();
            let sent = seen.header("authorization").unwrap();
            assert!(sent.starts_with(&format!("SDK-HMAC-SHA256 {authorization}{ACCESS}")), "{sent}");
            assert!(sent.contains(&format!("SignedHeaders={signed}, Signature=")), "{sent}");
            assert_eq!((seen.header("x-auth-token"), seen.header("x-security-token")), (None, token));
            assert_eq!(seen.header("x-project-id"), Some(PROJECT));
            let date = seen.header("x-sdk-date").unwrap();
            assert!(date.len() == 16 && date.ends_with('Z'), "{date}");
        }
    }
}

#[tokio::test]
async fn a_refused_signature_is_the_operators_to_mend_and_not_repeated() {
    let files = with_keys();
    for body in [
        format!(r#"{{"error_code":"APIGW.0301","error_msg":"ak {ACCESS} not exist"}}"#),
        format!(r#"{{"error":{{"code":"IAM.0001","message":"who is {ACCESS}?"}}}}"#),
    ] {
        let upstream = Upstream::replying(401, &[], body).await;
        let (_gateway, mut client) = start(&files, &upstream, &[]).await;
        let failure = Failure::of(client.get_backup_share(request(PROJECT, SHARE)).await.unwrap_err());
        assert_eq!((failure.code, failure.reason.as_str()), (Code::Internal, "UPSTREAM_UNAUTHENTICATED"));
        assert_eq!((failure.attempts(), failure.metadata("service")), (Some("1"), Some("vbs")));
        assert!(!format!("{failure:?}").contains(ACCESS), "{failure:?}");
    }
}

#[tokio::test]
async fn new_keys_are_taken_without_a_failed_call() {
    let files = with_keys();
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let (_gateway, mut client) = start(&files, &upstream, &[]).await;
    client.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
    put(&files, &[("OS_ACCESS_KEY", "ANOTHERACCESSKEY0000")]);
    soon("the new keys", async {
        loop {
            client.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
            let seen = upstream.requests().pop().unwrap();
            if seen.header("authorization").unwrap().contains("Access=ANOTHERACCESSKEY0000") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn keys_are_lent_to_callers_that_prove_who_they_are_only() {
    let files = with_keys();
    let mutual = files.mutual();
    let base = ["serve", "--upstream-url=https://vbs.example", "--auth=aksk"];
    let secrets = files.flag("secrets-dir", "secrets");
    let rule = "--allow=a=b".to_owned();
    for (flags, part) in [
        (vec![&secrets], "requires mutual TLS"),
        (vec![&secrets, &mutual[0], &mutual[1]], "requires mutual TLS"),
        (vec![&secrets, &mutual[0], &mutual[1], &mutual[2]], "rules (--allow or --allow-file)"),
        (vec![&mutual[0], &mutual[1], &mutual[2], &rule], "OS_ACCESS_KEY (or HUAWEICLOUD_SDK_AK) is needed"),
    ] {
        let all: Vec<&str> = base.into_iter().chain(flags.iter().map(|flag| flag.as_str())).collect();
        let refused = crate::child::output(crate::child::gateway(&all)).await;
        let told = crate::child::text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{flags:?}");
        assert!(told.contains(part) && !told.contains(SECRET), "{part} in {told}");
    }
}

#[tokio::test]
async fn keys_come_from_the_vendors_variables_too() {
    let files = Files::new();
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let fixed = [
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--allow-plaintext-upstream",
        "--auth=aksk",
    ];
    let (url, rule, mutual) =
        (format!("--upstream-url={}", upstream.url()), format!("--allow={SPIFFE}=*"), files.mutual());
    let all: Vec<&str> =
        fixed.into_iter().chain([url.as_str(), &rule]).chain(mutual.iter().map(String::as_str)).collect();
    let mut command = crate::child::gateway(&all);
    command
        .env("HUAWEICLOUD_SDK_AK", ACCESS)
        .env("HUAWEICLOUD_SDK_SK", SECRET)
        .env("HUAWEICLOUD_SDK_SECURITY_TOKEN", TOKEN);
    let mut served = crate::child::Served::spawn(command).await;
    let tls = files.get();
    let fixed = ["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE];
    let all: Vec<&str> = fixed.into_iter().chain(tls.iter().map(String::as_str)).collect();
    assert_eq!(crate::child::output(crate::child::gateway(&all)).await.status.code(), Some(0));
    assert_eq!(upstream.requests()[0].header("x-security-token"), Some(TOKEN));
    let mut line = served.line().await;
    while line["message"] != "call" {
        line = served.line().await;
    }
    assert_eq!(line["caller"], SPIFFE);
}
