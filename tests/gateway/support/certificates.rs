//! Certificates, a directory with the files that a gateway reads, and clients with TLS.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

pub const SPIFFE: &str = "spiffe://example.org/ns/backup/sa/reader";

/// A certificate authority.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key, in PEM.
pub struct CertificateAndKey {
    pub certificate: String,
    pub key: String,
}

impl CertificateAuthority {
    pub fn new() -> Self {
        Self::with("rcgen self signed cert", |_| {})
    }

    /// An authority with this name, after changes to its parameters.
    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, names: &[SanType]) -> CertificateAndKey {
        self.issue_until(names, 2099)
    }

    pub fn issue_until(&self, names: &[SanType], year: i32) -> CertificateAndKey {
        self.issue_with(names, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    pub fn issue_with(
        &self,
        names: &[SanType],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateAndKey {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
        change(&mut params);
        CertificateAndKey {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// Makes a named pipe, which blocks whoever opens it.
pub fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A directory with a gateway's files, and the flags that name them.
pub struct TlsFiles {
    pub directory: tempfile::TempDir,
    pub servers: CertificateAuthority,
    pub callers: CertificateAuthority,
}

impl TlsFiles {
    pub fn new() -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
            servers: CertificateAuthority::new(),
            callers: CertificateAuthority::new(),
        };
        files.write_server_pair(&files.servers.issue(&[dns("localhost")]));
        std::fs::write(files.path("clients.pem"), &files.callers.pem).unwrap();
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_server_pair(&self, pair: &CertificateAndKey) {
        std::fs::write(self.path("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(self.path("tls.key"), &pair.key).unwrap();
    }

    pub fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    pub fn tls_flags(&self) -> Vec<String> {
        vec![self.flag("tls-cert", "tls.crt"), self.flag("tls-key", "tls.key")]
    }

    pub fn mutual_tls_flags(&self) -> Vec<String> {
        [self.tls_flags(), vec![self.flag("tls-client-ca", "clients.pem")]].concat()
    }

    /// Mutual TLS, and the rule that [`SPIFFE`] may read every project.
    pub fn authorized_flags(&self) -> Vec<String> {
        [self.mutual_tls_flags(), vec![format!("--allow={SPIFFE}=*")]].concat()
    }

    /// The same, with the gateway's own credentials from the files of [`Self::write_secrets`].
    pub fn own_credential_flags(&self, auth: &str) -> Vec<String> {
        let secrets = self.flag("secrets-dir", "secrets");
        [self.authorized_flags(), vec![format!("--auth={auth}"), secrets, PLAINTEXT.into()]].concat()
    }

    /// Writes one file for each variable.
    pub fn write_secrets(&self, secrets: &[(&str, &str)]) {
        std::fs::create_dir_all(self.path("secrets")).unwrap();
        for (name, value) in secrets {
            std::fs::write(self.path("secrets").join(name), format!("{value}\n")).unwrap();
        }
    }

    /// A client that is [`SPIFFE`].
    pub async fn authorized_client(&self, gateway: &Gateway) -> BackupShareServiceClient<Channel> {
        let tls = self.client_tls(Some(&self.callers.issue(&[uri(SPIFFE)])));
        BackupShareServiceClient::new(connect_tls(gateway, tls).await.unwrap())
    }

    /// The TLS flags of `get` for the caller [`SPIFFE`].
    pub fn client_flags(&self) -> Vec<String> {
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

    pub fn client_tls(&self, identity: Option<&CertificateAndKey>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.servers.pem))
            .domain_name("localhost");
        match identity {
            Some(pair) => config.identity(Identity::from_pem(&pair.certificate, &pair.key)),
            None => config,
        }
    }
}

pub async fn connect_tls(
    gateway: &Gateway,
    tls: ClientTlsConfig,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint =
        Endpoint::from_shared(format!("https://{}", gateway.grpc)).unwrap().tls_config(tls).unwrap();
    with_timeout("a TLS handshake", endpoint.connect()).await
}

pub async fn start_sandbox(flags: Vec<String>, more: &[&str]) -> Gateway {
    Gateway::start(&[&strs(&flags), more, &["--sandbox"]].concat()).await
}

/// A call on a new connection. With TLS 1.3, a client certificate that is refused shows at the first call only.
pub async fn get_over_tls(gateway: &Gateway, tls: ClientTlsConfig) -> Result<(), tonic::Status> {
    let channel = connect_tls(gateway, tls).await.map_err(|error| tonic::Status::from_error(error.into()))?;
    let mut client = BackupShareServiceClient::new(channel);
    get_share(&mut client).await.map(drop)
}
