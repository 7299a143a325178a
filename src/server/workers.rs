//! Worker threads: each has a single-threaded Tokio runtime of its own.
//!
//! A connection stays on the worker that it was assigned to, and so do its calls and their upstream requests. A runtime
//! with one queue for all threads would move each call between cores and wake one core for the work of another. The main thread is
//! no worker: it serves the admin port, reads changed files and renews tokens, so that none of these delays a call.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The workers, to which connections are assigned. Clones share them; the threads stop when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct WorkerPool(Arc<Workers>);

/// A connection holds a clone of the handle of its worker, so that the number of clones is that of its connections.
#[derive(Debug)]
struct Workers {
    handles: Vec<Arc<Handle>>,
    stop: DropGuard,
    /// Cancelled when a thread terminates.
    terminated: CancellationToken,
    /// Each running thread holds a token of it.
    running: TaskTracker,
}

/// After so many polls of tasks, a worker polls for I/O events and timers. Under load that is every millisecond or two, and
/// what has arrived meanwhile is read and written together: with tokio's default of 61, a call took a tenth more CPU.
const EVENT_INTERVAL: u32 = 256;

/// Creates the runtime of one worker.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}

impl WorkerPool {
    /// Starts `count` threads.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Self::without_threads();
        for number in 1..=count {
            let runtime = runtime()?;
            workers.handles.push(Arc::new(runtime.handle().clone()));
            let stop = workers.stop.token().clone();
            let guards = (workers.terminated.clone().drop_guard(), workers.running.token());
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let _guards = guards;
                runtime.block_on(stop.cancelled());
                // Dropping the runtime would wait for every name that is still being resolved.
                runtime.shutdown_timeout(Duration::ZERO);
            })?;
        }
        Ok(Self(Arc::new(workers)))
    }

    /// The current runtime as the only worker.
    pub fn current() -> Self {
        let mut workers = Self::without_threads();
        workers.handles.push(Arc::new(Handle::current()));
        Self(Arc::new(workers))
    }

    fn without_threads() -> Workers {
        Workers {
            handles: Vec::new(),
            stop: CancellationToken::new().drop_guard(),
            terminated: CancellationToken::new(),
            running: TaskTracker::new(),
        }
    }

    /// Assigns a connection to the worker that has the fewest. Dropping the handle ends the assignment.
    pub fn least_loaded(&self) -> Arc<Handle> {
        let worker = self.0.handles.iter().min_by_key(|worker| Arc::strong_count(worker));
        worker.map_or_else(|| Arc::new(Handle::current()), Arc::clone)
    }

    /// Waits until a thread has terminated, which none should do before the process ends.
    pub async fn terminated(&self) {
        self.0.terminated.cancelled().await;
    }

    /// Stops the threads, which drops their tasks, and waits for at most `limit` until all have terminated.
    pub async fn shutdown_timeout(&self, limit: Duration) {
        self.0.stop.token().cancel();
        self.0.running.close();
        // A thread that is still running ends with the process.
        let _ = timeout(limit, self.0.running.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn thread_name(worker: &Handle) -> String {
        let name = worker.spawn(async { thread::current().name().map(str::to_owned) });
        name.await.unwrap().unwrap_or_default()
    }

    #[tokio::test]
    async fn connection_is_assigned_to_the_worker_with_the_fewest() {
        let pool = WorkerPool::start(3).unwrap();
        let (first, second, third) = (pool.least_loaded(), pool.least_loaded(), pool.least_loaded());
        assert_eq!(thread_name(&first).await, "worker-1");
        assert_eq!(thread_name(&second).await, "worker-2");
        assert_eq!(thread_name(&third).await, "worker-3");
        drop(second);
        assert_eq!(thread_name(&pool.least_loaded()).await, "worker-2");
        let current = WorkerPool::current().least_loaded();
        assert_eq!(thread_name(&current).await, thread::current().name().unwrap());
    }

    #[tokio::test]
    async fn terminated_worker_is_noticed_and_its_tasks_are_dropped() {
        let pool = WorkerPool::start(1).unwrap();
        let task = CancellationToken::new();
        let task_guard = task.clone().drop_guard();
        pool.least_loaded().spawn(async move {
            let _guard = task_guard;
            std::future::pending::<()>().await;
        });
        assert!(!pool.0.terminated.is_cancelled());
        pool.shutdown_timeout(Duration::from_secs(30)).await;
        assert!(task.is_cancelled());
        pool.terminated().await;
    }
}
