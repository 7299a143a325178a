//! The command line and the environment, parsed into plain data. This is the only module that reads the environment, except for
//! the `OTEL_` variables, which the OpenTelemetry libraries read.
//!
//! The flags of `serve` ([`flags`]) keep the errors of their values ([`value`]), so that all problems, of values and of files,
//! are reported together ([`validator`]). The result, [`Config`], is composed of the `Config` of each module. Nothing in it
//! runs or is connected: `app` builds the gateway from it. This module must not know how commands run. What it reports is
//! tested in `tests/gateway/cli.rs`.

mod client;
mod flags;
mod security;
mod serve;
mod settings;
mod settle;
mod upstream;
mod validator;
mod value;

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use client::{GetArgs, HealthArgs, Pem, SandboxArgs, Target};
pub use serve::{Config, Summary};
pub use upstream::UpstreamLocation;

use crate::domain::ProjectId;
use flags::ServeFlags;
use settle::NamedFile;
use validator::Validator;

/// The version and the revision of the source.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SOURCE_REVISION"), ")");

/// A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
///
/// To try it, run `backup-share-gateway serve --sandbox`: it starts the gateway with an embedded upstream and prints example
/// commands.
#[derive(Parser)]
#[command(name = "backup-share-gateway", version = VERSION, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: CommandFlags,
}

#[derive(Subcommand)]
enum CommandFlags {
    /// Run the gateway.
    ///
    /// Every flag has an environment variable; the flag wins. Durations and sizes require a unit: 250ms, 15s, 30m, 1h; 512B,
    /// 64KiB, 1MiB, 1GiB.
    Serve(Box<ServeFlags>),
    /// Check the configuration of `serve` without starting anything.
    ///
    /// Takes the flags and variables of `serve`. Prints one line for each step with the finding and what to do. Exit status: 0,
    /// 64 for configuration errors, 69 for what --connect cannot reach.
    Check(Box<CheckFlags>),
    /// Run only the embedded upstream.
    ///
    /// It answers like VBS and requires an X-Auth-Token with any value. Share 8332443e-9866-41d8-8a58-a898cf5db030 is the one
    /// in the vendor's documentation (projects c13f5220dc1949b0b741ea81a7cd5554 and 722513ed0a324dadaabe5b2d0fe848c9);
    /// 00000000-0000-4000-8000-000000000NNN returns HTTP status NNN; any other UUID returns 404.
    Sandbox(SandboxArgs),
    /// Call a gateway and print the share as JSON, or the status with its details.
    ///
    /// The token is read from --token-file or the variable OS_TOKEN. Exit status: 0 for a share, 1 for an error.
    Get(GetArgs),
    /// Print the health of a gateway. Exit status: 0 if it is SERVING, otherwise 1.
    Health(HealthArgs),
}

impl CommandFlags {
    /// The flags of `serve`, if the command has them.
    fn serve(&self) -> Option<&ServeFlags> {
        match self {
            Self::Serve(flags) => Some(flags),
            Self::Check(flags) => Some(&flags.serve),
            Self::Sandbox(_) | Self::Get(_) | Self::Health(_) => None,
        }
    }
}

#[derive(clap::Args)]
struct CheckFlags {
    /// Test the connection to the upstream step by step and, in keystone mode, to the identity service and its catalog.
    #[arg(long)]
    connect: bool,
    /// Project in whose name --connect requests a share and, in keystone mode without a project, a token; steps that need a
    /// token are skipped if no project is given there [default: the account's, or one of the rules].
    #[arg(long, value_name = "ID", value_parser = project_id)]
    project_id: Option<ProjectId>,
    #[command(flatten)]
    serve: ServeFlags,
}

/// A command to run.
#[derive(Debug)]
pub enum Command {
    /// Run the gateway.
    Serve(Box<Config>),
    /// Check the configuration of the gateway.
    Check {
        /// The configuration.
        config: Box<Config>,
        /// Whether to test the connections to the upstream and the identity service.
        connect: bool,
        /// The project in whose name a share is requested.
        project: Option<ProjectId>,
    },
    /// Run only the embedded upstream.
    Sandbox(SandboxArgs),
    /// Call a gateway.
    Get(GetArgs),
    /// Print the health of a gateway.
    Health(HealthArgs),
}

/// Why there is no command to run.
#[derive(Debug)]
pub enum ParseExit {
    /// Help or the version was requested.
    Help(String),
    /// The command line or the configuration is invalid: one line for each problem.
    Usage(Vec<String>),
}

/// The commands with their flags and variables, as `--help` shows them.
pub fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("serve", flags::with_variables)
        .mut_subcommand("check", flags::with_variables)
}

/// Parses the command line and the environment, and reads the files of `serve`. That takes a moment: they must not change
/// meanwhile.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ParseExit> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let settled = settle::read_settled(settle::MAX_WAIT, |files| parse_once(&arguments, files));
    settled.map_err(ParseExit::Usage)?
}

/// Also stores which files were read.
fn parse_once(arguments: &[OsString], files: &mut Vec<NamedFile>) -> Result<Command, ParseExit> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(parse_exit)?;
    let flags = Cli::from_arg_matches(&matches).map_err(parse_exit)?.command;
    if let (Some(flags), Some((_, matches))) = (flags.serve(), matches.subcommand()) {
        *files = settle::files(flags, matches);
    }
    match flags {
        CommandFlags::Serve(flags) => Ok(Command::Serve(read(&flags, &command, &matches)?)),
        CommandFlags::Check(flags) => {
            let config = read(&flags.serve, &command, &matches)?;
            if let (Some(own), Some(project)) = (config.credentials.configured_project(), &flags.project_id)
                && own != project
            {
                let own = own.as_str();
                return Err(ParseExit::Usage(vec![format!(
                    "--project-id must be {own}, the project of the gateway's account (OS_PROJECT_ID)"
                )]));
            }
            Ok(Command::Check { config, connect: flags.connect, project: flags.project_id })
        }
        CommandFlags::Sandbox(sandbox) => Ok(Command::Sandbox(sandbox)),
        CommandFlags::Get(get) => match get.with_token_from_environment() {
            Ok(get) => Ok(Command::Get(get)),
            Err(problem) => Err(ParseExit::Usage(vec![problem])),
        },
        CommandFlags::Health(health) => Ok(Command::Health(health)),
    }
}

fn read(flags: &ServeFlags, command: &clap::Command, matches: &ArgMatches) -> Result<Box<Config>, ParseExit> {
    let mut validator = Validator::default();
    if let (Some(serve), Some((_, matches))) = (command.find_subcommand("serve"), matches.subcommand()) {
        validator.warnings = settings::unknown_variables(serve);
        validator.settings = settings::of_flags(serve, matches);
    }
    let config = flags.read(&mut validator);
    validator.finish(config).map(Box::new).map_err(ParseExit::Usage)
}

fn project_id(text: &str) -> Result<ProjectId, String> {
    ProjectId::parse(text.to_owned()).ok_or_else(|| ProjectId::RULE.to_owned())
}

fn parse_exit(error: clap::Error) -> ParseExit {
    let text = error.render().to_string();
    if error.use_stderr() {
        ParseExit::Usage(vec![text.trim_end().to_owned()])
    } else {
        ParseExit::Help(text)
    }
}
