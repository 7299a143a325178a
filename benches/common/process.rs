//! A program under test as a process of its own, and what the kernel says of that process alone.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

/// The gateway, as it was built for this benchmark.
pub(crate) const GATEWAY: &str = env!("CARGO_BIN_EXE_backup-share-gateway");

/// The variable that names another program to measure in its place, such as that of an earlier version.
const GATEWAY_BINARY: &str = "GATEWAY_BINARY";

/// The key of the address in the line that says where a process listens.
const GRPC_ADDRESS: &str = "grpc.address";

/// The argument by which a benchmark starts itself as the floor.
pub(crate) const FLOOR: &str = "floor";

/// If this process was started as the floor, it is the floor, as long as it lives.
pub(crate) fn be_floor_if_told() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(FLOOR) {
        super::floor::serve(arguments.next().unwrap().parse().unwrap());
    }
}

/// What runs: the gateway or the floor, bare or below another program.
pub(crate) fn command(program: &Path, below: &[&OsStr]) -> Command {
    let Some((first, rest)) = below.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// A process that serves gRPC.
pub(crate) struct Process {
    child: Child,
    log: fs::File,
    /// Where it listens.
    pub(crate) grpc: SocketAddr,
    /// The gateway's admin port.
    pub(crate) admin: Option<SocketAddr>,
    /// From the start of the process to its word that it listens.
    pub(crate) started_in: Duration,
}

impl Process {
    /// The gateway before `upstream`, with all that is on by default; its log goes to a file.
    pub(crate) fn gateway(upstream: SocketAddr, arguments: &[&str], below: &[&OsStr]) -> Self {
        Self::gateway_with(upstream, arguments, &[], below)
    }

    /// The same, with variables of the environment.
    pub(crate) fn gateway_with(
        upstream: SocketAddr,
        arguments: &[&str],
        variables: &[(&str, &str)],
        below: &[&OsStr],
    ) -> Self {
        Self::gateway_at(&format!("http://{upstream}"), arguments, variables, below)
    }

    /// The same before the upstream at this URL.
    pub(crate) fn gateway_at(
        upstream: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
        below: &[&OsStr],
    ) -> Self {
        let program = std::env::var_os(GATEWAY_BINARY).unwrap_or(GATEWAY.into());
        let mut command = command(Path::new(&program), below);
        command
            .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-delay=0s"])
            .args(["--allow-plaintext-upstream", &format!("--upstream-url={upstream}")])
            .args(arguments)
            // The gateway would warn of a variable that it does not know.
            .env_remove(GATEWAY_BINARY)
            .envs(variables.iter().copied());
        Self::start(command, "gateway")
    }

    /// The floor before `upstream`.
    pub(crate) fn floor(upstream: SocketAddr, below: &[&OsStr]) -> Self {
        let mut command = command(&std::env::current_exe().unwrap(), below);
        command.args([FLOOR, &upstream.to_string()]);
        Self::start(command, FLOOR)
    }

    /// Starts it with its standard output in a file, and waits for the line there that has its address.
    pub(crate) fn start(mut command: Command, name: &str) -> Self {
        let log = log_file(name);
        let since = Instant::now();
        let mut child = command.stdout(log.try_clone().unwrap()).spawn().unwrap();
        let listening = wait(&mut child, name, &log, Duration::from_micros(200), || listening_line(&log));
        let address = |key: &str| listening[key].as_str().map(|address| address.parse().unwrap());
        let (grpc, admin) = (address(GRPC_ADDRESS).unwrap(), address("admin.address"));
        Self { child, log, grpc, admin, started_in: since.elapsed() }
    }

    /// Starts what does not say where it listens, with its standard error in a file, and waits until it takes a
    /// connection at `grpc`.
    pub(crate) fn listening(mut command: Command, name: &str, grpc: SocketAddr) -> Self {
        let log = log_file(name);
        let since = Instant::now();
        let mut child = command.stderr(log.try_clone().unwrap()).spawn().unwrap();
        wait(&mut child, name, &log, Duration::from_millis(5), || TcpStream::connect(grpc).ok());
        Self { child, log, grpc, admin: None, started_in: since.elapsed() }
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name before it may hold anything, but no second ')'.
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        let ticks = fields[12] + fields[13];
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Resident memory in MiB.
    pub(crate) fn memory(&self) -> f64 {
        number(&self.read("status"), "VmRSS:") as f64 / 1024.0
    }

    /// Forgets what was logged so far, so that a long run does not fill the disk.
    pub(crate) fn empty_log(&self) {
        self.log.set_len(0).unwrap();
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.path("fd")).unwrap().count()
    }

    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(self.path("task")).unwrap().count()
    }

    /// Context switches so far, of all threads.
    pub(crate) fn switches(&self) -> u64 {
        let tasks = fs::read_dir(self.path("task")).unwrap();
        let of_task = |task: fs::DirEntry| {
            // A thread may end meanwhile.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
                .map(|key| number(&status, key))
                .iter()
                .sum::<u64>()
        };
        tasks.map(|task| of_task(task.unwrap())).sum()
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a process that was started is `ready`.
fn wait<T>(
    child: &mut Child,
    name: &str,
    log: &fs::File,
    pause: Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> T {
    let since = Instant::now();
    loop {
        if let Some(ready) = ready() {
            return ready;
        }
        let is_waiting = child.try_wait().unwrap().is_none() && since.elapsed() < Duration::from_secs(60);
        assert!(is_waiting, "the {name} does not listen; its output is:\n{}", content(log));
        std::thread::sleep(pause);
    }
}

/// The complete line that has the address.
fn listening_line(log: &fs::File) -> Option<Value> {
    let text = content(log);
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line[GRPC_ADDRESS].is_string())
}

/// A new file, also if a process that still runs has one of this name.
fn log_file(name: &str) -> fs::File {
    let path = output(&format!("{name}.log"));
    let _ = fs::remove_file(&path);
    fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

fn content(log: &fs::File) -> String {
    let mut bytes = vec![0; usize::try_from(log.metadata().unwrap().len()).unwrap()];
    log.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number behind a key at the beginning of a line.
fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    value.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Runs this process, and what it starts from now on, on these cores only.
pub(crate) fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).expect("a benchmark needs two cores");
}

/// Raises the limit of file descriptors of this process, and of what it starts from now on, as far as it goes.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// A file for what a benchmark leaves behind, below `target`.
pub(crate) fn output(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}
