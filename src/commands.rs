//! The process around a command: runtime, signals, the limit of file descriptors, and the exit status.

pub mod check;
pub mod client;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::UpstreamAt;
use crate::app::{Gateway, Shutdown};
use crate::config::{Action, Refusal, Serve};
use crate::sandbox::{DOCUMENTED_PROJECTS, DOCUMENTED_SHARE, Sandbox};
use crate::telemetry::traces::Exporter;
use crate::workers::{self, Team, Workers};
use check::Verdict;

/// How long the tasks that a second signal cuts off may take to end.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long the collector may take for the last spans of a process that ended in order.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// `EX_USAGE` of sysexits.h: the command line or the configuration is wrong.
const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: something cannot be reached.
const UNAVAILABLE: u8 = 69;

/// Runs what the command line asks for.
pub fn run(parsed: Result<Action, Refusal>) -> ExitCode {
    match parsed {
        Err(Refusal::Asked(text)) => {
            say(io::stdout(), text.trim_end());
            ExitCode::SUCCESS
        }
        Err(Refusal::Wrong(problems)) => {
            problems.iter().for_each(|problem| complain(problem));
            ExitCode::from(USAGE)
        }
        Ok(action) => act(action).unwrap_or_else(|why| {
            complain(&why);
            ExitCode::FAILURE
        }),
    }
}

fn act(action: Action) -> Result<ExitCode, String> {
    match action {
        Action::Serve(mut serve) => {
            let limit = raise_descriptor_limit();
            let runtime = runtime()?;
            let workers = Workers::start(runtime.handle(), serve.workers).map_err(not_started)?;
            // Flushed when the calls that were cut off have had their say.
            let _log = serve.telemetry.install()?;
            if let Err(error) = limit {
                tracing::warn!(%error, "cannot raise the limit of file descriptors");
            }
            let exporter = serve.traces.as_ref().map(Exporter::start).transpose()?;
            if let Some(exporter) = &exporter {
                serve.gateway.rpc.traces = exporter.traces();
            }
            let ended = runtime.block_on(self::serve(*serve, workers.team()));
            workers.end(LAST_WORDS);
            // Dropped, it would wait for every name that is still being resolved.
            runtime.shutdown_timeout(LAST_WORDS);
            if let Some(exporter) = exporter {
                exporter.finish(if ended.is_ok() { LAST_SPANS } else { LAST_WORDS });
            }
            ended
        }
        Action::Check { serve, connect } => {
            let checking = check::run(serve.gateway, connect, |line| say(io::stdout(), line));
            Ok(match runtime()?.block_on(checking) {
                Verdict::Good => ExitCode::SUCCESS,
                Verdict::Misconfigured => ExitCode::from(USAGE),
                Verdict::Unreachable => ExitCode::from(UNAVAILABLE),
            })
        }
        Action::Sandbox { listen } => runtime()?.block_on(sandbox(listen)),
        Action::Get { target, project_id, id, token } => {
            let token = token.as_ref().map(|token| token.0.as_str());
            let call = client::get(&target, token, project_id, id);
            say(io::stdout(), &runtime()?.block_on(call)?);
            Ok(ExitCode::SUCCESS)
        }
        Action::Health { target, service } => {
            let call = client::health(&target, service);
            let (state, serving) = runtime()?.block_on(call)?;
            say(io::stdout(), &state);
            Ok(if serving { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn runtime() -> Result<Runtime, String> {
    workers::runtime().map_err(not_started)
}

fn not_started(error: io::Error) -> String {
    format!("cannot start the runtime: {error}")
}

async fn serve(serve: Serve, team: Team) -> Result<ExitCode, String> {
    let with_sandbox = matches!(serve.gateway.upstream_at, UpstreamAt::Sandbox);
    let shutdown = signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    let gateway = Gateway::bind(serve.gateway, team).await.map_err(|error| error.to_string())?;
    if with_sandbox {
        let address = gateway.grpc_address().map_err(|error| error.to_string())?;
        complain(&what_to_type(address.port()));
    }
    gateway.run(shutdown).await.map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string())
}

fn what_to_type(port: u16) -> String {
    let [project, _] = DOCUMENTED_PROJECTS;
    let program = std::env::args().next().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    format!(
        "\nThe gateway answers from its embedded upstream, which takes any token. Try:

  OS_TOKEN=any {program} get --address 127.0.0.1:{port} --project-id {project} {DOCUMENTED_SHARE}

  grpcurl -plaintext -H 'x-auth-token: any' \\
    -d '{{\"project_id\": \"{project}\", \"id\": \"{DOCUMENTED_SHARE}\"}}' \\
    127.0.0.1:{port} vbs.v2.BackupShareService/GetBackupShare
"
    )
}

async fn sandbox(listen: SocketAddr) -> Result<ExitCode, String> {
    let sandbox =
        Sandbox::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = sandbox.local_addr().map_err(|error| error.to_string())?;
    complain(&format!("the embedded upstream listens on http://{address}"));
    let shutdown = signals().map_err(|error| format!("cannot handle signals: {error}"))?;
    tokio::select! {
        () = sandbox.serve() => Err("the embedded upstream died".into()),
        () = shutdown.drain.cancelled() => Ok(ExitCode::SUCCESS),
    }
}

/// SIGTERM or SIGINT: the first one drains, the second one ends at once.
fn signals() -> io::Result<Shutdown> {
    let shutdown = Shutdown::default();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = shutdown.clone();
    tokio::spawn(async move {
        for token in [&told.drain, &told.now] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(shutdown)
}

/// A connection takes a descriptor, and a worker some; the soft limit of many systems is 1024.
fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Says it on standard error, where nobody may read, which must not hold the process.
fn complain(text: &str) {
    let ((done, said), text) = (mpsc::channel(), text.to_owned());
    let saying = thread::Builder::new().spawn(move || {
        say(io::stderr(), &text);
        let _ = done.send(());
    });
    if saying.is_ok() {
        let _ = said.recv_timeout(LAST_WORDS);
    }
}

/// A closed standard output or error is no reason to fail.
fn say(mut to: impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
}
