//! Reads a configuration only from files that have stopped changing, so that nothing is half-read at startup.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use super::flags::ServeFlags;
use super::validator::variable;
use super::value::AuthMode;
use crate::credentials::{AKSK_VARIABLES, AccountConfig, CA_VARIABLE, SecretSource};
use crate::files::{SETTLE_TIME, Snapshot};

/// How long the files of a configuration may keep changing.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// A file, and the flag or variable that names it.
#[derive(Clone, Debug)]
pub(super) struct NamedFile {
    name: String,
    path: PathBuf,
}

/// Calls `read` until the files that it names were the same before and after it, for [`SETTLE_TIME`] and longer. The error has a
/// line for each file that still changes after `max_wait`. Without files it is called once.
pub(super) fn read_settled<T>(
    max_wait: Duration,
    mut read: impl FnMut(&mut Vec<NamedFile>) -> T,
) -> Result<T, Vec<String>> {
    let deadline = Instant::now() + max_wait;
    let mut files = Vec::new();
    let mut value = read(&mut files);
    while !files.is_empty() {
        let before = snapshot(&files);
        sleep(SETTLE_TIME);
        files.clear();
        value = read(&mut files);
        let after = snapshot(&files);
        if after == before {
            break;
        }
        if Instant::now() > deadline {
            let changed = after.changed_since(&before);
            files.retain(|file| changed.contains(&file.path.as_path()));
            let report = |NamedFile { name, path }: &NamedFile| {
                format!(
                    "{name}: {} keeps changing: start again when it is written completely",
                    path.display()
                )
            };
            return Err(files.iter().map(report).collect());
        }
    }
    Ok(value)
}

fn snapshot(files: &[NamedFile]) -> Snapshot {
    Snapshot::take(files.iter().map(|file| file.path.clone()).collect())
}

/// The files that the flags and variables of `serve` name, whether they can be read or not.
pub(super) fn files(flags: &ServeFlags, matches: &ArgMatches) -> Vec<NamedFile> {
    let path = |id: &str| matches.get_raw(id).and_then(|mut values| values.next()).map(PathBuf::from);
    let name = |id: &str| format!("--{} ({})", id.replace('_', "-"), variable(id));
    let ca_file = std::env::var(CA_VARIABLE).ok().map(|path| (CA_VARIABLE, path.into()));
    let source = SecretSource { directory: path("secrets_dir"), variables: ca_file.into_iter().collect() };
    let secrets = match flags.auth.value {
        Ok(AuthMode::Keystone) => AccountConfig::files(&source),
        Ok(AuthMode::AkSk) => source.files(AKSK_VARIABLES),
        Ok(AuthMode::PassThrough) | Err(_) => Vec::new(),
    };
    let is_secret = |path: &PathBuf| path.parent() == source.directory.as_deref();
    let secrets = secrets.into_iter().map(|path| NamedFile {
        name: if is_secret(&path) { name("secrets_dir") } else { CA_VARIABLE.to_owned() },
        path,
    });
    let ids = ["tls_cert", "tls_key", "tls_client_ca", "allow_file", "upstream_ca"];
    let named = |id| Some(NamedFile { name: name(id), path: path(id)? });
    let of_variable =
        |name: &str| Some(NamedFile { name: name.to_owned(), path: std::env::var_os(name)?.into() });
    let collector = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
    let named = ids.into_iter().filter_map(named).chain(secrets);
    named.chain(collector.into_iter().filter_map(of_variable)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(path: &Path) -> NamedFile {
        NamedFile { name: "--flag".into(), path: path.into() }
    }

    #[test]
    fn files_that_change_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let mut reads = 0;
        let value = read_settled(MAX_WAIT, |files| {
            files.push(file(&path));
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
            files.extend([file(&still), file(&path)]);
            reads += 1;
            std::fs::write(&path, reads.to_string()).unwrap();
        });
        let expected =
            format!("--flag: {} keeps changing: start again when it is written completely", path.display());
        assert_eq!(problems, Err(vec![expected]));
    }
}
