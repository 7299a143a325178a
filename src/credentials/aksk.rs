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

/// Access key, secret key and security token: named as OpenStack's variables are, which come first, or as the vendor's.
const NAMES: [[&str; 3]; 2] = [
    ["OS_ACCESS_KEY", "OS_SECRET_KEY", "OS_SECURITY_TOKEN"],
    ["HUAWEICLOUD_SDK_AK", "HUAWEICLOUD_SDK_SK", "HUAWEICLOUD_SDK_SECURITY_TOKEN"],
];

/// The variables that are read.
pub const VARIABLES: &[&str] = NAMES.as_flattened();

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

/// All values are of one set of names: keys and token of two credentials do not belong together.
fn read_keys(source: &SecretSource) -> Result<Keys, String> {
    source.check(VARIABLES).map_err(|problems| problems.join("; "))?;
    let mut sets = NAMES;
    // The keys of the directory come before those of the environment. The sort is stable.
    sets.sort_by_key(|names| !names.iter().any(|name| source.has_file(name)));
    for [access_key, secret_key, security_token] in sets {
        let (set, missing) = match (visible(source, access_key)?, visible(source, secret_key)?) {
            (Some(access_key), Some(secret_key)) => {
                let security_token = visible(source, security_token)?;
                return Ok(Keys { access_key, secret_key, security_token });
            }
            (None, None) => continue,
            (Some(_), None) => (access_key, secret_key),
            (None, Some(_)) => (secret_key, access_key),
        };
        return Err(format!("{missing} is needed, since {set} is set: {HOW_TO_SET}"));
    }
    let [[access_key, secret_key, _], [access_key_of_vendor, secret_key_of_vendor, _]] = NAMES;
    Err(format!(
        "{access_key} (or {access_key_of_vendor}) is needed, and with it {secret_key} (or {secret_key_of_vendor}): {HOW_TO_SET}"
    ))
}

/// The value, if it is set.
fn visible(source: &SecretSource, name: &'static str) -> Result<Option<SecretString>, String> {
    let value = source.read(name)?;
    let is_visible = |value: &SecretString| value.expose_secret().bytes().all(|byte| byte.is_ascii_graphic());
    if value.as_ref().is_none_or(is_visible) {
        Ok(value)
    } else {
        Err(format!("{name} must be visible ASCII: it holds a blank or another character"))
    }
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
        put("OS_SECRET_KEY", "second");
        assert_eq!(keys(), ["first", "second"]);
    }

    #[test]
    fn keys_are_reloaded_and_invalid_ones_are_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        put("OS_ACCESS_KEY", "access\n");
        let variables = [("OS_SECRET_KEY", SecretString::from("of the environment"))].into();
        let source = SecretSource { directory: Some(directory.path().into()), variables };
        assert!(AkSk::load(source.clone()).unwrap_err().contains("OS_SECRET_KEY must be visible ASCII"));
        put("OS_SECRET_KEY", "secret\r\n");
        let aksk = AkSk::load(source).unwrap();
        let exposed = |aksk: &AkSk| aksk.keys().secrets().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("OS_ACCESS_KEY", "");
        let reload = || aksk.read().map(|put_in_use| put_in_use());
        assert!(reload().unwrap_err().contains("OS_ACCESS_KEY is needed, since OS_SECRET_KEY is set"));
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("OS_ACCESS_KEY", "another");
        reload().unwrap();
        assert_eq!(exposed(&aksk), ["another", "secret"]);
    }

    #[test]
    fn keys_and_token_of_two_credentials_are_never_mixed() {
        let read = |names: &[&'static str]| {
            let variables = names.iter().map(|name| (*name, SecretString::from(*name))).collect();
            let keys = read_keys(&SecretSource { directory: None, variables })?;
            let values = [Some(&keys.access_key), Some(&keys.secret_key), keys.security_token.as_ref()];
            Ok::<_, String>(
                values
                    .into_iter()
                    .flatten()
                    .map(|value| value.expose_secret().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        let [[access_key, secret_key, token], vendors @ [sdk_ak, sdk_sk, sdk_token]] = NAMES;
        for (set, used) in [
            (&[access_key, secret_key, sdk_token][..], &[access_key, secret_key][..]),
            (&[sdk_ak, sdk_sk, token], &[sdk_ak, sdk_sk]),
            (&vendors, &vendors),
            (VARIABLES, &[access_key, secret_key, token]),
        ] {
            assert_eq!(read(set).unwrap(), used);
        }
        for (set, missing) in [
            (&[access_key, sdk_sk][..], secret_key),
            (&[secret_key, sdk_ak, sdk_sk], access_key),
            (&[sdk_ak], sdk_sk),
            (&[token], access_key),
        ] {
            assert!(read(set).unwrap_err().starts_with(missing), "{set:?}");
        }
    }
}
