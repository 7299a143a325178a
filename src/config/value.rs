//! Parsers of the values of flags and variables. An error repeats the text, says what is wrong with it and what to write instead.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use crate::credentials::Scheme;
use crate::files;
use crate::grpc::Rules;
use crate::pem;
use crate::telemetry::{self, LogFormat};
use crate::upstream::RootsFile;

/// The value of `--auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthMode {
    PassThrough,
    Keystone,
    AkSk,
}

pub(super) fn auth_mode(text: &str) -> Result<AuthMode, String> {
    match text {
        "passthrough" => Ok(AuthMode::PassThrough),
        "keystone" => Ok(AuthMode::Keystone),
        "aksk" => Ok(AuthMode::AkSk),
        _ => Err(format!("'{text}' must be passthrough, keystone or aksk")),
    }
}

pub(super) fn scheme(text: &str) -> Result<Scheme, String> {
    match text {
        "sdk" => Ok(Scheme::Sdk),
        "legacy" => Ok(Scheme::Legacy),
        _ => Err(format!("'{text}' must be sdk or legacy")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(format!("'{text}' must be json or text")),
    }
}

/// Levels and `target=level`, separated by commas.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    telemetry::parse_filter(text).map_err(|problem| format!("'{text}' {problem}"))
}

/// `true` or `false` in any case; `1` or `0` where a template writes them.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("'{text}' must be true or false")),
    }
}

/// Text that is parsed together with the value of another flag.
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// `127.0.0.1:50051`, `[::]:50051`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' must be an IP address and a port, such as 0.0.0.0:50051"))
}

/// The path of a file that can be read.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    files::read(Path::new(text)).map_err(|error| format!("cannot read {text} ({error})"))?;
    Ok(text.into())
}

/// The path of a directory that can be read.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    std::fs::read_dir(text).map_err(|error| format!("cannot read {text} ({error})"))?;
    Ok(text.into())
}

/// The path of a PEM file of certificates.
pub(super) fn certificates(path: &str) -> Result<PathBuf, String> {
    pem::read_certificates(Path::new(path))?;
    Ok(path.into())
}

/// The path of a PEM file with a certificate that is valid now, and its intermediate certificates.
pub(super) fn chain(path: &str) -> Result<PathBuf, String> {
    pem::read_chain(Path::new(path))?;
    Ok(path.into())
}

/// The path of a PEM file with a private key.
pub(super) fn private_key(path: &str) -> Result<PathBuf, String> {
    pem::read_private_key(Path::new(path))?;
    Ok(path.into())
}

/// The path of a PEM file of CA certificates.
pub(super) fn ca_file(path: &str) -> Result<PathBuf, String> {
    roots(path)?;
    Ok(path.into())
}

/// The CA certificates of a PEM file.
pub(super) fn roots(path: &str) -> Result<RootsFile, String> {
    RootsFile::load(path.into())
}

/// One or more authorization rules, separated by white space.
pub(super) fn rules(text: &str) -> Result<Rules, String> {
    if text.trim().is_empty() {
        return Err("an empty rule must be CALLER=PROJECT[,PROJECT…]".into());
    }
    let mut rules = Rules::default();
    let add = |rule| rules.add(rule).err().map(|problem| format!("'{rule}' {problem}"));
    let problems: Vec<String> = text.split_whitespace().filter_map(add).collect();
    if problems.is_empty() { Ok(rules) } else { Err(problems.join("; ")) }
}

/// A duration longer than 0.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_zero(text)?;
    if duration.is_zero() { Err(format!("'{text}' must be longer than 0")) } else { Ok(duration) }
}

/// `250ms`, `15s`, `30m`, `1h`, `0s`.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let number = number_before_unit(text, &["ms", "s", "m", "h"]);
    let is_in_range = number.is_some_and(|number| number.parse::<u32>().is_ok());
    match humantime::parse_duration(text) {
        Ok(duration) if is_in_range => Ok(duration),
        _ => Err(format!("'{text}' must be a whole number with a unit (ms, s, m or h), such as 250ms")),
    }
}

/// A number of bytes: `512B`, `64KiB`, `1MiB`, `1GiB`; not 0.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let has_unit = number_before_unit(text, &["B", "KiB", "MiB", "GiB"]).is_some();
    let size = text.parse().ok().and_then(|ByteSize(size)| usize::try_from(size).ok());
    match size {
        // On overflow, the crate returns the maximum.
        Some(size) if has_unit && (1..usize::MAX).contains(&size) => Ok(size),
        _ => Err(format!(
            "'{text}' must be a whole number above 0 with a unit (B, KiB, MiB or GiB), such as 1MiB"
        )),
    }
}

/// A whole number from 1 to `MAX`, which catches typing errors.
pub(super) fn count<const MAX: u32>(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if is_digits(text) && (1..=MAX).contains(&number) => Ok(number),
        _ => Err(format!("'{text}' must be a whole number from 1 to {MAX}")),
    }
}

/// The digits of a whole number with one of these units. The crates that parse it accept more, such as a missing unit, `1.5s`,
/// `1month` and `1mb`.
fn number_before_unit<'a>(text: &'a str, units: &[&str]) -> Option<&'a str> {
    units.iter().filter_map(|unit| text.strip_suffix(unit)).find(|number| is_digits(number))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("0s", 0),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("4294967295h", 4_294_967_295 * 3_600_000),
        ] {
            assert_eq!(duration_or_zero(text), Ok(Duration::from_millis(milliseconds)));
        }
        for invalid in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1d",
            "1S",
            "1M",
            "1min",
            "1sec",
            "1month",
            "1y",
            "1h30m",
            "1us",
            "99999999999s",
            "4294967296h",
        ] {
            assert!(duration_or_zero(invalid).is_err(), "{invalid}");
        }
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert!(duration("0ms").is_err());
    }

    #[test]
    fn sizes_need_a_whole_number_and_a_binary_unit() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("1GiB", 1_073_741_824)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for invalid in [
            "",
            "5",
            "0B",
            "1KB",
            "1MB",
            "1kb",
            "1M",
            "1Mi",
            "1mib",
            "1b",
            "1TiB",
            "1.5MiB",
            "1 MiB",
            "-1B",
            "+1B",
            "99999999999999999999GiB",
            "18446744073709551615KiB",
        ] {
            assert!(size(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn counts_are_whole_numbers_from_1_to_a_maximum() {
        assert_eq!(count::<10>("10"), Ok(10));
        for invalid in ["", "0", "+1", "1.0", "11", "x"] {
            assert!(count::<10>(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn switches_are_true_or_false_in_any_case() {
        for (text, value) in
            [("true", true), ("TRUE", true), ("1", true), ("False", false), ("false", false), ("0", false)]
        {
            assert_eq!(boolean(text), Ok(value));
        }
        for invalid in ["", "yes", "on", "2", "01", " true", "-1"] {
            assert!(boolean(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn error_of_unreadable_file_names_the_path() {
        let error = path("/no/such/file").unwrap_err();
        assert_eq!(error, "cannot read /no/such/file (No such file or directory (os error 2))");
    }
}
