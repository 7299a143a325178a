//! What a URL may be made of. Only values that passed the checks here can reach one, so neither a path segment
//! (`..`, `detail`) nor a query (`?x=1`) can be smuggled in.

use url::Url;

use crate::http::BaseUrl;

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

/// The URL of one share, below the upstream's.
pub fn share_url(base: &BaseUrl, project: &ProjectId, id: &ShareId) -> Url {
    base.join(&["v2/", &project.0, "/os-vendor-backup-sharing/", &id.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(base: &str) -> String {
        let project = ProjectId::parse("c13f5220dc1949b0b741ea81a7cd5554".into()).unwrap();
        let id = ShareId::parse("8332443E-9866-41D8-8A58-A898CF5DB030".into()).unwrap();
        share_url(&BaseUrl::parse(base, false).unwrap(), &project, &id).to_string()
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
}
