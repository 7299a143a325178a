//! `cargo bench --bench pieces`: what the pieces of a call cost by themselves, without sockets and without a runtime: the
//! median time, as criterion estimates it, and the allocations. About half a minute.
//!
//! What the machine does besides moves the times, and a piece in a loop has warm caches, so that they add up to less than
//! a call; the allocations are exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;

use std::alloc::System;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use backup_share_gateway::credentials::{AuthMaterial, Keys, Scheme, SignableRequest};
use backup_share_gateway::domain::{
    BackupShare, ErrorKind, ProjectId, ShareId, TOKEN_HEADER, Timestamp, Token,
};
use backup_share_gateway::grpc::{RpcError, grpc_timeout};
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};
use backup_share_gateway::upstream::{BaseUrl, from_response, read_share, retry_after, share_url};
use clap::Parser;
use common::process::output;
use common::{DOCUMENTED, PROJECT, SHARE, token};
use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use serde::Serialize;
use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A share that is not there, as the upstream says it.
const NOT_FOUND: &[u8] = include_bytes!("../tests/gateway/fixtures/errors/e01_item_not_found.json");
const REQUEST_ID: &str = "req-11111111-2222-4333-8444-555555555555";

#[derive(Parser)]
#[command(about = "What the pieces of a call cost by themselves")]
struct Options {
    /// Seconds of one piece.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Piece {
    piece: &'static str,
    median_ns: f64,
    /// Where the median is, by a confidence of 95 %.
    between_ns: [f64; 2],
    allocations: usize,
}

/// Measures, and keeps what was found.
struct Bench {
    criterion: Criterion,
    pieces: Vec<Piece>,
}

impl Bench {
    fn new(seconds: f64) -> Self {
        let time = Duration::from_secs_f64(seconds);
        let criterion = Criterion::default().output_directory(&output("pieces")).without_plots();
        Self { criterion: criterion.warm_up_time(time / 4).measurement_time(time), pieces: Vec::new() }
    }

    /// Measures `work`; to make what it takes and to drop what it gives is not counted.
    fn piece<I, O>(&mut self, piece: &'static str, input: impl Fn() -> I, work: impl Fn(I) -> O) {
        // So few at a time stay in the cache.
        let batch = BatchSize::NumIterations(64);
        self.criterion.bench_function(piece, |bencher| bencher.iter_batched(&input, &work, batch));
        let (median_ns, between_ns) = median(piece);
        let given = input();
        let region = Region::new(ALLOCATOR);
        let made = black_box(work(given));
        let change = region.change();
        drop(made);
        let allocations = change.allocations + change.reallocations;
        self.pieces.push(Piece { piece, median_ns, between_ns, allocations });
    }
}

/// What criterion has written down of it.
fn median(piece: &str) -> (f64, [f64; 2]) {
    let estimates = output("pieces").join(piece).join("new/estimates.json");
    let estimates: Value = serde_json::from_reader(File::open(estimates).unwrap()).unwrap();
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    let number = |value: &Value| value.as_f64().unwrap();
    (number(&median["point_estimate"]), [number(&interval["lower_bound"]), number(&interval["upper_bound"])])
}

fn project() -> ProjectId {
    ProjectId::parse(PROJECT.into()).unwrap()
}

fn share_id() -> ShareId {
    ShareId::parse(SHARE.into()).unwrap()
}

fn share() -> BackupShare {
    read_share(DOCUMENTED.as_bytes(), &share_id(), drop).unwrap()
}

fn headers(name: &str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
}

// The results are unwrapped, so that no failure is measured as a success.

fn request(bench: &mut Bench) {
    let sent = GetBackupShareRequest { project_id: PROJECT.into(), id: SHARE.into() }.encode_to_vec();
    let timeout = headers("grpc-timeout", "15S");
    let base = BaseUrl::parse("https://vbs.eu-de.otc.t-systems.com", false).unwrap();
    let (project, id) = (project(), share_id());
    let decode = |sent: &[u8]| GetBackupShareRequest::decode(sent).unwrap();
    bench.piece("request from protobuf", || sent.as_slice(), decode);
    bench.piece("project ID checked", || PROJECT.to_owned(), |text| ProjectId::parse(text).unwrap());
    bench.piece("share ID checked", || SHARE.to_owned(), |text| ShareId::parse(text).unwrap());
    bench.piece("grpc-timeout read", || &timeout, |headers| grpc_timeout(headers).unwrap().unwrap());
    bench.piece("URL made", || (), |()| share_url(&base, &project, &id));
}

fn reply(bench: &mut Bench) {
    let id = share_id();
    let message = GetBackupShareResponse::from(share());
    let time = || "2017-08-16T07:24:24.786297";
    bench.piece("time read", time, |text| Timestamp::parse(text).unwrap());
    bench.piece("JSON read", || DOCUMENTED.as_bytes(), |body| read_share(body, &id, drop).unwrap());
    bench.piece("share to message", share, GetBackupShareResponse::from);
    bench.piece("message to protobuf", || &message, Message::encode_to_vec);
}

fn error(bench: &mut Bench, material: &AuthMaterial) {
    let read = |body| from_response(404, None, Some(REQUEST_ID), Some(body), material);
    let error = read(NOT_FOUND);
    assert_eq!(error.kind, ErrorKind::ShareNotFound);
    let failure = RpcError::Upstream(Box::new(error));
    let id = HeaderValue::from_static(REQUEST_ID);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let wait = |value: &str| retry_after(value.as_bytes(), now).unwrap();
    bench.piece("error body read", || NOT_FOUND, read);
    bench.piece("error to status", || &failure, |failure| failure.status(&id).into_http::<()>());
    bench.piece("Retry-After, seconds", || "120", wait);
    bench.piece("Retry-After, date", || "Sun, 06 Nov 1994 08:49:47 GMT", wait);
    bench.piece("request ID redacted", || REQUEST_ID, |text| material.redact(text));
}

fn signature(bench: &mut Bench) {
    // As long as those that the vendor issues.
    let secret = |length| secrecy::SecretString::from("K".repeat(length));
    let keys = Keys { access_key: secret(20), secret_key: secret(40), security_token: None };
    let path = format!("/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE}");
    let request = SignableRequest {
        host: "vbs.eu-de.otc.t-systems.com",
        path: &path,
        project_id: PROJECT,
        user_agent: concat!("backup-share-gateway/", env!("CARGO_PKG_VERSION")),
        accept: "application/json",
    };
    let now = SystemTime::now();
    bench.piece("signature, sdk", || request, |request| keys.sign(Scheme::Sdk, request, now));
    bench.piece("signature, legacy", || request, |request| keys.sign(Scheme::Legacy, request, now));
}

fn main() {
    let options = Options::parse();
    // Criterion tells its progress on stdout, where only the result belongs.
    let mut result = File::from(rustix::io::dup(io::stdout()).unwrap());
    rustix::stdio::dup2_stdout(io::stderr()).unwrap();
    let material =
        AuthMaterial::Caller(Token::from_headers(&headers(TOKEN_HEADER.as_str(), &token())).unwrap());
    let mut bench = Bench::new(options.seconds);
    request(&mut bench);
    reply(&mut bench);
    error(&mut bench, &material);
    signature(&mut bench);
    let text = if options.json {
        serde_json::to_string_pretty(&bench.pieces).unwrap()
    } else {
        table(&bench.pieces)
    };
    writeln!(result, "{text}").unwrap();
}

fn table(pieces: &[Piece]) -> String {
    let head = "| piece | median, ns | between, 95 % | allocations |\n|---|---|---|---|";
    let rows = pieces.iter().map(|Piece { piece, median_ns, between_ns: [low, high], allocations }| {
        format!("\n| {piece} | {median_ns:.0} | {low:.0} to {high:.0} | {allocations} |")
    });
    std::iter::once(head.to_owned()).chain(rows).collect()
}
