//! The `get` and `health` commands: a small gRPC client, for containers with no shell and no grpcurl.

use std::fmt::{self, Write as _};
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::credentials::TOKEN_HEADER;
use crate::proto::backup_share_service_client::BackupShareServiceClient;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};
use crate::rpc::code_name;

/// The gateway has the last word on the deadline; this much later the client stops waiting for it.
const GRACE: Duration = Duration::from_secs(1);

/// A gateway to call.
#[derive(Debug)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// How long to wait.
    pub deadline: Duration,
    /// TLS, if it is to be spoken.
    pub tls: Option<Tls>,
}

/// How to speak TLS; all in PEM.
pub struct Tls {
    /// Who may sign the gateway's certificate.
    pub ca: Vec<u8>,
    /// The client's own certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the gateway's certificate must have, where it is not the one in the address.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls([redacted])")
    }
}

/// Asks a gateway for a share. `Ok` is proto JSON; `Err` is the status, for people.
pub async fn get(
    target: &Target,
    token: Option<&str>,
    project_id: String,
    id: String,
) -> Result<String, String> {
    let mut client = BackupShareServiceClient::new(connect(target).await?);
    let mut request = Request::new(GetBackupShareRequest { project_id, id });
    request.set_timeout(target.deadline);
    if let Some(token) = token {
        let token = token.parse().map_err(|_| "the token must be visible ASCII".to_owned())?;
        request.metadata_mut().insert(TOKEN_HEADER, token);
    }
    let reply = tokio::time::timeout(target.deadline + GRACE, client.get_backup_share(request)).await;
    match reply.map_err(|_| target.is_late())? {
        Ok(reply) => json(&reply.into_inner()),
        Err(status) => Err(describe(&status)),
    }
}

/// Asks for the health of `service`; the answer is the state in the protocol's word, and whether it is SERVING.
pub async fn health(target: &Target, service: String) -> Result<(String, bool), String> {
    let mut client = HealthClient::new(connect(target).await?);
    let mut request = Request::new(HealthCheckRequest { service });
    request.set_timeout(target.deadline);
    let reply = tokio::time::timeout(target.deadline + GRACE, client.check(request)).await;
    let reply = reply.map_err(|_| target.is_late())?;
    let status = reply.map_err(|status| describe(&status))?.into_inner().status();
    Ok((status.as_str_name().to_owned(), status == ServingStatus::Serving))
}

impl Target {
    fn is_late(&self) -> String {
        format!("{} did not answer in time", self.address)
    }
}

async fn connect(target: &Target) -> Result<Channel, String> {
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
        let mut causes = format!("cannot connect to {address}");
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            // Writing to a string does not fail.
            let _ = write!(causes, ": {cause}");
            next = cause.source();
        }
        causes
    })
}

fn json(reply: &GetBackupShareResponse) -> Result<String, String> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())?;
    let name = "vbs.v2.GetBackupShareResponse";
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("{name} is not described"))?;
    let mut message = DynamicMessage::new(descriptor);
    message.transcode_from(reply).map_err(|error| error.to_string())?;
    serde_json::to_string_pretty(&message).map_err(|error| error.to_string())
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
