//! The Go service in `go/`, which makes the same GET of the same call with grpc-go and net/http.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::process::{Process, output};

/// What it is built with, as `go version` says it, and the program.
pub(crate) struct Go {
    pub(crate) version: String,
    program: PathBuf,
}

impl Go {
    /// Builds the service. An error says what is missing.
    pub(crate) fn build() -> Result<Self, String> {
        let program = output("peer-go");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/go");
        let run = |command: &mut Command| {
            let done =
                command.output().map_err(|error| format!("--go needs Go: cannot run `go` ({error})"))?;
            if done.status.success() {
                return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
            }
            Err(format!("--go: {command:?} fails:\n{}", String::from_utf8_lossy(&done.stderr)))
        };
        let version = run(Command::new("go").arg("version"))?;
        run(Command::new("go").args(["build", "-o"]).arg(&program).current_dir(folder))?;
        Ok(Self { version: version.trim_start_matches("go version ").to_owned(), program })
    }

    /// Starts it before `upstream`, on one core, with less garbage collection than by default; `log` gets a line of JSON for
    /// each call.
    pub(crate) fn start(&self, upstream: SocketAddr, log: Option<&Path>) -> Process {
        let mut command = Command::new(&self.program);
        command.arg("-upstream").arg(upstream.to_string());
        if let Some(log) = log {
            command.arg("-log").arg(log);
        }
        command.env("GOMAXPROCS", "1").env("GOGC", "400");
        Process::start(command, "go")
    }
}
