//! The gateway's own access key and secret key: read from [`SecretSource`], and replaced when its files change.
//!
//! `aksk/signature.rs` signs requests with them. `tests/gateway/aksk.rs` shows both at work. This module knows neither gRPC
//! nor the upstream's API.

mod signature;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

use super::secret_source::{HOW_TO_SET, SecretSource};
use crate::files::{Loaded, Reload, Snapshot};
pub use signature::{Keys, Scheme, SignableRequest};

const ACCESS_KEY: [&str; 2] = ["OS_ACCESS_KEY", "HUAWEICLOUD_SDK_AK"];
const SECRET_KEY: [&str; 2] = ["OS_SECRET_KEY", "HUAWEICLOUD_SDK_SK"];
const SECURITY_TOKEN: [&str; 2] = ["OS_SECURITY_TOKEN", "HUAWEICLOUD_SDK_SECURITY_TOKEN"];

/// The variables that are read: for each value one that is named as OpenStack's are, which comes first, and the vendor's.
pub const VARIABLES: &[&str] = [ACCESS_KEY, SECRET_KEY, SECURITY_TOKEN].as_flattened();

/// The gateway's keys, which may change while it runs.
#[derive(Debug)]
pub struct AkSk {
    source: SecretSource,
    snapshot: Snapshot,
    current: ArcSwap<Keys>,
}

impl AkSk {
    /// Reads the keys. The error names the variable, and says what is wrong with it.
    pub fn load(source: SecretSource) -> Result<Self, String> {
        let keys = Loaded::read(source.files(VARIABLES), || read_keys(&source))?;
        Ok(Self { source, snapshot: keys.snapshot, current: ArcSwap::from_pointee(keys.value) })
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.current.load_full()
    }
}

impl Reload for AkSk {
    fn subject(&self) -> &'static str {
        "credential"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.files(VARIABLES)
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let keys = read_keys(&self.source)?;
        Ok(Box::new(|| self.current.store(Arc::new(keys))))
    }
}

fn read_keys(source: &SecretSource) -> Result<Keys, String> {
    source.check(VARIABLES).map_err(|problems| problems.join("; "))?;
    Ok(Keys {
        access_key: required(source, ACCESS_KEY)?,
        secret_key: required(source, SECRET_KEY)?,
        security_token: first_set(source, SECURITY_TOKEN)?,
    })
}

fn required(source: &SecretSource, names: [&'static str; 2]) -> Result<SecretString, String> {
    let [name, name_of_vendor] = names;
    let missing = || format!("{name} (or {name_of_vendor}) is needed: {HOW_TO_SET}");
    first_set(source, names)?.ok_or_else(missing)
}

/// The first of these that is a file, else the first that is a variable: the keys of the directory come before those of the
/// environment, whichever names they have.
fn first_set(source: &SecretSource, names: [&'static str; 2]) -> Result<Option<SecretString>, String> {
    let (files, variables): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| source.has_file(name));
    for name in files.into_iter().chain(variables) {
        if let Some(value) = source.read(name)? {
            let is_visible = value.expose_secret().bytes().all(|byte| byte.is_ascii_graphic());
            let invalid = || format!("{name} must be visible ASCII: it holds a blank or another character");
            return if is_visible { Ok(Some(value)) } else { Err(invalid()) };
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_directory_come_before_those_of_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let variables = ["OS_ACCESS_KEY", "OS_SECRET_KEY"].map(|name| (name, "environment".into())).into();
        let source = SecretSource { directory: Some(directory.path().into()), variables };
        let keys = || read_keys(&source).unwrap().secrets().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(keys(), ["environment"; 2]);
        put("HUAWEICLOUD_SDK_AK", "access");
        put("HUAWEICLOUD_SDK_SK", "secret");
        assert_eq!(keys(), ["access", "secret"]);
        put("OS_ACCESS_KEY", "first");
        assert_eq!(keys(), ["first", "secret"]);
    }

    #[test]
    fn keys_are_reloaded_and_invalid_ones_are_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        put("OS_ACCESS_KEY", "access\n");
        let variables = [("HUAWEICLOUD_SDK_SK", SecretString::from("of the environment"))].into();
        let source = SecretSource { directory: Some(directory.path().into()), variables };
        assert!(AkSk::load(source.clone()).unwrap_err().contains("HUAWEICLOUD_SDK_SK must be visible ASCII"));
        put("OS_SECRET_KEY", "secret\r\n");
        let aksk = AkSk::load(source).unwrap();
        let exposed = |aksk: &AkSk| aksk.keys().secrets().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("OS_ACCESS_KEY", "");
        let reload = || aksk.read().map(|put_in_use| put_in_use());
        assert!(reload().unwrap_err().contains("OS_ACCESS_KEY (or HUAWEICLOUD_SDK_AK) is needed"));
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("HUAWEICLOUD_SDK_AK", "another");
        reload().unwrap();
        assert_eq!(exposed(&aksk), ["another", "secret"]);
    }
}
