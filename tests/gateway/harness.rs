//! What every test stands on: a gateway started by its flags on ports of its own, an upstream that does exactly what a
//! script says, and callers that speak gRPC and HTTP.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_share_gateway::app::{self, Shutdown};
use backup_share_gateway::config::{self, Command};
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
pub const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
pub const TOKEN: &str = "gAAAAABl-token-of-the-tests-0123456789";
/// The share of the vendor's document.
pub const DOCUMENTED: &str = include_str!("fixtures/documented_share.json");

/// Nothing in the tests should take this long; what does has hung.
pub const HUNG: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(HUNG, future).await.unwrap_or_else(|_| panic!("hung: {what}"))
}

// ------------------------------------------------------------------------------------------------ the upstream

/// What the upstream does once it has read a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends bytes as they are.
    Send(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Says nothing more, and waits until the peer closes.
    Stall,
    /// Closes with a FIN.
    Close,
    /// Closes with an RST.
    Reset,
}

pub type Script = Vec<Step>;

/// A request as the upstream read it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An upstream that does as the script says, request by request.
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

struct Log {
    requests: Mutex<Vec<Seen>>,
    connections: watch::Sender<usize>,
    arrived: watch::Sender<usize>,
    hangups: watch::Sender<usize>,
    closed: watch::Sender<usize>,
}

impl Upstream {
    /// `script` is given the request and its number, counted from 1.
    pub async fn scripted(script: impl Fn(&Seen, usize) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    pub fn on(
        listener: TcpListener,
        script: impl Fn(&Seen, usize) -> Script + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log {
            requests: Mutex::default(),
            connections: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
            hangups: watch::Sender::new(0),
            closed: watch::Sender::new(0),
        });
        let (script, shared) = (Arc::new(script), Arc::clone(&log));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.send_modify(|count| *count += 1);
                let number = *shared.connections.borrow();
                let (script, log) = (Arc::clone(&script), Arc::clone(&shared));
                tokio::spawn(async move {
                    drop(log.serve(stream, number, script.as_ref()).await);
                    log.closed.send_modify(|count| *count += 1);
                });
            }
        });
        Self { address, log, accepting }
    }

    /// One that answers every request alike.
    pub async fn replying(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let bytes = reply(status, headers, body);
        Self::scripted(move |_, _| bytes.clone()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.log.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.log.connections.borrow()
    }

    /// Waits until so many requests have come.
    pub async fn received(&self, count: usize) {
        soon("a request at the upstream", self.log.arrived.subscribe().wait_for(|n| *n >= count))
            .await
            .unwrap();
    }

    /// Waits until the peer has closed so many connections that a script left stalled.
    pub async fn hung_up_on(&self, count: usize) {
        soon("the end of an upstream request", self.log.hangups.subscribe().wait_for(|n| *n >= count))
            .await
            .unwrap();
    }

    /// Waits until so many connections have ended, whoever closed them.
    pub async fn closed(&self, count: usize) {
        soon("the end of a connection", self.log.closed.subscribe().wait_for(|n| *n >= count)).await.unwrap();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Log {
    async fn serve(
        &self,
        mut stream: TcpStream,
        connection: usize,
        script: &(dyn Fn(&Seen, usize) -> Script + Send + Sync),
    ) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let Some(seen) = read_request(&mut stream, &mut buffer, connection).await? else { return Ok(()) };
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(seen.clone());
                requests.len()
            };
            self.arrived.send_replace(number);
            for step in script(&seen, number) {
                match step {
                    Step::Send(bytes) => stream.write_all(&bytes).await?,
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Close => return Ok(()),
                    Step::Reset => return stream.set_zero_linger(),
                    Step::Stall => {
                        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                        self.hangups.send_modify(|count| *count += 1);
                        return Ok(());
                    }
                }
            }
        }
    }
}

async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> io::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen { line, headers, connection, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    seen.body = buffer.drain(..length).collect();
    Ok(Some(seen))
}

/// A whole reply with its length, after which the connection stays open.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Script {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    vec![Step::Send([bytes.as_bytes(), b"\r\n", body].concat())]
}

/// The documented share, as a reply.
pub fn documented() -> Script {
    reply(200, &[("content-type", "application/json")], DOCUMENTED)
}

// ------------------------------------------------------------------------------------------------ the gateway

/// A running gateway. Dropping it ends it at once.
pub struct Running {
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    pub shutdown: Shutdown,
    pub ended: JoinHandle<Result<(), app::Error>>,
}

impl Running {
    /// Starts a gateway in this process by the flags of `serve`, on ports of its own, without a drain delay.
    pub async fn start(flags: &[&str]) -> Self {
        let fixed = ["backup-share-gateway", "serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let delay = flags.iter().all(|flag| !flag.starts_with("--drain-delay")).then_some("--drain-delay=0s");
        let line = fixed.iter().chain(flags).chain(&delay).map(OsString::from);
        let Ok(Command::Serve(config)) = config::parse(line) else {
            panic!("not the flags of serve: {flags:?}")
        };
        let gateway = app::build(*config).await.unwrap().bind().unwrap();
        let (grpc, admin) = (gateway.grpc_address(), gateway.admin_address());
        let shutdown = Shutdown::default();
        let ended = tokio::spawn(gateway.run(shutdown.clone()));
        Self { grpc, admin, shutdown, ended }
    }

    /// A gateway before `upstream`, with more flags.
    pub async fn before_with(upstream: &Upstream, flags: &[&str]) -> Self {
        let url = format!("--upstream-url={}", upstream.url());
        Self::start(&[&[url.as_str(), "--allow-plaintext-upstream"], flags].concat()).await
    }

    pub async fn before(upstream: &Upstream) -> Self {
        Self::before_with(upstream, &[]).await
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> BackupShareServiceClient<Channel> {
        BackupShareServiceClient::new(self.channel().await)
    }

    /// Asks for the documented share.
    pub async fn get(&self) -> Result<Response<GetBackupShareResponse>, Status> {
        self.call(request(PROJECT, SHARE)).await
    }

    pub async fn call(
        &self,
        request: Request<GetBackupShareRequest>,
    ) -> Result<Response<GetBackupShareResponse>, Status> {
        soon("a call", self.client().await.get_backup_share(request)).await
    }

    /// The call's failure.
    pub async fn failure(&self) -> Failure {
        Failure::of(self.get().await.expect_err("a status"))
    }

    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        admin_get(self.admin, path).await
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }

    /// Waits until a metric has a value. Metrics have no event to wait for, so it is asked again and again.
    pub async fn metric_becomes(&self, name: &str, value: f64) {
        soon(name, async {
            // What is not a number yet has not become anything.
            let is_there = |found: f64| (found - value).abs() <= f64::EPSILON;
            while !is_there(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.now.cancel();
        self.ended.abort();
    }
}

/// An HTTP/1.1 GET on an admin port: the status and the body.
pub async fn admin_get(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    soon("the admin port", stream.read_to_string(&mut reply)).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of the metric's line that begins with `name`, which may go on with labels; 0 where there is none.
pub async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let (_, text) = admin_get(admin, "/metrics").await;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

/// A request with the tests' token.
pub fn request(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    let mut request = without_token(project_id, id);
    request.metadata_mut().insert("x-auth-token", TOKEN.parse().unwrap());
    request
}

pub fn without_token(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    Request::new(GetBackupShareRequest { project_id: project_id.into(), id: id.into() })
}

/// A status with its details, as a caller reads them.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub reason: String,
    pub metadata: HashMap<String, String>,
    pub details: ErrorDetails,
    pub status: Status,
}

impl Failure {
    /// Reads a status, and checks what holds for every one of them.
    pub fn of(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).clone();
        assert_eq!(info.domain, "backup-share-gateway");
        let id = &details.request_info().expect("RequestInfo").request_id;
        assert!(!id.is_empty());
        let sent_back = status.metadata().get("x-request-id").expect("x-request-id");
        assert_eq!(sent_back.to_str().unwrap(), id);
        assert!(!format!("{status:?}").contains(TOKEN), "the token is in the status");
        assert!(size(&status) < 4096, "the status takes {} bytes", size(&status));
        let keys = ["httpStatus", "upstreamCode", "upstreamRequestId", "attempts", "service"];
        for (key, value) in &info.metadata {
            assert!(keys.contains(&key.as_str()), "metadata key {key}");
            assert!(value.len() <= 128, "{key} takes {} bytes", value.len());
        }
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.reason,
            metadata: info.metadata,
            details,
            status,
        }
    }

    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn attempts(&self) -> Option<&str> {
        self.metadata("attempts")
    }

    pub fn retry_delay(&self) -> Option<Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }

    /// The delay by which the client's own retry policy is told to wait, in milliseconds.
    pub fn pushback(&self) -> Option<&str> {
        self.status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap())
    }
}

/// What a status takes on the wire, before HPACK.
fn size(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum()
}
