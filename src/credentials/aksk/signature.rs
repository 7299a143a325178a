//! Signatures of GET requests as the API gateways of Huawei Cloud and Open Telekom Cloud verify them.
//!
//! - [`Scheme::Sdk`] is `SDK-HMAC-SHA256` of the vendor's *API Request Signing Guide*, as its current SDKs send it: `Access=…`,
//!   with the secret key itself as the HMAC key. It signs the host, the project, the date and the security token.
//! - [`Scheme::Legacy`] is what Open Telekom Cloud's own clients send
//!   ([vendor document](https://support.huaweicloud.com/en-us/api-dis/dis_02_0507.html)), and resembles version 4 of the
//!   signatures of AWS: `Credential=…`, with a key derived from the secret key by HMACs of the day, the region, the service and a
//!   constant. Region and service are empty. It signs `accept`, the host, `user-agent` and the date; the project and the
//!   security token are sent unsigned.
//!
//! Headers that a proxy may change are signed only where the scheme requires it. The upstream accepts a date within 15 minutes of
//! its own, so each attempt is signed anew.
//!
//! This module is pure: keys, request and time come in, headers come out. Its tests are the known answers of the vendor's
//! documents and SDKs; `tests/e2e/test_aksk.py` compares it with the vendor's own signer.

use std::fmt::Write as _;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use ring::{digest, hmac};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

const ALGORITHM: &str = "SDK-HMAC-SHA256";
const ESCAPED_IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The form of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// That of the vendor's current SDKs.
    Sdk,
    /// That of Open Telekom Cloud's own clients.
    Legacy,
}

/// An access key and its secret key. `Debug` shows none of it, and it is wiped when it is dropped.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key, visible ASCII.
    pub access_key: SecretString,
    /// The secret key, visible ASCII.
    pub secret_key: SecretString,
    /// The security token of temporary keys, visible ASCII.
    pub security_token: Option<SecretString>,
}

/// The parts of a GET request that are signed, as they will be sent.
#[derive(Clone, Copy, Debug)]
pub struct SignableRequest<'a> {
    /// `Host`, with the port if that is sent.
    pub host: &'a str,
    /// The path, percent-encoded.
    pub path: &'a str,
    /// The project, for `X-Project-Id`.
    pub project_id: &'a str,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// `Accept`.
    pub accept: &'a str,
}

impl Keys {
    /// The headers that authenticate a request which is sent at `now`: `Authorization`, `X-Sdk-Date`, `X-Project-Id`, and
    /// `X-Security-Token` for temporary keys.
    pub fn sign(&self, scheme: Scheme, request: SignableRequest<'_>, now: SystemTime) -> HeaderMap {
        let date = sdk_date(now);
        let token = self.security_token.as_ref().map(SecretString::expose_secret);
        let mut signed = vec![("host", request.host), ("x-sdk-date", date.as_str())];
        match scheme {
            Scheme::Sdk => {
                signed.push(("x-project-id", request.project_id));
                signed.extend(token.map(|token| ("x-security-token", token)));
            }
            Scheme::Legacy => {
                signed.extend([("accept", request.accept), ("user-agent", request.user_agent)]);
            }
        }
        // A share is requested without a query.
        let canonical = CanonicalRequest::get(request.path, "", signed);
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::AUTHORIZATION, sensitive(&self.authorization(scheme, &date, &canonical)));
        headers.insert("x-sdk-date", header_value(&date));
        headers.insert("x-project-id", header_value(request.project_id));
        if let Some(token) = token {
            headers.insert("x-security-token", sensitive(token));
        }
        headers
    }

    /// What must not be repeated. An access key is no secret to the upstream, but is to everybody else.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let keys = [&self.access_key, &self.secret_key].into_iter().chain(&self.security_token);
        keys.map(SecretString::expose_secret)
    }

    /// The value of `Authorization`.
    fn authorization(&self, scheme: Scheme, date: &str, request: &CanonicalRequest) -> String {
        let (access_key, secret_key) = (self.access_key.expose_secret(), self.secret_key.expose_secret());
        let CanonicalRequest { hash, signed_headers: names } = request;
        match scheme {
            Scheme::Sdk => {
                let signature = hmac(secret_key.as_bytes(), &format!("{ALGORITHM}\n{date}\n{hash}"));
                let signature = hex::encode(signature);
                format!("{ALGORITHM} Access={access_key}, SignedHeaders={names}, Signature={signature}")
            }
            Scheme::Legacy => {
                let day = date.get(..8).unwrap_or(date);
                // Region and service are empty.
                let scope = format!("{day}///sdk_request");
                let seed = Zeroizing::new(format!("SDK{secret_key}"));
                let mut key = hmac(seed.as_bytes(), day);
                for part in ["", "", "sdk_request"] {
                    key = hmac(key.as_ref(), part);
                }
                let signature = hmac(key.as_ref(), &format!("{ALGORITHM}\n{date}\n{scope}\n{hash}"));
                let signature = hex::encode(signature);
                format!(
                    "{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
                )
            }
        }
    }
}

/// The canonical form of a request.
struct CanonicalRequest {
    /// Its SHA-256, in hexadecimal.
    hash: String,
    /// The names of the signed headers, joined with semicolons.
    signed_headers: String,
}

impl CanonicalRequest {
    /// A GET without a body. `query` is canonical already; the names of `headers` are in lower case.
    fn get(path: &str, query: &str, mut headers: Vec<(&str, &str)>) -> Self {
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let signed_headers = names.join(";");
        let mut text = format!("GET\n{}\n{query}\n", canonical_path(path));
        for (name, value) in headers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}:{}", value.trim());
        }
        let _ = write!(text, "\n{signed_headers}\n{}", sha256(""));
        Self { hash: sha256(&text), signed_headers }
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

/// The value of `X-Sdk-Date`: `YYYYMMDDThhmmssZ`, in UTC.
fn sdk_date(now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or_default();
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn sha256(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

fn hmac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sensitive(text: &str) -> HeaderValue {
    let mut value = header_value(text);
    value.set_sensitive(true);
    value
}

/// Keys and projects were checked to be visible ASCII when they were read.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
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

    /// From the vendor's documents and the tests of its SDKs.
    #[test]
    fn known_answers_of_the_vendor_match() {
        let vpcs = "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs";
        let query = "limit=2&marker=13551d6b-755d-4757-b956-536f674975c0";
        let service = ("host", "service.region.example.com");
        let november = "20191115T033655Z";
        let documented = CanonicalRequest::get(
            vpcs,
            query,
            vec![("content-type", "application/json"), service, ("x-sdk-date", november)],
        );
        assert_eq!(documented.hash, "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a");
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
            let canonical = CanonicalRequest::get(path, query, headers);
            let authorization = keys("AccessKey", "SecretKey").authorization(Scheme::Sdk, date, &canonical);
            assert_eq!(signature(&authorization), expected, "{path} of {host:?}");
        }
    }

    const SHARE: &str =
        "/v2/75b102189b484600b15ce6ccefa76ed7/os-vendor-backup-sharing/8332443e-9866-41d8-8a58-a898cf5db030";

    /// Captured from the vendor's Python SDK, which signs every header that it sets.
    #[test]
    fn captured_request_of_sdk_scheme_matches() {
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
            &CanonicalRequest::get(SHARE, "", headers),
        );
        assert_eq!(
            signature(&authorization),
            "f2de2fafc0071147344ecaae313eb9e37d35344ce08fa9a34c9872e1b9fecb4e"
        );
    }

    /// Captured from Open Telekom Cloud's Go SDK, at 2026-11-23T07:20:32Z.
    #[test]
    fn captured_request_of_legacy_scheme_matches() {
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
    fn signature_of_the_documented_share_matches() {
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
    fn path_is_escaped_once() {
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
