//! TLS and mutual TLS on the listening side, who may read what, and files that change under load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::harness::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

pub const SPIFFE: &str = "spiffe://example.org/ns/backup/sa/reader";

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, names: &[SanType]) -> Pair {
        self.issue_until(names, 2099)
    }

    pub fn issue_until(&self, names: &[SanType], year: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// A folder with a gateway's files, and the flags that name them.
pub struct Files {
    folder: tempfile::TempDir,
    pub servers: Authority,
    pub callers: Authority,
}

impl Files {
    pub fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            servers: Authority::new(),
            callers: Authority::new(),
        };
        files.put(&files.servers.issue(&[dns("localhost")]));
        std::fs::write(files.path("clients.pem"), &files.callers.pem).unwrap();
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn put(&self, pair: &Pair) {
        std::fs::write(self.path("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(self.path("tls.key"), &pair.key).unwrap();
    }

    pub fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    fn tls(&self) -> Vec<String> {
        vec![self.flag("tls-cert", "tls.crt"), self.flag("tls-key", "tls.key")]
    }

    pub fn mutual(&self) -> Vec<String> {
        [self.tls(), vec![self.flag("tls-client-ca", "clients.pem")]].concat()
    }

    /// What a caller of the gateway believes, and who it is.
    /// The flags of `get` for a caller that proves to be [`SPIFFE`].
    pub fn get(&self) -> Vec<String> {
        let caller = self.callers.issue(&[uri(SPIFFE)]);
        let flags = ["tls-ca", "tls-cert", "tls-key"].into_iter();
        let put = |(flag, pem): (&str, &String)| {
            let name = format!("get-{flag}.pem");
            std::fs::write(self.path(&name), pem).unwrap();
            self.flag(flag, &name)
        };
        let files = flags.zip([&self.servers.pem, &caller.certificate, &caller.key]).map(put);
        files.chain(["--tls-server-name=localhost".into()]).collect()
    }

    pub fn caller(&self, identity: Option<&Pair>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.servers.pem))
            .domain_name("localhost");
        match identity {
            Some(pair) => config.identity(Identity::from_pem(&pair.certificate, &pair.key)),
            None => config,
        }
    }
}

async fn start(flags: Vec<String>, more: &[&str]) -> Running {
    let flags: Vec<&str> =
        flags.iter().map(String::as_str).chain(more.iter().copied()).chain(["--sandbox"]).collect();
    Running::start(&flags).await
}

pub async fn connect(gateway: &Running, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    let endpoint =
        Endpoint::from_shared(format!("https://{}", gateway.grpc)).unwrap().tls_config(tls).unwrap();
    soon("a TLS handshake", endpoint.connect()).await
}

/// A call on a new connection. A handshake that fails after the client's part of it shows at the first call only.
async fn get(gateway: &Running, tls: ClientTlsConfig) -> Result<(), tonic::Status> {
    let channel = connect(gateway, tls).await.map_err(|error| tonic::Status::from_error(error.into()))?;
    let mut client = BackupShareServiceClient::new(channel);
    soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.map(drop)
}

#[tokio::test]
async fn with_a_certificate_the_port_speaks_tls_only() {
    let files = Files::new();
    let gateway = start(files.tls(), &[]).await;
    get(&gateway, files.caller(None)).await.unwrap();
    let stranger = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&files.callers.pem))
        .domain_name("localhost");
    get(&gateway, stranger).await.unwrap_err();
    let plaintext = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect_lazy();
    let mut in_the_clear = BackupShareServiceClient::new(plaintext);
    soon("a call in the clear", in_the_clear.get_backup_share(request(PROJECT, SHARE))).await.unwrap_err();
    assert_eq!(gateway.admin_get("/livez").await.0, 200, "the admin port stays in the clear");
    // 2099-01-01T00:00:00Z
    assert!((gateway.metric("tls_certificate_expiry_timestamp_seconds").await - 4_070_908_800.0).abs() < 1.0);
}

#[tokio::test]
async fn a_peer_that_does_not_finish_its_tls_handshake_is_closed() {
    let files = Files::new();
    let gateway = start(files.tls(), &["--handshake-timeout=300ms"]).await;
    // Nothing; half a ClientHello; one byte of it after the other.
    let hello: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for (what, bytes, pause) in
        [("silence", &hello[..0], 0), ("half a hello", hello, 0), ("a byte at a time", hello, 100)]
    {
        let mut peer = tokio::net::TcpStream::connect(gateway.grpc).await.unwrap();
        for byte in bytes {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut peer, &[*byte]).await.is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        let _ = soon(what, tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut rest)).await;
        gateway.metric_becomes("server_connections", 0.0).await;
    }
    get(&gateway, files.caller(None)).await.unwrap();
}

#[tokio::test]
async fn with_a_client_ca_every_caller_must_prove_who_it_is() {
    let files = Files::new();
    let gateway = start(files.mutual(), &[]).await;
    get(&gateway, files.caller(Some(&files.callers.issue(&[uri(SPIFFE)])))).await.unwrap();
    get(&gateway, files.caller(None)).await.expect_err("no certificate");
    let other = Authority::new().issue(&[uri(SPIFFE)]);
    get(&gateway, files.caller(Some(&other))).await.expect_err("of another authority");
    let expired = files.callers.issue_until(&[uri(SPIFFE)], 2001);
    get(&gateway, files.caller(Some(&expired))).await.expect_err("expired");
    let two = files.callers.issue(&[uri(SPIFFE), uri("spiffe://example.org/another")]);
    get(&gateway, files.caller(Some(&two))).await.expect_err("two SPIFFE IDs");
}

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

/// Keeps calling on new connections and on an old one until told to stop; the count of calls, none of which failed.
fn load(gateway: &Running, tls: ClientTlsConfig) -> tokio::task::JoinHandle<usize> {
    let grpc = gateway.grpc;
    let drain = gateway.shutdown.drain.clone();
    tokio::spawn(async move {
        let endpoint = Endpoint::from_shared(format!("https://{grpc}")).unwrap().tls_config(tls).unwrap();
        let mut old = BackupShareServiceClient::new(endpoint.connect().await.unwrap());
        let mut calls = 0;
        while !drain.is_cancelled() {
            let mut new = BackupShareServiceClient::new(endpoint.connect().await.unwrap());
            new.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
            old.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
            calls += 2;
        }
        calls
    })
}

async fn expiry_becomes(gateway: &Running, seconds: f64) {
    gateway.metric_becomes("tls_certificate_expiry_timestamp_seconds", seconds).await;
}

#[tokio::test]
async fn a_new_pair_is_taken_under_load_with_no_failed_call_and_a_bad_one_refused() {
    let files = Files::new();
    let gateway = start(files.tls(), &["--drain-delay=5s"]).await;
    let load = load(&gateway, files.caller(None));
    // Written again in place. 2090-01-01T00:00:00Z
    files.put(&files.servers.issue_until(&[dns("localhost")], 2090));
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    let before = gateway.metric("tls_reload_failures_total").await;
    std::fs::write(files.path("tls.crt"), "half a certif").unwrap();
    gateway.metric_becomes("tls_reload_failures_total", before + 1.0).await;
    // A certificate without its key.
    std::fs::write(files.path("tls.crt"), files.servers.issue(&[dns("localhost")]).certificate).unwrap();
    gateway.metric_becomes("tls_reload_failures_total", before + 2.0).await;
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    // 2080-01-01T00:00:00Z
    files.put(&files.servers.issue_until(&[dns("localhost")], 2080));
    expiry_becomes(&gateway, 3_471_292_800.0).await;
    gateway.shutdown.drain.cancel();
    assert!(soon("the load", load).await.unwrap() > 0);
}

fn link(target: &Path, link: &Path) {
    let fresh = link.with_file_name("fresh");
    std::os::unix::fs::symlink(target, &fresh).unwrap();
    std::fs::rename(fresh, link).unwrap();
}

#[tokio::test]
async fn a_mounted_secret_that_is_swapped_is_taken() {
    // As the kubelet does it: tls.crt -> ..data/tls.crt, ..data -> a folder, and the link is turned to the next one.
    let files = Files::new();
    let root = files.folder.path().join("mounted");
    for (folder, year) in [("one", 2090), ("two", 2080)] {
        let pair = files.servers.issue_until(&[dns("localhost")], year);
        std::fs::create_dir_all(root.join(folder)).unwrap();
        std::fs::write(root.join(folder).join("tls.crt"), pair.certificate).unwrap();
        std::fs::write(root.join(folder).join("tls.key"), pair.key).unwrap();
    }
    link(Path::new("one"), &root.join("..data"));
    for name in ["tls.crt", "tls.key"] {
        link(&Path::new("..data").join(name), &root.join(name));
    }
    let flags = vec![
        format!("--tls-cert={}", root.join("tls.crt").display()),
        format!("--tls-key={}", root.join("tls.key").display()),
    ];
    let gateway = start(flags, &["--drain-delay=5s"]).await;
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    let load = load(&gateway, files.caller(None));
    link(Path::new("two"), &root.join("..data"));
    expiry_becomes(&gateway, 3_471_292_800.0).await;
    assert!(gateway.metric("tls_reload_failures_total").await.abs() < f64::EPSILON);
    gateway.shutdown.drain.cancel();
    assert!(soon("the load", load).await.unwrap() > 0);
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

#[tokio::test]
async fn the_built_in_client_speaks_tls() {
    let files = Files::new();
    let reader = files.callers.issue(&[dns("reader.example")]);
    std::fs::write(files.path("reader.crt"), &reader.certificate).unwrap();
    std::fs::write(files.path("reader.key"), &reader.key).unwrap();
    std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
    let gateway = start(files.mutual(), &["--allow=reader.example=*"]).await;
    let address = gateway.grpc.to_string();
    let tls = [
        files.flag("tls-ca", "ca.pem"),
        files.flag("tls-cert", "reader.crt"),
        files.flag("tls-key", "reader.key"),
        "--tls-server-name=localhost".to_owned(),
    ];
    let run = |arguments: &[&str], tls: &[String]| {
        let all: Vec<&str> = arguments.iter().copied().chain(tls.iter().map(String::as_str)).collect();
        let mut command = crate::child::gateway(&all);
        command.env("OS_TOKEN", TOKEN);
        crate::child::output(command)
    };
    let get = ["get", "--address", &address, "--project-id", PROJECT, SHARE];
    assert!(run(&get, &tls).await.status.success());
    assert!(run(&["health", "--address", &address], &tls).await.status.success());
    assert_eq!(run(&get, &tls[..1]).await.status.code(), Some(1), "another name, no certificate");
    assert_eq!(run(&get, &[]).await.status.code(), Some(1), "in the clear");
    assert_eq!(run(&get, &[tls[0].clone(), tls[1].clone()]).await.status.code(), Some(64), "no key");
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused_at_the_start() {
    let files = Files::new();
    let other = files.servers.issue(&[dns("localhost")]);
    std::fs::write(files.path("other.key"), &other.key).unwrap();
    std::fs::write(files.path("empty.pem"), "").unwrap();
    std::fs::write(files.path("rules"), "a=b\nnonsense\n").unwrap();
    let (cert, key, ca) = (
        files.flag("tls-cert", "tls.crt"),
        files.flag("tls-key", "tls.key"),
        files.flag("tls-client-ca", "clients.pem"),
    );
    for (flags, part) in [
        (vec![cert.clone()], "go together"),
        (vec![ca.clone()], "go together"),
        (vec![cert.clone(), files.flag("tls-key", "other.key")], "do not fit together"),
        (
            vec![cert.clone(), files.flag("tls-key", "no-such.key")],
            "--tls-key (GATEWAY_TLS_KEY): cannot read",
        ),
        (vec![files.flag("tls-cert", "empty.pem"), key.clone()], "holds no certificate"),
        (vec![cert.clone(), key.clone(), files.flag("tls-client-ca", "empty.pem")], "holds no certificate"),
        (vec!["--allow=a=b".into()], "need --tls-client-ca"),
        (vec![cert.clone(), key.clone(), "--allow=a=b".into()], "need --tls-client-ca"),
        (vec![cert.clone(), key.clone(), ca.clone(), "--allow=a".into()], "must be CALLER=PROJECT"),
        (vec![cert, key, ca, files.flag("allow-file", "rules")], "line 2"),
    ] {
        let all: Vec<&str> =
            ["serve", "--sandbox"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let refused = crate::child::output(crate::child::gateway(&all)).await;
        let told = crate::child::text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{flags:?}");
        assert!(told.contains(part), "{part} in {told}");
    }
}
