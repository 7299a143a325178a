//! An identity service with the API of Keystone, and a gateway that has an account there.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::support::certificates::TlsFiles;
use crate::support::process::{self, GatewayProcess};
use crate::support::*;
use backup_share_gateway::proto::GetBackupShareRequest;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

pub const GATEWAY_TOKEN: &str = "gAAAAABl-token-of-the-gateways-own";
pub const PASSWORD: &str = "correct horse battery \u{fc}staple";

pub const ACCOUNT: [(&str, &str); 4] = [
    ("OS_USERNAME", "reader"),
    ("OS_PASSWORD", PASSWORD),
    ("OS_USER_DOMAIN_NAME", "OTC00000000001000000000"),
    ("OS_PROJECT_ID", PROJECT),
];

/// The account without a project: it gets a token for each one that a call names.
pub const ACCOUNT_OF_EACH: [(&str, &str); 3] = [ACCOUNT[0], ACCOUNT[1], ACCOUNT[2]];

/// Code, reason and service.
pub fn summary(error: &ErrorStatus) -> (Code, &str, Option<&str>) {
    (error.code, error.reason.as_str(), error.metadata("service"))
}

/// The body of a reply with a token that is valid for `seconds`, with a catalog.
pub fn token_document(seconds: usize, catalog: &Value) -> Value {
    json!({"token": {
        "methods": ["password"],
        "issued_at": "2026-11-23T08:00:00.000000Z",
        "expires_at": format!("2026-11-23T{:02}:{:02}:{:02}.855000Z", 8 + seconds / 3600, seconds / 60 % 60, seconds % 60),
        "user": {"password_expires_at": "2016-11-06T15:32:17.000000"},
        "project": {"id": PROJECT, "name": "eu-de"},
        "catalog": catalog,
    }})
}

pub fn token_reply(token: &str, seconds: usize, catalog: &Value) -> Script {
    reply(201, &[("x-subject-token", token)], token_document(seconds, catalog).to_string())
}

/// A service of the catalog with one endpoint.
pub fn service(kind: &str, interface: &str, region: &str, url: &str) -> Value {
    json!({"type": kind, "name": kind, "endpoints": [{"id": "e", "interface": interface, "region": region, "region_id": region, "url": url}]})
}

/// An identity service that issues `GATEWAY_TOKEN-1`, `GATEWAY_TOKEN-2`, …
pub async fn issuing_tokens(seconds: usize) -> Upstream {
    Upstream::scripted(move |_, number| {
        token_reply(&format!("{GATEWAY_TOKEN}-{number}"), seconds, &json!([]))
    })
    .await
}

/// The project that a token request names. `None` if it asks for a token without a project.
pub fn requested_project(request: &ReceivedRequest) -> Option<String> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["auth"]["scope"]["project"]["id"].as_str().map(str::to_owned)
}

/// A token of 3,600 s without a catalog: `GATEWAY_TOKEN.PROJECT.NUMBER`.
pub fn project_token(project: &str, number: usize) -> Script {
    token_reply(&format!("{GATEWAY_TOKEN}.{project}.{number}"), 3600, &json!([]))
}

/// What the identity service says of a wrong password, and of a project that the account may not use.
pub fn refusal() -> Script {
    reply(
        401,
        &[],
        r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#,
    )
}

/// An identity service that issues tokens by [`project_token`], but not for projects whose name begins with `refused`.
pub async fn issuing_project_tokens() -> Upstream {
    Upstream::scripted(|request, number| match requested_project(request) {
        Some(project) if project.starts_with("refused") => refusal(),
        Some(project) => project_token(&project, number),
        None => project_token("none", number),
    })
    .await
}

/// An upstream that takes a token only for the project that it was issued for.
pub async fn upstream_of_projects() -> Upstream {
    Upstream::scripted(|request, _| {
        let token = request.header("x-auth-token").unwrap();
        let project = request.line.split('/').nth(2).unwrap();
        if token.split('.').nth(1) == Some(project) { documented_reply() } else { reply(401, &[], "") }
    })
    .await
}

/// The requests for tokens of a project.
pub fn requests_for(identity: &Upstream, project: &str) -> usize {
    let is_for = |request: &&ReceivedRequest| requested_project(request).as_deref() == Some(project);
    identity.requests().iter().filter(is_for).count()
}

/// A gateway with an account, and a client that may use it.
pub struct KeystoneGateway {
    pub files: TlsFiles,
    pub gateway: Gateway,
    pub client: BackupShareServiceClient<Channel>,
}

impl KeystoneGateway {
    pub async fn start(identity: &Upstream, variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let files = TlsFiles::new();
        files.write_secrets(&[("OS_AUTH_URL", &format!("{}/v3", identity.url()))]);
        files.write_secrets(variables);
        let own_flags = files.own_credential_flags("keystone");
        let gateway = Gateway::start(&[&strs(&own_flags), flags].concat()).await;
        let client = files.authorized_client(&gateway).await;
        Self { files, gateway, client }
    }

    pub async fn with_upstream(upstream: &Upstream, identity: &Upstream) -> Self {
        Self::start(identity, &ACCOUNT, &[&upstream.url_flag()]).await
    }

    /// With a token for each project.
    pub async fn of_each_project(upstream: &Upstream, identity: &Upstream) -> Self {
        Self::start(identity, &ACCOUNT_OF_EACH, &[&upstream.url_flag()]).await
    }

    pub async fn get(&self) -> Result<(), ErrorStatus> {
        self.get_in(PROJECT).await
    }

    /// A call for the documented share in this project.
    pub async fn get_in(&self, project: &str) -> Result<(), ErrorStatus> {
        self.call(request(project, SHARE)).await
    }

    pub async fn call(&self, request: Request<GetBackupShareRequest>) -> Result<(), ErrorStatus> {
        let response = with_timeout("a call", self.client.clone().get_backup_share(request)).await;
        response.map(drop).map_err(ErrorStatus::decode)
    }

    /// Calls in these projects, all at once, spread over connections.
    pub async fn get_in_all(&self, projects: &[&str]) -> Vec<Result<(), ErrorStatus>> {
        const STREAMS: usize = 100;
        let calls = projects.chunks(STREAMS).map(async |projects| {
            let client = self.files.authorized_client(&self.gateway).await;
            let calls = projects.iter().map(async |project| {
                let call = client.clone().get_backup_share(request(project, SHARE)).await;
                call.map(drop).map_err(ErrorStatus::decode)
            });
            join_all(calls).await
        });
        with_timeout("all calls", join_all(calls)).await.into_iter().flatten().collect()
    }

    pub async fn is_ready(&self) -> bool {
        self.gateway.admin_get("/readyz").await.0 == 200
    }

    pub async fn becomes_ready(&self) {
        poll_until("readiness", async || self.is_ready().await.then_some(())).await;
    }

    pub async fn renewals(&self, outcome: &str) -> f64 {
        self.gateway.metric(&format!(r#"auth_token_renewals_total{{outcome="{outcome}"}}"#)).await
    }
}

/// An upstream that refuses the tokens whose number `refuses` selects.
pub async fn upstream_refusing_tokens(refuses: impl Fn(usize) -> bool + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |request, _| {
        let number = request.header("x-auth-token").and_then(|token| token.rsplit('-').next()?.parse().ok());
        if refuses(number.unwrap()) { reply(401, &[], "") } else { documented_reply() }
    })
    .await
}

/// A `serve` process with an account at `identity`, at the log level trace.
pub async fn start_process(
    identity: &Upstream,
    more: &[(&str, &str)],
    flags: &[&str],
) -> (GatewayProcess, TlsFiles) {
    let files = TlsFiles::new();
    let own_flags =
        [files.authorized_flags(), vec!["--auth=keystone".into(), LOG_EVERYTHING.into(), PLAINTEXT.into()]]
            .concat();
    let mut command = process::serve_command(&[&strs(&own_flags), flags].concat());
    command.env("OS_AUTH_URL", identity.url()).envs(ACCOUNT).envs(more.iter().copied());
    (GatewayProcess::spawn(command).await, files)
}
