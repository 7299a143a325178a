//! The series: which gateways and calls are the points of each.

use std::net::{Ipv4Addr, SocketAddr};

use clap::ValueEnum;

use super::common::load::{Call, Callers};
use super::common::process::Process;
use super::common::tls::{CALLER, Pki, replace};
use super::common::turn::{TESTED, pinned};
use super::common::upstream::{Upstream, share_of};
use super::common::{DOCUMENTED, PROJECT, SHARE, identity, token, upstream};

/// The default calls in flight and connections.
const IN_FLIGHT: usize = 16;
const CONNECTIONS: usize = 8;

/// What grows.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    InFlight,
    Connections,
    Response,
    Token,
    Rules,
    Projects,
}

/// One series, whose gateways are running.
pub(crate) struct Series {
    pub(crate) title: &'static str,
    /// What is on the x axis.
    pub(crate) x: &'static str,
    pub(crate) points: Vec<Point>,
}

pub(crate) struct Point {
    pub(crate) x: usize,
    pub(crate) gateway: Process,
    pub(crate) callers: Callers,
    pub(crate) in_flight: usize,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::InFlight, Self::Connections, Self::Response, Self::Token, Self::Rules, Self::Projects];

    /// `pki` must live as long as the series.
    pub(crate) async fn start(self, pki: &Pki) -> Series {
        let (title, x, points) = match self {
            Self::InFlight => ("Calls in flight", "calls in flight, on 8 connections", in_flight().await),
            Self::Connections => ("Connections", "connections, 128 calls in flight", connections().await),
            Self::Response => ("Size of the response", "bytes of the response of VBS", response().await),
            Self::Token => ("Length of the token", "bytes of the token", token_length().await),
            Self::Rules => ("Rules, with mutual TLS", "rules", rules(pki).await),
            Self::Projects => (
                "Projects with tokens, Keystone mode, mutual TLS",
                "projects with tokens",
                projects(pki).await,
            ),
        };
        Series { title, x, points }
    }
}

fn gateway(upstream: SocketAddr, flags: &[&str]) -> Process {
    pinned(TESTED, || Process::gateway(upstream, flags, &[]))
}

async fn in_flight() -> Vec<Point> {
    let upstream = upstream::start().await;
    let mut points = Vec::new();
    for in_flight in [1, 3, 10, 30, 100, 300, 1000] {
        // One caller may have seven eighths of the default of 1,000.
        let gateway = gateway(upstream, &["--max-in-flight=2000"]);
        let callers = Callers::connect(gateway.grpc, CONNECTIONS).await;
        points.push(Point { x: in_flight, gateway, callers, in_flight });
    }
    points
}

async fn connections() -> Vec<Point> {
    let upstream = upstream::start().await;
    let mut points = Vec::new();
    for connections in [1, 10, 100, 1_000, 10_000] {
        let gateway = gateway(upstream, &[]);
        let callers = Callers::connect(gateway.grpc, connections).await;
        points.push(Point { x: connections, gateway, callers, in_flight: 128 });
    }
    points
}

/// Up to the default of `--max-response-bytes`.
async fn response() -> Vec<Point> {
    let mut points = Vec::new();
    for size in [512, 2 << 10, 8 << 10, 32 << 10, 128 << 10, 1 << 20] {
        let gateway = gateway(Upstream::new(&share_of(size)).start().await, &[]);
        let callers = Callers::connect(gateway.grpc, CONNECTIONS).await;
        points.push(Point { x: size, gateway, callers, in_flight: IN_FLIGHT });
    }
    points
}

/// Up to the longest token that the gateway accepts.
async fn token_length() -> Vec<Point> {
    let upstream = upstream::start().await;
    let mut points = Vec::new();
    for length in [200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 32_768] {
        let gateway = gateway(upstream, &[]);
        let call = Call::new(PROJECT, SHARE, &"k".repeat(length));
        let callers = Callers::connect(gateway.grpc, CONNECTIONS).await.with_calls(vec![call]);
        points.push(Point { x: length, gateway, callers, in_flight: IN_FLIGHT });
    }
    points
}

/// The rule of the caller is the last one.
async fn rules(pki: &Pki) -> Vec<Point> {
    let upstream = upstream::start().await;
    let mut points = Vec::new();
    for count in [1, 10, 100, 1_000, 10_000, 100_000] {
        let path = pki.path(&format!("rules-{count}"));
        let others = (1..count).map(|number| format!("caller-{number}.example={PROJECT}\n"));
        replace(&path, &others.chain([format!("{CALLER}={PROJECT}\n")]).collect::<String>());
        let file = format!("--allow-file={}", path.display());
        let flags: Vec<&str> = pki.flags().chain([file.as_str()]).collect();
        let gateway = gateway(upstream, &flags);
        let callers = Callers::connect_tls(Ipv4Addr::LOCALHOST, gateway.grpc, CONNECTIONS, pki).await;
        points.push(Point { x: count, gateway, callers, in_flight: IN_FLIGHT });
    }
    points
}

/// Calls for one project after the other, each with the token of its project.
async fn projects(pki: &Pki) -> Vec<Point> {
    let upstream = Upstream::new(DOCUMENTED).start().await;
    let account = identity::Account::start(identity::LONG).await;
    let rule = format!("--allow={CALLER}=*");
    let mut points = Vec::new();
    for count in [1, 4, 16, 64, 256] {
        let flags: Vec<&str> = pki.flags().chain(["--auth=keystone", &rule]).collect();
        let gateway = pinned(TESTED, || Process::gateway_with(upstream, &flags, &account.variables(), &[]));
        let call = |number| Call::new(&format!("project-{number}"), SHARE, &token());
        let callers = Callers::connect_tls(Ipv4Addr::LOCALHOST, gateway.grpc, CONNECTIONS, pki)
            .await
            .with_calls((0..count).map(call).collect());
        points.push(Point { x: count, gateway, callers, in_flight: IN_FLIGHT });
    }
    points
}
