//! Where a service is: the upstream, or the identity service. A URL of a scheme, a host, a port and a path, and of nothing
//! that would be dropped, sent on or printed without a word.

use std::fmt;

use http::HeaderValue;
use http::uri::{Scheme, Uri};
use url::Url;

/// Scheme, host, optional port and path prefix.
#[derive(Clone)]
pub struct BaseUrl {
    uri: Uri,
    /// Host and port, as `Host` has them.
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
        Self::of(&url).map_err(|error| format!("cannot stand in a request ({error})"))
    }

    fn of(url: &Url) -> Result<Self, http::Error> {
        let uri: Uri = url.as_str().parse()?;
        let authority = HeaderValue::from_str(uri.authority().map_or("", |authority| authority.as_str()))?;
        Ok(Self { uri, authority })
    }

    /// The URL of the path of these parts, which are percent-encoded where they must be, below this one.
    pub(crate) fn join(&self, path: &[&str]) -> Result<Uri, http::Error> {
        let path = [&[self.uri.path().trim_end_matches('/'), "/"], path].concat().concat();
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(path.try_into()?);
        Ok(parts.try_into()?)
    }

    /// What says in a request which host is meant.
    pub(crate) fn host_header(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// Host and port, as they are connected to.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        let host = self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), port(&self.uri))
    }

    /// Whether tokens travel in the clear.
    pub fn is_plaintext(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTP)
    }
}

/// The port that is connected to.
pub(crate) fn port(uri: &Uri) -> u16 {
    let usual = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    uri.port_u16().unwrap_or(usual)
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({})", self.uri)
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
