//! The `health` command: asks a gateway whether it is SERVING.

use std::io;
use std::process::ExitCode;

use tonic::Request;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::output::write_line;
use super::{client, runtime};
use crate::config::Target;

pub(super) fn run(target: &Target, service: String) -> Result<ExitCode, String> {
    let status = runtime()?.block_on(health(target, service))?;
    write_line(io::stdout(), status.as_str_name());
    Ok(if status == ServingStatus::Serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn health(target: &Target, service: String) -> Result<ServingStatus, String> {
    let mut client = HealthClient::new(client::connect(target).await?);
    let mut request = Request::new(HealthCheckRequest { service });
    request.set_timeout(target.deadline);
    let reply = client::reply(target, client.check(request)).await?;
    Ok(reply.into_inner().status())
}
