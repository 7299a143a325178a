//! Reads what callgrind counted (the format is described in valgrind's manual, "Callgrind Format Specification").

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What callgrind counted in one run, or of one call.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) instructions: f64,
    /// 0 if the program has no symbols for its allocator.
    pub(crate) allocations: f64,
    /// The instructions of each [`place`].
    pub(crate) places: BTreeMap<String, f64>,
}

/// The functions of glibc, which the floor calls, and those of mimalloc.
const ALLOCATORS: [&str; 8] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "mi_malloc_aligned",
    "mi_zalloc_aligned",
    "mi_realloc_aligned",
];
const MALLOC: &str = "malloc and free";

impl Counts {
    /// Of one call, where `self` is a run with `calls` calls more than `fewer`.
    pub(crate) fn per_call(&self, fewer: &Self, calls: usize) -> Self {
        let of_one = |many: f64, few: f64| (many - few) / calls as f64;
        let places = self.places.iter().map(|(place, many)| {
            (place.clone(), of_one(*many, fewer.places.get(place).copied().unwrap_or_default()))
        });
        Self {
            instructions: of_one(self.instructions, fewer.instructions),
            allocations: of_one(self.allocations, fewer.allocations),
            places: places.collect(),
        }
    }

    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let mut counts = Self::default();
        // A name stands at the first use of its number only; those of files and of functions are numbered apart.
        let (mut files, mut functions) = (HashMap::new(), HashMap::new());
        let (mut function, mut home, mut source, mut callee) = ("", "", "", "");
        let mut is_cost_of_callee = false;
        for line in text.lines() {
            let (key, value) = line.split_once('=').unwrap_or(("", line));
            match key {
                "fl" => {
                    home = name(&mut files, value);
                    source = home;
                }
                "fi" | "fe" => source = name(&mut files, value),
                "cfi" | "cfl" => drop(name(&mut files, value)),
                "fn" => function = name(&mut functions, value),
                "cfn" => callee = name(&mut functions, value),
                "calls" => {
                    is_cost_of_callee = true;
                    if ALLOCATORS.contains(&callee) {
                        counts.allocations += value.split(' ').next().unwrap().parse::<f64>().unwrap();
                    }
                }
                "" if value.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) => {
                    let cost: f64 = value.split(' ').nth(1).unwrap_or("0").parse().unwrap();
                    if !std::mem::take(&mut is_cost_of_callee) {
                        counts.instructions += cost;
                        *counts.places.entry(place(function, home, source)).or_default() += cost;
                    }
                }
                _ => {}
            }
        }
        counts
    }
}

/// The name in `(number) name` or `(number)`.
fn name<'a>(names: &mut HashMap<&'a str, &'a str>, value: &'a str) -> &'a str {
    match value.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(value).copied().unwrap_or_default(),
    }
}

/// Where an instruction belongs: a crate, a file of the gateway, or a group of functions of the C library. Code of the standard
/// library that is inlined belongs to the function that it is inlined into.
fn place(function: &str, home: &str, source: &str) -> String {
    let of_file = |path: &str| {
        let (_, below_registry) = path.split_once("/registry/src/")?;
        let package = below_registry.split('/').nth(1)?;
        Some(package.rsplit_once('-')?.0.to_owned())
    };
    let own = |path: &str| path.rsplit_once("src/").map(|(_, file)| format!("src/{file}"));
    let is_std = |path: &str| path.contains("/library/") || path.contains("/rustc-");
    for path in [source, home] {
        if let Some(package) = of_file(path) {
            return if package.ends_with("mimalloc") || package.ends_with("mimalloc-sys") {
                MALLOC.to_owned()
            } else {
                package
            };
        }
        if path.contains("/out/") {
            return "generated from the .proto".to_owned();
        }
        if !is_std(path)
            && path.ends_with(".rs")
            && let Some(file) = own(path)
        {
            return file;
        }
    }
    match function {
        _ if is_std(source) || is_std(home) => "standard library".to_owned(),
        _ if ALLOCATORS.contains(&function) || function.contains("free") || function.contains("malloc") => {
            MALLOC.to_owned()
        }
        _ if function.contains("mem") => "memcpy, memset, memcmp".to_owned(),
        _ => "other C and assembler".to_owned(),
    }
}
