//! Reads one backup share through backup-share-gateway. README.md shows how to run it.

use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Status, TimeoutExpired};
use tonic_types::StatusExt;

use vbs::backup_share_service_client::BackupShareServiceClient;
use vbs::{BackupShare, GetBackupShareRequest};

mod vbs {
    tonic::include_proto!("vbs.v2");
}

const MAX_ATTEMPTS: usize = 3;
const INITIAL_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
const TOKEN_VARIABLE: &str = "OS_TOKEN";
const MAX_TOKEN_BYTES: usize = 32_768;

/// Reads one backup share. The token is read from the variable OS_TOKEN.
#[derive(Parser)]
struct Arguments {
    /// PEM file of the CAs that verify the gateway's certificate; without it, the system's roots
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of the client certificate, for mutual TLS
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name in the gateway's certificate, if it is not the host of ADDRESS
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Time limit of the call, its retries included
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    deadline: f64,
    /// Permit http to an address that is not loopback: token and share are sent unencrypted
    #[arg(long)]
    allow_plaintext: bool,
    /// https://HOST:PORT or http://HOST:PORT
    address: String,
    /// ID of the project that reads the share
    project: String,
    /// ID of the share
    share: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (channel, deadline, token) = match prepare(&arguments) {
        Ok(prepared) => prepared,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let request = GetBackupShareRequest { project_id: arguments.project, id: arguments.share };
    match get(channel, request, token, deadline).await {
        Ok(share) => {
            println!("{}", format_share(&share));
            ExitCode::SUCCESS
        }
        Err(status) => {
            eprintln!("{}", format_status(&status));
            ExitCode::FAILURE
        }
    }
}

/// Checks everything that was given, before anything is sent.
fn prepare(arguments: &Arguments) -> Result<(Channel, Duration, Option<MetadataValue<Ascii>>), String> {
    let seconds = arguments.deadline;
    if !(seconds > 0.0 && seconds <= 86_400.0) {
        return Err("--deadline: must be more than 0 and at most 86400 seconds".into());
    }
    Ok((connect(arguments)?, Duration::from_secs_f64(seconds), token()?))
}

/// The token, if there is one: a gateway that holds the credentials itself needs none.
fn token() -> Result<Option<MetadataValue<Ascii>>, String> {
    let Some(token) = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    let bytes = token.as_encoded_bytes();
    let is_valid = bytes.len() <= MAX_TOKEN_BYTES && bytes.iter().all(u8::is_ascii_graphic);
    match MetadataValue::try_from(bytes) {
        Ok(mut value) if is_valid => {
            value.set_sensitive(true);
            Ok(Some(value))
        }
        _ => Err(format!("{TOKEN_VARIABLE}: must be at most {MAX_TOKEN_BYTES} characters of visible ASCII")),
    }
}

/// A channel to the address. It connects when the first call is made, and again when the connection is lost.
fn connect(arguments: &Arguments) -> Result<Channel, String> {
    let uri = parse_address(&arguments.address)?;
    let endpoint = Endpoint::from(uri.clone());
    if uri.scheme_str() == Some("https") {
        let flags = if arguments.cert.is_some() { "--cert, --key" } else { "TLS" };
        let endpoint = endpoint
            .tls_config(tls(arguments)?)
            .map_err(|error| format!("{flags}: cannot be used ({})", causes(&error)))?;
        return Ok(endpoint.connect_lazy());
    }
    let Arguments { ca, cert, key, server_name, .. } = arguments;
    if ca.is_some() || cert.is_some() || key.is_some() || server_name.is_some() {
        return Err("--ca, --cert, --key and --server-name need an https ADDRESS".into());
    }
    if !arguments.allow_plaintext && !is_loopback(&uri) {
        return Err(
            "ADDRESS: http sends the token and the share unencrypted: use https, or --allow-plaintext in a trusted network"
                .into(),
        );
    }
    Ok(endpoint.connect_lazy())
}

fn parse_address(text: &str) -> Result<Uri, String> {
    const FORM: &str = "ADDRESS: must be https://HOST:PORT or http://HOST:PORT, and nothing else";
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Err("ADDRESS: must begin with https:// or http://".into());
    }
    let uri: Uri = text.parse().map_err(|_| FORM)?;
    let authority = uri.authority().ok_or(FORM)?;
    // `Uri` also accepts user information, a name in brackets and text behind them.
    let host = authority.host();
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.trim_end_matches(']').parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty(),
    };
    let port = authority.as_str().strip_prefix(host).map(|port| port.trim_start_matches(':'));
    let is_port = port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_host || !is_port || !matches!(uri.path(), "" | "/") || text.contains(['?', '#']) {
        return Err(FORM.into());
    }
    match authority.port_u16() {
        Some(1..) => Ok(uri),
        _ => Err("ADDRESS: must end with a port, such as https://gateway.example:50051".into()),
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(arguments: &Arguments) -> Result<ClientTlsConfig, String> {
    let mut tls = match &arguments.ca {
        Some(path) => ClientTlsConfig::new().trust_anchors(read_roots(path)?),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => {
            tls = tls.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?))
        }
        (None, None) => {}
        _ => return Err("--cert and --key must be given together".into()),
    }
    Ok(match &arguments.server_name {
        Some(name) => {
            ServerName::try_from(name.as_str())
                .map_err(|error| format!("--server-name: cannot be used ({error})"))?;
            tls.domain_name(name)
        }
        None => tls,
    })
}

fn read_roots(path: &Path) -> Result<Vec<rustls::pki_types::TrustAnchor<'static>>, String> {
    let pem = read("--ca", path)?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| store.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| {
            format!("--ca: {} holds a certificate that cannot be read ({error})", path.display())
        })?;
    }
    if store.is_empty() {
        return Err(format!("--ca: {} holds no certificate", path.display()));
    }
    Ok(store.roots)
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{flag}: cannot read {} ({error})", path.display()))
}

/// Makes the call, and again what is UNAVAILABLE, as the service config of the other examples does.
///
/// Other codes are not retried: the gateway itself has retried what can be, DEADLINE_EXCEEDED has no time left, and
/// RESOURCE_EXHAUSTED is also what a request that is too large gets.
async fn get(
    channel: Channel,
    message: GetBackupShareRequest,
    token: Option<MetadataValue<Ascii>>,
    deadline: Duration,
) -> Result<BackupShare, Status> {
    let mut client = BackupShareServiceClient::new(channel);
    let end = Instant::now() + deadline;
    let mut attempts = 0;
    let mut backoff = INITIAL_BACKOFF;
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(end.saturating_duration_since(Instant::now()));
        if let Some(token) = &token {
            request.metadata_mut().insert("x-auth-token", token.clone());
        }
        if attempts > 0 {
            // The gateway makes one attempt only for such a call, so that the retries of both do not multiply.
            request.metadata_mut().insert("grpc-previous-rpc-attempts", attempts.into());
        }
        let status = match timeout_at(end, client.get_backup_share(request)).await {
            Ok(Ok(response)) => return Ok(response.into_inner().backup_share.unwrap_or_default()),
            Ok(Err(status)) => normalized(status),
            Err(_) => Status::deadline_exceeded(format!("no response within {} s", deadline.as_secs_f64())),
        };
        attempts += 1;
        let wait = match status.get_details_retry_info().and_then(|info| info.retry_delay) {
            Some(delay) => delay,
            None => backoff.mul_f64(fastrand::f64()),
        };
        backoff = MAX_BACKOFF.min(backoff * 2);
        if status.code() != Code::Unavailable || attempts == MAX_ATTEMPTS || Instant::now() + wait >= end {
            return Err(status);
        }
        sleep(wait).await;
    }
}

/// The status as gRPC defines it. Only what tonic itself reports has a source; it reports an elapsed timeout as CANCELLED, and
/// a lost connection as UNKNOWN or CANCELLED.
fn normalized(status: Status) -> Status {
    let code = match (status.source(), status.code()) {
        (None, _) => return status,
        (Some(source), _) if chain(source).any(|error| error.is::<TimeoutExpired>()) => {
            Code::DeadlineExceeded
        }
        (_, Code::Unknown | Code::Cancelled) => Code::Unavailable,
        (_, code) => code,
    };
    Status::new(code, causes(&status))
}

/// What was read, one field a line. `service_metadata` is left out, because it can hold key material.
fn format_share(share: &BackupShare) -> String {
    let mut lines = vec![
        format!("id: {}", quoted(&share.id)),
        format!("from_project_id: {}", quoted(&share.from_project_id)),
        format!("to_project_id: {}", quoted(&share.to_project_id)),
        format!("created_at: {}", or_unset(&share.created_at)),
        format!("updated_at: {}", or_unset(&share.updated_at)),
    ];
    match &share.backup {
        Some(backup) => lines.extend([
            format!("backup.id: {}", quoted(&backup.id)),
            format!("backup.name: {}", quoted(&backup.name)),
            format!("backup.description: {}", quoted(&backup.description)),
            format!("backup.status: {}", quoted(&backup.status)),
            format!("backup.size: {}", or_unset(&backup.size)),
            format!("backup.object_count: {}", or_unset(&backup.object_count)),
            format!("backup.is_incremental: {}", or_unset(&backup.is_incremental)),
            format!("backup.data_timestamp: {}", or_unset(&backup.data_timestamp)),
        ]),
        None => lines.push("backup: unset".into()),
    }
    lines.join("\n")
}

fn quoted(text: &Option<String>) -> String {
    match text {
        Some(text) => format!("\"{}\"", printable(text)),
        None => "unset".into(),
    }
}

fn or_unset<T: ToString>(value: &Option<T>) -> String {
    match value {
        Some(value) => value.to_string(),
        None => "unset".into(),
    }
}

/// The status and its details, one a line.
fn format_status(status: &Status) -> String {
    let details = status.get_error_details();
    let mut lines = vec![code_name(status.code()).to_owned(), format!("message: {}", status.message())];
    match details.error_info() {
        Some(info) => {
            lines.push(format!("reason: {} ({})", info.reason, info.domain));
            let mut metadata: Vec<_> = info.metadata.iter().collect();
            metadata.sort();
            lines.extend(metadata.into_iter().map(|(key, value)| format!("{key}: {value}")));
            if info.reason == "TOKEN_MISSING" {
                lines.push(format!("this gateway requires a token: set {TOKEN_VARIABLE}"));
            }
        }
        None => lines.push("reason: none (the status is the client library's or a proxy's)".into()),
    }
    if let Some(request) = details.bad_request() {
        let violations = request.field_violations.iter();
        lines.extend(violations.map(|violation| format!("{}: {}", violation.field, violation.description)));
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        lines.push(format!("retry after: {} s", delay.as_secs_f64()));
    }
    if let Some(request) = details.request_info() {
        lines.push(format!("request ID: {}", request.request_id));
    }
    lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n  ")
}

/// The name of a code as gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Without control characters, which could rewrite what a terminal shows.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

/// The causes of an error, the outermost first. tonic's own texts say little, and some errors repeat that of their source.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = chain(error).skip(1).map(ToString::to_string).collect();
    texts.retain(|text| text != "transport error");
    texts.dedup();
    texts.join(": ")
}
