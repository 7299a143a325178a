//! Signatures by access key and secret key, as the API gateways of Huawei Cloud and Open Telekom Cloud check them.
//!
//! Two schemes. `sdk`, today's: `SDK-HMAC-SHA256 Access=…`, keyed with the secret key itself, over the host, the project
//! and the date. `legacy`, which Open Telekom Cloud's own clients use: `SDK-HMAC-SHA256 Credential=…`, keyed with a chain
//! over the date and an empty region and service, over `accept`, host, `user-agent` and the date; the project and the
//! security token go beside it, unsigned. What a proxy may change is not signed where the scheme leaves the choice.
//!
//! A signature is good for one attempt: it holds the date, from which the upstream allows 15 minutes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use ring::{digest, hmac};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::Variables;
use crate::files::{Loaded, Snapshot};

/// Which form of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Today's.
    Sdk,
    /// That of Open Telekom Cloud's own clients.
    Legacy,
}

/// What signs. It is not shown, and wiped when it is dropped.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key.
    pub access_key: SecretString,
    /// The secret key.
    pub secret_key: SecretString,
    /// The security token of temporary keys.
    pub security_token: Option<SecretString>,
}

/// The GET request that is signed, as it will be sent.
#[derive(Clone, Copy, Debug)]
pub struct SignableRequest<'a> {
    /// `Host`, with the port where it is sent.
    pub host: &'a str,
    /// The path, percent-encoded.
    pub path: &'a str,
    /// The project.
    pub project_id: &'a str,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// `Accept`.
    pub accept: &'a str,
}

/// The variables that are read: OpenStack's habit first, then the vendor's.
pub const VARIABLES: [&str; 6] = [
    "OS_ACCESS_KEY",
    "HUAWEICLOUD_SDK_AK",
    "OS_SECRET_KEY",
    "HUAWEICLOUD_SDK_SK",
    "OS_SECURITY_TOKEN",
    "HUAWEICLOUD_SDK_SECURITY_TOKEN",
];

impl Keys {
    fn read(variables: &Variables) -> Result<Self, String> {
        let [access, access_too, secret, secret_too, token, token_too] = VARIABLES;
        let needed = |names: [&'static str; 2]| {
            let [first, second] = names;
            let missing =
                || format!("{first} (or {second}) is needed, in the environment or in --secrets-dir");
            Self::first(variables, names)?.ok_or_else(missing)
        };
        Ok(Self {
            access_key: needed([access, access_too])?,
            secret_key: needed([secret, secret_too])?,
            security_token: Self::first(variables, [token, token_too])?,
        })
    }

    fn first(variables: &Variables, names: [&'static str; 2]) -> Result<Option<SecretString>, String> {
        for name in names {
            match variables.value(name)? {
                Some(value) if !value.expose_secret().bytes().all(|b| b.is_ascii_graphic()) => {
                    return Err(format!("{name} must be visible ASCII"));
                }
                Some(value) => return Ok(Some(value)),
                None => {}
            }
        }
        Ok(None)
    }
}

/// Where the keys stand, how they sign, and the keys as they were when the configuration was read.
#[derive(Debug)]
pub struct Config {
    variables: Variables,
    scheme: Scheme,
    keys: Loaded<Keys>,
}

impl Config {
    /// Keys that were read, and how they sign.
    pub fn new(keys: LoadedKeys, scheme: Scheme) -> Self {
        Self { variables: keys.variables, scheme, keys: keys.keys }
    }
}

/// Keys as they were read from the variables or the directory.
#[derive(Debug)]
pub struct LoadedKeys {
    variables: Variables,
    keys: Loaded<Keys>,
}

impl LoadedKeys {
    /// Reads the keys. The error says what is missing.
    pub fn load(variables: Variables) -> Result<Self, String> {
        let keys = Loaded::read(variables.paths(&VARIABLES), || Keys::read(&variables))?;
        Ok(Self { variables, keys })
    }
}

/// The gateway's keys, which may change while it runs.
#[derive(Debug)]
pub struct AkSk {
    variables: Variables,
    scheme: Scheme,
    snapshot: Snapshot,
    current: ArcSwap<Keys>,
}

impl AkSk {
    /// Starts with the keys that the configuration has read.
    pub fn new(config: Config) -> Self {
        let Config { variables, scheme, keys } = config;
        Self { variables, scheme, snapshot: keys.snapshot, current: ArcSwap::from_pointee(keys.value) }
    }

    /// Reads the keys again. After an error those that were in use stay.
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(Keys::read(&self.variables)?));
        Ok(())
    }

    /// The folder's files as they were when they were read for the first time.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.current.load_full()
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }
}

const ALGORITHM: &str = "SDK-HMAC-SHA256";
const ESCAPED_IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Keys {
    /// The headers that prove who asks.
    pub fn sign(&self, scheme: Scheme, request: SignableRequest<'_>, now: SystemTime) -> HeaderMap {
        let date = date(now);
        let token = self.security_token.as_ref().map(SecretString::expose_secret);
        let signed: Vec<(&str, &str)> = match scheme {
            Scheme::Sdk => {
                [("host", request.host), ("x-project-id", request.project_id), ("x-sdk-date", &date)]
                    .into_iter()
                    .chain(token.map(|token| ("x-security-token", token)))
                    .collect()
            }
            Scheme::Legacy => {
                vec![
                    ("accept", request.accept),
                    ("host", request.host),
                    ("user-agent", request.user_agent),
                    ("x-sdk-date", &date),
                ]
            }
        };
        let authorization = self.authorization(scheme, &date, &Canonical::get(request.path, "", signed));
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::AUTHORIZATION, value(&authorization, true));
        headers.insert("x-sdk-date", value(&date, false));
        headers.insert("x-project-id", value(request.project_id, false));
        if let Some(token) = token {
            headers.insert("x-security-token", value(token, true));
        }
        headers
    }

    /// What must not be repeated. The access key is a name, but one that only its owner should know.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        [&self.access_key, &self.secret_key]
            .into_iter()
            .chain(&self.security_token)
            .map(SecretString::expose_secret)
    }

    fn authorization(&self, scheme: Scheme, date: &str, canonical: &Canonical) -> String {
        let (access, secret, hash) =
            (self.access_key.expose_secret(), self.secret_key.expose_secret(), canonical.hash());
        let signed = &canonical.signed;
        match scheme {
            Scheme::Sdk => {
                let signature = hex::encode(mac(secret.as_bytes(), &format!("{ALGORITHM}\n{date}\n{hash}")));
                format!("{ALGORITHM} Access={access}, SignedHeaders={signed}, Signature={signature}")
            }
            Scheme::Legacy => {
                let day = date.get(..8).unwrap_or(date);
                // Region and service are empty.
                let scope = format!("{day}///sdk_request");
                let seed = Zeroizing::new(format!("SDK{secret}"));
                let mut key = mac(seed.as_bytes(), day);
                for part in ["", "", "sdk_request"] {
                    key = mac(key.as_ref(), part);
                }
                let signature =
                    hex::encode(mac(key.as_ref(), &format!("{ALGORITHM}\n{date}\n{scope}\n{hash}")));
                format!(
                    "{ALGORITHM} Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}"
                )
            }
        }
    }
}

/// A request in the form that is signed.
struct Canonical {
    text: String,
    /// The names of the signed headers.
    signed: String,
}

impl Canonical {
    /// A GET without a body; `query` is canonical already, and that of a share is empty.
    fn get(path: &str, query: &str, mut headers: Vec<(&str, &str)>) -> Self {
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let signed = names.join(";");
        let mut text = format!("GET\n{}\n{query}\n", canonical_path(path));
        for (name, value) in headers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}:{}", value.trim());
        }
        let body = hex::encode(digest::digest(&digest::SHA256, b""));
        let _ = write!(text, "\n{signed}\n{body}");
        Self { text, signed }
    }

    fn hash(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, self.text.as_bytes()))
    }
}

/// The path with each byte escaped that is not unreserved (RFC 3986, section 2.3), and with a slash at its end. Escapes that
/// the path has already are decoded first, so that none is escaped twice.
fn canonical_path(path: &str) -> String {
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    let mut canonical = percent_encode(&decoded, ESCAPED_IN_PATH).to_string();
    if !canonical.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// `YYYYMMDDThhmmssZ`, in UTC.
fn date(now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or_default();
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

/// Keys and projects were checked to be visible ASCII when they were read.
fn value(text: &str, sensitive: bool) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(sensitive);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn keys(access: &str, secret: &str) -> Keys {
        Keys {
            access_key: SecretString::from(access),
            secret_key: SecretString::from(secret),
            security_token: None,
        }
    }

    fn signature(authorization: &str) -> &str {
        authorization.rsplit_once("Signature=").unwrap().1
    }

    /// The vendor's documents and the tests of its SDKs: method GET, key, date, path, query, signed headers, signature.
    #[test]
    fn the_vendors_known_answers() {
        let vpcs = "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs";
        let query = "limit=2&marker=13551d6b-755d-4757-b956-536f674975c0";
        let service = ("host", "service.region.example.com");
        let november = "20191115T033655Z";
        let documented = Canonical::get(
            vpcs,
            query,
            vec![("content-type", "application/json"), service, ("x-sdk-date", november)],
        );
        assert_eq!(documented.hash(), "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a");
        let keys_of_document = keys("QTWAOYTTINDUT2QVKYUC", "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc");
        assert_eq!(
            keys_of_document.authorization(Scheme::Sdk, november, &documented),
            "SDK-HMAC-SHA256 Access=QTWAOYTTINDUT2QVKYUC, SignedHeaders=content-type;host;x-sdk-date, \
             Signature=7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"
        );
        for (host, path, query, date, expected) in [
            (
                Some("service.region.example.com"),
                vpcs,
                query,
                november,
                "fd95e7da6f695cfb4cabbb9d6b0968aec155bc576b064835282473539ae9ea1d",
            ),
            (
                Some("example.com"),
                "/",
                "",
                november,
                "919ad8b75d4ad49da0d377e63ee21c4a7a54b752f6bf2878b4adbe9c19927da6",
            ),
            (
                Some("service.test-region-1.myhuaweicloud.com"),
                vpcs,
                "",
                november,
                "fbfa53d70fa0dec48f511be2e9e522172f9dca6d56f8856d12d7e575b978d9be",
            ),
            (
                Some("service.endpoint.myhuaweicloud.com"),
                "/resources",
                "size=1",
                "20200608T023900Z",
                "cfb4171acec81de07d50e53d57eb77edd537414d66ddb1d7d780f128e12cd842",
            ),
            (
                None,
                "/path",
                "limit=1",
                "20060102T150405Z",
                "5a2ce64c865e0e6046321c6f3d5a77ba8413eeaf355c3166c03d58d02ac79624",
            ),
        ] {
            let headers = host.map(|host| ("host", host)).into_iter().chain([("x-sdk-date", date)]).collect();
            let canonical = Canonical::get(path, query, headers);
            let authorization = keys("AccessKey", "SecretKey").authorization(Scheme::Sdk, date, &canonical);
            assert_eq!(signature(&authorization), expected, "{path} of {host:?}");
        }
    }

    const SHARE: &str =
        "/v2/75b102189b484600b15ce6ccefa76ed7/os-vendor-backup-sharing/8332443e-9866-41d8-8a58-a898cf5db030";

    /// Captured from the vendor's Python SDK, which signs every header that it sets.
    #[test]
    fn a_captured_request_of_todays_scheme() {
        let agent = "huaweicloud-usdk-python/3.0; os/Linux##1_SMP_PREEMPT_DYNAMIC_@0#x86_64 python/3.11.7 impl/CPython; \
                     app/355c42c3-34d0-4628-845c-5b6b002c4e1f";
        let date = "20261123T071806Z";
        let headers = vec![
            ("content-type", "application/json"),
            ("host", "127.0.0.1:28776"),
            ("user-agent", agent),
            ("x-project-id", "75b102189b484600b15ce6ccefa76ed7"),
            ("x-sdk-date", date),
        ];
        let authorization = keys("AccessKey", "WrongKey").authorization(
            Scheme::Sdk,
            date,
            &Canonical::get(SHARE, "", headers),
        );
        assert_eq!(
            signature(&authorization),
            "f2de2fafc0071147344ecaae313eb9e37d35344ce08fa9a34c9872e1b9fecb4e"
        );
    }

    /// Captured from Open Telekom Cloud's Go SDK, at 2026-11-23T07:20:32Z.
    #[test]
    fn a_captured_request_of_the_legacy_scheme() {
        let get = SignableRequest {
            host: "127.0.0.1:28776",
            path: SHARE,
            project_id: "75b102189b484600b15ce6ccefa76ed7",
            user_agent: "golangsdk/2.0.0",
            accept: "application/json",
        };
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_795_418_432);
        let headers = keys("AccessKey", "SecretKey").sign(Scheme::Legacy, get, now);
        assert_eq!(headers.get("x-sdk-date").unwrap(), "20261123T072032Z");
        assert_eq!(
            headers.get("authorization").unwrap(),
            "SDK-HMAC-SHA256 Credential=AccessKey/20261123///sdk_request, SignedHeaders=accept;host;user-agent;x-sdk-date, \
             Signature=bdb3307b1e2c89ea1ebe007250e38610d37bea55cbf1a95a24e64a0b9074a9f6"
        );
        assert_eq!(headers.get("x-project-id").unwrap(), "75b102189b484600b15ce6ccefa76ed7");
    }

    /// The documented share at 2024-01-02T03:04:05Z, with and without temporary keys.
    #[test]
    fn the_documented_share() {
        let get = SignableRequest {
            host: "vbs.eu-de.otc.t-systems.com",
            path: "/v2/c13f5220dc1949b0b741ea81a7cd5554/os-vendor-backup-sharing/8332443e-9866-41d8-8a58-a898cf5db030",
            project_id: "c13f5220dc1949b0b741ea81a7cd5554",
            user_agent: "golangsdk/2.0.0",
            accept: "application/json",
        };
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_704_164_645);
        for (scheme, token, expected) in [
            (Scheme::Sdk, None, "733e313da21852003332dfa9fe51c0cfb3be633a4ac721d52d0c857b86226545"),
            (Scheme::Sdk, Some("ST"), "b57ad377da9f1cff57a3e3747e4649dc40947c897d95a4f34ac6e7c3dbda5961"),
            (Scheme::Legacy, None, "303397c924c862699c54e267aab93d202f3e022fc3e66d14237b7214056e2ecf"),
            (Scheme::Legacy, Some("ST"), "303397c924c862699c54e267aab93d202f3e022fc3e66d14237b7214056e2ecf"),
        ] {
            let keys =
                Keys { security_token: token.map(SecretString::from), ..keys("AccessKey", "SecretKey") };
            let headers = keys.sign(scheme, get, now);
            assert_eq!(headers.get("x-sdk-date").unwrap(), "20240102T030405Z");
            let authorization = headers.get("authorization").unwrap();
            assert_eq!(signature(authorization.to_str().unwrap()), expected, "{scheme:?} {token:?}");
            assert!(authorization.is_sensitive());
            assert_eq!(headers.get("x-security-token").map(|value| value.to_str().unwrap()), token);
        }
    }

    #[test]
    fn what_cannot_be_keys_is_refused_and_the_old_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("OS_ACCESS_KEY", "access\n");
        let set = [("HUAWEICLOUD_SDK_SK", SecretString::from("of the environment"))].into();
        let source = Variables { folder: Some(folder.path().into()), set };
        assert!(LoadedKeys::load(source.clone()).unwrap_err().contains("must be visible ASCII"));
        put("OS_SECRET_KEY", "secret\r\n");
        let aksk = AkSk::new(Config::new(LoadedKeys::load(source).unwrap(), Scheme::Sdk));
        let exposed = |aksk: &AkSk| aksk.keys().secrets().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("OS_ACCESS_KEY", "");
        assert!(aksk.reload().unwrap_err().contains("OS_ACCESS_KEY (or HUAWEICLOUD_SDK_AK) is needed"));
        assert_eq!(exposed(&aksk), ["access", "secret"]);
        put("HUAWEICLOUD_SDK_AK", "another");
        aksk.reload().unwrap();
        assert_eq!(exposed(&aksk), ["another", "secret"]);
    }

    #[test]
    fn paths_are_encoded_once_whatever_they_were_before() {
        for (path, canonical) in [
            ("/", "/"),
            ("/v2/a", "/v2/a/"),
            ("/v2/a/", "/v2/a/"),
            ("/a b/%20/%7e/~", "/a%20b/%20/~/~/"),
            ("/\u{4e00}/%E4%B8%80", "/%E4%B8%80/%E4%B8%80/"),
            ("/100%/%zz", "/100%25/%25zz/"),
        ] {
            assert_eq!(canonical_path(path), canonical, "{path}");
        }
    }
}
