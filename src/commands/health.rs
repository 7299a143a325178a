//! The `health` command: prints whether a gateway is SERVING.

use std::io;
use std::process::ExitCode;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client;
use super::output::write_line;
use crate::config::HealthArgs;

pub(super) fn run(arguments: HealthArgs) -> Result<ExitCode, String> {
    let HealthArgs { service, target } = arguments;
    let request = client::request(&target, HealthCheckRequest { service });
    let response =
        client::call(&target, |channel| async { HealthClient::new(channel).check(request).await })?;
    let status = response.status();
    write_line(io::stdout(), status.as_str_name());
    Ok(if status == ServingStatus::Serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
