//! Files that are read at the start and may change while the process runs: certificates, rules, secrets.
//!
//! A [`Snapshot`] tells whether files have changed; [`Loaded`] keeps what was read together with the snapshot that was taken
//! before. Files are found by name and compared by content: a file that is written again and a symbolic link that is pointed at
//! another file (as Kubernetes does with Secrets) are noticed alike.
//!
//! This module does not know what the files hold, and does not watch them: `app` does.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// The contents of files at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    paths: Vec<PathBuf>,
    /// Hashes, so that no key is kept; `None` for a file that cannot be read.
    contents: Vec<Option<u64>>,
}

impl Snapshot {
    /// Reads the files as they are now.
    pub(crate) fn take(paths: Vec<PathBuf>) -> Self {
        let contents = paths.iter().map(|path| Some(hash(&std::fs::read(path).ok()?))).collect();
        Self { paths, contents }
    }

    /// The files, to take the next snapshot of.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// A value read from files, with the files as they were just before.
#[derive(Clone, Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) value: T,
    pub(crate) snapshot: Snapshot,
}

impl<T> Loaded<T> {
    /// Takes the snapshot of `paths` first and calls `read` then, so that no change after the reading is missed.
    pub(crate) fn read<E>(paths: Vec<PathBuf>, read: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let snapshot = Snapshot::take(paths);
        Ok(Self { value: read()?, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_during_reading_is_not_missed() {
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
    fn link_to_another_file_is_a_change_and_the_same_content_is_none() {
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
