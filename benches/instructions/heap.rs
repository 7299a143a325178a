//! `--heap`: which functions have allocated the memory of the gateway at its peak, by valgrind's massif.
//!
//! massif sees the allocator of the system only, so the gateway must be built without mimalloc.

use std::collections::BTreeMap;

use super::common::process::{Process, output};
use super::{MANY, ONE_WORKER, Options, below_valgrind, out_flag, run};

/// Crates whose functions allocate for others.
const FOR_OTHERS: [&str; 6] = ["alloc", "bytes", "core", "hashbrown", "slab", "std"];
/// Places of a smaller part of the whole are not printed.
const LEAST: f64 = 0.01;
/// Bytes that a gateway always has. With mimalloc, massif sees one KiB.
const LEAST_HEAP: u64 = 64 * 1024;

pub(crate) async fn report(options: &Options, upstream: std::net::SocketAddr) {
    let file = output("massif.out");
    let flags = ["--tool=massif", "--depth=200", "--threshold=0.1", &out_flag("massif", &file)];
    let process = below_valgrind(&flags, |below| Process::gateway(upstream, &[ONE_WORKER], below));
    run(options, MANY, None, process).await;
    let text = std::fs::read_to_string(file).unwrap();
    let peak = text.split_once("heap_tree=peak\n").expect("massif marks the peak").1;
    let (total, places) = places(peak);
    assert!(total > LEAST_HEAP, "massif sees no heap of the gateway: build with --no-default-features");
    let mut places: Vec<(String, u64)> = places.into_iter().collect();
    places.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    println!("| heap at its peak | KiB | |\n|---|---|---|\n| all | {} | |", total / 1024);
    for (place, bytes) in places {
        let part = bytes as f64 / total as f64;
        if part >= LEAST {
            println!("| `{place}` | {} | {:.0} % |", bytes / 1024, part * 100.0);
        }
    }
}

/// All bytes in a tree of massif (such as `n1: 512 0x4C2B: alloc::alloc::alloc (alloc.rs:95)`, one blank for each level), and
/// those of each place: the first function on the way from the allocator that does not allocate for others.
fn places(tree: &str) -> (u64, BTreeMap<String, u64>) {
    let mut places = BTreeMap::new();
    let mut total = 0;
    // Whether the bytes of the function at each level have a place.
    let mut is_placed: Vec<bool> = Vec::new();
    for line in tree.lines() {
        let node = line.trim_start_matches(' ');
        let depth = line.len() - node.len();
        let Some((children, node)) = node.split_once(": ").filter(|_| node.starts_with('n')) else { break };
        let (bytes, function) = node.split_once(' ').unwrap();
        let bytes: u64 = bytes.parse().unwrap();
        is_placed.truncate(depth);
        if depth == 0 {
            total = bytes;
        }
        let place = place(function);
        let was_placed = is_placed.last() == Some(&true);
        if !was_placed && (place.is_some() || children == "n0") {
            *places.entry(place.unwrap_or("other").to_owned()).or_default() += bytes;
        }
        is_placed.push(was_placed || place.is_some());
    }
    (total, places)
}

/// The function in `0x4C2B: h2::server::handshake (server.rs:389)`. One that was inlined has no path, and is part of another.
fn place(node: &str) -> Option<&str> {
    let function = node.split_once(": ")?.1.rsplit_once(" (")?.0;
    let first = function.trim_start_matches('<').split_once("::")?.0;
    let is_crate = first.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (is_crate && !FOR_OTHERS.contains(&first)).then_some(function)
}
