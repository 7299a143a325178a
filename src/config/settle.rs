//! Reads a configuration only from files that have stopped changing, so that nothing is half-read at startup.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use super::flags::ServeFlags;
use super::value::AuthMode;
use crate::credentials::{AKSK_VARIABLES, AccountConfig, CA_VARIABLE, SecretSource};
use crate::files::{SETTLE_TIME, Snapshot};

/// How long the files of a configuration may keep changing.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// Calls `read` until the files that it names were the same before and after it, for [`SETTLE_TIME`] and longer. The error has a
/// line for each file that still changes after `max_wait`. Without files it is called once.
pub(super) fn read_settled<T>(
    max_wait: Duration,
    mut read: impl FnMut(&mut Vec<PathBuf>) -> T,
) -> Result<T, Vec<String>> {
    let deadline = Instant::now() + max_wait;
    let mut files = Vec::new();
    let mut value = read(&mut files);
    while !files.is_empty() {
        let before = Snapshot::take(files);
        sleep(SETTLE_TIME);
        files = Vec::new();
        value = read(&mut files);
        let after = Snapshot::take(files.clone());
        if after == before {
            break;
        }
        if Instant::now() > deadline {
            let paths = after.changed_since(&before);
            let report = |path: &Path| {
                format!("{} keeps changing: start again when it is written completely", path.display())
            };
            return Err(paths.into_iter().map(report).collect());
        }
    }
    Ok(value)
}

/// The files that the flags and variables of `serve` name, whether they can be read or not.
pub(super) fn files(flags: &ServeFlags, matches: &ArgMatches) -> Vec<PathBuf> {
    let path = |id: &str| matches.get_raw(id).and_then(|mut values| values.next()).map(PathBuf::from);
    let named = ["tls_cert", "tls_key", "tls_client_ca", "allow_file", "upstream_ca"];
    let mut files: Vec<PathBuf> = named.into_iter().filter_map(path).collect();
    let ca_file = std::env::var(CA_VARIABLE).ok().map(|path| (CA_VARIABLE, path.into()));
    let source = SecretSource { directory: path("secrets_dir"), variables: ca_file.into_iter().collect() };
    match flags.auth.value {
        Ok(AuthMode::Keystone) => files.extend(AccountConfig::files(&source)),
        Ok(AuthMode::AkSk) => files.extend(source.files(AKSK_VARIABLES)),
        Ok(AuthMode::PassThrough) | Err(_) => {}
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_change_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let mut reads = 0;
        let value = read_settled(MAX_WAIT, |files| {
            files.push(path.clone());
            let before = std::fs::read_to_string(&path);
            reads += 1;
            if reads < 4 {
                std::fs::write(&path, "x".repeat(reads)).unwrap();
            }
            before.unwrap_or_default()
        });
        assert_eq!((value.as_deref(), reads), (Ok("xxx"), 4));
        assert_eq!(read_settled(MAX_WAIT, |_| "no files"), Ok("no files"));
    }

    #[test]
    fn file_that_keeps_changing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [still, path] = ["still", "rules"].map(|name| folder.path().join(name));
        let mut reads = 0;
        let problems = read_settled(Duration::ZERO, |files| {
            files.extend([still.clone(), path.clone()]);
            reads += 1;
            std::fs::write(&path, reads.to_string()).unwrap();
        });
        let expected =
            format!("{} keeps changing: start again when it is written completely", path.display());
        assert_eq!(problems, Err(vec![expected]));
    }
}
