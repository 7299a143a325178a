//! Requests signed with the gateway's access key and secret key. The signatures themselves are tested beside the signer with
//! known answers, and against the vendor's SDK (`tests/e2e/test_aksk.py`).

use tonic::Code;
use tonic::transport::Channel;

use crate::support::certificates::{SPIFFE, TlsFiles};
use crate::support::process;
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

const ACCESS: &str = "QTWAOYTTINDUT2QVKYUC";
const SECRET: &str = "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc";

/// A gateway with access keys, and a client that may use them.
async fn start(
    files: &TlsFiles,
    upstream: &Upstream,
    flags: &[&str],
) -> (Gateway, BackupShareServiceClient<Channel>) {
    let own_flags = [files.own_credential_flags("aksk"), vec![upstream.url_flag()]].concat();
    let gateway = Gateway::start(&[&strs(&own_flags), flags].concat()).await;
    let client = files.authorized_client(&gateway).await;
    (gateway, client)
}

fn with_keys() -> TlsFiles {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", ACCESS), ("OS_SECRET_KEY", SECRET)]);
    files
}

#[tokio::test]
async fn request_is_signed_and_caller_token_is_not_sent() {
    for (scheme, token, authorization, signed) in [
        ("sdk", None, "Access=", "host;x-project-id;x-sdk-date"),
        ("sdk", Some("temporary"), "Access=", "host;x-project-id;x-sdk-date;x-security-token"),
        ("legacy", None, "Credential=", "accept;host;user-agent;x-sdk-date"),
        ("legacy", Some("temporary"), "Credential=", "accept;host;user-agent;x-sdk-date"),
    ] {
        let files = with_keys();
        if let Some(token) = token {
            files.write_secrets(&[("OS_SECURITY_TOKEN", token)]);
        }
        let upstream = Upstream::documented().await;
        let (_gateway, mut client) = start(&files, &upstream, &[&format!("--aksk-scheme={scheme}")]).await;
        for request in [request(PROJECT, SHARE), request_without_token(PROJECT, SHARE)] {
            with_timeout("a call", client.get_backup_share(request)).await.unwrap();
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
async fn refused_signature_is_internal_and_not_retried() {
    let files = with_keys();
    for body in [
        format!(r#"{{"error_code":"APIGW.0301","error_msg":"ak {ACCESS} not exist"}}"#),
        format!(r#"{{"error":{{"code":"IAM.0001","message":"who is {ACCESS}?"}}}}"#),
    ] {
        let upstream = Upstream::replying(401, &[], body).await;
        let (_gateway, mut client) = start(&files, &upstream, &[]).await;
        let error = ErrorStatus::decode(get_share(&mut client).await.unwrap_err());
        assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_UNAUTHENTICATED"));
        assert_eq!((error.attempts(), error.metadata("service")), (Some("1"), Some("vbs")));
        assert!(!format!("{error:?}").contains(ACCESS), "{error:?}");
    }
}

#[tokio::test]
async fn changed_keys_are_used_without_a_failed_call() {
    let files = with_keys();
    let upstream = Upstream::documented().await;
    let (_gateway, mut client) = start(&files, &upstream, &[]).await;
    get_share(&mut client).await.unwrap();
    files.write_secrets(&[("OS_ACCESS_KEY", "ANOTHERACCESSKEY0000")]);
    poll_until("a call with the new keys", async || {
        get_share(&mut client).await.unwrap();
        let seen = upstream.requests().pop().unwrap();
        seen.header("authorization").unwrap().contains("Access=ANOTHERACCESSKEY0000").then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_require_mutual_tls_and_rules() {
    let files = with_keys();
    let mutual = files.mutual_tls_flags();
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
        let stderr = process::run_error(process::gateway_command(&all), 64, &[part]).await;
        assert!(!stderr.contains(SECRET), "{stderr}");
    }
}

#[tokio::test]
async fn keys_are_read_from_vendor_variables() {
    let files = TlsFiles::new();
    let upstream = Upstream::documented().await;
    let flags = [files.authorized_flags(), vec!["--auth=aksk".into(), upstream.url_flag(), PLAINTEXT.into()]]
        .concat();
    let mut command = process::serve_command(&strs(&flags));
    command
        .env("HUAWEICLOUD_SDK_AK", ACCESS)
        .env("HUAWEICLOUD_SDK_SK", SECRET)
        .env("HUAWEICLOUD_SDK_SECURITY_TOKEN", TOKEN);
    let mut gateway = process::GatewayProcess::spawn(command).await;
    let get = gateway.get_command(PROJECT, SHARE, &strs(&files.client_flags()));
    assert_eq!(process::run(get).await.status.code(), Some(0));
    assert_eq!(upstream.requests()[0].header("x-security-token"), Some(TOKEN));
    let line = gateway.line_with_message("call").await;
    assert_eq!(line["caller"], SPIFFE);
}
