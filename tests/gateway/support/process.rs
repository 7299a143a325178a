//! The program as a child process.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::{Channel, Endpoint};

use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

pub fn gateway_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backup-share-gateway"));
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

/// The command that serves on free ports, with more flags.
pub fn serve_command(flags: &[&str]) -> Command {
    gateway_command(&[&["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"], flags].concat())
}

pub async fn run(mut command: Command) -> Output {
    with_timeout("a command", command.output()).await.unwrap()
}

pub fn to_text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command that must exit with this code and write all of `parts` to standard error, which is returned.
pub async fn run_error(command: Command, exit_code: i32, parts: &[&str]) -> String {
    let output = run(command).await;
    let stderr = to_text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    stderr
}

/// A `serve` process and its log.
pub struct GatewayProcess {
    pub child: Child,
    pub log: Lines<BufReader<ChildStdout>>,
    pub grpc: String,
    pub admin: SocketAddr,
}

impl GatewayProcess {
    pub async fn start(flags: &[&str]) -> Self {
        Self::spawn(serve_command(&[&["--drain-delay=0s"], flags].concat())).await
    }

    pub async fn with_upstream(upstream: &Upstream, flags: &[&str]) -> Self {
        Self::start(&[&["--upstream-url", &*upstream.url(), PLAINTEXT], flags].concat()).await
    }

    /// Runs `serve` and waits until it listens.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = loop {
            // At the level trace there are lines before this one.
            let line = with_timeout("the first lines", log.next_line()).await.unwrap().unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                break line;
            }
        };
        let address = |key: &str| line[key].as_str().unwrap().parse::<SocketAddr>().unwrap();
        let (grpc, admin) = (address("grpc.address"), address("admin.address"));
        assert!(grpc.port() != 0 && admin.port() != 0);
        Self { grpc: grpc.to_string(), admin, child, log }
    }

    pub async fn line(&mut self) -> Value {
        serde_json::from_str(&with_timeout("a line", self.log.next_line()).await.unwrap().unwrap()).unwrap()
    }

    /// The next line with this message.
    pub async fn line_with_message(&mut self, message: &str) -> Value {
        loop {
            let line = self.line().await;
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Sends SIGTERM and waits until the process has ended in order.
    pub async fn terminate(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.exit_code().await, Some(0));
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        with_timeout("the end of the process", self.child.wait()).await.unwrap().code()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub async fn client(&self) -> BackupShareServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        BackupShareServiceClient::new(endpoint.connect().await.unwrap())
    }

    pub async fn get(&self, project: &str, id: &str) -> Output {
        run(self.get_command(project, id, &[])).await
    }
    pub fn get_command(&self, project: &str, id: &str, flags: &[&str]) -> Command {
        let fixed = ["get", "--address", &self.grpc, "--project-id", project, id];
        let mut command = gateway_command(&[&fixed[..], flags].concat());
        command.env("OS_TOKEN", TOKEN);
        command
    }
}
