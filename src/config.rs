//! Commands and flags, and the only reader of the environment. Names of flags stay in here; each part gets its `Config`.
//!
//! Every value is taken as text first and read by us, so that all that is wrong with a configuration is said at once.

mod serve;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use serve::Serve;

use crate::commands::client::{self, Target};

/// A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
///
/// Try it: `backup-share-gateway serve --sandbox` starts the gateway with an embedded upstream and says what to type.
#[derive(Debug, Parser)]
#[command(name = "backup-share-gateway", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    ///
    /// Every flag can be given as the environment variable named beside it. Durations and sizes need a unit:
    /// 250ms, 15s, 30m, 1h; 64KiB, 1MiB.
    Serve(Box<serve::Flags>),
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
    serve: serve::Flags,
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

#[derive(Debug, clap::Args)]
struct TargetFlags {
    /// The gateway.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    address: String,
    /// How long to wait for the answer.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    deadline: String,
    /// Speak TLS, and believe a certificate that one of this PEM file has signed.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// PEM file of the certificate that proves who calls (mutual TLS).
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the gateway's certificate must have, where it is not the one in the address.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Run the gateway.
    Serve(Box<Serve>),
    /// Look at what the gateway would run on.
    Check {
        /// All of it.
        serve: Box<Serve>,
        /// And at what it leads to.
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

/// A token read from a file or the environment; it is not shown.
pub struct TokenText(pub String);

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText([redacted])")
    }
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Refusal {
    /// Help or the version was asked for.
    Asked(String),
    /// The command line or the configuration is wrong: one line for each thing that is.
    Wrong(Vec<String>),
}

/// Reads the command line and the environment.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, Refusal> {
    let command = Cli::command()
        .mut_subcommand("serve", serve::with_variables)
        .mut_subcommand("check", serve::with_variables);
    let broken = command.find_subcommand("serve").map(serve::broken_variables).unwrap_or_default();
    if !broken.is_empty() {
        return Err(Refusal::Wrong(broken));
    }
    let matches = command.try_get_matches_from(arguments).map_err(refusal)?;
    match Cli::from_arg_matches(&matches).map_err(refusal)?.command {
        Command::Serve(flags) => {
            flags.read().map(|serve| Action::Serve(Box::new(serve))).map_err(Refusal::Wrong)
        }
        Command::Check(flags) => {
            let CheckFlags { connect, serve } = *flags;
            let check = |serve| Action::Check { serve: Box::new(serve), connect };
            serve.read().map(check).map_err(Refusal::Wrong)
        }
        Command::Sandbox(flags) => {
            let mut reader = Reader::default();
            let listen = reader.flag("listen", &flags.listen, units::address).unwrap_or(units::NOWHERE);
            reader.finish(Action::Sandbox { listen })
        }
        Command::Get(flags) => {
            let mut reader = Reader::default();
            let target = reader.target(flags.target);
            let token = reader.token(flags.token_file);
            reader.finish(Action::Get { target, project_id: flags.project_id, id: flags.id, token })
        }
        Command::Health(flags) => {
            let mut reader = Reader::default();
            let target = reader.target(flags.target);
            reader.finish(Action::Health { target, service: flags.service })
        }
    }
}

fn refusal(error: clap::Error) -> Refusal {
    let text = error.render().to_string();
    if error.use_stderr() { Refusal::Wrong(vec![text.trim_end().to_owned()]) } else { Refusal::Asked(text) }
}

/// Reads values and collects what is wrong with them.
#[derive(Debug, Default)]
struct Reader {
    problems: Vec<String>,
}

impl Reader {
    /// The value of a flag that has no variable.
    fn flag<T>(&mut self, name: &str, text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        read(text).map_err(|why| self.problems.push(format!("--{name} {why}"))).ok()
    }

    fn target(&mut self, flags: TargetFlags) -> Target {
        let deadline = self.flag("deadline", &flags.deadline, units::deadline).unwrap_or_default();
        let (cert, key) = (flags.tls_cert, flags.tls_key);
        let identity = cert
            .and_then(|file| self.file("tls-cert", &file))
            .zip(key.and_then(|file| self.file("tls-key", &file)));
        let ca = flags.tls_ca.and_then(|file| self.file("tls-ca", &file));
        let tls = ca.map(|ca| client::Tls { ca, identity, server_name: flags.tls_server_name });
        Target { address: flags.address, deadline, tls }
    }

    fn file(&mut self, name: &str, path: &Path) -> Option<Vec<u8>> {
        let problem =
            |error| self.problems.push(format!("--{name} {} cannot be read: {error}", path.display()));
        std::fs::read(path).map_err(problem).ok()
    }

    /// The token of `--token-file`, else of `OS_TOKEN`. The gateway may need none.
    fn token(&mut self, file: Option<PathBuf>) -> Option<TokenText> {
        let text = match file {
            Some(file) => {
                let bytes = self.file("token-file", &file)?;
                // What is not UTF-8 becomes a character that is refused below.
                String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()
            }
            // What is not UTF-8 becomes a character that is refused below.
            None => std::env::var_os("OS_TOKEN")?.to_string_lossy().into_owned(),
        };
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            self.problems.push("the token (--token-file or OS_TOKEN) must be visible ASCII".into());
        }
        Some(TokenText(text)).filter(|token| !token.0.is_empty())
    }

    fn finish<T>(self, value: T) -> Result<T, Refusal> {
        if self.problems.is_empty() { Ok(value) } else { Err(Refusal::Wrong(self.problems)) }
    }
}
