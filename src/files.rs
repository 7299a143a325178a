//! Files that are read at startup and may change while the process runs: certificates, rules, secrets.
//!
//! [`Loaded`] holds a value with the [`Snapshot`] of its files, and a later snapshot shows whether they have changed. Snapshots
//! compare contents, so that a file that is written in place and a symbolic link that changes its target (Kubernetes
//! Secrets) are both detected.
//!
//! This module must not know what the files contain, or when to read them: `app` polls them.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;

/// The contents of files at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    paths: Vec<PathBuf>,
    /// Hashes, so that no key is kept in memory. `None` for a file that cannot be read.
    hashes: Vec<Option<u64>>,
}

impl Snapshot {
    /// Reads the files.
    pub(crate) fn take(paths: Vec<PathBuf>) -> Self {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let hashes = paths.iter().map(|path| Some(hasher.hash_one(std::fs::read(path).ok()?))).collect();
        Self { paths, hashes }
    }

    /// The files, for the next snapshot.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

/// A value that was read from files, and a snapshot of them.
#[derive(Clone, Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) value: T,
    pub(crate) snapshot: Snapshot,
}

impl<T> Loaded<T> {
    /// Takes the snapshot before it calls `read`, so that a change during `read` is detected.
    pub(crate) fn read<E>(paths: Vec<PathBuf>, read: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let snapshot = Snapshot::take(paths);
        Ok(Self { value: read()?, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_during_read_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        std::fs::write(&path, "old").unwrap();
        let loaded = Loaded::read(vec![path.clone()], || {
            let text = std::fs::read_to_string(&path);
            std::fs::write(&path, "new").unwrap();
            text
        })
        .unwrap();
        assert_eq!(loaded.value, "old");
        assert_ne!(Snapshot::take(vec![path]), loaded.snapshot);
    }

    #[test]
    fn link_to_other_content_is_a_change_and_to_the_same_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [first, same, other, link] =
            ["first", "same", "other", "link"].map(|name| folder.path().join(name));
        for (path, text) in [(&first, "a"), (&same, "a"), (&other, "b")] {
            std::fs::write(path, text).unwrap();
        }
        let point_at = |target: &PathBuf| {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            Snapshot::take(vec![link.clone()])
        };
        let snapshot = point_at(&first);
        assert_eq!(point_at(&same), snapshot);
        assert_ne!(point_at(&other), snapshot);
    }
}
