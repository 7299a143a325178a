//! The values of `serve`'s flags and variables.
//!
//! clap stops at the first value that does not parse. A [`Flag`] keeps the error instead, and
//! [`Validator`](super::validator::Validator) reports all of them together.

use std::ffi::OsStr;
use std::fs::File;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{TypedValueParser, ValueParserFactory};
use clap::{Arg, Command};

use crate::credentials::Scheme;
use crate::telemetry::{self, LogFormat};

/// A type that a flag's text is parsed into.
pub(super) trait FlagValue: Clone + Send + Sync + 'static {
    /// The error repeats the text, says what is wrong with it and what to write instead.
    fn parse(text: &str) -> Result<Self, String>;
}

/// The value of a flag, or why its text is invalid.
#[derive(Clone)]
pub(super) struct Flag<T> {
    /// The flag and its variable: `--listen (GATEWAY_LISTEN)`.
    pub(super) name: String,
    pub(super) value: Result<T, String>,
}

/// The parser of a [`Flag`]. It never fails.
#[derive(Clone)]
pub(super) struct FlagParser<T>(PhantomData<T>);

impl<T: FlagValue> ValueParserFactory for Flag<T> {
    type Parser = FlagParser<T>;

    fn value_parser() -> Self::Parser {
        FlagParser(PhantomData)
    }
}

impl<T: FlagValue> TypedValueParser for FlagParser<T> {
    type Value = Flag<T>;

    fn parse_ref(&self, _: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Flag<T>, clap::Error> {
        let flag = arg.and_then(Arg::get_long).unwrap_or_default();
        let value = match value.to_str() {
            Some(text) => T::parse(text),
            None => Err("the value is not UTF-8".into()),
        };
        Ok(Flag { name: format!("--{flag} ({})", variable(flag)), value })
    }
}

/// The environment variable of a flag: `GATEWAY_UPSTREAM_URL` of `upstream-url`.
pub(super) fn variable(flag: &str) -> String {
    format!("GATEWAY_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// Text that is parsed together with the value of another flag, or that may hold a password.
impl FlagValue for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// `true` or `false`; `1` or `0` where a template writes them.
impl FlagValue for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("'{text}' must be true or false")),
        }
    }
}

/// `127.0.0.1:50051`, `[::]:50051`.
impl FlagValue for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("'{text}' must be an IP address and a port, such as 0.0.0.0:50051"))
    }
}

/// The path of a file or directory that can be opened.
impl FlagValue for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        File::open(text).map_err(|error| format!("cannot read {text} ({error})"))?;
        Ok(text.into())
    }
}

/// A duration longer than 0.
impl FlagValue for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let DurationOrZero(duration) = FlagValue::parse(text)?;
        if duration.is_zero() { Err(format!("'{text}' must be longer than 0")) } else { Ok(duration) }
    }
}

/// `250ms`, `15s`, `30m`, `1h`, `0s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DurationOrZero(pub(super) Duration);

impl FlagValue for DurationOrZero {
    fn parse(text: &str) -> Result<Self, String> {
        let number = number_before_unit(text, &["ms", "s", "m", "h"]);
        let is_in_range = number.is_some_and(|number| number.parse::<u32>().is_ok());
        match humantime::parse_duration(text) {
            Ok(duration) if is_in_range => Ok(Self(duration)),
            _ => Err(format!("'{text}' must be a whole number with a unit (ms, s, m or h), such as 250ms")),
        }
    }
}

/// The digits of a whole number with one of these units. The crates that parse it accept more, such as a missing unit, `1.5s`,
/// `1month` and `1mb`.
fn number_before_unit<'a>(text: &'a str, units: &[&str]) -> Option<&'a str> {
    units.iter().filter_map(|unit| text.strip_suffix(unit)).find(|number| is_digits(number))
}

/// A number of bytes: `512B`, `64KiB`, `1MiB`, `1GiB`; not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl FlagValue for Size {
    fn parse(text: &str) -> Result<Self, String> {
        let has_unit = number_before_unit(text, &["B", "KiB", "MiB", "GiB"]).is_some();
        let size = text.parse().ok().and_then(|ByteSize(size)| usize::try_from(size).ok());
        match size {
            // On overflow, the crate returns the maximum.
            Some(size) if has_unit && (1..usize::MAX).contains(&size) => Ok(Self(size)),
            _ => Err(format!(
                "'{text}' must be a whole number above 0 with a unit (B, KiB, MiB or GiB), such as 1MiB"
            )),
        }
    }
}

/// A whole number from 1 to `MAX`, which catches typing errors.
#[derive(Clone)]
pub(super) struct Count<const MAX: u32>(pub(super) u32);

impl<const MAX: u32> FlagValue for Count<MAX> {
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if is_digits(text) && (1..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("'{text}' must be a whole number from 1 to {MAX}")),
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The value of `--auth`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthMode {
    PassThrough,
    Keystone,
    AkSk,
}

impl FlagValue for AuthMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "passthrough" => Ok(Self::PassThrough),
            "keystone" => Ok(Self::Keystone),
            "aksk" => Ok(Self::AkSk),
            _ => Err(format!("'{text}' must be passthrough, keystone or aksk")),
        }
    }
}

impl FlagValue for Scheme {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "sdk" => Ok(Self::Sdk),
            "legacy" => Ok(Self::Legacy),
            _ => Err(format!("'{text}' must be sdk or legacy")),
        }
    }
}

/// One or more authorization rules, separated by white space.
#[derive(Clone)]
pub(super) struct RuleList(pub(super) Vec<String>);

impl FlagValue for RuleList {
    fn parse(text: &str) -> Result<Self, String> {
        let rules: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if rules.is_empty() {
            return Err("an empty rule must be CALLER=PROJECT[,PROJECT…]".into());
        }
        Ok(Self(rules))
    }
}

/// A filter in the syntax of `tracing`.
#[derive(Clone)]
pub(super) struct LogFilter(pub(super) String);

impl FlagValue for LogFilter {
    fn parse(text: &str) -> Result<Self, String> {
        match telemetry::Config::check_filter(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("'{text}' must be a level such as info, or target=level ({error})")),
        }
    }
}

impl FlagValue for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(format!("'{text}' must be json or text")),
        }
    }
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
            assert_eq!(DurationOrZero::parse(text), Ok(DurationOrZero(Duration::from_millis(milliseconds))));
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
            assert!(DurationOrZero::parse(invalid).is_err(), "{invalid}");
        }
        assert_eq!(Duration::parse("1s"), Ok(Duration::from_secs(1)));
        assert!(Duration::parse("0ms").is_err());
    }

    #[test]
    fn sizes_need_a_whole_number_and_a_binary_unit() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576), ("1GiB", 1_073_741_824)]
        {
            assert_eq!(Size::parse(text), Ok(Size(bytes)));
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
            assert!(Size::parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn counts_are_whole_numbers_from_1_to_a_maximum() {
        assert_eq!(Count::<10>::parse("10").map(|count| count.0), Ok(10));
        for invalid in ["", "0", "+1", "1.0", "11", "x"] {
            assert!(Count::<10>::parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn error_of_unreadable_file_names_the_path() {
        let error = PathBuf::parse("/no/such/file").unwrap_err();
        assert_eq!(error, "cannot read /no/such/file (No such file or directory (os error 2))");
    }
}
