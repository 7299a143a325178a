//! What the commands share as a process: exit codes, the runtime, output and signals.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::server::workers;

/// `EX_USAGE` of sysexits.h: the command line or the configuration is invalid.
pub(super) const USAGE: u8 = 64;
/// `EX_UNAVAILABLE`: something cannot be reached.
pub(super) const UNAVAILABLE: u8 = 69;
/// The time limit of a write to standard error.
const STDERR_TIMEOUT: Duration = Duration::from_millis(200);

/// The runtime of a command.
pub(super) fn runtime() -> Result<Runtime, String> {
    workers::runtime().map_err(|error| format!("cannot start the runtime: {error}"))
}

/// Writes a line to standard output. It is not an error if that is closed.
pub(super) fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Writes a line to standard error, on a separate thread: a pipe that is not read must not block the process.
pub(super) fn print_error(text: &str) {
    let (done, written) = mpsc::channel();
    let text = text.to_owned();
    let writer = thread::Builder::new().spawn(move || {
        let _ = writeln!(io::stderr(), "{text}");
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = written.recv_timeout(STDERR_TIMEOUT);
    }
}

/// From now on SIGHUP does not end the process, even if nothing waits for it.
pub(super) fn survive_hangup() -> Result<(), String> {
    let runtime = runtime()?;
    let _context = runtime.enter();
    // Tokio's handler stays when its runtime and the stream of signals are dropped.
    hangup().map(drop)
}

/// SIGHUP, by which programs that renew certificates tell that there are new files.
pub(super) fn hangup() -> Result<Signal, String> {
    handle(SignalKind::hangup())
}

fn handle(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("cannot handle signals: {error}"))
}

/// SIGTERM and SIGINT. Once it exists, they no longer end the process by themselves.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn handle() -> Result<Self, String> {
        Ok(Self { term: handle(SignalKind::terminate())?, int: handle(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
