//! The `sandbox` command: runs the embedded upstream alone.

use std::net::SocketAddr;

use super::process::{Signals, block_on, print_error};
use crate::sandbox::Sandbox;

pub(super) fn run(listen: SocketAddr) -> Result<(), String> {
    block_on(serve(listen))?
}

async fn serve(listen: SocketAddr) -> Result<(), String> {
    let sandbox = Sandbox::bind(listen)
        .await
        .map_err(|error| format!("--listen: cannot listen on {listen}: {error}"))?;
    let address = sandbox.local_addr().map_err(|error| error.to_string())?;
    print_error(&format!("the embedded upstream listens on http://{address}"));
    let mut signals = Signals::handle()?;
    tokio::select! {
        () = sandbox.serve() => Err("the embedded upstream terminated".into()),
        () = signals.next() => Ok(()),
    }
}
