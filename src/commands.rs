//! The commands `serve`, `check`, `sandbox`, `get` and `health`, and what belongs to the process rather than to the gateway:
//! runtimes, signals, standard output, exit codes. `tests/gateway/cli.rs` runs them.
//!
//! This module must not parse flags or read variables: `config` does.

mod check;
mod client;
mod connect;
mod process;
mod sandbox;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::config::{self, Command, ParseExit};
use process::{USAGE, print, print_error, survive_hangup};

/// Parses the command line, and runs the command or prints why there is none.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Before the files are read, which takes a moment: the signal may come at any time.
    if arguments.get(1).is_some_and(|command| command == "serve")
        && let Err(error) = survive_hangup()
    {
        print_error(&error);
        return ExitCode::FAILURE;
    }
    match config::parse(arguments) {
        Err(ParseExit::Help(text)) => {
            print(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(ParseExit::Usage(problems)) => {
            for problem in problems {
                print_error(&problem);
            }
            ExitCode::from(USAGE)
        }
        Ok(command) => run_command(command).unwrap_or_else(|error| {
            print_error(&error);
            ExitCode::FAILURE
        }),
    }
}

fn run_command(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Serve(config) => serve::run(*config)?,
        Command::Check { config, connect, project } => return check::run(*config, connect, project),
        Command::Sandbox(arguments) => sandbox::run(arguments.listen)?,
        Command::Get(arguments) => client::get(arguments)?,
        Command::Health(arguments) => return client::health(arguments),
    }
    Ok(ExitCode::SUCCESS)
}
