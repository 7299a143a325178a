//! The two gateways and the files that they reload.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::client::Client;
use super::common::process::Process;
use super::common::tls::{CALLER, Pki, replace};
use super::common::upstream::Upstream;
use super::common::{DOCUMENTED, PROJECT, identity};

/// What is short here, so that it happens often: the life of tokens, and the age of connections of both sides.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);
const AGES: [&str; 2] = ["--max-connection-age=60s", "--upstream-connection-lifetime=60s"];

pub(crate) struct Files {
    pub(crate) pki: Pki,
    rules: PathBuf,
    secrets: PathBuf,
}

impl Files {
    pub(crate) fn new() -> Self {
        let pki = Pki::new();
        let (rules, secrets) = (pki.path("rules"), pki.path("secrets"));
        fs::create_dir(&secrets).unwrap();
        let files = Self { pki, rules, secrets };
        files.write_rules(0);
        files.write_password(0);
        files
    }

    /// The project that the rules of this round allow in addition to [`PROJECT`].
    pub(crate) fn project_of(round: u64) -> String {
        format!("project-of-round-{round}")
    }

    /// Other rules and certificates, and now and then another password.
    pub(crate) fn replace(&self, round: u64) {
        self.pki.renew();
        self.write_rules(round);
        if round.is_multiple_of(6) {
            self.write_password(round);
        }
    }

    fn write_rules(&self, round: u64) {
        let others = (0..1_000).map(|number| format!("caller-{number}.round-{round}.example=*\n"));
        let own = format!("{CALLER}={PROJECT},{}\n", Self::project_of(round));
        replace(&self.rules, &others.chain([own]).collect::<String>());
    }

    fn write_password(&self, round: u64) {
        // The identity service takes any.
        replace(&self.secrets.join("OS_PASSWORD"), &format!("password-{round}"));
    }
}

/// A gateway under load.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) client: Client,
    pub(crate) admin: SocketAddr,
    /// Of Keystone mode.
    account: Option<identity::Account>,
}

impl Target {
    /// In pass-through mode, with rules, and TLS on both sides.
    pub(crate) async fn rules(files: &Files) -> Self {
        let url = format!("https://{}", Upstream::new(DOCUMENTED).start_tls(files.pki.acceptor()).await);
        let (upstream_ca, rules) =
            (files.pki.upstream_flag(), format!("--allow-file={}", files.rules.display()));
        let flags = [upstream_ca.as_str(), &rules];
        let flags: Vec<&str> = AGES.into_iter().chain(flags).chain(files.pki.flags()).collect();
        Self::new("rules", Process::gateway_at(&url, &flags, &[], &[]), files, None)
    }

    /// In Keystone mode, with a token for each project.
    pub(crate) async fn keystone(files: &Files) -> Self {
        let account = identity::Account::start(TOKEN_LIFETIME).await;
        let upstream = Upstream::new(DOCUMENTED).start().await;
        let (rule, secrets) =
            (format!("--allow={CALLER}=*"), format!("--secrets-dir={}", files.secrets.display()));
        let flags = ["--auth=keystone", &rule, &secrets];
        let flags: Vec<&str> = AGES.into_iter().chain(flags).chain(files.pki.flags()).collect();
        let process = Process::gateway_with(upstream, &flags, &account.variables(), &[]);
        Self::new("keystone", process, files, Some(account))
    }

    fn new(name: &'static str, process: Process, files: &Files, account: Option<identity::Account>) -> Self {
        let client = Client::new(process.grpc, files.pki.dialer());
        let admin = process.admin.unwrap();
        Self { name, process, client, admin, account }
    }

    /// The tokens that the gateway has got so far.
    pub(crate) fn tokens(&self) -> u64 {
        self.account.as_ref().map_or(0, identity::Account::issued)
    }
}
