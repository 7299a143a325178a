//! Lines on standard output and standard error. A stream that is closed or not read is not an error.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The time limit of a write to standard error.
const STDERR_TIMEOUT: Duration = Duration::from_millis(200);

/// Writes a line to standard error, on a separate thread: a pipe that is not read must not block the process.
pub(super) fn write_stderr(text: &str) {
    let (done, written) = mpsc::channel();
    let text = text.to_owned();
    let writer = thread::Builder::new().spawn(move || {
        write_line(io::stderr(), &text);
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = written.recv_timeout(STDERR_TIMEOUT);
    }
}

/// Writes a line.
pub(super) fn write_line(mut to: impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
}
