//! Rules: which caller may read which project.

use tonic::Code;
use tonic::transport::Endpoint;

use crate::support::certificates::*;
use crate::support::process::{self, GatewayProcess, gateway_command, run_error};
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

const MODES: [&str; 3] = ["passthrough", "keystone", "aksk"];

/// A rule that is invalid, and what is said about it.
const INVALID_RULES: [(&str, &str); 8] = [
    ("a", "must be CALLER=PROJECT[,PROJECT…]"),
    ("=p", "must be CALLER=PROJECT[,PROJECT…]"),
    ("a,b=p", "must be CALLER=PROJECT[,PROJECT…]"),
    ("spiffe://Td/a=p", "it must be like spiffe://trust-domain/path"),
    ("a=", "names a project that is neither"),
    ("a=p,,q", "names a project that is neither"),
    ("*=p", "'*' is for projects only"),
    ("*=*", "'*' is for projects only"),
];

#[tokio::test]
async fn invalid_rule_is_an_error_in_every_mode() {
    for mode in MODES {
        let auth = format!("--auth={mode}");
        let flags = ["serve", "--sandbox", &auth];
        for (rule, problem) in [("", "an empty rule"), (" \t", "an empty rule")].iter().chain(&INVALID_RULES)
        {
            let parts = ["--allow (GATEWAY_ALLOW): ", problem];
            run_error(gateway_command(&[&flags[..], &["--allow", rule]].concat()), 64, &parts).await;
            // An empty variable counts as not set.
            if !rule.is_empty() {
                let mut command = gateway_command(&flags);
                command.env("GATEWAY_ALLOW", rule);
                run_error(command, 64, &parts).await;
            }
        }
    }
}

#[tokio::test]
async fn invalid_rules_of_a_file_are_reported_together() {
    let files = TlsFiles::new();
    let rules = INVALID_RULES.map(|(rule, _)| format!("good.example=p\n{rule} # \u{e9}\n")).concat();
    std::fs::write(files.path("rules"), rules).unwrap();
    let tls = files.mutual_tls_flags();
    for mode in MODES {
        let flags = ["serve", "--sandbox", &format!("--auth={mode}"), &files.flag("allow-file", "rules")];
        let stderr = run_error(gateway_command(&[&flags[..], &strs(&tls)].concat()), 64, &[]).await;
        for (index, (_, problem)) in INVALID_RULES.iter().enumerate() {
            let file = files.path("rules");
            let line =
                format!("--allow-file (GATEWAY_ALLOW_FILE): {}: line {}", file.display(), 2 * index + 2);
            let is_named = |text: &str| text.starts_with(&line) && text.contains(problem);
            assert!(stderr.lines().any(is_named), "{line} in {stderr}");
        }
    }
}

#[tokio::test]
async fn unreadable_rules_file_is_an_error_with_its_path() {
    let files = TlsFiles::new();
    std::fs::write(files.path("binary"), b"a=p\n\xff=p\n").unwrap();
    for name in ["missing", "binary", "."] {
        let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", name)]].concat();
        let named = format!("--allow-file (GATEWAY_ALLOW_FILE): cannot read {}", files.path(name).display());
        let command = gateway_command(&[&["serve", "--sandbox", "--allow=a=p"], &strs(&flags)[..]].concat());
        run_error(command, 64, &[&named]).await;
    }
}

#[tokio::test]
async fn own_credential_requires_a_source_of_rules() {
    let files = TlsFiles::new();
    let mutual = files.mutual_tls_flags();
    for mode in ["keystone", "aksk"] {
        let auth = format!("--auth={mode}");
        let mut command = gateway_command(&[&["serve", "--sandbox", &auth], &strs(&mutual)[..]].concat());
        command.env("GATEWAY_ALLOW", "").env("GATEWAY_ALLOW_FILE", "");
        run_error(command, 64, &["requires mutual TLS", "rules (--allow or --allow-file)"]).await;
    }
}

#[tokio::test]
async fn source_without_a_rule_admits_no_caller() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", "access"), ("OS_SECRET_KEY", "secret")]);
    let reader = files.callers.issue(&[uri(SPIFFE)]);
    for text in ["", "\n", "# nobody yet\n \t\n"] {
        std::fs::write(files.path("rules"), text).unwrap();
        for auth in ["passthrough", "aksk"] {
            let auth = format!("--auth={auth}");
            let more = [files.flag("allow-file", "rules"), files.flag("secrets-dir", "secrets")];
            let flags = [files.mutual_tls_flags(), more.into()].concat();
            let gateway = start_sandbox(flags, &[&auth]).await;
            let status = get_over_tls(&gateway, files.client_tls(Some(&reader))).await.unwrap_err();
            let error = ErrorStatus::decode(status);
            assert_eq!(error.outcome(), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"), "{auth} {text:?}");
        }
    }
}

#[tokio::test]
async fn rules_of_flags_and_file_add_up() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), format!("file.example={PROJECT}\r\n*.wild.example=*")).unwrap();
    let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat();
    let gateway = start_sandbox(flags, &[&format!("--allow=flag.example={PROJECT}")]).await;
    for (name, allowed) in [
        ("file.example", true),
        ("flag.example", true),
        ("other.example", false),
        // The match is exact.
        ("*.wild.example", true),
        ("a.wild.example", false),
    ] {
        let caller = files.callers.issue(&[dns(name)]);
        let reply = get_over_tls(&gateway, files.client_tls(Some(&caller))).await;
        assert_eq!(reply.is_ok(), allowed, "{name}");
    }
}

#[tokio::test]
async fn caller_in_log_is_the_name_that_the_rule_matched() {
    let files = TlsFiles::new();
    let rules = ["--allow=second.example=other", "--allow=third.example=*"];
    for (flags, names, project, caller) in [
        (
            &rules[..],
            vec![dns("first.example"), dns("second.example"), dns("third.example")],
            PROJECT,
            "third.example",
        ),
        (
            &rules,
            vec![dns("first.example"), dns("third.example"), dns("second.example")],
            "other",
            "third.example",
        ),
        (
            &rules,
            vec![dns("first.example"), dns("second.example"), dns("third.example")],
            "other",
            "second.example",
        ),
        // The rule of the second name does not admit it to this project.
        (&rules, vec![dns("first.example"), dns("second.example")], PROJECT, "second.example"),
        (&rules, vec![dns("first.example"), dns("fourth.example")], PROJECT, "first.example"),
        (&rules, vec![dns("third.example"), uri(SPIFFE)], PROJECT, SPIFFE),
        (&[], vec![dns("first.example"), dns("second.example")], PROJECT, "first.example"),
    ] {
        let tls = files.mutual_tls_flags();
        let mut gateway = GatewayProcess::start(&[&["--sandbox"], &strs(&tls)[..], flags].concat()).await;
        let endpoint = Endpoint::from_shared(format!("https://{}", gateway.grpc)).unwrap();
        let tls = files.client_tls(Some(&files.callers.issue(&names)));
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let call = BackupShareServiceClient::new(channel).get_backup_share(request(project, SHARE)).await;
        let line = gateway.line_with_message("call").await;
        assert_eq!(line["caller"], caller, "{names:?} {call:?}");
    }
}

#[tokio::test]
async fn check_describes_rules_that_may_surprise() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), "# nobody yet\n").unwrap();
    let tls = files.mutual_tls_flags();
    for (flag, rule) in [
        (
            "--allow=*.example.com=p".to_owned(),
            "ok    rule: *.example.com (the certificate with exactly this name) may read 1 project",
        ),
        (files.flag("allow-file", "rules"), "ok    rule: there is none, so no caller is admitted"),
    ] {
        let flags = [&["check", "--sandbox", &flag], &strs(&tls)[..]].concat();
        let output = process::to_text(&process::run(gateway_command(&flags)).await.stdout);
        assert!(output.contains(rule), "{output}");
    }
}
