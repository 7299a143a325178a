//! SPIFFE IDs: URIs that name workloads (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>, section 2).

const MAX_BYTES: usize = 2048;

/// The SPIFFE ID that a URI is, with its scheme in lower case, or why it is invalid. `None` if the URI has another scheme; that
/// of a SPIFFE ID is case-insensitive (RFC 3986, section 3.1).
pub(crate) fn spiffe_id(uri: &str) -> Option<Result<String, &'static str>> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("spiffe") {
        return None;
    }
    if uri.len() > MAX_BYTES || !has_domain_and_path(rest) {
        return Some(Err("the SPIFFE ID must be like spiffe://trust-domain/path"));
    }
    Some(Ok(format!("spiffe:{rest}")))
}

/// Whether this is `//trust-domain/path`. The ID of a workload must have a path.
fn has_domain_and_path(rest: &str) -> bool {
    let Some((domain, path)) = rest.strip_prefix("//").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let is_mark = |b: u8| matches!(b, b'.' | b'_' | b'-');
    let is_in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || is_mark(b);
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || is_mark(b))
    };
    (1..=255).contains(&domain.len()) && domain.bytes().all(is_in_domain) && path.split('/').all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_id_has_a_trust_domain_and_a_path() {
        let longest = |length: usize| format!("spiffe://a/{}", "x".repeat(length - 11));
        for valid in ["spiffe://example.org/ns/backup/sa/Reader_1.a-b", &longest(2048)] {
            assert_eq!(spiffe_id(valid), Some(Ok(valid.to_owned())));
        }
        assert_eq!(spiffe_id("SPIFFE://example.org/a"), Some(Ok("spiffe://example.org/a".into())));
        for invalid in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/./b",
            "spiffe://example.org/a%2fb",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/a b",
            "spiffe://example.org/*",
            "spiffe://Example.org/a",
            "spiffe://example.org:443/a",
            "spiffe://user@example.org/a",
            "spiffe:///a",
            "spiffe:/example.org/a",
            "spiffe:example.org/a",
            "SPIFFE:",
            &longest(2049),
        ] {
            assert!(spiffe_id(invalid).unwrap().is_err(), "{invalid}");
        }
        for other in ["", "a.example", "https://a.example", "urn:spiffe:x", "spiffe", "xspiffe://a/b"] {
            assert_eq!(spiffe_id(other), None, "{other}");
        }
    }
}
