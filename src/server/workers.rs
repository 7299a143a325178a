//! One thread with a runtime of its own for each worker, the process's main thread among them. A connection stays with the
//! worker that it was dealt to, and so do its calls and what they ask the upstream: a runtime that shares one queue among
//! its threads moves each call between the cores, and wakes one up for what the other has just done.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The threads besides the main one.
pub struct Workers {
    team: Team,
    stop: CancellationToken,
    ended: mpsc::Receiver<Infallible>,
}

/// Where connections are dealt out to. A clone is the same team.
#[derive(Clone, Debug)]
pub struct Team {
    main: Arc<Worker>,
    others: Arc<[Arc<Worker>]>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: AtomicUsize,
}

/// A connection's place at a worker, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Worker>);

/// A runtime for one thread.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Workers {
    /// Starts `count` workers; the first one is the caller's thread, whose runtime `main` is.
    pub fn start(main: &Handle, count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (running, ended) = mpsc::channel::<Infallible>(1);
        let mut others = Vec::new();
        for number in 1..count {
            let (runtime, stop, running) = (runtime()?, stop.clone(), running.clone());
            others.push(Worker::new(runtime.handle().clone()));
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                runtime.block_on(stop.cancelled());
                // Dropped, it would wait for every name that is still being resolved.
                runtime.shutdown_timeout(Duration::ZERO);
                drop(running);
            })?;
        }
        let team = Team { main: Worker::new(main.clone()), others: others.into() };
        Ok(Self { team, stop, ended })
    }

    /// All of them.
    pub fn team(&self) -> Team {
        self.team.clone()
    }

    /// Drops what they still do, and waits for that for `limit` at most.
    pub async fn end(mut self, limit: Duration) {
        self.stop.cancel();
        // Nothing is ever sent: this waits until the last thread has dropped its sender.
        let _ = timeout(limit, self.ended.recv()).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self { runtime, connections: AtomicUsize::new(0) })
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Team {
    /// The caller's own runtime alone.
    pub fn alone() -> Self {
        Self { main: Worker::new(Handle::current()), others: Arc::default() }
    }

    /// A place at the worker that has the fewest connections.
    pub fn place(&self) -> Place {
        let worker = self
            .others
            .iter()
            .fold(&self.main, |fewest, worker| if worker.count() < fewest.count() { worker } else { fewest });
        let worker = Arc::clone(worker);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Place(worker)
    }

    /// Waits until a worker's runtime ends, which none should before the process.
    pub async fn exited(&self) {
        let mut sentinels = JoinSet::new();
        for worker in self.others.iter().chain([&self.main]) {
            sentinels.spawn_on(std::future::pending::<()>(), &worker.runtime);
        }
        // They never end by themselves, only with their runtime.
        sentinels.join_next().await;
    }
}

impl Place {
    /// The worker's runtime.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn thread_of(place: &Place) -> String {
        let name = place.runtime().spawn(async { thread::current().name().map(str::to_owned) });
        name.await.unwrap().unwrap_or_default()
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_worker_that_has_the_fewest() {
        let workers = Workers::start(&Handle::current(), 3).unwrap();
        let team = workers.team();
        let (first, second, third) = (team.place(), team.place(), team.place());
        assert_eq!(thread_of(&first).await, thread::current().name().unwrap());
        assert_eq!(thread_of(&second).await, "worker-1");
        assert_eq!(thread_of(&third).await, "worker-2");
        drop(second);
        assert_eq!(thread_of(&team.place()).await, "worker-1");
    }

    #[tokio::test]
    async fn the_end_of_a_worker_is_noticed_and_drops_what_it_did() {
        let workers = Workers::start(&Handle::current(), 2).unwrap();
        let (team, place) = (workers.team(), (workers.team().place(), workers.team().place()).1);
        let (dropped, mut is_dropped) = mpsc::channel::<Infallible>(1);
        place.runtime().spawn(async move {
            let _held = dropped;
            std::future::pending::<()>().await;
        });
        workers.end(Duration::from_secs(30)).await;
        assert_eq!(is_dropped.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        team.exited().await;
    }
}
