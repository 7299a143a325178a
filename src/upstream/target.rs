//! What a URL may be made of. Only values that passed the checks here can reach one, so neither a path segment
//! (`..`, `detail`) nor a query (`?x=1`) can be smuggled in.

use std::fmt;

use url::Url;

/// The ID of a project: 1 to 64 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug)]
pub struct ProjectId(String);

impl ProjectId {
    /// The rule, in words for the caller.
    pub const RULE: &str = "must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'";

    /// Checks `text` against [`ProjectId::RULE`].
    pub fn parse(text: String) -> Option<Self> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        fits.then_some(Self(text))
    }

    /// The ID as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The ID of a share: a UUID in its 36-character form, held in lower case.
#[derive(Clone, Debug)]
pub struct ShareId(String);

impl ShareId {
    /// The rule, in words for the caller.
    pub const RULE: &str =
        "must be a UUID in its 36-character form, such as 8332443e-9866-41d8-8a58-a898cf5db030";

    /// Checks `text` against [`ShareId::RULE`].
    pub fn parse(mut text: String) -> Option<Self> {
        let fits = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        text.make_ascii_lowercase();
        fits.then_some(Self(text))
    }

    /// The ID in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the upstream's `id` names the same share; case does not matter.
    pub fn names(&self, id: &str) -> bool {
        self.0.eq_ignore_ascii_case(id)
    }
}

/// Where the upstream is: scheme, host, optional port and path prefix.
#[derive(Clone)]
pub struct BaseUrl(Url);

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
        Ok(Self(url))
    }

    /// The URL of one share.
    pub fn share(&self, project: &ProjectId, id: &ShareId) -> Url {
        let mut url = self.0.clone();
        let prefix = self.0.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{}/os-vendor-backup-sharing/{}", project.0, id.0));
        url
    }

    /// Whether tokens travel in the clear.
    pub fn is_plaintext(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(base: &str) -> String {
        let project = ProjectId::parse("c13f5220dc1949b0b741ea81a7cd5554".into()).unwrap();
        let id = ShareId::parse("8332443E-9866-41D8-8A58-A898CF5DB030".into()).unwrap();
        BaseUrl::parse(base, false).unwrap().share(&project, &id).into()
    }

    #[test]
    fn the_url_of_a_share_keeps_the_prefix_and_lowers_the_id() {
        let tail = "v2/c13f5220dc1949b0b741ea81a7cd5554/os-vendor-backup-sharing/8332443e-9866-41d8-8a58-a898cf5db030";
        for (base, head) in [
            ("https://vbs.eu-de.otc.t-systems.com", "https://vbs.eu-de.otc.t-systems.com/"),
            ("https://vbs.eu-de.otc.t-systems.com/", "https://vbs.eu-de.otc.t-systems.com/"),
            ("https://proxy.example:8443/vbs", "https://proxy.example:8443/vbs/"),
            ("https://proxy.example/vbs/", "https://proxy.example/vbs/"),
        ] {
            assert_eq!(share(base), format!("{head}{tail}"));
        }
    }

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
