//! Who may read what, and rules that change.

use std::time::Duration;

use tonic::Code;

use crate::support::certificates::*;
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

#[tokio::test]
async fn rules_say_which_caller_may_read_which_project() {
    let files = Files::new();
    let rules = [
        format!("--allow={SPIFFE}={PROJECT},other"),
        "--allow=every.example=*".to_owned(),
        "--allow=elsewhere.example=other".to_owned(),
    ];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let gateway = start(files.mutual(), &rules).await;
    for (names, allowed) in [
        (vec![uri(SPIFFE)], true),
        (vec![dns("every.example")], true),
        (vec![dns("first.example"), dns("every.example")], true),
        (vec![dns("elsewhere.example")], false),
        (vec![uri(&format!("{SPIFFE}/more"))], false),
        (vec![dns("sub.every.example")], false),
        // A SPIFFE ID is who it is, whatever other names there are.
        (vec![uri("spiffe://example.org/unknown"), dns("every.example")], false),
        (vec![uri("https://every.example"), dns("nobody.example")], false),
        (vec![], false),
    ] {
        let told = format!("{names:?}");
        let channel = connect(&gateway, files.caller(Some(&files.callers.issue(&names)))).await.unwrap();
        let mut client = BackupShareServiceClient::new(channel.clone());
        let reply = soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await;
        assert_eq!(reply.is_ok(), allowed, "{told}");
        if let Err(status) = reply {
            let failure = Failure::of(status);
            assert_eq!(
                (failure.code, failure.reason.as_str()),
                (Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
                "{told}"
            );
            assert!(failure.metadata.is_empty());
            // The caller comes before the token.
            let status = client.get_backup_share(without_token(PROJECT, SHARE)).await.unwrap_err();
            assert_eq!(Failure::of(status).reason, "CALLER_NOT_ALLOWED", "{told}");
        } else {
            let status = client.get_backup_share(without_token(PROJECT, SHARE)).await.unwrap_err();
            assert_eq!(Failure::of(status).reason, "TOKEN_MISSING", "{told}");
        }
        // Health needs a certificate that verifies and no more.
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn rules_and_client_ca_are_read_again_when_they_change() {
    let files = Files::new();
    std::fs::write(files.path("rules"), "# nobody yet\n\n").unwrap();
    let gateway = start([files.mutual(), vec![files.flag("allow-file", "rules")]].concat(), &[]).await;
    let reader = files.callers.issue(&[uri(SPIFFE)]);
    let channel = connect(&gateway, files.caller(Some(&reader))).await.unwrap();
    let mut client = BackupShareServiceClient::new(channel);
    let status = client.get_backup_share(request(PROJECT, SHARE)).await.unwrap_err();
    assert_eq!(Failure::of(status).reason, "CALLER_NOT_ALLOWED");
    std::fs::write(files.path("rules"), format!("{SPIFFE}={PROJECT} # the reader\n")).unwrap();
    soon("the new rules", async {
        while client.get_backup_share(request(PROJECT, SHARE)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The reader's authority is taken away: its old connection stays, a new one is refused.
    std::fs::write(files.path("clients.pem"), Authority::new().pem).unwrap();
    soon("the new client CA", async {
        while get(&gateway, files.caller(Some(&reader))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    client.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
}
