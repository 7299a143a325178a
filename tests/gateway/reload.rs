//! Files that the gateway reads at startup and again when they change: rules, certificates, secrets.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::support::certificates::*;
use crate::support::keystone::{ACCOUNT, GATEWAY_TOKEN, token_document};
use crate::support::process::{GatewayProcess, gateway_command, run_error, serve_command};
use crate::support::tls_upstream::{tls_upstream, tls_upstream_sending};
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

const KEYSTONE_VARIABLES: [&str; 15] = [
    "OS_AUTH_URL",
    "OS_USERNAME",
    "OS_PASSWORD",
    "OS_USER_DOMAIN_NAME",
    "OS_USER_DOMAIN_ID",
    "OS_PROJECT_NAME",
    "OS_PROJECT_ID",
    "OS_PROJECT_DOMAIN_NAME",
    "OS_PROJECT_DOMAIN_ID",
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_NAME",
    "OS_APPLICATION_CREDENTIAL_SECRET",
    "OS_REGION_NAME",
    "OS_INTERFACE",
    "OS_CACERT",
];
const AKSK_VARIABLES: [&str; 6] = [
    "OS_ACCESS_KEY",
    "OS_SECRET_KEY",
    "OS_SECURITY_TOKEN",
    "HUAWEICLOUD_SDK_AK",
    "HUAWEICLOUD_SDK_SK",
    "HUAWEICLOUD_SDK_SECURITY_TOKEN",
];
/// A complete account and complete keys in the environment, which a broken file must never be replaced by.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("OS_AUTH_URL", "https://iam.example/v3"),
    ("OS_USERNAME", "reader"),
    ("OS_PASSWORD", "of-the-environment"),
    ("OS_USER_DOMAIN_NAME", "Default"),
    ("OS_PROJECT_ID", PROJECT),
    ("OS_ACCESS_KEY", "of-the-environment"),
    ("OS_SECRET_KEY", "of-the-environment"),
];

#[tokio::test]
async fn secrets_dir_that_cannot_be_read_is_an_error_in_every_mode() {
    let files = TlsFiles::new();
    let authorized = files.authorized_flags();
    symlink("nowhere", files.path("dangling")).unwrap();
    for (name, problem) in [
        ("missing", "No such file or directory"),
        ("dangling", "No such file or directory"),
        ("tls.crt", "Not a directory"),
        ("tls.crt/below", "Not a directory"),
    ] {
        let path = files.path(name);
        let named = format!("--secrets-dir (GATEWAY_SECRETS_DIR): cannot read {} ({problem}", path.display());
        for command in ["serve", "check"] {
            for mode in ["passthrough", "keystone", "aksk"] {
                let auth = format!("--auth={mode}");
                let flags = [&[command, "--sandbox", &auth], &strs(&authorized)[..]].concat();
                let mut command = gateway_command(&flags);
                command.envs(ENVIRONMENT).env("GATEWAY_SECRETS_DIR", &path);
                run_error(command, 64, &[&named]).await;
            }
        }
    }
}

#[tokio::test]
async fn broken_file_of_any_variable_is_an_error() {
    let files = TlsFiles::new();
    let authorized = files.authorized_flags();
    std::fs::create_dir(files.path("secrets")).unwrap();
    let secrets = files.flag("secrets-dir", "secrets");
    let dangling = |path: &Path| symlink("..data/nothing", path).unwrap();
    let directory = |path: &Path| std::fs::create_dir(path).unwrap();
    let binary = |path: &Path| std::fs::write(path, b"\xff").unwrap();
    for (mode, variables) in [("keystone", &KEYSTONE_VARIABLES[..]), ("aksk", &AKSK_VARIABLES)] {
        let auth = format!("--auth={mode}");
        let flags = [&["serve", "--sandbox", &auth, &secrets], &strs(&authorized)[..]].concat();
        for (index, name) in variables.iter().enumerate() {
            let path = files.path("secrets").join(name);
            [dangling, directory, binary, make_pipe][index % 4](&path);
            let mut command = gateway_command(&flags);
            command.envs(ENVIRONMENT);
            let named =
                format!("{name} of --secrets-dir (GATEWAY_SECRETS_DIR): cannot read {}", path.display());
            run_error(command, 64, &[&named]).await;
            std::fs::rename(&path, files.path(&format!("was-{name}"))).unwrap();
        }
    }
}

/// A file that changes without end, until this is dropped: `text` and a line end more each time.
struct Changing(Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>);

impl Changing {
    fn start(path: PathBuf, text: String) -> Self {
        std::fs::write(&path, &text).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut file = std::fs::File::options().append(true).open(path).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(b"\n").unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self(Some((stop, thread)))
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let (stop, thread) = self.0.take().unwrap();
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

/// Longer than the program's interval between two looks, 1 s, and a look.
const SEVERAL_LOOKS: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn rules_that_are_being_written_are_not_used() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), "").unwrap();
    let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat();
    let gateway = GatewayProcess::start(&[&["--sandbox"], &strs(&flags)[..]].concat()).await;
    let mut client = tls_client(&gateway, &files).await;
    let changing = Changing::start(files.path("rules"), format!("{SPIFFE}=*"));
    let end = Instant::now() + SEVERAL_LOOKS;
    while Instant::now() < end {
        let status = get_share(&mut client).await.unwrap_err();
        assert_eq!(ErrorStatus::decode(status).reason, "CALLER_NOT_ALLOWED");
    }
    drop(changing);
    poll_until("the new rules", async || get_share(&mut client).await.ok()).await;
}

#[tokio::test]
async fn keys_are_replaced_as_a_pair() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", "OLDACCESS"), ("OS_SECRET_KEY", "old")]);
    let upstream = Upstream::documented().await;
    let flags = [files.own_credential_flags("aksk"), vec![upstream.url_flag()]].concat();
    let gateway = GatewayProcess::start(&strs(&flags)).await;
    let mut client = tls_client(&gateway, &files).await;
    // The new access key is there, and the secret key is still being written.
    files.write_secrets(&[("OS_ACCESS_KEY", "NEWACCESS")]);
    let changing = Changing::start(files.path("secrets/OS_SECRET_KEY"), "new".into());
    let mut signed_with = async |key: &str| {
        get_share(&mut client).await.unwrap();
        upstream.requests().pop().unwrap().header("authorization").unwrap().contains(key)
    };
    let end = Instant::now() + SEVERAL_LOOKS;
    while Instant::now() < end {
        assert!(signed_with("Access=OLDACCESS").await);
    }
    drop(changing);
    poll_until("the new keys", async || signed_with("Access=NEWACCESS").await.then_some(())).await;
}

#[tokio::test]
async fn certificate_is_replaced_with_its_key() {
    let files = TlsFiles::new();
    let flags = files.tls_flags();
    let gateway = GatewayProcess::start(&[&["--sandbox"], &strs(&flags)[..]].concat()).await;
    let expiry = async || metric(gateway.admin, "tls_certificate_expiry_timestamp_seconds").await;
    let before = expiry().await;
    let pair = files.servers.issue_until(&[dns("localhost")], 2090);
    std::fs::write(files.path("tls.crt"), pair.certificate).unwrap();
    let changing = Changing::start(files.path("tls.key"), pair.key);
    let end = Instant::now() + SEVERAL_LOOKS;
    while Instant::now() < end {
        assert!((expiry().await - before).abs() < 1.0);
    }
    drop(changing);
    // 2090-01-01T00:00:00Z
    poll_until("the new certificate", async || (expiry().await == 3_786_912_000.0).then_some(())).await;
    assert_eq!(metric(gateway.admin, "tls_reload_failures_total").await, 0.0);
}

#[tokio::test]
async fn start_waits_for_files_that_are_being_written() {
    let files = TlsFiles::new();
    let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat();
    // Half a rule, which would be an error.
    let half = Changing::start(files.path("rules"), SPIFFE.into());
    let complete = {
        let path = files.path("rules");
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            drop(half);
            std::fs::write(path, format!("{SPIFFE}=*")).unwrap();
        })
    };
    let gateway = GatewayProcess::start(&[&["--sandbox"], &strs(&flags)[..]].concat()).await;
    complete.join().unwrap();
    let mut client = tls_client(&gateway, &files).await;
    get_share(&mut client).await.unwrap();
}

#[tokio::test]
async fn bad_file_is_rejected_and_counted_and_old_content_stays() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", "OLDACCESS"), ("OS_SECRET_KEY", "old")]);
    std::fs::write(files.path("rules"), format!("{SPIFFE}=*")).unwrap();
    std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
    let port = tls_upstream(&files.servers.issue(&[dns("localhost")])).await;
    let own = ["allow-file", "secrets-dir", "upstream-ca"].into_iter().zip(["rules", "secrets", "ca.pem"]);
    let own = own.map(|(flag, name)| files.flag(flag, name)).collect();
    let flags = [files.mutual_tls_flags(), own].concat();
    let url = format!("--upstream-url=https://localhost:{port}");
    let gateway = Gateway::start(&[&["--auth=aksk", &url], &strs(&flags)[..]].concat()).await;
    let mut failures = 0.0;
    for (name, content) in [
        ("tls.crt", &b"half a certif"[..]),
        ("tls.key", b""),
        ("clients.pem", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
        ("rules", b"*=*"),
        ("rules", b"a=p\n\xff"),
        ("ca.pem", b"no certificate"),
        ("secrets/OS_ACCESS_KEY", b"with a blank"),
        ("secrets/OS_SECRET_KEY", b""),
        ("secrets/HUAWEICLOUD_SDK_SECURITY_TOKEN", b"\xff"),
    ] {
        let old = std::fs::read(files.path(name)).ok();
        std::fs::write(files.path(name), content).unwrap();
        failures += 1.0;
        gateway.metric_becomes("tls_reload_failures_total", failures).await;
        let reader = files.callers.issue(&[uri(SPIFFE)]);
        get_over_tls(&gateway, files.client_tls(Some(&reader))).await.unwrap();
        match old {
            Some(old) => std::fs::write(files.path(name), old).unwrap(),
            None => std::fs::remove_file(files.path(name)).unwrap(),
        }
    }
}

#[tokio::test]
async fn pipe_in_place_of_a_file_does_not_end_reloading() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), "").unwrap();
    let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat();
    let gateway = start_sandbox(flags, &[]).await;
    let mut client = files.authorized_client(&gateway).await;
    std::fs::remove_file(files.path("rules")).unwrap();
    make_pipe(&files.path("rules"));
    gateway.metric_becomes("tls_reload_failures_total", 1.0).await;
    std::fs::remove_file(files.path("rules")).unwrap();
    std::fs::write(files.path("rules"), format!("{SPIFFE}=*")).unwrap();
    poll_until("the new rules", async || get_share(&mut client).await.ok()).await;
}

#[tokio::test]
async fn rules_file_that_becomes_empty_admits_no_caller() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), format!("{SPIFFE}=*")).unwrap();
    let flags = [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules")]].concat();
    let gateway = start_sandbox(flags, &[]).await;
    let mut client = files.authorized_client(&gateway).await;
    get_share(&mut client).await.unwrap();
    std::fs::write(files.path("rules"), "# nobody\n").unwrap();
    let status = poll_until("the new rules", async || get_share(&mut client).await.err()).await;
    assert_eq!(ErrorStatus::decode(status).reason, "CALLER_NOT_ALLOWED");
}

#[tokio::test]
async fn credential_stays_while_its_files_are_broken() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", "OLDACCESS"), ("OS_SECRET_KEY", "old")]);
    let upstream = Upstream::documented().await;
    let flags = [files.own_credential_flags("aksk"), vec![upstream.url_flag()]].concat();
    let mut command = serve_command(&[&["--drain-delay=0s"], &strs(&flags)[..]].concat());
    command.envs(ENVIRONMENT);
    let gateway = GatewayProcess::spawn(command).await;
    let mut client = tls_client(&gateway, &files).await;
    let mut key_in_use = async || {
        get_share(&mut client).await.unwrap();
        let sent = upstream.requests().pop().unwrap().header("authorization").unwrap().to_owned();
        sent.split(['=', ',']).nth(1).unwrap().to_owned()
    };
    let failures = async |count: f64| {
        poll_until("the rejection", async || {
            (metric(gateway.admin, "tls_reload_failures_total").await == count).then_some(())
        })
        .await;
    };
    let secrets = files.path("secrets");
    std::fs::rename(&secrets, files.path("moved")).unwrap();
    failures(1.0).await;
    assert_eq!(key_in_use().await, "OLDACCESS", "not the key of the environment");
    std::fs::create_dir(&secrets).unwrap();
    symlink("nowhere", secrets.join("OS_ACCESS_KEY")).unwrap();
    failures(2.0).await;
    assert_eq!(key_in_use().await, "OLDACCESS", "not the key of the environment");
    std::fs::remove_file(secrets.join("OS_ACCESS_KEY")).unwrap();
    files.write_secrets(&[("OS_ACCESS_KEY", "NEWACCESS"), ("OS_SECRET_KEY", "new")]);
    poll_until("the new keys", async || (key_in_use().await == "NEWACCESS").then_some(())).await;
}

#[tokio::test]
async fn upstream_ca_is_reloaded() {
    let (files, others) = (TlsFiles::new(), TlsFiles::new());
    let port = tls_upstream(&files.servers.issue(&[dns("localhost")])).await;
    let put = |pem: &str| std::fs::write(files.path("ca.pem"), pem).unwrap();
    put(&others.servers.pem);
    let url = format!("--upstream-url=https://localhost:{port}");
    let gateway = Gateway::start(&[&url, &files.flag("upstream-ca", "ca.pem"), "--max-attempts=1"]).await;
    for _ in 0..2 {
        assert_eq!(gateway.get_error().await.outcome(), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
        put(&files.servers.pem);
        poll_until("the new CA", async || gateway.get().await.ok()).await;
        put(&others.servers.pem);
        poll_until("the other CA", async || gateway.get().await.err()).await;
    }
    assert_eq!(gateway.metric("tls_reload_failures_total").await, 0.0);
}

#[tokio::test]
async fn ca_of_account_is_reloaded_for_identity_service_and_upstream() {
    let (files, others) = (TlsFiles::new(), TlsFiles::new());
    let pair = files.servers.issue(&[dns("localhost")]);
    let body = token_document(3600, &json!([])).to_string();
    let length = body.len();
    let token = format!(
        "HTTP/1.1 201 Created\r\nx-subject-token: {GATEWAY_TOKEN}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let (identity, upstream) = (tls_upstream_sending(&pair, token).await, tls_upstream(&pair).await);
    std::fs::write(files.path("ca.pem"), &others.servers.pem).unwrap();
    files.write_secrets(&ACCOUNT);
    files.write_secrets(&[
        ("OS_AUTH_URL", &format!("https://localhost:{identity}")),
        ("OS_CACERT", files.path("ca.pem").to_str().unwrap()),
    ]);
    let flags = files.own_credential_flags("keystone");
    let url = format!("--upstream-url=https://localhost:{upstream}");
    let gateway = Gateway::start(&[&[&*url, "--max-attempts=1"], &strs(&flags)[..]].concat()).await;
    let mut client = files.authorized_client(&gateway).await;
    let error = ErrorStatus::decode(get_share(&mut client).await.unwrap_err());
    assert_eq!(
        (error.reason.as_str(), error.metadata("service")),
        ("UPSTREAM_UNREACHABLE", Some("identity"))
    );
    std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
    poll_until("the new CA", async || get_share(&mut client).await.ok()).await;
    // Another file, for both.
    std::fs::write(files.path("other.pem"), &others.servers.pem).unwrap();
    files.write_secrets(&[("OS_CACERT", files.path("other.pem").to_str().unwrap())]);
    let status = poll_until("the other CA", async || get_share(&mut client).await.err()).await;
    let error = ErrorStatus::decode(status);
    assert_eq!((error.reason.as_str(), error.metadata("service")), ("UPSTREAM_UNREACHABLE", Some("vbs")));
}

#[tokio::test]
async fn expired_ca_in_a_new_bundle_is_logged() {
    let old =
        CertificateAuthority::with("old CA", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let files = TlsFiles::new();
    for name in ["account.pem", "upstream.pem"] {
        std::fs::write(files.path(name), &files.servers.pem).unwrap();
    }
    files.write_secrets(&ACCOUNT);
    files.write_secrets(&[
        ("OS_AUTH_URL", "https://127.0.0.1:1"),
        ("OS_CACERT", files.path("account.pem").to_str().unwrap()),
    ]);
    let flags = [
        files.own_credential_flags("keystone"),
        vec![files.flag("upstream-ca", "upstream.pem"), "--upstream-url=https://127.0.0.1:1".into()],
    ];
    let mut gateway = GatewayProcess::start(&strs(&flags.concat())).await;
    for name in ["account.pem", "upstream.pem", "clients.pem"] {
        let path = files.path(name);
        let bundle = std::fs::read_to_string(&path).unwrap() + &old.pem;
        std::fs::write(&path, bundle).unwrap();
        let is_warning = |line: serde_json::Value| {
            let message = line["message"].as_str().unwrap();
            line["level"] == "WARN"
                && message.contains(path.to_str().unwrap())
                && message.contains("old CA expired on")
        };
        with_timeout("the warning", async { while !is_warning(gateway.line().await) {} }).await;
    }
}

#[tokio::test]
async fn requested_reload_does_not_wait_for_the_interval() {
    let files = TlsFiles::new();
    std::fs::write(files.path("rules"), "").unwrap();
    let flags =
        [files.mutual_tls_flags(), vec![files.flag("allow-file", "rules"), "--sandbox".into()]].concat();
    let gateway =
        Gateway::start_with(&strs(&flags), |config| config.reload_interval = Duration::from_secs(3600)).await;
    let mut client = files.authorized_client(&gateway).await;
    for rule in [format!("{SPIFFE}=*"), String::new(), format!("{SPIFFE}={PROJECT}")] {
        std::fs::write(files.path("rules"), &rule).unwrap();
        poll_until("the new rules", async || {
            // Many requests in a row must not put it off.
            gateway.shutdown.reload.notify_one();
            (get_share(&mut client).await.is_ok() != rule.is_empty()).then_some(())
        })
        .await;
    }
}

/// A client that is [`SPIFFE`], of a process.
async fn tls_client(gateway: &GatewayProcess, files: &TlsFiles) -> BackupShareServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{}", gateway.grpc)).unwrap();
    let tls = files.client_tls(Some(&files.callers.issue(&[uri(SPIFFE)])));
    BackupShareServiceClient::new(endpoint.tls_config(tls).unwrap().connect().await.unwrap())
}
