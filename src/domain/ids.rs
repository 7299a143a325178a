//! The validated IDs of a request. Only these types become part of an upstream URL, so that neither a path segment (`..`,
//! `detail`) nor a query (`?x=1`) can be injected.

/// The ID of a project: 1 to 64 of `A-Z a-z 0-9 _ -`. IDs are compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProjectId(String);

impl ProjectId {
    /// The rule, as it is shown to the caller.
    pub const RULE: &str = "must be 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'";

    /// Checks `text` against [`ProjectId::RULE`].
    pub fn parse(text: String) -> Option<Self> {
        let is_valid = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        is_valid.then_some(Self(text))
    }

    /// The ID as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The ID of a share: a UUID in its 36-character form, in lower case.
#[derive(Clone, Debug)]
pub struct ShareId(String);

impl ShareId {
    /// The rule, as it is shown to the caller.
    pub const RULE: &str =
        "must be a UUID in its 36-character form, such as 8332443e-9866-41d8-8a58-a898cf5db030";

    /// Checks `text` against [`ShareId::RULE`].
    pub fn parse(mut text: String) -> Option<Self> {
        let is_valid = text.len() == 36
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            });
        text.make_ascii_lowercase();
        is_valid.then_some(Self(text))
    }

    /// The ID in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the upstream's `id` is this ID, ignoring case.
    pub fn matches(&self, id: &str) -> bool {
        self.0.eq_ignore_ascii_case(id)
    }
}

/// A share, and the project that it is read with.
#[derive(Clone, Debug)]
pub struct ShareRef {
    /// The project.
    pub project_id: ProjectId,
    /// The share.
    pub id: ShareId,
}
