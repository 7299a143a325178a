//! A gateway in the process of the test, started by its flags on ports of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::support::*;
use backup_share_gateway::app::{self, Shutdown};
use backup_share_gateway::config::{self, Command};
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};

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

pub async fn stalled(flags: &[&str]) -> (Running, Upstream) {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    (Running::before_with(&upstream, flags).await, upstream)
}

pub fn calls(code: &str) -> String {
    let method = "vbs.v2.BackupShareService/GetBackupShare";
    format!(
        r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="{code}"}}"#
    )
}
