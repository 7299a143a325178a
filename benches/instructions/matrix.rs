//! `--matrix`: one call under each load, with each result and each credential, with TLS on both sides. Without TLS there is the
//! caller's token only: a gateway with a credential of the operator requires mutual TLS and rules.
//!
//! Each program runs once: callgrind's counters are set to zero before the calls of a cell, and read after them.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use tonic::Code;

use super::callgrind::Counts;
use super::common::DOCUMENTED;
use super::common::identity::{self, Account};
use super::common::load::{Call, Callers};
use super::common::process::{FLOOR, Process, output};
use super::common::tls::Pki;
use super::common::upstream::{Behaviour, Upstream, plain_id, some_retried};
use super::{KEYS, ONE_WORKER, RULE, below_valgrind, connect, out_flag};

const IN_FLIGHT: [usize; 3] = [1, 16, 128];
const CONNECTIONS: [usize; 3] = [1, 8, 500];
/// The calls of a cell.
const CALLS: usize = 800;
/// The calls before it: each connection has carried one, and so many to the upstream are open.
const WARM_UP: usize = 512;

/// A result: its name, the share with this number, and how the call ends.
type Outcome = (&'static str, fn(usize) -> String, Code);

const OUTCOMES: [Outcome; 3] = [
    ("success", |_| plain_id(), Code::Ok),
    ("1 in 40 retried after a 503", some_retried, Code::Ok),
    ("404", |_| Behaviour::NotFound.id(), Code::NotFound),
];

/// The user instructions of a call, in the order of [`CONNECTIONS`] and then of [`IN_FLIGHT`].
struct Row {
    name: String,
    instructions: Vec<f64>,
}

pub(crate) struct Matrix(Vec<Row>);

pub(crate) async fn measure() -> Matrix {
    let (upstream, pki, account) =
        (Upstream::new(DOCUMENTED), Pki::new(), Account::start(identity::LONG).await);
    let (plain, tls) = (upstream.start().await, upstream.start_tls(pki.acceptor()).await);
    let account = account.variables();
    let mut rows = Vec::new();
    let url = format!("http://{plain}");
    let gateway = Profiled::start(|below| Process::gateway_at(&url, &[ONE_WORKER], &[], below));
    rows.extend(gateway.rows("plain", &OUTCOMES, None).await);
    let (url, upstream_ca) = (format!("https://{tls}"), pki.upstream_flag());
    for (mode, variables) in [("passthrough", &[][..]), ("keystone", &account), ("aksk", &KEYS)] {
        let auth = format!("--auth={mode}");
        let flags: Vec<&str> =
            [ONE_WORKER, RULE, &auth, &upstream_ca].into_iter().chain(pki.flags()).collect();
        let gateway = Profiled::start(|below| Process::gateway_at(&url, &flags, variables, below));
        rows.extend(gateway.rows(&format!("TLS, {mode}"), &OUTCOMES, Some(&pki)).await);
    }
    let floor = Profiled::start(|below| Process::floor(plain, below));
    rows.extend(floor.rows(FLOOR, &OUTCOMES[..1], None).await);
    Matrix(rows)
}

/// A program below callgrind.
struct Profiled {
    process: Process,
    file: PathBuf,
}

impl Profiled {
    fn start(start: impl FnOnce(&[&OsStr]) -> Process) -> Self {
        let file = output("matrix.callgrind");
        let process = below_valgrind(&["--tool=callgrind", &out_flag("callgrind", &file)], start);
        Self { process, file }
    }

    async fn rows(self, name: &str, outcomes: &[Outcome], pki: Option<&Pki>) -> Vec<Row> {
        let row =
            |(outcome, ..): &Outcome| Row { name: format!("{name}: {outcome}"), instructions: Vec::new() };
        let mut rows: Vec<Row> = outcomes.iter().map(row).collect();
        let mut dumps = 1..;
        for connections in CONNECTIONS {
            let callers = connect(&self.process, connections, pki).await;
            for in_flight in IN_FLIGHT {
                for (row, outcome) in rows.iter_mut().zip(outcomes) {
                    keep(&callers, in_flight, WARM_UP.max(connections), outcome).await;
                    self.control("zero");
                    keep(&callers, in_flight, CALLS, outcome).await;
                    self.control("dump");
                    let dump = self.file.with_extension(format!("callgrind.{}", dumps.next().unwrap()));
                    row.instructions.push(Counts::read(&dump).instructions / CALLS as f64);
                    std::fs::remove_file(dump).unwrap();
                }
            }
        }
        self.process.stop();
        rows
    }

    /// Passes a command to valgrind.
    fn control(&self, command: &str) {
        let pid = format!("--pid={}", self.process.id());
        let done = Command::new("vgdb").args([&pid, command]).output().expect("vgdb comes with valgrind");
        assert!(done.status.success(), "vgdb {command}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Makes so many calls.
async fn keep(callers: &Callers, in_flight: usize, calls: usize, (_, share, code): &Outcome) {
    let mut calls = (0..calls).map(|number| Call::of_share(&share(number)));
    let ended = callers.keep_each(in_flight, || calls.next()).await;
    assert!(ended.iter().all(|call| call.code == *code), "every call must end with {code:?}");
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loads = || CONNECTIONS.iter().flat_map(|n| IN_FLIGHT.iter().map(move |calls| (calls, n)));
        write!(f, "| thousand user instructions of one call; in flight / connections |")?;
        loads().try_for_each(|(calls, n)| write!(f, " {calls} / {n} |"))?;
        writeln!(f, "\n|---|{}", "---|".repeat(loads().count()))?;
        for Row { name, instructions } in &self.0 {
            write!(f, "| {name} |")?;
            instructions.iter().try_for_each(|count| write!(f, " {:.0} |", count / 1e3))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
