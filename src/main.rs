//! Parses the command line, runs the command, and returns its exit code.

use std::process::ExitCode;

use backup_share_gateway::commands;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    commands::run(std::env::args_os())
}
