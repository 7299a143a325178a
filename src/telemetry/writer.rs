//! Writes log lines to standard output on a thread of its own, so that a blocked reader never delays a call or the process's
//! end. Lines that the queue cannot take, or that cannot be written, are counted.
//!
//! The queue and the thread are `tracing-appender`'s; [`BatchWriter`] is what the thread writes to. Waking the thread for each line
//! would cost a third more CPU with one call in flight, and a system call each: the thread writes what has queued up, then
//! sleeps for [`FLUSH_INTERVAL`].
//!
//! The crate's own guard is never dropped in the process: with a full queue it prints to standard output, which blocks, too.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{self, NonBlocking, NonBlockingBuilder};

/// Several megabytes: a tenth of a second of very many calls.
const MAX_QUEUED_LINES: usize = 8192;
/// Lines are written once this much has come together, or the queue is empty.
const BATCH_BYTES: usize = 64 * 1024;
/// Lines of this time are written together.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How long the remaining lines may take at the process's end.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

/// The queue of log lines and its thread.
pub(super) struct Log {
    queue: NonBlocking,
    /// Lines passed to the queue, including those that it did not take.
    queued: AtomicU64,
    output: Arc<OutputCounters>,
    _worker: non_blocking::WorkerGuard,
}

/// Counts of the lines that the thread took from the queue.
#[derive(Default)]
struct OutputCounters {
    finished: AtomicU64,
    failed: AtomicU64,
}

impl Log {
    /// Starts the thread, which writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> Self {
        let counters = Arc::<OutputCounters>::default();
        let writer = BatchWriter::new(output, Arc::clone(&counters));
        let builder = NonBlockingBuilder::default().buffered_lines_limit(MAX_QUEUED_LINES).thread_name("log");
        let (queue, worker) = builder.finish(writer);
        Self { queue, queued: AtomicU64::new(0), output: counters, _worker: worker }
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.rejected() + self.output.failed.load(Ordering::Relaxed)
    }

    fn rejected(&self) -> u64 {
        u64::try_from(self.queue.error_counter().dropped_lines()).unwrap_or(u64::MAX)
    }

    /// Waits until every line is written or lost, or until `timeout`.
    fn flush(&self, timeout: Duration) {
        let start = Instant::now();
        let is_pending = || {
            let finished = self.output.finished.load(Ordering::Acquire) + self.rejected();
            finished < self.queued.load(Ordering::Relaxed)
        };
        while is_pending() && start.elapsed() < timeout {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for &Log {
    /// Queues one line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.queue.clone().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines in batches. The queue's thread passes it whole lines, and flushes it when the queue is empty.
struct BatchWriter<W> {
    output: W,
    batch: Vec<u8>,
    batch_lines: u64,
    /// The output ends within a line, whose rest could not be written.
    mid_line: bool,
    counters: Arc<OutputCounters>,
}

impl<W: Write> BatchWriter<W> {
    fn new(output: W, counters: Arc<OutputCounters>) -> Self {
        Self { output, batch: Vec::new(), batch_lines: 0, mid_line: false, counters }
    }

    fn write_batch(&mut self) {
        // The rest of a line that was cut off must not swallow the next line.
        let is_at_start = !self.mid_line || write(&mut self.output, b"\n").is_empty();
        let unwritten = if is_at_start { write(&mut self.output, &self.batch) } else { &self.batch };
        let written = self.batch.strip_suffix(unwritten).unwrap_or_default();
        self.mid_line = written.last().map_or(!is_at_start, |last| *last != b'\n');
        let failed = unwritten.iter().map(|byte| u64::from(*byte == b'\n')).sum();
        self.counters.failed.fetch_add(failed, Ordering::Relaxed);
        self.counters.finished.fetch_add(self.batch_lines, Ordering::Release);
        self.batch.clear();
        self.batch_lines = 0;
    }
}

impl<W: Write> Write for BatchWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(line);
        self.batch_lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.write_batch();
            thread::sleep(FLUSH_INTERVAL);
        }
        Ok(())
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
    use std::sync::{Mutex, mpsc};

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
        let log = Log::start(BlockedOutput(blocked, sent));
        let line = |number: usize| format!("{number:01023}\n");
        let mut number = 0;
        while log.dropped() == 0 {
            (&log).write_all(line(number).as_bytes()).unwrap();
            number += 1;
        }
        assert!(number > MAX_QUEUED_LINES, "{number} lines");
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
        let log = Log::start(BlockedOutput(blocked, sent));
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

    /// The output after two batches of lines, and the number of lost lines.
    fn write_two_batches(errors: &[Option<io::ErrorKind>]) -> (String, u64) {
        let (counters, all) = (Arc::<OutputCounters>::default(), Arc::default());
        let output = FailingOutput(errors.iter().rev().copied().collect(), Arc::clone(&all));
        let mut writer = BatchWriter::new(output, Arc::clone(&counters));
        writer.write_all(b"the first\n").unwrap();
        writer.write_all(b"the second\n").unwrap();
        writer.flush().unwrap();
        writer.write_all(b"the third\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(counters.finished.load(Ordering::Relaxed), 3);
        let all = all.lock().unwrap().clone();
        (String::from_utf8(all).unwrap(), counters.failed.load(Ordering::Relaxed))
    }

    #[test]
    fn full_output_is_retried_and_broken_output_loses_whole_lines_which_are_counted() {
        use io::ErrorKind::{Interrupted, StorageFull, WouldBlock};
        let whole = "the first\nthe second\nthe third\n";
        assert_eq!(
            write_two_batches(&[Some(WouldBlock), None, Some(Interrupted), None, Some(WouldBlock)]),
            (whole.into(), 0)
        );
        assert_eq!(write_two_batches(&[None, Some(StorageFull)]), ("the \nthe third\n".into(), 2));
        assert_eq!(write_two_batches(&[Some(StorageFull)]), ("the third\n".into(), 2));
        assert_eq!(write_two_batches(&[None, Some(StorageFull), Some(StorageFull)]), ("the ".into(), 3));
    }
}
