//! What happens during the run: calls at a rate, files that are replaced, scrapes of the metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::client::End;
use super::common::SHARE;
use super::common::load::Call;
use super::common::token;
use super::kinds::{self, Kind, Sequence};
use super::tally::Tally;
use super::target::{Files, Target};

/// Time between two replacements of the files.
const RELOAD: Duration = Duration::from_secs(10);
/// Time in which new files must be in use.
const RELOADED: Duration = Duration::from_secs(8);
/// Time after which a call hangs.
const HANGS: Duration = Duration::from_secs(30);

/// The most calls at once.
const MAX_RUNNING: usize = 100;

pub(crate) struct Load {
    stop: CancellationToken,
    calls: JoinHandle<()>,
    others: JoinSet<()>,
    targets: Vec<Arc<Target>>,
}

impl Load {
    pub(crate) fn start(targets: &[Arc<Target>], files: &Arc<Files>, tally: &Arc<Tally>, rate: f64) -> Self {
        let stop = CancellationToken::new();
        let calls = tokio::spawn(calls(targets.to_vec(), Arc::clone(tally), rate, stop.clone()));
        let mut others = JoinSet::new();
        others.spawn(reloads(Arc::clone(&targets[0]), Arc::clone(files), Arc::clone(tally)));
        for target in targets {
            others.spawn(scrapes(Arc::clone(target), Arc::clone(tally)));
        }
        Self { stop, calls, others, targets: targets.to_vec() }
    }

    /// Ends it, after the calls in flight.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.calls.await.unwrap();
        let ended = self.others.try_join_next();
        assert!(ended.is_none(), "reloads and scrapes must go on until the end: {ended:?}");
        self.targets.iter().for_each(|target| target.client.close());
    }
}

/// Starts calls at a rate, whether earlier ones have ended or not.
async fn calls(targets: Vec<Arc<Target>>, tally: Arc<Tally>, rate: f64, stop: CancellationToken) {
    let kinds: Arc<Vec<Kind>> = Arc::new(kinds::all());
    let mut sequence = Sequence::new(&kinds);
    let (mut running, began, mut started) = (JoinSet::new(), Instant::now(), 0.0);
    while !stop.is_cancelled() {
        // A machine that is too slow for the rate gets fewer calls, not a queue of them.
        let due = began.elapsed().as_secs_f64() * rate;
        started = f64::max(started, due - rate);
        while started < due && running.len() < MAX_RUNNING {
            started += 1.0;
            let (kinds, tally, index) = (Arc::clone(&kinds), Arc::clone(&tally), sequence.next(&kinds));
            let target = Arc::clone(&targets[kinds[index].target]);
            running.spawn(async move {
                let kind = &kinds[index];
                match timeout(HANGS, kind.action.run(&target.client)).await {
                    Ok(end) => tally.add(kind.name, kind.expected.contains(&end), || format!("{end:?}")),
                    Err(_) => tally.add(kind.name, false, || "no end".to_owned()),
                }
            });
        }
        while let Some(ended) = running.try_join_next() {
            add_panic(&tally, ended.is_err());
        }
        sleep(Duration::from_millis(2)).await;
    }
    while let Some(ended) = running.join_next().await {
        add_panic(&tally, ended.is_err());
    }
}

/// What a caller did not expect at all, such as a failed TLS handshake.
fn add_panic(tally: &Tally, has_panicked: bool) {
    if has_panicked {
        tally.add("panics", false, || "see above".to_owned());
    }
}

/// Replaces the files, and sees that the new rules come into use.
async fn reloads(target: Arc<Target>, files: Arc<Files>, tally: Arc<Tally>) {
    let mut next = interval(RELOAD);
    for round in 0.. {
        next.tick().await;
        files.replace(round);
        let call = Call::new(&Files::project_of(round), SHARE, &token());
        let is_allowed = async {
            while target.client.call(&call).await != End::Status(Code::Ok) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let is_reloaded = timeout(RELOADED, is_allowed).await.is_ok();
        tally.add("replaced rules", is_reloaded, || "not in use".to_owned());
    }
}

/// Reads the metrics once a second. No file may have been rejected.
async fn scrapes(target: Arc<Target>, tally: Arc<Tally>) {
    let mut next = interval(Duration::from_secs(1));
    loop {
        next.tick().await;
        let metrics = timeout(HANGS, scrape(&target)).await.unwrap_or_default();
        let is_fine = metrics.lines().any(|line| line == "tls_reload_failures_total 0");
        tally.add("scrapes", is_fine, || "no metrics, or a file was rejected".to_owned());
    }
}

async fn scrape(target: &Target) -> String {
    let mut metrics = String::new();
    let mut stream = TcpStream::connect(target.admin).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.unwrap();
    stream.read_to_string(&mut metrics).await.unwrap();
    metrics
}
