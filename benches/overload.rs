//! `cargo bench --bench overload`: what becomes of the calls when there are five times too many of them, what an upstream
//! that fails costs in retries, and what idle connections cost in memory. Loopback only; about 40 seconds.
//!
//! The upstream takes 20 ms for a reply and the gateway lets 20 calls in, so that it can carry 1,000 calls a second
//! whatever the machine; 5,000 are offered, whether earlier ones have been answered or not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backup_share_gateway::proto::GetBackupShareRequest;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
const DOCUMENTED: &str = include_str!("../tests/gateway/fixtures/documented_share.json");

const UPSTREAM_TIME: Duration = Duration::from_millis(20);
const IN_FLIGHT: u32 = 20;
const CAPACITY: u32 = 1_000;
const IDLE_CONNECTIONS: u32 = 10_000;

#[derive(Default)]
struct Upstream {
    requests: AtomicU64,
    fails: AtomicBool,
}

impl Upstream {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let upstream = Arc::clone(&self);
            let service = service_fn(move |_| {
                let upstream = Arc::clone(&upstream);
                async move {
                    upstream.requests.fetch_add(1, Ordering::Relaxed);
                    sleep(UPSTREAM_TIME).await;
                    let fails = upstream.fails.load(Ordering::Relaxed);
                    let reply = http::Response::builder().status(if fails { 503 } else { 200 });
                    let body = if fails { "" } else { DOCUMENTED };
                    Ok::<_, Infallible>(reply.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap())
                }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    }
}

/// The gateway as a process of its own.
struct Gateway {
    process: Child,
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(upstream: SocketAddr) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_backup-share-gateway"))
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--admin-listen=127.0.0.1:0",
                "--allow-plaintext-upstream",
            ])
            .arg(format!("--upstream-url=http://{upstream}"))
            .arg(format!("--max-in-flight={IN_FLIGHT}"))
            .arg("--log=warn,backup_share_gateway::gateway=info")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(process.stdout.take().unwrap()), &mut line)
            .unwrap();
        let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |key: &str| listening[key].as_str().unwrap().parse().unwrap();
        Self { grpc: address("grpc.address"), admin: address("admin.address"), process }
    }

    /// Resident memory in KiB.
    async fn memory(&self) -> f64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How one call ended, and after what time.
struct Ended {
    code: Code,
    time: Duration,
    at: Instant,
}

/// Offers `rate` calls a second for `time`, spread over the channels.
async fn offer(channels: &[Channel], rate: u32, time: Duration) -> Vec<Ended> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let began = Instant::now();
    let mut sent = 0_u32;
    while began.elapsed() < time {
        let due = began.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(sent) < due {
            let channel = &channels[sent as usize % channels.len()];
            let mut client = BackupShareServiceClient::new(channel.clone());
            let sender = sender.clone();
            sent += 1;
            tokio::spawn(async move {
                let mut request =
                    Request::new(GetBackupShareRequest { project_id: PROJECT.into(), id: SHARE.into() });
                request.metadata_mut().insert("x-auth-token", "benchmark".parse().unwrap());
                let since = Instant::now();
                let code =
                    client.get_backup_share(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
                let _ = sender.send(Ended { code, time: since.elapsed(), at: Instant::now() });
            });
        }
        sleep(Duration::from_millis(1)).await;
    }
    drop(sender);
    let mut ended = Vec::new();
    while let Some(call) = receiver.recv().await {
        ended.push(call);
    }
    ended
}

/// The times of the calls that ended with `code`, shortest first.
fn times(ended: &[Ended], code: Code) -> Vec<Duration> {
    let mut times: Vec<_> = ended.iter().filter(|call| call.code == code).map(|call| call.time).collect();
    times.sort_unstable();
    times
}

/// In milliseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn row(what: &str, value: f64, unit: &str) {
    println!("{}", format!("{what:<58} {value:>10.1} {unit}").trim_end());
}

async fn overload(gateway: &Gateway, channels: &[Channel]) {
    let before = gateway.memory().await;
    let time = Duration::from_secs(20);
    let ended = offer(channels, 5 * CAPACITY, time).await;
    let (served, refused) = (times(&ended, Code::Ok), times(&ended, Code::ResourceExhausted));
    let others = ended.len() - served.len() - refused.len();
    println!("Five times too many calls, 20 s");
    row("offered", ended.len() as f64 / time.as_secs_f64(), "calls/s");
    row("served", served.len() as f64 / time.as_secs_f64(), "calls/s");
    row(
        "served, of what can be carried",
        100.0 * served.len() as f64 / (f64::from(CAPACITY) * time.as_secs_f64()),
        "%",
    );
    row("median of the served calls (the upstream takes 20 ms)", percentile(&served, 50), "ms");
    row("p99 of the served calls", percentile(&served, 99), "ms");
    row("p99 of the refused calls", percentile(&refused, 99), "ms");
    row("neither served nor refused", others as f64, "calls");
    row("memory, before", before / 1024.0, "MiB");
    row("memory, after", gateway.memory().await / 1024.0, "MiB");
}

async fn retry_storm(upstream: &Upstream, channels: &[Channel]) {
    let (rate, time) = (CAPACITY / 5, Duration::from_secs(10));
    upstream.fails.store(true, Ordering::Relaxed);
    let before = upstream.requests.load(Ordering::Relaxed);
    let ended = offer(channels, rate, time).await;
    let requests = upstream.requests.load(Ordering::Relaxed) - before;
    upstream.fails.store(false, Ordering::Relaxed);
    let mended = Instant::now();
    let after = offer(channels, rate, Duration::from_secs(3)).await;
    let last_failure = after.iter().filter(|call| call.code != Code::Ok).map(|call| call.at - mended).max();
    println!("\nThe upstream answers 503 to everything, 10 s");
    row("calls", ended.len() as f64, "");
    row("upstream requests", requests as f64, "");
    row("more than one a call", 100.0 * (requests as f64 / ended.len() as f64 - 1.0), "%");
    row("last failed call after it is mended", last_failure.unwrap_or_default().as_secs_f64() * 1e3, "ms");
}

async fn idle_connections(gateway: &Gateway) {
    let before = gateway.memory().await;
    let mut held = Vec::new();
    for _ in 0..IDLE_CONNECTIONS - 16 {
        let mut stream = TcpStream::connect(gateway.grpc).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // The gateway's SETTINGS: it is all set up.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        held.push(stream);
    }
    println!("\nIdle connections");
    row("connections", held.len() as f64, "");
    row("memory of each", (gateway.memory().await - before) / held.len() as f64, "KiB");
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(listener.local_addr().unwrap());
    let upstream = Arc::new(Upstream::default());
    tokio::spawn(Arc::clone(&upstream).serve(listener));
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap();
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push(endpoint.connect().await.unwrap());
    }
    // Connections to the upstream are made, and the memory that goes with them.
    offer(&channels, CAPACITY / 2, Duration::from_secs(1)).await;
    overload(&gateway, &channels).await;
    retry_storm(&upstream, &channels).await;
    drop(channels);
    idle_connections(&gateway).await;
}
