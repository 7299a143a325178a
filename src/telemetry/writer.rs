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
        let (mut batch, mut torn) = (Vec::new(), false);
        while self.take(&mut batch) {
            // What is left of a line that broke off must not take the next one with it.
            let begun = !torn || write(&mut output, b"\n").is_empty();
            let lost = if begun { write(&mut output, &batch) } else { &batch };
            // There is no other place to say that it cannot be written.
            let lines = lost.iter().filter(|byte| **byte == b'\n').count();
            self.0.dropped.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
            let written = batch.strip_suffix(lost).unwrap_or_default();
            torn = written.last().map_or(torn && !begun, |last| *last != b'\n');
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

/// Writes what can be written, and returns the rest.
fn write<'a>(output: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the output has made it one that does not wait by itself.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(LINGER),
            Err(_) => break,
        }
    }
    bytes
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

    /// An output that takes a few bytes at a time, and fails as it is told to in between.
    struct Moody(Vec<Option<io::ErrorKind>>, Arc<Mutex<Vec<u8>>>);

    impl Write for Moody {
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

    /// What came of two batches of lines, and how many lines were lost.
    fn after(moods: &[Option<io::ErrorKind>]) -> (String, u64) {
        let (lines, all) = (Lines::default(), Arc::default());
        let moods = moods.iter().rev().copied().collect();
        let flush = lines.write_to(Moody(moods, Arc::clone(&all))).unwrap();
        (&lines).write_all(b"the first\nthe second\n").unwrap();
        while !lines.lock().bytes.is_empty() {
            thread::yield_now();
        }
        (&lines).write_all(b"the third\n").unwrap();
        drop(flush);
        let all = all.lock().unwrap().clone();
        (String::from_utf8(all).unwrap(), lines.dropped())
    }

    #[test]
    fn a_full_output_is_waited_for_and_a_broken_one_costs_whole_lines_which_are_counted() {
        use io::ErrorKind::{Interrupted, StorageFull, WouldBlock};
        let whole = "the first\nthe second\nthe third\n";
        assert_eq!(
            after(&[Some(WouldBlock), None, Some(Interrupted), None, Some(WouldBlock)]),
            (whole.into(), 0)
        );
        assert_eq!(after(&[None, Some(StorageFull)]), ("the \nthe third\n".into(), 2));
        assert_eq!(after(&[Some(StorageFull)]), ("the third\n".into(), 2));
        assert_eq!(after(&[None, Some(StorageFull), Some(StorageFull)]), ("the ".into(), 3));
    }
}
