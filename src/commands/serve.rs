//! The `serve` command: runs the gateway until a signal stops it.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::process::{Signals, hangup, print_error, runtime};
use crate::app::{self, Control};
use crate::config::{Config, UpstreamLocation};
use crate::sandbox::{DOCUMENTED_PROJECTS, DOCUMENTED_SHARE};
use crate::telemetry::traces::Exporter;

/// The time limit for tasks that a forced shutdown has cancelled.
const EXIT_TIMEOUT: Duration = Duration::from_millis(200);
/// The time limit for the export of the last spans after an orderly shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(config: Config) -> Result<(), String> {
    let limit = raise_descriptor_limit();
    let runtime = runtime()?;
    // The log is dropped last, because calls that a forced shutdown cancels are still logged.
    let (_log, exporter) = config.log.install(|| config.traces.as_ref().map(Exporter::start).transpose())?;
    if let Err(error) = limit {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    for warning in config.file_warnings() {
        tracing::warn!("{warning}");
    }
    let ended = runtime.block_on(serve(config));
    // Dropping the runtime would wait for name lookups, which block a thread.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    if let Some(exporter) = exporter {
        exporter.shutdown(if ended.is_ok() { FLUSH_TIMEOUT } else { EXIT_TIMEOUT });
    }
    ended
}

async fn serve(config: Config) -> Result<(), String> {
    let has_sandbox = matches!(config.upstream_location, UpstreamLocation::Sandbox);
    let mut signals = Signals::handle()?;
    let mut hangup = hangup()?;
    let app = app::build(config).await.map_err(|error| error.to_string())?;
    let app = app.bind().map_err(|error| error.to_string())?;
    if has_sandbox {
        print_error(&quickstart_hint(app.grpc_address().port()));
    }
    let control = Control::default();
    // The first signal drains the gateway, the second one ends the process immediately.
    let forward_signals = async {
        signals.next().await;
        control.drain.cancel();
        signals.next().await;
        control.now.cancel();
        std::future::pending::<Infallible>().await
    };
    let forward_hangup = async {
        loop {
            hangup.recv().await;
            tracing::info!("SIGHUP: the files are read again if they have changed");
            control.reload.notify_one();
        }
    };
    tokio::select! {
        ended = app.run(control.clone()) => ended.map_err(|error| error.to_string()),
        never = forward_signals => match never {},
        never = forward_hangup => match never {},
    }
}

/// Example commands that work against the embedded upstream.
fn quickstart_hint(port: u16) -> String {
    let [project, _] = DOCUMENTED_PROJECTS;
    let program = std::env::args().next().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    format!(
        "\nThe gateway uses its embedded upstream, which accepts any token. Try:

  OS_TOKEN=any {program} get --address 127.0.0.1:{port} --project-id {project} {DOCUMENTED_SHARE}

  grpcurl -plaintext -H 'x-auth-token: any' \\
    -d '{{\"project_id\": \"{project}\", \"id\": \"{DOCUMENTED_SHARE}\"}}' \\
    127.0.0.1:{port} vbs.v2.BackupShareService/GetBackupShare
"
    )
}

/// Each connection takes a file descriptor, and the soft limit of many systems is 1024.
fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
