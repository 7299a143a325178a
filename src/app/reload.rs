//! Files that may change while the process runs. They are looked at by content and by name, so that a file that is
//! written again and a symbolic link that is turned to another one (as Kubernetes does with Secrets) are alike.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

/// How often the files are looked at. They are small, and in the cache of the system.
const INTERVAL: Duration = Duration::from_secs(1);

/// Files as they were at one moment. Take it before the files are read, and no change after that is missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    paths: Vec<PathBuf>,
    /// Hashes, so that no key is kept; `None` stands for a file that cannot be read.
    contents: Vec<Option<u64>>,
}

impl Snapshot {
    /// The files as they are now.
    pub(crate) fn take(paths: Vec<PathBuf>) -> Self {
        let contents = paths.iter().map(|path| Some(hash(&std::fs::read(path).ok()?))).collect();
        Self { paths, contents }
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Calls `changed` each time that the content of any of the files is another one than before. Never ends.
pub(crate) async fn on_change(mut known: Snapshot, mut changed: impl FnMut()) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let paths = known.paths.clone();
        // A file system may be slow; it must not hold a thread that serves calls.
        let Ok(found) = tokio::task::spawn_blocking(|| Snapshot::take(paths)).await else { continue };
        if found != known {
            known = found;
            changed();
        }
    }
}
