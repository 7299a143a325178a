//! Unknown keys of the upstream's JSON. Each is counted, and the first 64 different ones of the process are logged.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use crate::credentials::AuthMaterial;
use crate::metrics::Metrics;
use crate::sync::lock;

#[derive(Debug, Default)]
pub(super) struct UnknownFields {
    /// Hashes of the logged paths, since a path can be as long as a body.
    logged: Mutex<HashSet<u64>>,
}

impl UnknownFields {
    const MAX_LOGGED: usize = 64;
    const MAX_BYTES: usize = 64;

    /// Counts the key at a JSON path and logs it, redacted, if it is new.
    pub(super) fn record(&self, path: &str, material: &AuthMaterial, metrics: &Metrics) {
        metrics.unknown_fields.inc();
        if self.is_new(path) {
            let printable: String =
                path.chars().filter(char::is_ascii_graphic).take(4 * Self::MAX_BYTES).collect();
            let key: String = material.redact(&printable).chars().take(Self::MAX_BYTES).collect();
            tracing::warn!(key, "the upstream's response has an unknown key");
        }
    }

    fn is_new(&self, path: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let mut logged = lock(&self.logged);
        logged.len() < Self::MAX_LOGGED && logged.insert(hasher.finish())
    }
}
