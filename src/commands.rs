//! The commands `serve`, `check`, `sandbox`, `get` and `health`, and what belongs to the process rather than to the gateway:
//! runtimes, signals, standard output, exit codes. `tests/gateway/cli.rs` runs them.
//!
//! This module must not parse flags or read variables: `config` does.

mod check;
mod client;
mod get;
mod health;
mod output;
mod process;
mod sandbox;
mod serve;
mod signals;

use std::io;
use std::process::ExitCode;

use crate::config::{Command, ParseExit};
use output::{write_line, write_stderr};
use process::USAGE;

/// Runs the parsed command, or prints why there is none.
pub fn run(parsed: Result<Command, ParseExit>) -> ExitCode {
    match parsed {
        Err(ParseExit::Help(text)) => {
            write_line(io::stdout(), text.trim_end());
            ExitCode::SUCCESS
        }
        Err(ParseExit::Usage(problems)) => {
            for problem in problems {
                write_stderr(&problem);
            }
            ExitCode::from(USAGE)
        }
        Ok(command) => run_command(command).unwrap_or_else(|error| {
            write_stderr(&error);
            ExitCode::FAILURE
        }),
    }
}

fn run_command(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Serve(config) => serve::run(*config),
        Command::Check { config, connect } => check::run(*config, connect),
        Command::Sandbox(arguments) => sandbox::run(arguments.listen),
        Command::Get(arguments) => get::run(arguments),
        Command::Health(arguments) => health::run(arguments),
    }
}
