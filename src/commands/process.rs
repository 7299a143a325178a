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
const STDERR_TIMEOUT: Duration = Duration::from_secs(2);

/// The runtime of a command.
pub(super) fn runtime() -> Result<Runtime, String> {
    workers::runtime().map_err(|error| format!("cannot start the runtime: {error}"))
}

/// Runs a command to its end. A name that is still being resolved blocks a thread, which is not waited for.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, String> {
    let runtime = runtime()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}

/// A text that may be a server's, as one line: it cannot move the cursor, change colours or look like another line.
pub(super) fn one_line(text: &str) -> String {
    let text = text.replace("\r\n", " ").replace(['\n', '\r', '\t', '\u{85}', '\u{2028}', '\u{2029}'], " ");
    text.chars().filter(|char| !is_control(*char)).collect()
}

/// Control characters (C0, C1), and the format characters that reorder or hide what is shown.
pub(super) fn is_control(char: char) -> bool {
    let is_format = matches!(char, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    char.is_control() || is_format
}

/// Writes lines to standard output. It is not an error if that is closed.
pub(super) fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", without_control(text));
}

/// Writes one line to standard output. It may contain the text of a server.
pub(super) fn print_line(text: &str) {
    print(&one_line(text));
}

fn without_control(text: &str) -> String {
    text.chars().filter(|char| *char == '\n' || !is_control(*char)).collect()
}

/// Writes a line to standard error, on a separate thread: a pipe that is not read must not block the process.
pub(super) fn print_error(text: &str) {
    let (done, written) = mpsc::channel();
    let text = without_control(text);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_without_control_characters() {
        for (text, line) in [
            ("not found", "not found"),
            ("Größe 備份 ✓", "Größe 備份 ✓"),
            ("a\nFAIL  b\r\nc\rd", "a FAIL  b c d"),
            ("\u{1b}[31mred\u{1b}[0m\u{7}\u{8}\0\u{7f}\t.", "[31mred[0m ."),
            ("\u{9b}31mC1\u{90}", "31mC1"),
            ("a\u{85}b\u{2028}c\u{2029}d", "a b c d"),
            ("x\u{202e}y\u{2066}z\u{200b}\u{feff}", "xyz"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }
}
