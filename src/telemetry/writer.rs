//! Writes log lines on a thread of its own, so that an output that nobody reads holds no call: it costs lines, which are
//! counted. The thread wakes up a hundred times a second at most and writes what has come together; to wake it for every
//! line was a third of the context switches of a call.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How much waits to be written: a tenth of a second of very many calls, or some seconds of many while nobody reads.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What is kept for the next lines.
const USUAL_BYTES: usize = 64 * 1024;
/// How long a line waits for others.
const LINGER: Duration = Duration::from_millis(10);
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_millis(1500);

/// Where lines wait. A clone is the same place.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Place>);

#[derive(Default)]
struct Place {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// No more lines come.
    closed: bool,
}

impl Lines {
    /// Writes them to `output` from now on.
    pub(super) fn write_to(&self, output: impl Write + Send + 'static) -> io::Result<Flush> {
        let (lines, (done, written)) = (self.clone(), mpsc::channel());
        thread::Builder::new().name("log".into()).spawn(move || {
            lines.run(output);
            let _ = done.send(());
        })?;
        Ok(Flush { lines: self.clone(), written })
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        while self.take(&mut batch) {
            // There is no other place to say that it cannot be written.
            let _ = output.write_all(&batch);
            batch.clear();
            batch.shrink_to(USUAL_BYTES);
        }
    }

    /// Waits for lines and takes them. False after the last ones.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let is_open = |waiting: &mut Waiting| !waiting.closed;
        let idle = |waiting: &mut Waiting| !waiting.closed && waiting.bytes.is_empty();
        let waiting = self.0.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let lingered = self.0.changed.wait_timeout_while(waiting, LINGER, is_open);
        let (mut waiting, _) = lingered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, batch);
        !batch.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Lines {
    /// Takes a line whole, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > MOST_BYTES {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let is_first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.0.changed.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Writes the last lines when it is dropped, if somebody reads them.
pub struct Flush {
    lines: Lines,
    written: mpsc::Receiver<()>,
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.lines.lock().closed = true;
        self.lines.0.changed.notify_one();
        // Late or not, the process ends now.
        let _ = self.written.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that takes nothing until it is told to.
    struct Held(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Held {
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
    fn an_output_that_is_not_read_costs_whole_lines_which_are_counted_and_the_rest_comes_in_order() {
        const LINE: usize = 1024;
        let lines = Lines::default();
        let (release, (sent, written)) = (mpsc::channel(), mpsc::channel());
        let flush = lines.write_to(Held(release.1, sent)).unwrap();
        let line = |number: usize| format!("{number:0width$}\n", width = LINE - 1);
        let mut number = 0;
        while lines.dropped() == 0 {
            (&lines).write_all(line(number).as_bytes()).unwrap();
            number += 1;
        }
        assert!(number > MOST_BYTES / LINE, "{number} lines");
        drop(release.0);
        drop(flush);
        let all: Vec<u8> = written.try_iter().flatten().collect();
        let expected: String = (0..number - 1).map(line).collect();
        assert!(all == expected.as_bytes(), "{} bytes of {}", all.len(), expected.len());
        assert_eq!(lines.dropped(), 1);
    }
}
