//! Where secrets come from: a folder whose files are named as the variables that they replace, as a mounted Kubernetes
//! secret, or else the variables.

use std::collections::HashMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// The folder and the variables. No value is shown.
#[derive(Clone, Debug)]
pub struct Variables {
    /// The folder.
    pub folder: Option<PathBuf>,
    /// The variables that are set.
    pub set: HashMap<&'static str, SecretString>,
}

impl Variables {
    /// The content of the file of this name without the newline at its end, else the variable. Empty is none.
    pub fn value(&self, name: &'static str) -> Result<Option<SecretString>, String> {
        let file = self.folder.as_ref().map(|folder| folder.join(name)).filter(|file| file.exists());
        let value = match file {
            Some(file) => {
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| format!("{}: cannot be read ({error})", file.display()))?;
                Some(SecretString::from(Zeroizing::new(text).trim_end_matches(['\r', '\n'])))
            }
            None => self.set.get(name).cloned(),
        };
        Ok(value.filter(|value| !value.expose_secret().is_empty()))
    }

    /// The files that these variables may be in.
    pub(super) fn paths(&self, names: &[&'static str]) -> Vec<PathBuf> {
        self.folder.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
    }
}
