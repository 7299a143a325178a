//! What `get` and `health` share: the connection to a gateway, and a status in words. A small gRPC client, for containers
//! without a shell and without grpcurl.

use std::fmt::Write as _;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::config::Target;
use crate::domain::error_chain;
use crate::grpc::code_name;

/// The gateway enforces the deadline itself; this much later the client stops waiting for its status.
const GRACE: Duration = Duration::from_secs(1);

/// Connects to the gateway.
pub(super) async fn connect(target: &Target) -> Result<Channel, String> {
    let address = &target.address;
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|_| format!("{address} is not a host and a port, such as 127.0.0.1:50051"))?;
    if let Some(tls) = &target.tls {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            config = config.domain_name(name);
        }
        endpoint =
            endpoint.tls_config(config).map_err(|_| "the PEM files of TLS cannot be used".to_owned())?;
    }
    endpoint.connect_timeout(target.deadline).connect().await.map_err(|error| {
        let causes: String = error_chain(&error).skip(1).map(|cause| format!(": {cause}")).collect();
        format!("cannot connect to {address}{causes}")
    })
}

/// Waits for the reply of a call that was sent with the target's deadline.
pub(super) async fn reply<T>(
    target: &Target,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(target.deadline + GRACE, call).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(status)) => Err(describe(&status)),
        Err(_) => Err(timeout_message(target)),
    }
}

fn timeout_message(target: &Target) -> String {
    format!("{} did not answer in time", target.address)
}

/// The status and its details, a line each.
fn describe(status: &Status) -> String {
    // tonic's own timer, started by the deadline that it sends, calls it CANCELLED.
    if status.code() == Code::Cancelled && status.message() == tonic::TimeoutExpired(()).to_string() {
        return "DEADLINE_EXCEEDED\n  message: the gateway did not answer before the deadline".into();
    }
    let details = status.get_error_details();
    let mut text = code_name(status.code()).to_owned();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {name}: {value}");
    };
    line("message", status.message());
    if let Some(info) = details.error_info() {
        line("reason", &format!("{} ({})", info.reason, info.domain));
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        metadata.into_iter().for_each(|(key, value)| line(key, value));
    }
    for violation in
        details.bad_request().map(|request| request.field_violations.as_slice()).unwrap_or_default()
    {
        line(&violation.field, &violation.description);
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        line("retry after", &format!("{} s", delay.as_secs_f64()));
    }
    if let Some(request) = details.request_info() {
        line("request ID", &request.request_id);
    }
    text
}
