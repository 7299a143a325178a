//! The `sandbox` command: runs the embedded upstream alone.

use std::net::SocketAddr;
use std::process::ExitCode;

use super::output::write_stderr;
use super::process::runtime;
use super::signals::Signals;
use crate::sandbox::Sandbox;

pub(super) fn run(listen: SocketAddr) -> Result<ExitCode, String> {
    runtime()?.block_on(serve(listen))
}

async fn serve(listen: SocketAddr) -> Result<ExitCode, String> {
    let sandbox =
        Sandbox::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = sandbox.local_addr().map_err(|error| error.to_string())?;
    write_stderr(&format!("the embedded upstream listens on http://{address}"));
    let mut signals = Signals::handle()?;
    tokio::select! {
        () = sandbox.serve() => Err("the embedded upstream terminated".into()),
        () = signals.next() => Ok(ExitCode::SUCCESS),
    }
}
