//! The type of every secret, and what keeps one out of texts that others wrote.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::fmt;

use zeroize::Zeroizing;

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

/// What stands where a secret stood.
const BLOT: &str = "[redacted]";

/// Blots out what `text` repeats of a secret of visible ASCII: any part of it that is long enough to tell, in whatever
/// case, and with whatever blanks, line ends or invisible characters between its letters.
pub(super) fn blot(text: &str, secret: &str) -> String {
    /// So many letters of a secret in a row are no accident; a shorter secret is looked for whole.
    const TELLING: usize = 12;
    /// So short a secret, which nobody issues but people type, is part of many words.
    const SHORT: usize = 8;

    let length = secret.len().min(TELLING);
    let plain: Vec<u8> =
        text.bytes().filter(u8::is_ascii_graphic).map(|letter| letter.to_ascii_lowercase()).collect();
    if length == 0 || plain.len() < length || !may_share(&plain, secret.as_bytes(), length) {
        return text.to_owned();
    }
    let secret = Zeroizing::new(secret.to_ascii_lowercase());
    let parts = common(&plain, secret.as_bytes(), length);
    if parts.is_empty() {
        return text.to_owned();
    }
    let letters: Vec<usize> =
        text.bytes().enumerate().filter(|(_, b)| b.is_ascii_graphic()).map(|(at, _)| at).collect();
    let place = |letter: usize| letters.get(letter).copied().unwrap_or(text.len());
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

/// The same of a secret that people type, which may hold blanks and letters of any script: it is looked for as it stands,
/// and then as its letters of ASCII, which are what is left of a text.
pub(super) fn blot_typed(text: &str, secret: &str) -> String {
    let mut letters = Zeroizing::new(String::with_capacity(secret.len()));
    letters.extend(secret.chars().filter(char::is_ascii_graphic));
    let whole = if letters.len() == secret.len() { text.to_owned() } else { text.replace(secret, BLOT) };
    blot(&whole, &letters)
}

/// Whether a part of `length` bytes may be in both, whatever the case in the secret; nearly always there is none, and this
/// is asked of every call. Such a part has, among the places at which four of its bytes begin, one in every so many of the
/// secret's: those are looked up, by their hash, among all fours of the text.
fn may_share(text: &[u8], secret: &[u8], length: usize) -> bool {
    let four = length.min(4);
    let mut begins = BitSet::default();
    text.windows(four).for_each(|part| begins.insert(begin(part)));
    let mut parts = secret.windows(four).step_by(length - four + 1);
    parts.any(|part| {
        // Fewer than four are not told apart.
        let mut lower = part.first_chunk().copied().unwrap_or([0; 4]);
        lower.make_ascii_lowercase();
        begins.contains(begin(&lower))
    })
}

/// The parts of `length` bytes that a short text has in common with a secret of many thousand bytes, nearly all of which
/// is passed over by a look at the hash of four bytes.
fn common<'a>(text: &'a [u8], secret: &'a [u8], length: usize) -> HashSet<&'a [u8]> {
    let mut begins = BitSet::default();
    text.windows(length).for_each(|part| begins.insert(begin(part)));
    let candidates: LazyCell<HashSet<&[u8]>, _> = LazyCell::new(|| text.windows(length).collect());
    secret.windows(length).filter(|part| begins.contains(begin(part)) && candidates.contains(part)).collect()
}

/// A hash, of [`BitSet::BITS`], of how a part begins.
fn begin(part: &[u8]) -> usize {
    let four = part.first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    (four.wrapping_mul(0x9E37_79B1) >> (u32::BITS - BitSet::BITS)) as usize
}

/// Which hashes there are. It is cleared for every call, so that it is as small as it can be for texts of some hundred bytes.
struct BitSet([u64; 1 << (Self::BITS - 6)]);

impl Default for BitSet {
    fn default() -> Self {
        Self([0; 1 << (Self::BITS - 6)])
    }
}

impl BitSet {
    const BITS: u32 = 13;

    fn insert(&mut self, hash: usize) {
        if let Some(word) = self.0.get_mut(hash / 64) {
            *word |= 1 << (hash % 64);
        }
    }

    fn contains(&self, hash: usize) -> bool {
        self.0.get(hash / 64).is_some_and(|word| word >> (hash % 64) & 1 == 1)
    }
}

/// Whether this part of the text stands by itself.
fn is_word(text: &str, from: usize, to: usize) -> bool {
    let before = text.get(..from).and_then(|text| text.chars().next_back());
    let after = text.get(to..).and_then(|text| text.chars().next());
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2!!")), "Secret([redacted])");
    }

    #[test]
    fn an_echo_is_blotted_out_however_it_is_written() {
        let long = "MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgEwggFxBgkq";
        for echo in [
            long.to_owned(),
            long[1..].to_owned(),
            long[..20].to_owned(),
            long[40..].to_owned(),
            long.to_lowercase(),
            format!("{}\n {}", &long[..32], &long[32..]),
            long.as_bytes()
                .chunks(15)
                .map(|chunk| std::str::from_utf8(chunk).unwrap())
                .collect::<Vec<_>>()
                .join("\u{200b}"),
        ] {
            assert_eq!(
                blot(&format!("bad \u{fc} <{echo}>, really"), long),
                "bad \u{fc} <[redacted]>, really",
                "{echo}"
            );
        }
        assert_eq!(blot(&format!("{long} twice {long}"), long), "[redacted] twice [redacted]");
        assert_eq!(blot("The token must be updated", long), "The token must be updated");
    }

    #[test]
    fn a_short_secret_is_blotted_out_whole_and_a_very_short_one_as_a_word() {
        assert_eq!(blot("is HUNTER2!! good", "hunter2!!"), "is [redacted] good");
        assert_eq!(blot("bad t0p, t0p", "t0p"), "bad [redacted], [redacted]");
        assert_eq!(blot("a bad token 'a'", "a"), "[redacted] bad token '[redacted]'");
    }

    #[test]
    fn a_secret_with_blanks_or_of_another_script_is_blotted_out_too() {
        for typed in [
            "correct horse battery \u{fc}staple",
            "Gr\u{fc}\u{df}e!23",
            "\u{43f}\u{430}\u{440}",
            "\u{e4} \u{e4}",
            "t0p",
        ] {
            assert_eq!(blot_typed(&format!("bad '{typed}'"), typed), "bad '[redacted]'", "{typed}");
        }
        assert_eq!(blot_typed("is Correct-HORSE battery", "correct-horse battery staple"), "is [redacted]");
    }
}
