//! Where secrets are read from: the files of `--secrets-dir`, else environment variables.
//!
//! A file has the name of the variable that it replaces, as in a mounted
//! [Kubernetes Secret](https://kubernetes.io/docs/concepts/configuration/secret/). This module does not read the environment,
//! which `config` does, and does not know what the values mean.

use std::collections::HashMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

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
    /// value counts as not set. The error is a file that cannot be read.
    pub(super) fn read(&self, name: &'static str) -> Result<Option<SecretString>, String> {
        let file = self.directory.as_ref().map(|directory| directory.join(name));
        let value = match file.filter(|file| file.exists()) {
            Some(file) => {
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| format!("{name}: cannot read {} ({error})", file.display()))?;
                Some(SecretString::from(Zeroizing::new(text).trim_end_matches(['\r', '\n'])))
            }
            None => self.variables.get(name).cloned(),
        };
        Ok(value.filter(|value| !value.expose_secret().is_empty()))
    }

    /// The files that may replace these variables.
    pub(super) fn files(&self, names: &[&'static str]) -> Vec<PathBuf> {
        self.directory.iter().flat_map(|directory| names.iter().map(|name| directory.join(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_replaces_variable_and_no_value_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| std::fs::write(directory.path().join(name), text).unwrap();
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
        assert!(error.starts_with("BINARY: cannot read /") && error.contains("/BINARY ("), "{error}");
        assert!(!format!("{source:?}").contains("of the environment"), "{source:?}");
    }
}
