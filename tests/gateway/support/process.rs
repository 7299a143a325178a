//! The program as a process of its own.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::*;
pub fn gateway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backup-share-gateway"));
    command.args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

pub async fn output(mut command: Command) -> Output {
    soon("a command", command.output()).await.unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A `serve` process and its log.
pub struct Served {
    pub child: Child,
    pub log: Lines<BufReader<ChildStdout>>,
    pub grpc: String,
    pub admin: SocketAddr,
}

impl Served {
    pub async fn start(flags: &[&str]) -> Self {
        let ports = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-delay=0s"];
        Self::spawn(gateway(&[&ports[..], flags].concat())).await
    }

    /// Runs a `serve` and waits until it listens.
    pub async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = loop {
            // At its most talkative it says more before.
            let line = soon("the first lines", log.next_line()).await.unwrap().unwrap();
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
        serde_json::from_str(&soon("a line", self.log.next_line()).await.unwrap().unwrap()).unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    pub async fn get(&self, project: &str, id: &str) -> Output {
        let mut command = gateway(&["get", "--address", &self.grpc, "--project-id", project, id]);
        command.env("OS_TOKEN", TOKEN);
        output(command).await
    }
}
