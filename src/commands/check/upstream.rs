//! The steps of `check --connect`: the identity service, if the gateway has an account, and the upstream up to a call.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::connection;
use super::report::{Failure, Report, Stopped};
use crate::config::{Config, UpstreamLocation};
use crate::credentials::{CachedToken, CredentialProvider, Keystone};
use crate::domain::{
    BackupShares, CallContext, CallStats, Error, ErrorKind, ProjectId, ShareId, ShareRef, Token, TraceContext,
};
use crate::grpc::{AuthorizationPolicy, RpcError};
use crate::metrics::Metrics;
use crate::upstream::{HttpConfig, Upstream};

/// A share and a project that do not exist.
const NO_SHARE: &str = "00000000-0000-4000-8000-000000000000";
const NO_PROJECT: &str = "00000000000000000000000000000000";

pub(super) async fn check(config: Config, report: &Report) -> Result<(), Stopped> {
    let http = &config.upstream.http;
    let credentials = CredentialProvider::new(config.credentials)
        .map_err(|problem| report.fail("credential", &Failure::internal(problem)))?;
    let issued = match &credentials {
        CredentialProvider::Keystone(keystone) => Some(check_identity(report, keystone, http).await?),
        CredentialProvider::PassThrough | CredentialProvider::AkSk(_) => None,
    };
    let url = match config.upstream_location {
        UpstreamLocation::Sandbox => {
            report.skip("upstream", "the embedded upstream starts with the gateway");
            return Ok(());
        }
        UpstreamLocation::Url(url) => url,
        UpstreamLocation::Catalog => match issued.as_ref().and_then(|issued| issued.endpoint.as_ref()) {
            Some(url) => url.clone(),
            None => {
                let failure = Failure::new("the catalog has no endpoint of VBS", "set --upstream-url");
                return Err(report.fail("upstream", &failure));
            }
        },
    };
    connection::check(report, "upstream", &url, &http.roots, http).await?;

    let issued_for = issued.and_then(|issued| issued.project_id.clone());
    let allowed = config.authorization.as_ref().and_then(AuthorizationPolicy::any_project);
    let project = issued_for.or(allowed).unwrap_or_else(|| NO_PROJECT.to_owned());
    let token = match &credentials {
        CredentialProvider::PassThrough => Some(Token::placeholder()),
        CredentialProvider::Keystone(_) | CredentialProvider::AkSk(_) => None,
    };
    let upstream = Metrics::new(crate::telemetry::dropped_log_lines)
        .map_err(|error| error.to_string())
        .and_then(|metrics| Upstream::new(Some(url), config.upstream, credentials, metrics))
        .map_err(|problem| report.fail(ROUTE, &Failure::internal(problem)))?;
    report.step(ROUTE, request_share(&upstream, project, token, config.grpc.max_deadline).await)
}

async fn check_identity(
    report: &Report,
    keystone: &Keystone,
    http: &HttpConfig,
) -> Result<Arc<CachedToken>, Stopped> {
    let (url, roots) = keystone.identity_service();
    connection::check(report, "identity service", &url, &roots, http).await?;
    let issued = report.step("identity service, token", request_token(keystone).await)?;
    if let Some(endpoint) = &issued.endpoint {
        report.ok("identity service, catalog", &format!("the upstream is {endpoint}"));
    }
    Ok(issued)
}

async fn request_token(keystone: &Keystone) -> Result<(String, Arc<CachedToken>), Failure> {
    let issued = keystone.fetch_token().await.map_err(|problem| {
        Failure::new(problem, "check the OS_ variables, in the environment or in --secrets-dir")
    })?;
    let project = issued.project_id.as_deref().unwrap_or("no project");
    Ok((format!("issued for {project}, valid for {} s", issued.lifetime.as_secs()), issued))
}

const ROUTE: &str = "upstream, route";

/// Requests a share that does not exist, and decides from the response whether it comes from VBS. In pass-through mode the
/// gateway has no credential: `token` is a placeholder, which VBS rejects.
async fn request_share(
    upstream: &Upstream,
    project: String,
    token: Option<Token>,
    limit: Duration,
) -> Result<(String, ()), Failure> {
    let (Some(project_id), Some(id)) = (ProjectId::parse(project), ShareId::parse(NO_SHARE.into())) else {
        return Err(Failure::internal("invalid ID"));
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
    match upstream.get(&call, &ShareRef { project_id, id }).await {
        Ok(_) => Ok(("VBS answered with a share".into(), ())),
        Err(error) if error.kind == ErrorKind::ShareNotFound => {
            Ok(("VBS answered: it has no such share, as expected".into(), ()))
        }
        Err(error) if !has_credential && requires_token(&error) => {
            if error.code.is_none() && error.message.is_none() {
                return Err(route_failure(error, Some("the response is not from VBS: check the URL")));
            }
            Ok(("it requires a token, like VBS; use `get` with a valid token to test a call".into(), ()))
        }
        Err(error) => Err(route_failure(error, None)),
    }
}

fn requires_token(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::Forbidden)
}

/// Without `advice`, the message that a caller would get is the advice.
fn route_failure(error: Error, advice: Option<&str>) -> Failure {
    let detail = error.detail.clone();
    let error = RpcError::Upstream(Box::new(error));
    let status = error.status(&HeaderValue::from_static("check"));
    Failure::new(format!("{} ({detail})", error.reason()), advice.unwrap_or(status.message()))
}
