//! The commands `get` and `health`: a gRPC client for containers without a shell and without grpcurl. `tests/gateway/cli.rs` and
//! `tests/gateway/tls.rs` show what it prints.

use std::process::ExitCode;

use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::connect::{self, GrpcChannel};
use super::process::{block_on, is_control, one_line, print};
use crate::config::{GetArgs, HealthArgs, Target};
use crate::domain::TOKEN_HEADER;
use crate::grpc::code_name;
use crate::proto::backup_share_service_client::BackupShareServiceClient;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};

/// The longest message that is read. tonic allocates what a server announces before it has sent it.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Prints the share as JSON.
pub(super) fn get(arguments: GetArgs) -> Result<(), String> {
    let GetArgs { id, project_id, token, target } = arguments;
    let mut request = Request::new(GetBackupShareRequest { project_id, id });
    if let Some(token) = token {
        request.metadata_mut().as_mut().insert(TOKEN_HEADER, token.value());
    }
    let response = call(&target, request, async |channel, request| {
        let client = BackupShareServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        { client }.get_backup_share(request).await
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
    let json = serde_json::to_string_pretty(&message).map_err(|error| error.to_string())?;
    // `serde_json` escapes the C0 characters alone.
    let escape = |char: char| match char {
        char if char != '\n' && is_control(char) => format!("\\u{:04x}", u32::from(char)),
        char => char.to_string(),
    };
    Ok(json.chars().map(escape).collect())
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

/// Connects to a gateway and makes one call, all within the deadline. The error is text to print: the status with its details.
fn call<Q, R>(
    target: &Target,
    mut request: Request<Q>,
    send: impl AsyncFnOnce(GrpcChannel, Request<Q>) -> Result<Response<R>, Status>,
) -> Result<R, String> {
    let connect_and_send = async {
        let deadline = Instant::now() + target.deadline;
        let call = async {
            let channel = connect::connect(target).await?;
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            match send(channel, request).await {
                Ok(response) => Ok(response.into_inner()),
                Err(status) => Err(match connect::describe_failure(target, &status).await {
                    Some(problem) => problem,
                    None => format_status(&status),
                }),
            }
        };
        timeout_at(deadline, call).await.unwrap_or_else(|_| Err(connect::deadline_exceeded(target)))
    };
    block_on(connect_and_send)?
}

/// The status and its details, one line for each.
fn format_status(status: &Status) -> String {
    let details = status.get_error_details();
    let mut lines = vec![code_name(status.code()).to_owned(), format!("message: {}", status.message())];
    if let Some(info) = details.error_info() {
        lines.push(format!("reason: {} ({})", info.reason, info.domain));
        let mut metadata: Vec<String> =
            info.metadata.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        metadata.sort();
        lines.extend(metadata);
        if info.reason == "TOKEN_MISSING" {
            lines
                .push("this gateway requires a token: set OS_TOKEN, or name a file with --token-file".into());
        }
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
    lines.iter().map(|line| one_line(line)).collect::<Vec<_>>().join("\n  ")
}
