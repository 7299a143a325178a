//! The `get` command: calls a gateway and prints the share as JSON, or the status with its details.

use std::io;
use std::process::ExitCode;

use prost_reflect::{DescriptorPool, DynamicMessage};

use super::client;
use super::output::write_line;
use crate::config::GetArgs;
use crate::domain::TOKEN_HEADER;
use crate::proto::backup_share_service_client::BackupShareServiceClient;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};

pub(super) fn run(arguments: GetArgs) -> Result<ExitCode, String> {
    let GetArgs { id, project_id, token, target } = arguments;
    let mut request = client::request(&target, GetBackupShareRequest { project_id, id });
    if let Some(token) = token {
        request.metadata_mut().as_mut().insert(TOKEN_HEADER, token.value());
    }
    let response = client::call(&target, |channel| async {
        BackupShareServiceClient::new(channel).get_backup_share(request).await
    })?;
    write_line(io::stdout(), &to_json(&response)?);
    Ok(ExitCode::SUCCESS)
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
