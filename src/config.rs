//! Command line and environment become plain data. This is the only reader of the environment, `OTEL_` variables apart.
//!
//! Every value is taken as text by clap ([`flags`]) and parsed here ([`serve`]), so that all problems, of flags and of the files
//! that they name, are reported together. The result, [`Config`], is composed of the `Config` of each module. It holds data
//! only: nothing in it changes, runs or is connected. `app` makes the parts out of it.
//!
//! The names of flags stay in this module. It must not know the commands, nor how the parts are put together.

mod client;
mod flags;
mod security;
mod serve;
mod units;
mod upstream;
mod validator;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use client::{Target, TargetTls, TokenText};
pub use serve::Config;
pub use upstream::UpstreamLocation;

use client::TargetFlags;
use validator::Validator;

/// A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
///
/// Try it: `backup-share-gateway serve --sandbox` starts the gateway with an embedded upstream and says what to type.
#[derive(Debug, Parser)]
#[command(name = "backup-share-gateway", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: CommandFlags,
}

#[derive(Debug, Subcommand)]
enum CommandFlags {
    /// Run the gateway.
    ///
    /// Every flag can be given as the environment variable that its description names. Durations and sizes need a unit:
    /// 250ms, 15s, 30m, 1h; 64KiB, 1MiB.
    Serve(Box<flags::ServeFlags>),
    /// Look at the configuration of `serve`, and start nothing.
    ///
    /// Takes the flags of `serve`, and their variables. A line a step says what was found and what to do. Exit status: 0;
    /// 64 where the configuration is wrong; 69 where --connect finds something that cannot be reached.
    Check(Box<CheckFlags>),
    /// Run the embedded upstream alone.
    ///
    /// It answers as VBS does and wants an X-Auth-Token, any. Share 8332443e-9866-41d8-8a58-a898cf5db030 is the one of
    /// the vendor's document (projects c13f5220dc1949b0b741ea81a7cd5554 and 722513ed0a324dadaabe5b2d0fe848c9);
    /// 00000000-0000-4000-8000-000000000NNN answers with HTTP status NNN; any other UUID is a 404.
    Sandbox(SandboxFlags),
    /// Call a gateway and print the share as JSON, or the status with its details.
    ///
    /// The token comes from --token-file or the variable OS_TOKEN. Exit status: 0 for a share, 1 for an error status.
    Get(GetFlags),
    /// Ask a gateway's health: exit status 0 when it is SERVING, else 1.
    Health(HealthFlags),
}

#[derive(Debug, clap::Args)]
struct CheckFlags {
    /// Go step by step to the upstream and, where the gateway has an account, to the identity service and its catalog.
    #[arg(long)]
    connect: bool,
    #[command(flatten)]
    serve: flags::ServeFlags,
}

#[derive(Debug, clap::Args)]
struct SandboxFlags {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
}

#[derive(Debug, clap::Args)]
struct GetFlags {
    /// The share: a UUID.
    id: String,
    /// The project in whose name the share is read.
    #[arg(long, value_name = "ID")]
    project_id: String,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    target: TargetFlags,
}

#[derive(Debug, clap::Args)]
struct HealthFlags {
    /// The service asked about; empty for the gateway as a whole.
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    #[command(flatten)]
    target: TargetFlags,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run the gateway.
    Serve(Box<Config>),
    /// Check what the gateway would run on.
    Check {
        /// All of it.
        config: Box<Config>,
        /// Whether to go to the upstream and the identity service, too.
        connect: bool,
    },
    /// Run the embedded upstream alone.
    Sandbox {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Call a gateway.
    Get {
        /// Which one, and how long to wait.
        target: Target,
        /// The project.
        project_id: String,
        /// The share.
        id: String,
        /// The token, if there is one.
        token: Option<TokenText>,
    },
    /// Ask a gateway's health.
    Health {
        /// Which one, and how long to wait.
        target: Target,
        /// The service asked about.
        service: String,
    },
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum ParseExit {
    /// Help or the version was asked for.
    Help(String),
    /// The command line or the configuration is wrong: one line for each problem.
    Usage(Vec<String>),
}

/// Reads the command line and the environment.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ParseExit> {
    let command = Cli::command()
        .mut_subcommand("serve", flags::with_variables)
        .mut_subcommand("check", flags::with_variables);
    let invalid = command.find_subcommand("serve").map(flags::invalid_variables).unwrap_or_default();
    if !invalid.is_empty() {
        return Err(ParseExit::Usage(invalid));
    }
    let matches = command.try_get_matches_from(arguments).map_err(parse_exit)?;
    let flags = Cli::from_arg_matches(&matches).map_err(parse_exit)?.command;
    read(flags).map_err(ParseExit::Usage)
}

/// Parses the values of the flags. The error has a line for each problem.
fn read(flags: CommandFlags) -> Result<Command, Vec<String>> {
    let mut validator = Validator::default();
    let command = match flags {
        CommandFlags::Serve(flags) => {
            flags.read(&mut validator).map(|config| Command::Serve(Box::new(config)))
        }
        CommandFlags::Check(flags) => {
            let connect = flags.connect;
            let config = flags.serve.read(&mut validator);
            config.map(|config| Command::Check { config: Box::new(config), connect })
        }
        CommandFlags::Sandbox(flags) => {
            let listen = validator.flag("listen", &flags.listen, units::address);
            listen.map(|listen| Command::Sandbox { listen })
        }
        CommandFlags::Get(flags) => {
            let GetFlags { id, project_id, token_file, target } = flags;
            let target = target.read(&mut validator);
            match client::token(&mut validator, token_file) {
                Ok(token) => target.map(|target| Command::Get { target, project_id, id, token }),
                Err(reported) => Err(reported),
            }
        }
        CommandFlags::Health(flags) => {
            let target = flags.target.read(&mut validator);
            target.map(|target| Command::Health { target, service: flags.service })
        }
    };
    validator.finish(command)
}

fn parse_exit(error: clap::Error) -> ParseExit {
    let text = error.render().to_string();
    if error.use_stderr() {
        ParseExit::Usage(vec![text.trim_end().to_owned()])
    } else {
        ParseExit::Help(text)
    }
}
