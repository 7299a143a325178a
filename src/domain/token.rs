//! A token of the identity service: the caller's, or the gateway's own.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

/// The header that carries the token, towards the gateway and towards the upstream.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-auth-token");
/// The longest token that is accepted, in bytes. PKI tokens take 5 KB and more.
const MAX_TOKEN_BYTES: usize = 32_768;

/// A token. `Debug` prints a placeholder, and the header value is marked sensitive.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// Why the headers hold no valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// There is none, or an empty one.
    Missing,
    /// There is more than one.
    Duplicate,
    /// It is longer than 32,768 bytes, or has other characters than visible ASCII.
    Invalid,
}

impl Token {
    /// Reads the only token of the HTTP headers. tonic's metadata must not be used here: it includes the trailers.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, TokenError> {
        let mut values = headers.get_all(TOKEN_HEADER).iter();
        let value = values.next().ok_or(TokenError::Missing)?;
        if values.next().is_some() {
            return Err(TokenError::Duplicate);
        }
        Self::checked(value.clone())
    }

    /// An invalid token, to test how the upstream rejects it.
    pub(crate) fn placeholder() -> Self {
        Self(HeaderValue::from_static("none"))
    }

    /// A token from the identity service, in memory that is zeroized when its last copy is dropped.
    pub(crate) fn issued(value: &HeaderValue) -> Result<Self, TokenError> {
        let zeroizing = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
        Self::checked(HeaderValue::from_maybe_shared(zeroizing).map_err(|_| TokenError::Invalid)?)
    }

    fn checked(mut value: HeaderValue) -> Result<Self, TokenError> {
        if value.is_empty() {
            return Err(TokenError::Missing);
        }
        // Without an early exit, the compiler can vectorize the loop.
        let is_visible = value.as_bytes().iter().fold(true, |all, b| all & b.is_ascii_graphic());
        if value.len() > MAX_TOKEN_BYTES || !is_visible {
            return Err(TokenError::Invalid);
        }
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token as a header value, marked sensitive.
    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// The token as text.
    pub(crate) fn expose(&self) -> &str {
        // `to_str` would check each byte again, one after the other.
        std::str::from_utf8(self.0.as_bytes()).unwrap_or_default()
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
    fn token_is_redacted_in_debug_output() {
        let token = Token::issued(&HeaderValue::from_static("gAAAAABsecret")).unwrap();
        assert_eq!(format!("{token:?} {:?}", token.value()), "Token([redacted]) Sensitive");
    }
}
