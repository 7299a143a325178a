//! The blocks of a PEM file (RFC 7468), found strictly. rustls's own reader skips what it does not recognize, so that half of a
//! file may be lost without an error.
//!
//! Every line that looks like a BEGIN or END line must be one, and blocks must be complete. Other text between blocks is
//! a comment. Content is never part of an error: it may be a private key.

use std::borrow::Cow;

use rustls::pki_types::pem::{Error, PemObject};

/// A block, from its BEGIN line to its END line.
pub(super) struct Block {
    /// `CERTIFICATE` of `-----BEGIN CERTIFICATE-----`.
    pub(super) label: String,
    /// The block and its first line, both counted from 1, and the label: `block 2 (line 23, CERTIFICATE)`.
    pub(super) place: String,
    text: String,
}

impl Block {
    fn begin(label: &str, number: usize, line: usize) -> Self {
        let place = format!("block {number} (line {line}, {label})");
        Self { label: label.to_owned(), place, text: format!("-----BEGIN {label}-----\n") }
    }

    /// Decodes the content.
    pub(super) fn decode<T: PemObject>(&self) -> Result<T, Error> {
        T::from_pem_slice(self.text.as_bytes())
    }

    /// Whether it is a private key that requires a passphrase (PKCS #8, or the headers of RFC 1421).
    pub(super) fn is_encrypted_key(&self) -> bool {
        let has_header =
            self.text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
        self.label == "ENCRYPTED PRIVATE KEY" || has_header
    }

    fn without_end(&self) -> String {
        format!("{} has no line -----END {}-----: complete the file", self.place, self.label)
    }
}

/// Finds every block.
pub(super) fn blocks(bytes: &[u8]) -> Result<Vec<Block>, String> {
    let text = text(bytes)?;
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line_number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end();
        let number = blocks.len() + 1;
        let at_line = |problem| format!("block {number}: line {line_number} {problem}");
        let Some(boundary) = Boundary::parse(line).map_err(at_line)? else {
            if let Some(block) = &mut open {
                block.text += line;
                block.text.push('\n');
            }
            continue;
        };
        match (boundary, open.take()) {
            (Boundary::Begin(label), None) => open = Some(Block::begin(label, number, line_number)),
            (Boundary::End(label), Some(mut block)) if block.label == label => {
                block.text += line;
                blocks.push(block);
            }
            (Boundary::Begin(_) | Boundary::End(_), Some(block)) => return Err(block.without_end()),
            (Boundary::End(label), None) => {
                return Err(at_line(format!("is the END of a {label} without its BEGIN: complete the file")));
            }
        }
    }
    match open {
        Some(block) => Err(block.without_end()),
        None => Ok(blocks),
    }
}

/// The text of a file. Bytes that are not UTF-8 may be in a comment; in a block they are not valid base64.
fn text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let is_der = match bytes {
        // The tag of a sequence and a length: all that PEM encodes begins like this, and so does PKCS #12.
        [0x30, length, content @ ..] => *length >= 0x80 || usize::from(*length) == content.len(),
        _ => false,
    };
    if is_der {
        return Err("is binary (DER or PKCS #12), not PEM: convert it with openssl".into());
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.contains(&0) {
        return Err("is not text in UTF-8 (UTF-16?): save it as UTF-8".into());
    }
    Ok(String::from_utf8_lossy(bytes))
}

enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
}

impl<'a> Boundary<'a> {
    /// Parses a line. `None` if it does not look like a boundary.
    fn parse(line: &'a str) -> Result<Option<Self>, String> {
        if !looks_like_boundary(line) {
            return Ok(None);
        }
        let inner = line.strip_prefix("-----").and_then(|rest| rest.strip_suffix("-----"));
        // Without this, two boundaries on one line would be one label.
        if let Some(inner) = inner.filter(|inner| !inner.contains('-')) {
            if let Some(label) = inner.strip_prefix("BEGIN ") {
                return Ok(Some(Self::Begin(label)));
            }
            if let Some(label) = inner.strip_prefix("END ") {
                return Ok(Some(Self::End(label)));
            }
        }
        let advice = if line.starts_with('\u{feff}') {
            "save it as UTF-8 without a byte order mark"
        } else if line.starts_with([' ', '\t']) {
            "remove the spaces before it"
        } else if line.matches("-----").count() > 2 {
            "insert the missing line break, where files were joined"
        } else {
            "restore the original file"
        };
        Err(format!(
            "must be like -----BEGIN CERTIFICATE----- or -----END CERTIFICATE-----, and nothing else: {advice}"
        ))
    }
}

/// Also what a word processor or a typing error makes of a boundary: long or missing dashes, lower case.
fn looks_like_boundary(line: &str) -> bool {
    let is_dash = |c: char| matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    let dashes = line.trim_start().chars().take_while(|c| is_dash(*c)).count();
    let words = line.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_uppercase();
    let has_words = (words.starts_with("BEGIN") || words.starts_with("END"))
        && (words.contains("CERTIFICATE") || words.contains("KEY"));
    line.contains("-----BEGIN") || line.contains("-----END") || dashes > 1 && has_words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        blocks(text.as_ref()).map(|blocks| blocks.into_iter().map(|block| block.place).collect())
    }

    #[test]
    fn blocks_are_found_between_comments_with_any_line_ends() {
        let text = "Certificate:\n    Data:\n  - End Entity Key\n\n-----BEGIN A-----  \nAA==\n-----END A-----\n# next\n-----BEGIN B C-----\n-----END B C-----";
        let expected = ["block 1 (line 5, A)", "block 2 (line 9, B C)"];
        assert_eq!(places(text).unwrap(), expected);
        assert_eq!(places(text.replace('\n', "\r\n")).unwrap(), expected);
        assert_eq!(places([b"caf\xe9\n", text.as_bytes()].concat()).unwrap().len(), 2);
        assert!(places("").unwrap().is_empty());
    }

    #[test]
    fn incomplete_or_unrecognizable_block_is_an_error() {
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        for (text, part) in [
            (format!("{begin}\nAA==\n{end}{begin}\nAA==\n{end}\n"), "block 1: line 3 must be like"),
            (
                format!("\u{feff}{begin}\nAA==\n{end}\n"),
                "line 1 must be like -----BEGIN CERTIFICATE----- or -----END CERTIFICATE-----, and nothing else: save it as UTF-8 without",
            ),
            (format!("  {begin}\n  AA==\n  {end}\n"), "remove the spaces"),
            (format!("{begin}\nAA=={end}\n"), "line 2"),
            (format!("{begin} AA== {end}"), "line 1"),
            (format!("{begin}\r{end}"), "line 1"),
            (format!("# {begin}\nAA==\n{end}"), "line 1"),
            (begin.to_owned(), "block 1 (line 1, CERTIFICATE) has no line -----END CERTIFICATE-----"),
            (format!("{begin}\n{begin}\n{end}"), "block 1 (line 1, CERTIFICATE) has no line"),
            (format!("{begin}\n-----END X-----"), "block 1 (line 1, CERTIFICATE) has no line"),
            (format!("\n{end}"), "block 1: line 2 is the END of a CERTIFICATE without its BEGIN"),
            (format!("----BEGIN CERTIFICATE----\n{end}"), "line 1"),
            ("-----begin certificate-----".into(), "line 1"),
            ("\u{2014}\u{2014}BEGIN CERTIFICATE\u{2014}\u{2014}".into(), "line 1"),
            ("-----BEGIN CERTIFICATE".into(), "line 1"),
            ("-----BEGINCERTIFICATE-----".into(), "line 1"),
        ] {
            let error = places(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn binary_and_utf_16_are_named() {
        let utf_16: Vec<u8> = "-----BEGIN A-----".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&[0x30, 0x82, 1, 0, 0][..], &[0x30, 2, 5, 0]] {
            assert!(places(bytes).unwrap_err().contains("is binary"));
        }
        for bytes in [utf_16.clone(), [&[0xff, 0xfe], &utf_16[..]].concat()] {
            assert!(places(bytes).unwrap_err().contains("UTF-16"));
        }
    }

    #[test]
    fn encrypted_keys_are_recognized() {
        for (text, expected) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----", true),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: X\n\nAA==\n-----END RSA PRIVATE KEY-----",
                true,
            ),
            ("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----", false),
        ] {
            assert_eq!(blocks(text.as_bytes()).unwrap()[0].is_encrypted_key(), expected, "{text}");
        }
    }
}
