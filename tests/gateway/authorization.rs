//! Rules: which caller may read which project, and reloading them.

use tonic::Code;

use crate::support::certificates::*;
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

#[tokio::test]
async fn rules_allow_projects_by_caller_identity() {
    let files = TlsFiles::new();
    let rules = [
        format!("--allow={SPIFFE}={PROJECT},other"),
        "--allow=every.example=*".to_owned(),
        "--allow=elsewhere.example=other".to_owned(),
    ];
    let gateway = start_sandbox(files.mutual_tls_flags(), &strs(&rules)).await;
    for (names, allowed) in [
        (vec![uri(SPIFFE)], true),
        (vec![dns("every.example")], true),
        (vec![dns("first.example"), dns("every.example")], true),
        (vec![dns("elsewhere.example")], false),
        (vec![uri(&format!("{SPIFFE}/more"))], false),
        (vec![dns("sub.every.example")], false),
        // With a SPIFFE ID, other names do not count.
        (vec![uri("spiffe://example.org/unknown"), dns("every.example")], false),
        (vec![uri("https://every.example"), dns("nobody.example")], false),
        (vec![], false),
    ] {
        let case = format!("{names:?}");
        let channel =
            connect_tls(&gateway, files.client_tls(Some(&files.callers.issue(&names)))).await.unwrap();
        let mut client = BackupShareServiceClient::new(channel.clone());
        let reply = get_share(&mut client).await;
        assert_eq!(reply.is_ok(), allowed, "{case}");
        if let Err(status) = reply {
            let error = ErrorStatus::decode(status);
            assert_eq!(error.outcome(), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"), "{case}");
            assert!(error.metadata.is_empty());
            // The caller is checked before the token.
            let status = client.get_backup_share(request_without_token(PROJECT, SHARE)).await.unwrap_err();
            assert_eq!(ErrorStatus::decode(status).reason, "CALLER_NOT_ALLOWED", "{case}");
        } else {
            let status = client.get_backup_share(request_without_token(PROJECT, SHARE)).await.unwrap_err();
            assert_eq!(ErrorStatus::decode(status).reason, "TOKEN_MISSING", "{case}");
        }
        // Health checks require a valid certificate, but no rule.
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn rules_and_client_ca_are_reloaded() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), "# nobody yet\n\n").unwrap();
    let gateway =
        start_sandbox([files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat(), &[])
            .await;
    let reader = files.callers.issue(&[uri(SPIFFE)]);
    let channel = connect_tls(&gateway, files.client_tls(Some(&reader))).await.unwrap();
    let mut client = BackupShareServiceClient::new(channel);
    let status = get_share(&mut client).await.unwrap_err();
    assert_eq!(ErrorStatus::decode(status).reason, "CALLER_NOT_ALLOWED");
    std::fs::write(files.path("rules"), format!("{SPIFFE}={PROJECT} # the reader\n")).unwrap();
    poll_until("the new rules", async || get_share(&mut client).await.is_ok().then_some(())).await;
    // Without the CA of the reader, its open connection stays and a new one is refused.
    std::fs::write(files.path("clients.pem"), CertificateAuthority::new().pem).unwrap();
    poll_until("the new client CA", async || {
        get_over_tls(&gateway, files.client_tls(Some(&reader))).await.is_err().then_some(())
    })
    .await;
    get_share(&mut client).await.unwrap();
}
