//! A token of the identity service: the caller's, or the gateway's own.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

/// The header that carries the token, towards the gateway and towards the upstream.
pub const TOKEN_HEADER: &str = "x-auth-token";
/// [`TOKEN_HEADER`], as a name.
pub const TOKEN_HEADER_NAME: HeaderName = HeaderName::from_static(TOKEN_HEADER);

/// The longest token that is accepted, in bytes. PKI tokens take 5 KB and more.
pub const MAX_TOKEN_BYTES: usize = 32_768;

/// A token. It is never shown: `Debug` prints a placeholder, and the header value is marked sensitive.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// Why the headers hold no usable token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// There is none, or an empty one.
    Missing,
    /// There is more than one.
    Duplicate,
    /// It is longer than [`MAX_TOKEN_BYTES`], or not all of it is visible ASCII.
    Invalid,
}

impl Token {
    /// Reads the one token that the headers must hold. Call this with the HTTP headers, before anything merges the
    /// trailers into them.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, TokenError> {
        let mut values = headers.get_all(TOKEN_HEADER_NAME).iter();
        let value = values.next().ok_or(TokenError::Missing)?;
        if values.next().is_some() {
            return Err(TokenError::Duplicate);
        }
        Self::checked(value.clone())
    }

    /// A token that no identity service has issued, to see how the upstream rejects it.
    pub(crate) fn placeholder() -> Self {
        Self(HeaderValue::from_static("none"))
    }

    /// The token that the identity service has issued, held in memory that is wiped when the last use of it ends.
    pub(crate) fn issued(value: &HeaderValue) -> Result<Self, TokenError> {
        let wiped = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
        Self::checked(HeaderValue::from_maybe_shared(wiped).map_err(|_| TokenError::Invalid)?)
    }

    fn checked(mut value: HeaderValue) -> Result<Self, TokenError> {
        if value.is_empty() {
            return Err(TokenError::Missing);
        }
        // No early end, so that a long token is looked at many bytes at a time.
        let visible = value.as_bytes().iter().fold(true, |so_far, b| so_far & b.is_ascii_graphic());
        if value.len() > MAX_TOKEN_BYTES || !visible {
            return Err(TokenError::Invalid);
        }
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token as a header value, marked sensitive.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// The token itself.
    pub(crate) fn expose(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::issued(&HeaderValue::from_static("gAAAAABsecret")).unwrap();
        assert_eq!(format!("{token:?} {:?}", token.value()), "Token([redacted]) Sensitive");
    }
}
