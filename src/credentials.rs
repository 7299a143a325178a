//! What proves to the upstream who asks. Today there is one mode, pass-through: the caller's own token, read from
//! the request's HTTP headers and sent on as it came. The gateway holds no credential and adds none.
//!
//! This module must not know gRPC or VBS: it hands a header value to whoever sends the request.

use std::fmt;

use http::{HeaderMap, HeaderValue};

/// The header that carries the token, towards the gateway and towards the upstream.
pub const TOKEN_HEADER: &str = "x-auth-token";

/// The longest token that is accepted, in bytes. PKI tokens take 5 KB and more.
pub const MAX_TOKEN_BYTES: usize = 32_768;

/// A caller's token. It is never shown: `Debug` prints a placeholder, and the header value is marked sensitive.
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
        let mut values = headers.get_all(TOKEN_HEADER).iter();
        let value = values.next().ok_or(TokenError::Missing)?;
        if values.next().is_some() {
            return Err(TokenError::Duplicate);
        }
        if value.is_empty() {
            return Err(TokenError::Missing);
        }
        if value.len() > MAX_TOKEN_BYTES || !value.as_bytes().iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Invalid);
        }
        let mut value = value.clone();
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value for the upstream's request, marked sensitive.
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` with every place blotted out at which it repeats this token, or the beginning of it: an upstream that
    /// echoes a token must not bring it into a status or a log. A token of few bytes, which nobody issues but people
    /// type, is blotted out only where it stands as a word of its own.
    pub fn redact(&self, text: &str) -> String {
        /// So much of a token gives it away; shorter tokens are looked for whole.
        const TELLING: usize = 16;
        /// So short a token is part of many words.
        const SHORT: usize = 8;
        const BLOT: &str = "[redacted]";

        // Visible ASCII by construction.
        let token = self.0.to_str().unwrap_or_default();
        let needle = token.get(..TELLING).unwrap_or(token);
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(needle) {
            let (before, echo) = rest.split_at(at);
            let same = echo.bytes().zip(token.bytes()).take_while(|(a, b)| a == b).count();
            let (echo, after) = echo.split_at(same);
            let in_word = before.ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
            clean.push_str(before);
            clean.push_str(if token.len() < SHORT && in_word { echo } else { BLOT });
            rest = after;
        }
        clean.push_str(rest);
        clean
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

    fn token(text: &str) -> Token {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN_HEADER, HeaderValue::from_str(text).unwrap());
        Token::from_headers(&headers).unwrap()
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", token("gAAAAABsecret")), "Token([redacted])");
    }

    #[test]
    fn an_echo_is_blotted_out_whole_cut_short_and_more_than_once() {
        let long = token("MIIDkgYJKoZIhvcNAQcCoIIDgzCC");
        assert_eq!(long.redact("token MIIDkgYJKoZIhvcNAQcCoIIDgzCC!"), "token [redacted]!");
        assert_eq!(
            long.redact("token MIIDkgYJKoZIhvcNAQ... twice MIIDkgYJKoZIhvcN"),
            "token [redacted]... twice [redacted]"
        );
        assert_eq!(long.redact("The token must be updated"), "The token must be updated");
        assert_eq!(token("t0p").redact("bad t0p, t0p"), "bad [redacted], [redacted]");
        assert_eq!(token("a").redact("a bad token 'a'"), "[redacted] bad token '[redacted]'");
    }
}
