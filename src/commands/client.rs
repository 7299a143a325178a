//! The commands `get` and `health`: a gRPC client for containers without a shell and without grpcurl. `tests/gateway/cli.rs` and
//! `tests/gateway/tls.rs` show what it prints.

use std::process::ExitCode;
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::process::{print, runtime};
use crate::config::{GetArgs, HealthArgs, Target};
use crate::domain::{TOKEN_HEADER, error_chain};
use crate::grpc::code_name;
use crate::proto::backup_share_service_client::BackupShareServiceClient;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};

/// The gateway enforces the deadline; the client waits this much longer for the status.
const GRACE: Duration = Duration::from_secs(1);

/// Prints the share as JSON.
pub(super) fn get(arguments: GetArgs) -> Result<(), String> {
    let GetArgs { id, project_id, token, target } = arguments;
    let mut request = Request::new(GetBackupShareRequest { project_id, id });
    if let Some(token) = token {
        request.metadata_mut().as_mut().insert(TOKEN_HEADER, token.value());
    }
    let response = call(&target, request, async |channel, request| {
        BackupShareServiceClient::new(channel).get_backup_share(request).await
    })?;
    print(&to_json(&response)?);
    Ok(())
}

/// The response in protobuf's JSON mapping.
fn to_json(response: &GetBackupShareResponse) -> Result<String, String> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())?;
    let name = "vbs.v2.GetBackupShareResponse";
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("{name} has no descriptor"))?;
    let mut message = DynamicMessage::new(descriptor);
    message.transcode_from(response).map_err(|error| error.to_string())?;
    serde_json::to_string_pretty(&message).map_err(|error| error.to_string())
}

/// Prints whether the gateway is SERVING.
pub(super) fn health(arguments: HealthArgs) -> Result<ExitCode, String> {
    let HealthArgs { service, target } = arguments;
    let request = Request::new(HealthCheckRequest { service });
    let response =
        call(&target, request, async |channel, request| HealthClient::new(channel).check(request).await)?;
    let status = response.status();
    print(status.as_str_name());
    Ok(if status == ServingStatus::Serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Connects to a gateway and makes one call. The error is text to print: the status with its details.
fn call<Q, R>(
    target: &Target,
    mut request: Request<Q>,
    send: impl AsyncFnOnce(Channel, Request<Q>) -> Result<Response<R>, Status>,
) -> Result<R, String> {
    request.set_timeout(target.deadline);
    let connect_and_send = async {
        let channel = connect(target).await?;
        let response = send(channel, request).await.map_err(|status| format_status(&status))?;
        Ok(response.into_inner())
    };
    let limited = async { tokio::time::timeout(target.deadline + GRACE, connect_and_send).await };
    match runtime()?.block_on(limited) {
        Ok(result) => result,
        Err(_) => Err(format!("{} did not answer within {:?}", target.address, target.deadline)),
    }
}

async fn connect(target: &Target) -> Result<Channel, String> {
    let address = &target.address;
    let scheme = if target.tls_ca.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|_| format!("--address: '{address}' must be a host and a port, such as 127.0.0.1:50051"))?;
    if let Some(ca) = &target.tls_ca {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.0));
        if let (Some(certificate), Some(key)) = (&target.tls_cert, &target.tls_key) {
            tls = tls.identity(Identity::from_pem(&certificate.0, &key.0));
        }
        if let Some(name) = &target.tls_server_name {
            tls = tls.domain_name(name);
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| format!("--tls-ca, --tls-cert, --tls-key: invalid PEM ({error})"))?;
    }
    endpoint.connect_timeout(target.deadline).connect().await.map_err(|error| {
        let causes: String = error_chain(&error).skip(1).map(|cause| format!(": {cause}")).collect();
        format!("cannot connect to {address}{causes}")
    })
}

/// The status and its details, one line for each.
fn format_status(status: &Status) -> String {
    // What tonic's client makes of an expired deadline.
    if status.code() == Code::Cancelled && status.message() == tonic::TimeoutExpired(()).to_string() {
        return "DEADLINE_EXCEEDED\n  message: the gateway did not answer before the deadline".into();
    }
    let details = status.get_error_details();
    let mut lines = vec![code_name(status.code()).to_owned(), format!("message: {}", status.message())];
    if let Some(info) = details.error_info() {
        lines.push(format!("reason: {} ({})", info.reason, info.domain));
        let mut metadata: Vec<String> =
            info.metadata.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        metadata.sort();
        lines.extend(metadata);
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
    lines.join("\n  ")
}
