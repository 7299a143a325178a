//! Where secrets are read from: the files of `--secrets-dir`, else environment variables.
//!
//! A file has the name of the variable that it replaces, as in a mounted
//! [Kubernetes Secret](https://kubernetes.io/docs/concepts/configuration/secret/). This module does not read the environment,
//! which `config` does, and does not know what the values mean.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::files;
use secrecy::{ExposeSecret, SecretString};

/// What to do about a variable that is not set.
pub(super) const HOW_TO_SET: &str = "set it in the environment or as a file in --secrets-dir";

/// The directory and the variables. `Debug` shows no value.
#[derive(Clone, Debug)]
pub struct SecretSource {
    /// The directory of `--secrets-dir`.
    pub directory: Option<PathBuf>,
    /// The environment variables that are set, by name.
    pub variables: HashMap<&'static str, SecretString>,
}

impl SecretSource {
    /// The content of the file of this name without the line ends at its end; if there is no such file, the variable. An empty
    /// value counts as not set. The error is a file that cannot be read, or a directory.
    pub(super) fn read(&self, name: &'static str) -> Result<Option<SecretString>, String> {
        let value = match &self.directory {
            Some(directory) => read_file(directory, name).map_err(|error| {
                let path = directory.join(name);
                format!(
                    "{name} of --secrets-dir (GATEWAY_SECRETS_DIR): cannot read {} ({error})",
                    path.display()
                )
            })?,
            None => None,
        };
        let value = value.or_else(|| self.variables.get(name).cloned());
        Ok(value.filter(|value| !value.expose_secret().is_empty()))
    }

    /// Whether the directory has a file of this name.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.directory.as_ref().is_some_and(|directory| fs::symlink_metadata(directory.join(name)).is_ok())
    }

    /// Reads the files of all these variables, also of those that are not needed. The error has a line for each that cannot be
    /// read: a broken file is never taken for a missing one.
    pub(super) fn check(&self, names: &[&'static str]) -> Result<(), Vec<String>> {
        let problems: Vec<String> = names.iter().filter_map(|name| self.read(name).err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The files that may replace these variables.
    pub(crate) fn files(&self, names: &[&'static str]) -> Vec<PathBuf> {
        self.directory.iter().flat_map(|directory| names.iter().map(|name| directory.join(name))).collect()
    }
}

/// `None` if the directory has no file of this name. A dangling link is an error, and so is a directory that is gone.
fn read_file(directory: &Path, name: &str) -> io::Result<Option<SecretString>> {
    let file = directory.join(name);
    if let Err(error) = fs::symlink_metadata(&file) {
        let is_missing = error.kind() == io::ErrorKind::NotFound && directory.is_dir();
        return if is_missing { Ok(None) } else { Err(error) };
    }
    let text = files::read_text(&file)?;
    Ok(Some(SecretString::from(text.trim_end_matches(['\r', '\n']))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_replaces_variable_and_no_value_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
        put("BOTH", b"of the file\r\n");
        put("EMPTY", b"\n");
        put("BINARY", &[0xff]);
        let variables = ["BOTH", "EMPTY", "VARIABLE"].map(|name| (name, "of the environment".into())).into();
        let source = SecretSource { directory: Some(directory.path().into()), variables };
        let read = |name| source.read(name).map(|value| value.map(|value| value.expose_secret().to_owned()));
        assert_eq!(read("BOTH").unwrap().as_deref(), Some("of the file"));
        assert_eq!(read("EMPTY").unwrap(), None);
        assert_eq!(read("VARIABLE").unwrap().as_deref(), Some("of the environment"));
        assert_eq!(read("NOTHING").unwrap(), None);
        let error = read("BINARY").unwrap_err();
        assert!(error.starts_with("BINARY of --secrets-dir (GATEWAY_SECRETS_DIR): cannot read /"), "{error}");
        assert!(error.contains("/BINARY ("), "{error}");
        assert_eq!(source.check(&["BOTH", "BINARY", "NOTHING"]), Err(vec![error]));
        assert!(!format!("{source:?}").contains("of the environment"), "{source:?}");
    }

    #[test]
    fn broken_file_or_missing_directory_never_gives_the_variable() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("secrets");
        let source = SecretSource {
            directory: Some(directory.clone()),
            variables: [("NAME", "of the environment".into())].into(),
        };
        let file = directory.join("NAME");
        let link = |target: &Path| std::os::unix::fs::symlink(target, &file);
        let fails = || assert!(source.read("NAME").unwrap_err().contains(&file.display().to_string()));
        fails();
        fs::write(&directory, "a file").unwrap();
        fails();
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        assert!(source.read("NAME").unwrap().is_some(), "no file of this name");
        fs::create_dir(&file).unwrap();
        fails();
        fs::remove_dir(&file).unwrap();
        for target in [Path::new("..data/NAME"), Path::new("/no/such/file"), &file] {
            link(target).unwrap();
            fails();
            fs::remove_file(&file).unwrap();
        }
        // As Kubernetes mounts it.
        fs::create_dir(directory.join("first")).unwrap();
        fs::write(directory.join("first/NAME"), "of the file").unwrap();
        std::os::unix::fs::symlink("first", directory.join("..data")).unwrap();
        link(Path::new("..data/NAME")).unwrap();
        assert_eq!(source.read("NAME").unwrap().unwrap().expose_secret(), "of the file");
    }
}
