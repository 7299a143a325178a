//! What the commands share as a process: exit codes and the runtime.

use tokio::runtime::Runtime;

use crate::server::workers;

/// `EX_USAGE` of sysexits.h: the command line or the configuration is invalid.
pub(super) const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: something cannot be reached.
pub(super) const UNAVAILABLE: u8 = 69;

/// The runtime of a command.
pub(super) fn runtime() -> Result<Runtime, String> {
    workers::runtime().map_err(|error| format!("cannot start the runtime: {error}"))
}
