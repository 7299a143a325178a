//! What proves to the upstream who asks.
//!
//! Two modes. *Pass-through*: the caller's own token, read from the request's HTTP headers and sent on as it came; the
//! gateway holds no credential and adds none. *AK/SK*: the gateway holds an access key and a secret key and signs each
//! attempt with them; what token the caller sends is never looked at.
//!
//! This module must not know gRPC or VBS: it hands headers to whoever sends the request.

mod aksk;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

pub use aksk::{AkSk, Get, Keys, KeysSource, Scheme};

use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

/// The header that carries the token, towards the gateway and towards the upstream.
pub const TOKEN_HEADER: &str = "x-auth-token";

/// The longest token that is accepted, in bytes. PKI tokens take 5 KB and more.
pub const MAX_TOKEN_BYTES: usize = 32_768;

/// A text that is never shown, and wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for who must send it or sign with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Where the credential of a call comes from.
#[derive(Clone, Debug)]
pub enum Mode {
    /// From the caller.
    PassThrough,
    /// From the gateway's own keys.
    AkSk(Arc<AkSk>),
}

impl Mode {
    /// The credential of the call with these HTTP headers.
    pub fn credential(&self, headers: &HeaderMap) -> Result<Credential, TokenError> {
        match self {
            Self::PassThrough => Token::from_headers(headers).map(Credential::Token),
            Self::AkSk(aksk) => Ok(Credential::Keys(aksk.keys(), aksk.scheme())),
        }
    }
}

/// The credential of one call.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The caller's token.
    Token(Token),
    /// The gateway's keys, and how they sign.
    Keys(Arc<Keys>, Scheme),
}

impl Credential {
    /// Adds to `headers` what proves who asks, in this attempt.
    pub fn add_to(&self, headers: &mut HeaderMap, get: Get<'_>, now: SystemTime) {
        match self {
            Self::Token(token) => drop(headers.insert(TOKEN_HEADER, token.0.clone())),
            Self::Keys(keys, scheme) => headers.extend(keys.sign(*scheme, get, now)),
        }
    }

    /// Whether it is the gateway's own, so that only its operator can mend it.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Keys(..))
    }

    /// `text` with every place blotted out at which it repeats a secret, or a telling part of one: an upstream that
    /// echoes it must not bring it into a status or a log.
    pub fn redact(&self, text: &str) -> String {
        match self {
            Self::Token(token) => blot(text, token.0.to_str().unwrap_or_default()),
            Self::Keys(keys, _) => keys.secrets().fold(text.to_owned(), |text, secret| blot(&text, secret)),
        }
    }
}

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
}

/// Blots out what `text` repeats of a secret: any part of it that is long enough to tell, in whatever case, and with
/// whatever blanks, line ends or invisible characters between its letters.
fn blot(text: &str, secret: &str) -> String {
    /// So many letters of a secret in a row are no accident; a shorter secret is looked for whole.
    const TELLING: usize = 12;
    /// So short a secret, which nobody issues but people type, is part of many words.
    const SHORT: usize = 8;
    const BLOT: &str = "[redacted]";

    let secret = Zeroizing::new(secret.to_ascii_lowercase());
    let length = secret.len().min(TELLING);
    let letters: Vec<(usize, u8)> = text
        .bytes()
        .enumerate()
        .filter(|(_, b)| b.is_ascii_graphic())
        .map(|(at, b)| (at, b.to_ascii_lowercase()))
        .collect();
    if length == 0 || letters.len() < length {
        return text.to_owned();
    }
    let plain: Vec<u8> = letters.iter().map(|(_, b)| *b).collect();
    let parts = common(&plain, secret.as_bytes(), length);
    if parts.is_empty() {
        return text.to_owned();
    }
    let place = |letter: usize| letters.get(letter).map_or(text.len(), |(at, _)| *at);
    let mut clean = String::with_capacity(text.len());
    let (mut copied, mut blotted) = (0, 0);
    for (letter, window) in plain.windows(length).enumerate() {
        let (from, to) = (place(letter), place(letter + length - 1) + 1);
        if !parts.contains(window) || (secret.len() < SHORT && !is_word(text, from, to)) {
            continue;
        }
        if letter >= blotted {
            clean.push_str(text.get(copied..from).unwrap_or_default());
            clean.push_str(BLOT);
        }
        (copied, blotted) = (to, letter + length);
    }
    clean.push_str(text.get(copied..).unwrap_or_default());
    clean
}

/// The parts of `length` bytes that a short text has in common with a secret of many thousand bytes. This is
/// done for every call, so that most of the secret is passed over by a look at two bytes.
fn common<'a>(text: &'a [u8], secret: &'a [u8], length: usize) -> HashSet<&'a [u8]> {
    let pair = |part: &[u8]| if let [a, b, ..] = part { usize::from(*a) << 8 | usize::from(*b) } else { 0 };
    let mut begins = BitSet::default();
    text.windows(length).for_each(|part| begins.insert(pair(part)));
    let candidates: HashSet<&[u8]> = text.windows(length).collect();
    secret.windows(length).filter(|part| begins.contains(pair(part)) && candidates.contains(part)).collect()
}

/// Which pairs of bytes there are.
struct BitSet([u64; 1024]);

impl Default for BitSet {
    fn default() -> Self {
        Self([0; 1024])
    }
}

impl BitSet {
    fn insert(&mut self, pair: usize) {
        if let Some(word) = self.0.get_mut(pair / 64) {
            *word |= 1 << (pair % 64);
        }
    }

    fn contains(&self, pair: usize) -> bool {
        self.0.get(pair / 64).is_some_and(|word| word >> (pair % 64) & 1 == 1)
    }
}

/// Whether this part of the text stands by itself.
fn is_word(text: &str, from: usize, to: usize) -> bool {
    let before = text.get(..from).and_then(|text| text.chars().next_back());
    let after = text.get(to..).and_then(|text| text.chars().next());
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
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

    fn redact(token: &Token, text: &str) -> String {
        Credential::Token(token.clone()).redact(text)
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", token("gAAAAABsecret")), "Token([redacted])");
    }

    #[test]
    fn an_echo_is_blotted_out_however_it_is_written() {
        let text = "MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgEwggFxBgkq";
        let long = token(text);
        for echo in [
            text.to_owned(),
            text[1..].to_owned(),
            text[..20].to_owned(),
            text[40..].to_owned(),
            text.to_lowercase(),
            format!("{}\n {}", &text[..32], &text[32..]),
            text.as_bytes()
                .chunks(15)
                .map(|chunk| std::str::from_utf8(chunk).unwrap())
                .collect::<Vec<_>>()
                .join("\u{200b}"),
        ] {
            assert_eq!(
                redact(&long, &format!("bad \u{fc} <{echo}>, really")),
                "bad \u{fc} <[redacted]>, really",
                "{echo}"
            );
        }
        assert_eq!(redact(&long, &format!("{text} twice {text}")), "[redacted] twice [redacted]");
        assert_eq!(redact(&long, "The token must be updated"), "The token must be updated");
    }

    #[test]
    fn a_short_token_is_blotted_out_whole_and_a_very_short_one_as_a_word() {
        assert_eq!(redact(&token("hunter2!!"), "is HUNTER2!! good"), "is [redacted] good");
        assert_eq!(redact(&token("t0p"), "bad t0p, t0p"), "bad [redacted], [redacted]");
        assert_eq!(redact(&token("a"), "a bad token 'a'"), "[redacted] bad token '[redacted]'");
    }
}
