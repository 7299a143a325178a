//! Files that are read at startup and may change while the process runs: certificates, rules, secrets.
//!
//! [`Loaded`] holds a value with the [`Snapshot`] of its files, and a later snapshot shows whether they have changed. Snapshots
//! compare contents, so that a file that is written in place and a symbolic link that changes its target (Kubernetes
//! Secrets) are both detected. Content that may still be written is not used: it must be the same in two snapshots, before
//! and after it is read, that are at least [`SETTLE_TIME`] apart.
//!
//! This module must not know what the files contain, or when to read them: `config` reads them, and `app` polls them.

use std::fs::File;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// The shortest time between two looks at files that must be the same.
pub(crate) const SETTLE_TIME: Duration = Duration::from_millis(100);

/// The longest file that is read, in bytes. Certificates, rules and secrets are much shorter.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a file that may hold a secret. A pipe is an error: it could block for ever, and its content is gone after one look. So is a
/// file without an end, such as `/dev/zero`.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let metadata = std::fs::metadata(path)?;
    if metadata.file_type().is_fifo() {
        return Err(io::Error::other(
            "it is a pipe: write the content to a file, which is read more than once",
        ));
    }
    // Large enough not to grow, which would leave a copy of a secret behind.
    let length = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(length + 64));
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    Ok(content)
}

/// The same, as text.
pub(crate) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let content = read(path)?;
    let text =
        std::str::from_utf8(&content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The contents of files at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Each file with a hash, so that no key is kept in memory.
    files: Vec<(PathBuf, u64)>,
}

impl Snapshot {
    /// Reads the files. A missing file, and one that cannot be read, are part of the snapshot.
    pub(crate) fn take(paths: Vec<PathBuf>) -> Self {
        Self { files: paths.into_iter().map(|path| (path.clone(), fingerprint(&path))).collect() }
    }

    /// The files that `other` does not have, or has with another content.
    pub(crate) fn changed_since(&self, other: &Self) -> Vec<&Path> {
        let is_changed = |file: &&(PathBuf, u64)| !other.files.contains(file);
        self.files.iter().filter(is_changed).map(|(path, _)| path.as_path()).collect()
    }
}

/// A hash of the content, or of the reason why there is none. A dangling link differs from a missing file.
fn fingerprint(path: &Path) -> u64 {
    let content = read(path);
    let is_present = std::fs::symlink_metadata(path).is_ok();
    let content = content.as_ref().map(|bytes| bytes.as_slice()).map_err(io::Error::kind);
    BuildHasherDefault::<DefaultHasher>::default().hash_one((content, is_present))
}

/// Something that was read from files which belong together, and is read again when they change.
pub(crate) trait Reload: Send + Sync {
    /// What it is, for the log.
    fn subject(&self) -> &'static str;

    /// The files. Which ones they are may depend on the content of one of them.
    fn files(&self) -> Vec<PathBuf>;

    /// The files as they were at startup.
    fn snapshot(&self) -> Snapshot;

    /// Reads the files, and returns how to put their content in use. Until that is called, the old content stays in use.
    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String>;
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
    use std::fs;

    use super::*;

    #[test]
    fn change_during_read_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "old").unwrap();
        let loaded = Loaded::read(vec![path.clone()], || {
            let text = fs::read_to_string(&path);
            fs::write(&path, "new").unwrap();
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
            fs::write(path, text).unwrap();
        }
        let missing = Snapshot::take(vec![link.clone()]);
        let point_at = |target: &Path| {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            Snapshot::take(vec![link.clone()])
        };
        let snapshot = point_at(&first);
        assert_eq!(point_at(&same), snapshot);
        let changed = point_at(&other);
        assert_eq!(changed.changed_since(&snapshot), [&link]);
        assert_ne!(point_at(Path::new("nowhere")), missing, "a dangling link is not a missing file");
    }
}
