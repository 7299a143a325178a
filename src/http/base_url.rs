//! The base URL of a service: the upstream or the identity service. The rules are stricter than those of [`Url`] (the WHATWG
//! standard), which removes or repairs parts of a URL silently.

use std::fmt;

use http::{HeaderValue, Uri};
use url::{Host, ParseError, Url};

/// Scheme, host, optional port and path prefix.
#[derive(Clone)]
pub struct BaseUrl {
    url: Url,
    /// Host and port, as in the header `Host`.
    authority: HeaderValue,
}

impl BaseUrl {
    /// Parses an `https` URL (or `http`, with `allow_plaintext`) of a host, an optional port and path. The error never
    /// repeats a password.
    pub fn parse(text: &str, allow_plaintext: bool) -> Result<Self, String> {
        let url = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "https" | "http") || text.contains("://") => url,
            // `Url` takes the host of `vbs.example:443` for a scheme.
            Ok(_) | Err(ParseError::RelativeUrlWithoutBase) => {
                return Err("has no scheme: put https:// before it".into());
            }
            Err(error) => return Err(format!("is not a URL ({error})")),
        };
        match url.scheme() {
            "https" => {}
            "http" if allow_plaintext => {}
            "http" => return Err("is http: tokens would travel unencrypted; use https, or accept it with --allow-plaintext-upstream (GATEWAY_ALLOW_PLAINTEXT_UPSTREAM)".into()),
            _ => return Err("must begin with https://".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user name or a password".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not contain a query or a fragment".into());
        }
        // From here on the text is checked: `Url` has removed `.` and `..` segments, and has accepted `http:/host` and
        // `http:\\host`.
        let (_, after_scheme) = text.split_at_checked(url.scheme().len()).unwrap_or_default();
        let authority_and_path =
            after_scheme.strip_prefix("://").filter(|rest| rest.bytes().all(|b| b != b'\\' && b > b' '));
        let Some(authority_and_path) = authority_and_path else {
            return Err("must be written as scheme://host[:port][/path]".into());
        };
        let (authority, path) = authority_and_path.split_once('/').unwrap_or((authority_and_path, ""));
        if authority.contains('@') || url.port() == Some(0) {
            return Err("must consist of a host, a port above 0 and a path".into());
        }
        if path.split('/').any(is_dot_segment) {
            return Err("must not contain '.' or '..' in its path".into());
        }
        let unsendable = |error: &dyn fmt::Display| format!("cannot be sent in a request ({error})");
        // The client sends it as a `Uri`, which accepts less than `Url`.
        url.as_str().parse::<Uri>().map_err(|error| unsendable(&error))?;
        let authority = HeaderValue::from_str(url.authority()).map_err(|error| unsendable(&error))?;
        Ok(Self { url, authority })
    }

    /// This URL with the concatenated parts appended to its path.
    pub(crate) fn join(&self, path: &[&str]) -> Url {
        let parts = [self.url.path().trim_end_matches('/'), "/"].into_iter().chain(path.iter().copied());
        let mut path = String::with_capacity(parts.clone().map(str::len).sum());
        path.extend(parts);
        let mut url = self.url.clone();
        url.set_path(&path);
        url
    }

    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// The host and port to connect to.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), self.url.port_or_known_default().unwrap_or_default())
    }

    /// Whether it is an `https` URL with an IPv6 address as its host.
    pub(crate) fn is_https_to_ipv6(&self) -> bool {
        is_https_to_ipv6(&self.url)
    }

    /// Whether tokens are sent without encryption.
    pub fn is_plaintext(&self) -> bool {
        self.url.scheme() == "http"
    }
}

/// Whether a path segment is removed by [`Url`]: `.` or `..`, also percent-encoded.
fn is_dot_segment(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// Whether it is an `https` URL with an IPv6 address as its host.
pub(super) fn is_https_to_ipv6(url: &Url) -> bool {
    url.scheme() == "https" && matches!(url.host(), Some(Host::Ipv6(_)))
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({})", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_rejects_all_but_scheme_host_port_and_path() {
        for bad in [
            "",
            "vbs.example",
            "ftp://vbs.example",
            "https://",
            "https://u@vbs.example",
            "https://u:p@vbs.example",
            "https://vbs.example?x=1",
            "https://vbs.example/#x",
            "https://vbs.example/a/../b",
            "https:vbs.example",
            "https://vbs.example/%2e%2E/b",
            "https://vbs.example/./b",
            "https://vbs.example\\b",
            "https://@vbs.example",
            "https://:@vbs.example/x",
            "https://vbs.example:0",
            "https://vbs.example:99999",
            "https:/vbs.example",
            " https://vbs.example",
            "http://vbs.example",
        ] {
            let error = BaseUrl::parse(bad, false).expect_err(bad);
            assert!(!error.contains("u:p"), "{error}");
        }
        for without_scheme in
            ["vbs.example", "vbs.example:443", "10.0.0.1:443/vbs", "localhost:8443", "//vbs.example"]
        {
            let error = BaseUrl::parse(without_scheme, false).unwrap_err();
            assert_eq!(error, "has no scheme: put https:// before it", "{without_scheme}");
        }
        assert!(BaseUrl::parse("http://127.0.0.1:8080", true).unwrap().is_plaintext());
    }
}
