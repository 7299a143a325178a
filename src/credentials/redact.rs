//! Keeps secrets out of text that a server has sent: a server may echo a token, a key or a password.
//!
//! A text that repeats a secret is withheld as a whole, and [`REDACTED`] takes its place. It repeats a secret if both have 12
//! characters in a row in common, or if it holds a shorter secret completely. Case is ignored, and so is everything but
//! visible ASCII: blanks, line ends and invisible characters may stand between the characters. A secret of fewer than four
//! characters is part of many words; it counts only where it stands as a word by itself.
//!
//! `tests/gateway/redaction.rs` shows it with servers that echo everything.

use std::collections::HashSet;
use std::hash::Hash;

use zeroize::Zeroizing;

/// Takes the place of a text that repeats a secret.
const REDACTED: &str = "[redacted]";
/// So many characters in a row in common are no coincidence.
const RUN: usize = 12;
/// A shorter secret is looked for as a word.
const MIN_LENGTH: usize = 4;

/// `text`, or [`REDACTED`] if it repeats one of the secrets, which are all visible ASCII.
pub(super) fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let is_echo = secrets.into_iter().any(|secret| may_contain(text, secret));
    if is_echo { REDACTED.into() } else { text.into() }
}

/// The same for a secret that people choose, which may hold blanks and letters of any script. Its visible ASCII is looked for,
/// and also the whole, with nothing but blanks and control characters ignored.
pub(super) fn redact_passphrase(text: &str, secret: &str) -> String {
    let mut ascii = Zeroizing::new(String::with_capacity(secret.len()));
    ascii.extend(secret.chars().filter(char::is_ascii_graphic));
    let is_ascii = ascii.len() == secret.len();
    let has_ascii = (is_ascii || ascii.len() >= MIN_LENGTH) && may_contain(text, &ascii);
    if has_ascii || (!is_ascii && has_characters(text, secret)) { REDACTED.into() } else { text.into() }
}

fn may_contain(text: &str, secret: &str) -> bool {
    if secret.len() < MIN_LENGTH {
        return has_word(text, secret);
    }
    let mut lowercase_text = Vec::with_capacity(text.len());
    lowercase_text.extend(text.bytes().filter(u8::is_ascii_graphic).map(|byte| byte.to_ascii_lowercase()));
    if secret.len() >= RUN && !may_share_run(&lowercase_text, secret.as_bytes()) {
        return false;
    }
    let secret = Zeroizing::new(secret.to_ascii_lowercase());
    share_run(&lowercase_text, secret.as_bytes())
}

fn has_characters(text: &str, secret: &str) -> bool {
    let characters = |text: &str| {
        // The capacity suffices, so that no copy is left behind: at most three characters replace one.
        let mut all = Zeroizing::new(Vec::with_capacity(3 * text.len()));
        let kept = text.chars().filter(|c| !c.is_whitespace() && !c.is_control());
        // Some letters, such as ß, have two in upper case.
        all.extend(kept.flat_map(char::to_uppercase).flat_map(char::to_lowercase));
        all
    };
    let whole = characters(secret);
    if whole.len() < MIN_LENGTH { has_word(text, secret) } else { share_run(&characters(text), &whole) }
}

/// Whether `text` contains `word` with no letter or digit next to it.
fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), Zeroizing::new(word.to_lowercase()));
    let mut places = text.match_indices(word.as_str()).map(|(start, _)| text.split_at(start));
    !word.is_empty()
        && places.any(|(before, rest)| {
            let after = rest.get(word.len()..).unwrap_or_default();
            !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
        })
}

/// Whether both have [`RUN`] elements in a row in common, or all of a shorter secret.
fn share_run<T: Eq + Hash>(text: &[T], secret: &[T]) -> bool {
    let length = secret.len().min(RUN);
    let runs: HashSet<&[T]> = text.windows(length).collect();
    secret.windows(length).any(|run| runs.contains(run))
}

/// Whether [`share_run`] can be true, whatever the case in `secret`. This runs for the request ID of every response, with tokens
/// of several thousand bytes, and is nearly always false. Of [`RUN`] bytes in a row, four begin at a multiple of
/// `RUN - 3`: only those are looked up, so that the token is not copied.
fn may_share_run(text: &[u8], secret: &[u8]) -> bool {
    const PART: usize = 4;
    const SLOTS: usize = 1024;
    // Makes letters of both cases equal, and some pairs of other characters.
    let fold = |part: &[u8]| {
        let part = part.first_chunk::<PART>().copied().unwrap_or_default();
        u32::from_ne_bytes(part) | u32::from_ne_bytes([0x20; PART])
    };
    // A hash table without the parts themselves: only a part whose slot is taken is searched for in the text.
    let slot = |part: u32| (part.wrapping_mul(0x9e37_79b1) >> (u32::BITS - SLOTS.ilog2())) as usize;
    let mut is_taken = [false; SLOTS];
    for part in text.windows(PART).map(fold) {
        if let Some(taken) = is_taken.get_mut(slot(part)) {
            *taken = true;
        }
    }
    let mut parts = secret.windows(PART).step_by(RUN - PART + 1).map(fold);
    parts.any(|part| is_taken.get(slot(part)) == Some(&true) && text.windows(PART).any(|t| fold(t) == part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_an_echo_is_withheld_however_it_is_written() {
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
            assert_eq!(redact(&format!("bad \u{fc} <{echo}>, really"), [long]), "[redacted]", "{echo}");
        }
        assert_eq!(redact("The token must be updated", [long]), "The token must be updated");
    }

    #[test]
    fn twelve_characters_in_a_row_are_an_echo_wherever_they_begin_and_eleven_are_not() {
        let secret = "abcdefghijklmnopqrstuvwxyz0123456789+/-_";
        for start in 0..=secret.len() - 12 {
            assert_eq!(
                redact(&format!(".{}.", &secret[start..start + 12]), [secret]),
                "[redacted]",
                "{start}"
            );
            let eleven = format!(".{}.", &secret[start..start + 11]);
            assert_eq!(redact(&eleven, [secret]), eleven);
        }
    }

    #[test]
    fn short_secret_is_found_whole_and_very_short_one_as_a_word() {
        for (text, secret) in [
            ("is HUNTER2!! good", "hunter2!!"),
            ("is hun ter2!! good", "hunter2!!"),
            ("a password", "pass"),
            ("bad t0p, t0p", "t0p"),
            ("bad 'T0P'", "t0p"),
            ("a bad token 'a'", "a"),
        ] {
            assert_eq!(redact(text, [secret]), "[redacted]", "{secret} in {text}");
            assert_eq!(redact_passphrase(text, secret), "[redacted]", "{secret} in {text}");
        }
        for (text, secret) in
            [("is hunter2! good", "hunter2!!"), ("at0p, t0ps", "t0p"), ("bad token", "a"), ("any", "")]
        {
            assert_eq!(redact(text, [secret]), text, "{secret}");
            assert_eq!(redact_passphrase(text, secret), text, "{secret}");
        }
    }

    #[test]
    fn passphrase_with_blanks_or_of_another_script_is_found() {
        for passphrase in [
            "correct horse battery \u{fc}staple",
            "Gr\u{fc}\u{df}e!23",
            "\u{43f}\u{430}\u{440}",
            "\u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c}\t\u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c}",
            "\u{e4} \u{e4}",
            "\u{e4}b",
            "\u{e4}\u{f6}\u{fc}b",
            " x ",
            "t0p",
        ] {
            for echo in [passphrase.to_owned(), passphrase.to_uppercase()] {
                assert_eq!(redact_passphrase(&format!("bad '{echo}'"), passphrase), "[redacted]", "{echo}");
            }
            assert_eq!(redact_passphrase("The request is not valid", passphrase), "The request is not valid");
        }
        let part = "is Correct-HORSE battery";
        assert_eq!(redact_passphrase(part, "correct-horse battery staple"), "[redacted]");
        let long = "\u{43f}\u{430}\u{440}\u{43e}\u{43b}\u{44c} ".repeat(3);
        assert_eq!(redact_passphrase(&long[..26], &long), "[redacted]", "12 of its characters");
        // One visible character of ASCII says nothing.
        assert_eq!(redact_passphrase("x bad b", "\u{e4}\u{f6}\u{fc}b"), "x bad b");
    }
}
