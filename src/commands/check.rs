//! The `check` command: tests the configuration of `serve`, and with `--connect` what it points to. It starts nothing. For
//! each step it prints what was found, and what to do where it failed.
//!
//! Once there is a [`Config`] to check, flags, files, rules and account have been read, and certificate and key match.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error as TlsError};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::output::write_line;
use super::{UNAVAILABLE, USAGE, runtime};
use crate::config::{Config, UpstreamLocation};
use crate::credentials::{self, CachedToken, CredentialProvider, Keystone};
use crate::domain::{
    BackupShares, CallContext, CallStats, Error, ErrorKind, ProjectId, ShareId, ShareRef, Token, TraceContext,
};
use crate::grpc::{AuthorizationConfig, RpcError};
use crate::http::{BaseUrl, tls_config};
use crate::metrics::Metrics;
use crate::pem::Certificate;
use crate::upstream::{Roots, Upstream};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// No problem was found.
    Good,
    /// The configuration is wrong.
    Misconfigured,
    /// Something cannot be reached, or is not what it should be.
    Unreachable,
}

/// A share that nobody has.
const NO_SHARE: &str = "00000000-0000-4000-8000-000000000000";
const NO_PROJECT: &str = "00000000000000000000000000000000";

pub(super) fn run(config: Config, connect: bool) -> Result<ExitCode, String> {
    Ok(match runtime()?.block_on(check(config, connect)) {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Misconfigured => ExitCode::from(USAGE),
        Outcome::Unreachable => ExitCode::from(UNAVAILABLE),
    })
}

/// Checks `config`, and with `connect` what it points to.
async fn check(config: Config, connect: bool) -> Outcome {
    let mut report = Report { has_failed: false };
    report.configuration(&config);
    if report.has_failed {
        return Outcome::Misconfigured;
    }
    if connect {
        report.connect(config).await;
    }
    if report.has_failed { Outcome::Unreachable } else { Outcome::Good }
}

/// Prints one line for each step.
struct Report {
    has_failed: bool,
}

/// A step has failed and was reported: the steps after it make no sense.
struct Failed;

impl Report {
    fn ok(&mut self, step: &str, found: &str) {
        write_line(io::stdout(), &format!("ok    {step}: {found}"));
    }

    fn skip(&mut self, step: &str, why: &str) {
        write_line(io::stdout(), &format!("skip  {step}: {why}"));
    }

    fn fail(&mut self, step: &str, found: &str, todo: &str) -> Failed {
        self.has_failed = true;
        write_line(io::stdout(), &format!("FAIL  {step}: {found}; {todo}"));
        Failed
    }

    fn configuration(&mut self, config: &Config) {
        self.ok("configuration", "every flag and every file can be read");
        if let Some(tls) = &config.tls {
            let certificate = tls.certificate();
            let described = format!("{}; the key fits", certificate.describe());
            if certificate.has_expired(SystemTime::now()) {
                self.fail("certificate", &described, "it has expired: renew it (--tls-cert, --tls-key)");
            } else {
                self.ok("certificate", &described);
            }
        }
        if let Some(access) = &config.authorization {
            for line in access.describe() {
                self.ok("rule", &line);
            }
        }
        let credential = match &config.credentials {
            credentials::Config::PassThrough => "the caller's token",
            credentials::Config::Keystone(_) => "a token of the gateway's own account",
            credentials::Config::AkSk(_) => "the gateway's own keys",
        };
        self.ok("credential", credential);
    }

    async fn connect(&mut self, config: Config) {
        // What has failed has been reported.
        let _ = self.reach_all(config).await;
    }

    async fn reach_all(&mut self, config: Config) -> Result<(), Failed> {
        let mut project = config.authorization.as_ref().and_then(AuthorizationConfig::a_project);
        let mut catalog_url = None;
        let direct = config.upstream.http.proxy.is_none();
        let connect_timeout = config.upstream.http.connect_timeout;
        let credentials = CredentialProvider::new(config.credentials)
            .map_err(|why| self.fail("credential", &why, "this is a fault of the gateway"))?;
        if let CredentialProvider::Keystone(keystone) = &credentials {
            let (url, roots) = keystone.identity_service();
            self.check_connectivity("identity service", &url, &roots, connect_timeout, direct).await?;
            let issued = self.identify(keystone).await?;
            catalog_url = issued.endpoint.clone();
            if let Some(issued_for) = &issued.project_id {
                project = Some(issued_for.clone());
            }
        }
        let url = match &config.upstream_location {
            UpstreamLocation::Sandbox => {
                self.skip("upstream", "the embedded one starts with the gateway");
                return Ok(());
            }
            UpstreamLocation::Url(url) => url.clone(),
            UpstreamLocation::Catalog => match catalog_url {
                Some(url) => url,
                None => return Err(self.fail("upstream", "the catalog has none", "set --upstream-url")),
            },
        };
        let roots = &config.upstream.http.roots;
        self.check_connectivity("upstream", &url, roots, connect_timeout, direct).await?;
        let is_own_credential = !matches!(credentials, CredentialProvider::PassThrough);
        let upstream = Metrics::new(crate::telemetry::dropped_log_lines)
            .map_err(|error| error.to_string())
            .and_then(|metrics| Upstream::new(Some(url), config.upstream, credentials, metrics))
            .map_err(|why| self.fail("upstream, route", &why, "this is a fault of the gateway"))?;
        self.route(&upstream, is_own_credential, project, config.grpc.deadlines.max).await
    }

    /// Name, TCP and TLS.
    async fn check_connectivity(
        &mut self,
        who: &str,
        url: &BaseUrl,
        roots: &Roots,
        limit: Duration,
        direct: bool,
    ) -> Result<(), Failed> {
        if !direct {
            self.skip(&format!("{who}, name, TCP and TLS"), "they are the proxy's (--upstream-proxy)");
            return Ok(());
        }
        let (host, port) = url.host_and_port();
        let addresses = self.name(who, &host, port, limit).await?;
        let stream = self.tcp(who, &addresses, limit).await?;
        if url.is_plaintext() {
            self.skip(&format!("{who}, TLS"), "the URL is http: tokens travel in the clear");
            return Ok(());
        }
        self.tls(who, &host, roots, stream, limit).await
    }

    async fn name(
        &mut self,
        who: &str,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Vec<SocketAddr>, Failed> {
        let step = format!("{who}, name");
        let found = match timeout(limit, lookup_host((host, port))).await {
            Ok(found) => found.map(Iterator::collect::<Vec<_>>).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
        };
        let why = match found {
            Ok(addresses) if !addresses.is_empty() => {
                let all: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                self.ok(&step, &format!("{host} is {}", all.join(", ")));
                return Ok(addresses);
            }
            Ok(_) => format!("{host} has no address"),
            Err(why) => format!("{host} cannot be resolved ({why})"),
        };
        Err(self.fail(&step, &why, "check the URL and the name server"))
    }

    async fn tcp(
        &mut self,
        who: &str,
        addresses: &[SocketAddr],
        limit: Duration,
    ) -> Result<TcpStream, Failed> {
        let step = format!("{who}, TCP");
        let mut refusals = Vec::new();
        for address in addresses {
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    self.ok(&step, &format!("{address} takes connections"));
                    return Ok(stream);
                }
                Ok(Err(error)) => refusals.push(format!("{address}: {error}")),
                Err(_) => refusals.push(format!("{address}: no answer within {} s", limit.as_secs_f64())),
            }
        }
        let todo = "check port, firewall and network policy, or set --upstream-proxy";
        Err(self.fail(&step, &refusals.join(", "), todo))
    }

    async fn tls(
        &mut self,
        who: &str,
        host: &str,
        roots: &Roots,
        stream: TcpStream,
        limit: Duration,
    ) -> Result<(), Failed> {
        let step = format!("{who}, TLS");
        let handshake = async {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| (error.to_string(), "check the URL"))?;
            let config = tls_config(roots).map_err(|error| (error, "this is a fault of the gateway"))?;
            let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            connected.map_err(|error| (error.to_string(), advice(&error)))
        };
        match timeout(limit, handshake).await {
            Ok(Ok(stream)) => {
                let (_, connection) = stream.get_ref();
                let leaf = connection.peer_certificates().and_then(<[_]>::first).and_then(Certificate::read);
                self.ok(&step, &leaf.map_or_else(|| "no certificate".into(), |leaf| leaf.describe()));
                Ok(())
            }
            Ok(Err((why, todo))) => Err(self.fail(&step, &why, todo)),
            Err(_) => {
                let why = format!("no answer within {} s", limit.as_secs_f64());
                Err(self.fail(&step, &why, "does the port speak TLS?"))
            }
        }
    }

    async fn identify(&mut self, keystone: &Keystone) -> Result<Arc<CachedToken>, Failed> {
        let step = "identity service, token";
        match keystone.fetch_token().await {
            Ok(issued) => {
                let project = issued.project_id.as_deref().unwrap_or("no project");
                self.ok(step, &format!("issued for {project}, holds {} s", issued.lifetime.as_secs()));
                if let Some(endpoint) = &issued.endpoint {
                    self.ok("identity service, catalog", &format!("the upstream is at {endpoint}"));
                }
                Ok(issued)
            }
            Err(why) => {
                Err(self.fail(step, &why, "see the OS_ variables, in the environment or in --secrets-dir"))
            }
        }
    }

    /// Requests a share that does not exist, and decides from the response whether VBS sent it.
    async fn route(
        &mut self,
        upstream: &Upstream,
        is_own_credential: bool,
        project: Option<String>,
        limit: Duration,
    ) -> Result<(), Failed> {
        let step = "upstream, route";
        // In pass-through mode the gateway has no credential, and sends a placeholder.
        let token = if is_own_credential { None } else { Some(Token::placeholder()) };
        let project = project.and_then(ProjectId::parse).or_else(|| ProjectId::parse(NO_PROJECT.into()));
        let Some((project_id, id)) = project.zip(ShareId::parse(NO_SHARE.into())) else { return Ok(()) };
        let call = CallContext {
            request_id: HeaderValue::from_static("backup-share-gateway-check"),
            token,
            trace: TraceContext::default(),
            deadline: Instant::now() + limit,
            may_retry: false,
            stats: CallStats::default(),
        };
        match upstream.get(&call, &ShareRef { project_id, id }).await {
            Ok(_) => self.ok(step, "VBS answered with a share"),
            Err(error) => match responder(&error, is_own_credential) {
                Some(found) => self.ok(step, found),
                None => return Err(self.unexpected_responder(error, is_own_credential)),
            },
        }
        Ok(())
    }

    fn unexpected_responder(&mut self, error: Error, own: bool) -> Failed {
        let detail = error.detail.clone();
        let is_foreign = wants_token(&error) && !own;
        let failure = RpcError::Upstream(Box::new(error));
        let status = failure.status(&HeaderValue::from_static("check"));
        let todo = if is_foreign { "this is not VBS's voice: check the URL" } else { status.message() };
        self.fail("upstream, route", &format!("{} ({detail})", failure.reason()), todo)
    }
}

/// What an error tells of VBS, if VBS produced it: that the share is not there, or, where there is no credential to send,
/// that one is required, in JSON of a known shape.
fn responder(error: &Error, own: bool) -> Option<&'static str> {
    let in_shape = error.code.is_some() || error.message.is_some();
    if error.kind == ErrorKind::ShareNotFound {
        Some("VBS answered: it has no such share, as it should be")
    } else if wants_token(error) && !own && in_shape {
        Some("it wants a token, as VBS does; `get` shows what it says to a good one")
    } else {
        None
    }
}

fn wants_token(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::Forbidden)
}

/// What to do about a handshake that failed.
fn advice(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    match cause {
        // Another CA may have the same name.
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "who signed it is not believed: set --upstream-ca (the identity service: OS_CACERT)",
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "the certificate is of another name: check the URL",
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its owner must renew it; or the clock here is wrong",
        _ => "does the port speak TLS?",
    }
}
