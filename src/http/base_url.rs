//! The base URL of a service: the upstream or the identity service. It has a scheme, a host, a port and a path, and nothing
//! that would be dropped, sent or printed without notice.

use std::fmt;

use http::{HeaderValue, Uri};
use url::{Host, Url};

/// Scheme, host, optional port and path prefix.
#[derive(Clone)]
pub struct BaseUrl {
    url: Url,
    /// Host and port, as in the header `Host`.
    authority: HeaderValue,
}

impl BaseUrl {
    /// Reads an `https` URL, or an `http` one where `allow_plaintext` says so, that has nothing but a host, a port
    /// and a path. The error says what is wrong and never repeats a password.
    pub fn parse(text: &str, allow_plaintext: bool) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
        match url.scheme() {
            "https" => {}
            "http" if allow_plaintext => {}
            "http" => return Err("is http: tokens would travel unencrypted (https is needed)".into()),
            _ => return Err("must begin with https://".into()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or a password".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not hold a query or a fragment".into());
        }
        // `Url` has already swallowed the dots, and `http:/host` and `http:\\host` too, without a word.
        let path = text.splitn(4, '/').nth(3).unwrap_or_default();
        if text.split('/').nth(2).is_some_and(|authority| authority.contains('@')) || url.port() == Some(0) {
            return Err("must hold nothing but a host, a port over zero and a path".into());
        }
        if text.bytes().any(|b| b == b'\\' || b <= b' ')
            || !text.get(url.scheme().len()..).unwrap_or_default().starts_with("://")
        {
            return Err("must be written as scheme://host[:port][/path]".into());
        }
        let dots =
            |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if path.split('/').any(dots) {
            return Err("must not hold '.' or '..' in its path".into());
        }
        // The client sends it as a `Uri`, which accepts less.
        if let Err(error) = url.as_str().parse::<Uri>() {
            return Err(format!("cannot be sent in a request ({error})"));
        }
        let authority = HeaderValue::from_str(url.authority())
            .map_err(|error| format!("cannot be sent in a request ({error})"))?;
        Ok(Self { url, authority })
    }

    /// This URL with a path below its own, made of these parts.
    pub(crate) fn join(&self, path: &[&str]) -> Url {
        let path = [&[self.url.path().trim_end_matches('/'), "/"], path].concat().concat();
        let mut url = self.url.clone();
        url.set_path(&path);
        url
    }

    /// The value of the header `Host`.
    pub(crate) fn host_header(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// The host and the port of its connections.
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
    fn a_base_url_is_a_scheme_a_host_a_port_and_a_path() {
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
        assert!(BaseUrl::parse("http://127.0.0.1:8080", true).unwrap().is_plaintext());
    }
}
