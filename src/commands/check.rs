//! The `check` command: tests the configuration of `serve`, and with `--connect` the services that it names. It starts nothing.
//!
//! A [`Config`] exists only if flags, files, rules and credentials could be read, and certificate and key match. Each step
//! prints one line, and those of `--connect` end with the first that fails. An error names the step, the problem, and what to do.
//! `tests/gateway/check_command.rs` makes each step fail.

mod connection;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::process::{UNAVAILABLE, block_on, print_line};
use crate::config::{Config, UpstreamLocation};
use crate::credentials::{self, CredentialProvider, IssuedToken, Keystone};
use crate::domain::{
    BackupShares, CallContext, CallStats, ErrorKind, ProjectId, ShareId, ShareRef, Token, TraceContext,
};
use crate::grpc::{AuthorizationPolicy, RpcError};
use crate::metrics::Metrics;
use crate::upstream::{HttpConfig, Upstream};

/// A share and a project that do not exist.
const NO_SHARE: &str = "00000000-0000-4000-8000-000000000000";
const NO_PROJECT: &str = "00000000000000000000000000000000";
/// What to do about the steps that need a token, if each project has its own.
const NAME_PROJECT: &str = "each project has a token of its own: name one with --project-id";
/// The advice for what cannot happen.
const BUG: &str = "this is a bug of the gateway";

pub(super) fn run(config: Config, connect: bool, project: Option<ProjectId>) -> Result<ExitCode, String> {
    for setting in &config.settings {
        print_line(&format!("set   {setting}"));
    }
    for warning in &config.warnings {
        print_line(&format!("warn  {warning}"));
    }
    describe_configuration(&config);
    if connect && let Err(failure) = block_on(check_services(config, project))? {
        print_line(&format!("FAIL  {failure}"));
        return Ok(ExitCode::from(UNAVAILABLE));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe_configuration(config: &Config) {
    print_line("ok    configuration: all flags and files are valid");
    if let Some(tls) = &config.tls {
        print_line(&format!("ok    certificate: {}; the key matches", tls.certificate()));
    }
    for rule in config.authorization.iter().flat_map(AuthorizationPolicy::summary) {
        print_line(&format!("ok    rule: {rule}"));
    }
    let credential = match &config.credentials {
        credentials::Config::PassThrough => "the caller's token",
        credentials::Config::Keystone(keystone) if keystone.account.scope().is_each_project() => {
            "tokens of the gateway's own account, one for each project that a call names"
        }
        credentials::Config::Keystone(_) => "a token of the gateway's own account, for one project",
        credentials::Config::AkSk(..) => "the gateway's own access key",
    };
    print_line(&format!("ok    credential: {credential}"));
}

/// Checks the identity service, if the gateway has an account, and the upstream up to a call.
async fn check_services(config: Config, project: Option<ProjectId>) -> Result<(), String> {
    let http = &config.upstream.http;
    let credentials = CredentialProvider::new(config.credentials, http)
        .map_err(|problem| format!("credential: {problem}; {BUG}"))?;
    let issued = match &credentials {
        CredentialProvider::Keystone(keystone) => {
            let issued = check_identity(keystone, http, project.as_ref()).await?;
            if let (Some(issued), Some(rules)) = (&issued, &config.authorization)
                && !keystone.serves_each_project()
                && let Some(conflict) = rules.conflict_with(&issued.project_id)
            {
                print_line(&format!("warn  {conflict}"));
            }
            issued
        }
        CredentialProvider::PassThrough | CredentialProvider::AkSk(..) => None,
    };
    let lacks_token = matches!(credentials, CredentialProvider::Keystone(_)) && issued.is_none();
    let url = match config.upstream_location {
        UpstreamLocation::Sandbox => {
            print_line("skip  upstream: the embedded upstream starts with the gateway");
            return Ok(());
        }
        UpstreamLocation::Catalog if lacks_token => {
            print_line(&format!("skip  upstream: its URL is in the catalog of a token; {NAME_PROJECT}"));
            return Ok(());
        }
        UpstreamLocation::Url(url) => url,
        UpstreamLocation::Catalog => issued
            .as_ref()
            .and_then(|issued| issued.endpoint.clone())
            .ok_or("upstream: the catalog has no endpoint of VBS; set --upstream-url")?,
    };
    connection::check("upstream", &url, &http.roots, http).await?;
    if lacks_token {
        print_line(&format!("skip  upstream, route: a request needs a token; {NAME_PROJECT}"));
        return Ok(());
    }

    let issued_for = issued.map(|issued| issued.project_id.as_str().to_owned());
    let allowed = config.authorization.as_ref().and_then(AuthorizationPolicy::any_project);
    let requested = project.map(|project| project.as_str().to_owned());
    let project = requested.or(issued_for).or(allowed).unwrap_or_else(|| NO_PROJECT.to_owned());
    let token = match &credentials {
        CredentialProvider::PassThrough => Some(Token::placeholder()),
        CredentialProvider::Keystone(_) | CredentialProvider::AkSk(..) => None,
    };
    let upstream = Metrics::new(crate::telemetry::dropped_log_lines)
        .map_err(|error| error.to_string())
        .and_then(|metrics| Upstream::new(Some(url), config.upstream, credentials, metrics))
        .map_err(|problem| format!("upstream, route: {problem}; {BUG}"))?;
    let finding = request_share(&upstream, project, token, config.grpc.max_deadline).await?;
    print_line(&format!("ok    upstream, route: {finding}"));
    Ok(())
}

/// Gets a token for the account's project, or for `project`. `None` if there is neither.
async fn check_identity(
    keystone: &Keystone,
    http: &HttpConfig,
    project: Option<&ProjectId>,
) -> Result<Option<Arc<IssuedToken>>, String> {
    let (url, roots) = keystone.identity_service();
    connection::check("identity service", &url, &roots, http).await?;
    if keystone.serves_each_project() && project.is_none() {
        print_line(&format!("skip  identity service, token and catalog: {NAME_PROJECT}"));
        return Ok(None);
    }
    let issued = keystone.fetch_token(project).await.map_err(|problem| {
        format!("identity service, token: {problem}; check the OS_ variables, in the environment or in --secrets-dir")
    })?;
    let own = issued.project_id.as_str();
    if let Some(project) = project.filter(|project| **project != issued.project_id) {
        return Err(format!(
            "identity service, token: it is for {own}, and not for {} of --project-id; the account is for one project only",
            project.as_str()
        ));
    }
    let lifetime_s = issued.lifetime.as_secs();
    print_line(&format!("ok    identity service, token: issued for {own}, valid for {lifetime_s} s"));
    if let Some(endpoint) = &issued.endpoint {
        print_line(&format!("ok    identity service, catalog: the upstream is {endpoint}"));
    }
    Ok(Some(issued))
}

/// Requests a share that does not exist, and decides from the response whether it comes from VBS. In pass-through mode the
/// gateway has no credential: `token` is a placeholder, which VBS rejects.
async fn request_share(
    upstream: &Upstream,
    project: String,
    token: Option<Token>,
    limit: Duration,
) -> Result<&'static str, String> {
    let (Some(project_id), Some(id)) = (ProjectId::parse(project), ShareId::parse(NO_SHARE.into())) else {
        return Err(format!("upstream, route: invalid ID; {BUG}"));
    };
    let has_credential = token.is_none();
    let call = CallContext {
        request_id: HeaderValue::from_static("backup-share-gateway-check"),
        token,
        trace: TraceContext::default(),
        deadline: Instant::now() + limit,
        may_retry: false,
        stats: CallStats::default(),
    };
    let error = match upstream.get(&call, &ShareRef { project_id, id }).await {
        Ok(_) => return Ok("VBS answered with a share"),
        Err(error) => error,
    };
    if error.kind == ErrorKind::ShareNotFound {
        return Ok("VBS answered: it has no such share, as expected");
    }
    let requires_token = matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::Forbidden);
    let is_from_vbs = error.code.is_some() || error.message.is_some();
    if requires_token && !has_credential && is_from_vbs {
        return Ok("it requires a token, like VBS; use `get` with a valid token to test a call");
    }
    let detail = error.detail.clone();
    let is_unreachable = error.kind == ErrorKind::Unreachable;
    let error = RpcError::Upstream(Box::new(error));
    let status = error.status(&HeaderValue::from_static("check"));
    let advice = if requires_token && !has_credential {
        "the response is not from VBS: check the URL"
    } else if is_unreachable {
        // The steps before succeed, unless the forward proxy takes them.
        "check --upstream-proxy if there is one, else try again"
    } else {
        status.message()
    };
    Err(format!("upstream, route: {} ({detail}); {advice}", error.reason()))
}
