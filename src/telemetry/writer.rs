//! Writes log lines to standard output on a separate thread, so that a blocked reader never delays a call or the process's
//! end. Lines that do not fit into the buffer, or that cannot be written, are counted.
//!
//! Threads append their lines to one buffer, and the log thread takes all of them at once. Waking it for each line would cost
//! a third more CPU with one call in flight, and a system call each: it writes what there is, then sleeps for
//! [`FLUSH_INTERVAL`]. A queue of lines, as in `tracing-appender`, allocates each of them on one thread and frees it on another.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::sync::lock;

/// A tenth of a second or more of very many calls.
const MAX_BUFFERED_BYTES: usize = 8 * 1024 * 1024;
/// What a buffer keeps of its memory after more lines than usual.
const KEPT_BYTES: usize = 256 * 1024;
/// Lines of this time are written together.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How long the remaining lines may take at the process's end.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

/// The lines that are not written yet. The thread that writes them never ends.
pub(super) struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the log thread waits and there is a line.
    has_lines: Condvar,
    /// Notified when lines have been written or lost.
    has_written: Condvar,
    /// Lines lost so far.
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    lines: Vec<u8>,
    /// The log thread waits for a line.
    is_waiting: bool,
    /// The log thread has taken lines that are not written yet.
    is_writing: bool,
}

impl Log {
    /// Starts the thread, which writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let log = Self(Arc::clone(&shared));
        thread::Builder::new().name("log".into()).spawn(move || shared.write_lines(output))?;
        Ok(log)
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line is written or lost, or until `timeout`.
    fn flush(&self, timeout: Duration) {
        let is_pending = |state: &mut State| state.is_writing || !state.lines.is_empty();
        // An error means that the thread has panicked, and writes no more.
        let _ = self.0.has_written.wait_timeout_while(lock(&self.0.state), timeout, is_pending);
    }
}

impl Write for &Log {
    /// Takes one line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        if state.lines.len() + line.len() > MAX_BUFFERED_BYTES {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        state.lines.extend_from_slice(line);
        let must_wake = std::mem::take(&mut state.is_waiting);
        drop(state);
        if must_wake {
            self.0.has_lines.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Writes lines as they come, for ever.
    fn write_lines(&self, output: impl Write) {
        let mut output = LineOutput { output, mid_line: false };
        let mut lines = Vec::new();
        loop {
            self.take(&mut lines);
            let lost = output.write_lines(&lines);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            lines.clear();
            lines.shrink_to(KEPT_BYTES);
            lock(&self.state).is_writing = false;
            self.has_written.notify_all();
            thread::sleep(FLUSH_INTERVAL);
        }
    }

    /// Waits for lines, and exchanges them for the empty `lines`.
    fn take(&self, lines: &mut Vec<u8>) {
        let mut state = lock(&self.state);
        while state.lines.is_empty() {
            state.is_waiting = true;
            state = self.has_lines.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_waiting = false;
        state.is_writing = true;
        std::mem::swap(&mut state.lines, lines);
    }
}

/// Writes whole lines, and counts those that are lost.
struct LineOutput<W> {
    output: W,
    /// The output ends within a line, whose rest could not be written.
    mid_line: bool,
}

impl<W: Write> LineOutput<W> {
    /// Returns how many of the lines were not written, or not to their end.
    fn write_lines(&mut self, lines: &[u8]) -> u64 {
        // The rest of a line that was cut off must not swallow the next line.
        let is_at_start = !self.mid_line || write(&mut self.output, b"\n").is_empty();
        let unwritten = if is_at_start { write(&mut self.output, lines) } else { lines };
        let written = lines.strip_suffix(unwritten).unwrap_or_default();
        self.mid_line = written.last().map_or(!is_at_start, |last| *last != b'\n');
        unwritten.iter().map(|byte| u64::from(*byte == b'\n')).sum()
    }
}

/// Writes as much as possible, and returns the rest.
fn write<'a>(output: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the output has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FLUSH_INTERVAL),
            Err(_) => break,
        }
    }
    bytes
}

/// Flushes the log when it is dropped, within a bounded time.
pub struct WorkerGuard(pub(super) &'static Log);

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// An output that blocks until it is released.
    struct BlockedOutput(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for BlockedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_output_loses_whole_lines_which_are_counted_and_keeps_the_order() {
        let (release, blocked) = mpsc::channel();
        let (sent, written) = mpsc::channel();
        let log = Log::start(BlockedOutput(blocked, sent)).unwrap();
        let line = |number: usize| format!("{number:01023}\n");
        let mut number = 0;
        while log.dropped() == 0 {
            (&log).write_all(line(number).as_bytes()).unwrap();
            number += 1;
        }
        assert!(number * 1024 > MAX_BUFFERED_BYTES, "{number} lines");
        drop(release);
        log.flush(Duration::from_secs(60));
        let all: Vec<u8> = written.try_iter().flatten().collect();
        let expected: String = (0..number - 1).map(line).collect();
        assert!(all == expected.as_bytes(), "{} bytes of {}", all.len(), expected.len());
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn flush_of_a_blocked_output_times_out() {
        let (release, blocked) = mpsc::channel();
        let (sent, _written) = mpsc::channel();
        let log = Log::start(BlockedOutput(blocked, sent)).unwrap();
        (&log).write_all(b"a line\n").unwrap();
        let start = Instant::now();
        log.flush(Duration::from_millis(50));
        assert!(start.elapsed() >= Duration::from_millis(50));
        drop(release);
    }

    /// An output that takes four bytes at a time, and fails where the list has an error.
    struct FailingOutput(Vec<Option<io::ErrorKind>>, Arc<Mutex<Vec<u8>>>);

    impl Write for FailingOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(Some(kind)) = self.0.pop() {
                return Err(kind.into());
            }
            let count = bytes.len().min(4);
            self.1.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The output after two writes of lines, and the number of lost lines.
    fn write_twice(errors: &[Option<io::ErrorKind>]) -> (String, u64) {
        let all = Arc::default();
        let output = FailingOutput(errors.iter().rev().copied().collect(), Arc::clone(&all));
        let mut output = LineOutput { output, mid_line: false };
        let lost = output.write_lines(b"the first\nthe second\n") + output.write_lines(b"the third\n");
        let all = all.lock().unwrap().clone();
        (String::from_utf8(all).unwrap(), lost)
    }

    #[test]
    fn full_output_is_retried_and_broken_output_loses_whole_lines_which_are_counted() {
        use io::ErrorKind::{Interrupted, StorageFull, WouldBlock};
        let whole = "the first\nthe second\nthe third\n";
        assert_eq!(
            write_twice(&[Some(WouldBlock), None, Some(Interrupted), None, Some(WouldBlock)]),
            (whole.into(), 0)
        );
        assert_eq!(write_twice(&[None, Some(StorageFull)]), ("the \nthe third\n".into(), 2));
        assert_eq!(write_twice(&[Some(StorageFull)]), ("the third\n".into(), 2));
        assert_eq!(write_twice(&[None, Some(StorageFull), Some(StorageFull)]), ("the ".into(), 3));
    }
}
