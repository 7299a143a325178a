//! An identity service, and a gateway that has an account there.

use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::support::certificates::{Files, SPIFFE, connect, uri};
use crate::support::process::{self, Served};
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

pub const OWN: &str = "gAAAAABl-token-of-the-gateways-own";
pub const PASSWORD: &str = "correct horse battery \u{fc}staple";

pub const ACCOUNT: [(&str, &str); 4] = [
    ("OS_USERNAME", "reader"),
    ("OS_PASSWORD", PASSWORD),
    ("OS_USER_DOMAIN_NAME", "OTC00000000001000000000"),
    ("OS_PROJECT_ID", PROJECT),
];

/// A document of a token that holds so many seconds, with a catalog.
pub fn document(seconds: usize, catalog: &Value) -> Value {
    json!({"token": {
        "methods": ["password"],
        "issued_at": "2026-11-23T08:00:00.000000Z",
        "expires_at": format!("2026-11-23T{:02}:{:02}:{:02}.855000Z", 8 + seconds / 3600, seconds / 60 % 60, seconds % 60),
        "user": {"password_expires_at": "2016-11-06T15:32:17.000000"},
        "project": {"id": PROJECT, "name": "eu-de"},
        "catalog": catalog,
    }})
}

pub fn issued(token: &str, seconds: usize, catalog: &Value) -> Script {
    reply(201, &[("x-subject-token", token)], document(seconds, catalog).to_string())
}

/// A service of the catalog, with an endpoint.
pub fn service(kind: &str, interface: &str, region: &str, url: &str) -> Value {
    json!({"type": kind, "name": kind, "endpoints": [{"id": "e", "interface": interface, "region": region, "region_id": region, "url": url}]})
}

/// An identity service that issues `OWN-1`, `OWN-2`, … for so long.
pub async fn issuing(seconds: usize) -> Upstream {
    Upstream::scripted(move |_, number| issued(&format!("{OWN}-{number}"), seconds, &json!([]))).await
}

pub struct Party {
    pub files: Files,
    pub gateway: Running,
    pub client: BackupShareServiceClient<Channel>,
}

pub fn put(files: &Files, variables: &[(&str, &str)]) {
    std::fs::create_dir_all(files.path("secrets")).unwrap();
    for (name, value) in variables {
        std::fs::write(files.path("secrets").join(name), format!("{value}\n")).unwrap();
    }
}

impl Party {
    /// A gateway that has an account at `identity`, and its one caller.
    pub async fn start(identity: &Upstream, variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let files = Files::new();
        put(&files, &[("OS_AUTH_URL", &format!("{}/v3", identity.url()))]);
        put(&files, variables);
        let secrets = files.flag("secrets-dir", "secrets");
        let rule = format!("--allow={SPIFFE}=*");
        let fixed = ["--allow-plaintext-upstream", "--auth=keystone", &secrets, &rule];
        let mutual = files.mutual();
        let all: Vec<&str> =
            mutual.iter().map(String::as_str).chain(fixed).chain(flags.iter().copied()).collect();
        let gateway = Running::start(&all).await;
        let caller = files.caller(Some(&files.callers.issue(&[uri(SPIFFE)])));
        let client = BackupShareServiceClient::new(connect(&gateway, caller).await.unwrap());
        Self { files, gateway, client }
    }

    /// The same before `upstream`.
    pub async fn before(upstream: &Upstream, identity: &Upstream) -> Self {
        Self::start(identity, &ACCOUNT, &[&format!("--upstream-url={}", upstream.url())]).await
    }

    pub async fn get(&self) -> Result<(), Failure> {
        let answer = soon("a call", self.client.clone().get_backup_share(request(PROJECT, SHARE))).await;
        answer.map(drop).map_err(Failure::of)
    }

    pub async fn is_ready(&self) -> bool {
        self.gateway.admin_get("/readyz").await.0 == 200
    }

    pub async fn becomes_ready(&self) {
        soon("readiness", async {
            while !self.is_ready().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub async fn renewals(&self, outcome: &str) -> f64 {
        self.gateway.metric(&format!(r#"auth_token_renewals_total{{outcome="{outcome}"}}"#)).await
    }
}

/// An upstream that takes no token of those that `refuses` names by their number.
pub async fn refusing(refuses: impl Fn(usize) -> bool + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |seen, _| {
        let number = seen.header("x-auth-token").and_then(|token| token.rsplit('-').next()?.parse().ok());
        if refuses(number.unwrap()) { reply(401, &[], "") } else { documented() }
    })
    .await
}

/// A `serve` process with an account at `identity`, at the log level trace.
pub async fn served(identity: &Upstream, more: &[(&str, &str)], flags: &[&str]) -> (Served, Files) {
    let files = Files::new();
    let (mutual, rule) = (files.mutual(), format!("--allow={SPIFFE}=*"));
    let fixed = [
        "serve",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--allow-plaintext-upstream",
        "--auth=keystone",
        "--log=trace",
        &rule,
    ];
    let all: Vec<&str> =
        fixed.into_iter().chain(flags.iter().copied()).chain(mutual.iter().map(String::as_str)).collect();
    let mut command = process::gateway(&all);
    command.env("OS_AUTH_URL", identity.url()).envs(ACCOUNT).envs(more.iter().copied());
    (Served::spawn(command).await, files)
}
