//! The `get` command: calls a gateway and prints the share as JSON, or the status with its details.

use std::io;
use std::process::ExitCode;

use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Request;

use super::output::write_line;
use super::{client, runtime};
use crate::config::{Target, TokenText};
use crate::domain::TOKEN_HEADER;
use crate::proto::backup_share_service_client::BackupShareServiceClient;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};

pub(super) fn run(
    target: &Target,
    token: Option<TokenText>,
    project_id: String,
    id: String,
) -> Result<ExitCode, String> {
    let share = runtime()?.block_on(get(target, token, project_id, id))?;
    write_line(io::stdout(), &share);
    Ok(ExitCode::SUCCESS)
}

/// The share as proto JSON, or the status for people.
async fn get(
    target: &Target,
    token: Option<TokenText>,
    project_id: String,
    id: String,
) -> Result<String, String> {
    let mut client = BackupShareServiceClient::new(client::connect(target).await?);
    let mut request = Request::new(GetBackupShareRequest { project_id, id });
    request.set_timeout(target.deadline);
    if let Some(TokenText(token)) = token {
        let token = token.parse().map_err(|_| "the token must be visible ASCII".to_owned())?;
        request.metadata_mut().insert(TOKEN_HEADER, token);
    }
    let reply = client::reply(target, client.get_backup_share(request)).await?;
    json(&reply.into_inner())
}

fn json(reply: &GetBackupShareResponse) -> Result<String, String> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())?;
    let name = "vbs.v2.GetBackupShareResponse";
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("{name} is not described"))?;
    let mut message = DynamicMessage::new(descriptor);
    message.transcode_from(reply).map_err(|error| error.to_string())?;
    serde_json::to_string_pretty(&message).map_err(|error| error.to_string())
}
