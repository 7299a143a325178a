//! Parses the command line, runs the command, and returns its exit code.

use std::process::ExitCode;

use backup_share_gateway::commands;

fn main() -> ExitCode {
    commands::run(std::env::args_os())
}
