//! A gateway in the process of the test, on ports of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::support::*;
use backup_share_gateway::app::{self, Control};
use backup_share_gateway::config::{self, Command, Config};
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};

/// A running gateway. Dropping it stops it at once.
pub struct Gateway {
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    pub shutdown: Control,
    pub ended: JoinHandle<Result<(), app::Error>>,
}

impl Gateway {
    /// Starts a gateway with the flags of `serve`, without a drain delay, and with short waits.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |_| ()).await
    }

    /// The same, with settings that have no flag.
    pub async fn start_with(flags: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let fixed = ["backup-share-gateway", "serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let delay = flags.iter().all(|flag| !flag.starts_with("--drain-delay")).then_some("--drain-delay=0s");
        let line = fixed.iter().chain(flags).chain(&delay).map(OsString::from);
        let Ok(Command::Serve(mut config)) = config::parse(line) else {
            panic!("not the flags of serve: {flags:?}")
        };
        config.upstream.first_backoff = Duration::from_millis(10);
        config.reload_interval = Duration::from_millis(100);
        config.server.goaway_timeout = Duration::from_millis(500);
        configure(&mut config);
        let gateway = app::build(*config).await.unwrap().bind().unwrap();
        let (grpc, admin) = (gateway.grpc_address(), gateway.admin_address());
        let shutdown = Control::default();
        let ended = tokio::spawn(gateway.run(shutdown.clone()));
        Self { grpc, admin, shutdown, ended }
    }

    pub async fn with_flags(upstream: &Upstream, flags: &[&str]) -> Self {
        let url = upstream.url_flag();
        Self::start(&[&[&*url, PLAINTEXT], flags].concat()).await
    }

    pub async fn with_upstream(upstream: &Upstream) -> Self {
        Self::with_flags(upstream, &[]).await
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> BackupShareServiceClient<Channel> {
        BackupShareServiceClient::new(self.channel().await)
    }

    /// Calls for the documented share.
    pub async fn get(&self) -> Result<Response<GetBackupShareResponse>, Status> {
        self.call(request(PROJECT, SHARE)).await
    }

    /// Starts the same call in a task.
    pub async fn spawn_get(&self) -> JoinHandle<Result<Response<GetBackupShareResponse>, Status>> {
        let mut client = self.client().await;
        tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await })
    }

    pub async fn call(
        &self,
        request: Request<GetBackupShareRequest>,
    ) -> Result<Response<GetBackupShareResponse>, Status> {
        with_timeout("a call", self.client().await.get_backup_share(request)).await
    }

    /// The status of a call that fails.
    pub async fn call_error(&self, request: Request<GetBackupShareRequest>) -> ErrorStatus {
        ErrorStatus::decode(self.call(request).await.expect_err("a status"))
    }

    /// The status of the call for the documented share, which fails.
    pub async fn get_error(&self) -> ErrorStatus {
        self.call_error(request(PROJECT, SHARE)).await
    }

    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        admin_get(self.admin, path).await
    }

    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }

    /// Waits until a metric has a value.
    pub async fn metric_becomes(&self, name: &str, value: f64) {
        poll_until(name, async || (self.metric(name).await == value).then_some(())).await;
    }

    /// Tells the gateway to drain, and waits until it has ended in order.
    pub async fn drain(&mut self) {
        self.shutdown.drain.cancel();
        with_timeout("the drain", &mut self.ended).await.unwrap().unwrap();
    }
}

impl Drop for Gateway {
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
    with_timeout("the admin port", stream.read_to_string(&mut reply)).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of a time series, given by its name with its labels; 0 where there is none.
pub async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let (_, text) = admin_get(admin, "/metrics").await;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

/// A gateway whose upstream accepts requests and never replies.
pub async fn gateway_with_stalled_upstream(flags: &[&str]) -> (Gateway, Upstream) {
    let upstream = Upstream::stalled().await;
    (Gateway::with_flags(&upstream, flags).await, upstream)
}

/// The time series that counts calls which ended with `code`.
pub fn call_count(code: &str) -> String {
    format!(
        r#"rpc_server_call_duration_seconds_count{{rpc_method="{SERVICE}/GetBackupShare",rpc_response_status_code="{code}"}}"#
    )
}
