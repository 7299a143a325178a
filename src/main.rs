//! The process: parse, run a command, exit.

use std::process::ExitCode;

use backup_share_gateway::{cli, process};

fn main() -> ExitCode {
    process::run(cli::parse(std::env::args_os()))
}
