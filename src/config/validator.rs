//! Collects what is wrong with a configuration, so that all problems are reported together.
//!
//! clap stops at the first value that does not parse. A [`Flag`] keeps the error instead, until a [`Validator`] reads it.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::parser::ValueSource;
use clap::{Arg, Command};

/// The value of a flag, or why its text is invalid.
#[derive(Clone)]
pub(super) struct Flag<T> {
    /// The flag and its variable: `--listen (GATEWAY_LISTEN)`.
    pub(super) name: String,
    pub(super) value: Result<T, String>,
    /// Whether it was given, by the flag or its variable.
    pub(super) is_given: bool,
}

/// Makes a parser of [`Flag`], which never fails, from one of its value.
pub(super) fn flag<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl TypedValueParser<Value = Flag<T>> {
    FlagParser(parse)
}

#[derive(Clone)]
struct FlagParser<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for FlagParser<T> {
    type Value = Flag<T>;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Flag<T>, clap::Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        _: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<Flag<T>, clap::Error> {
        let flag = arg.and_then(Arg::get_long).unwrap_or_default();
        let value = value.to_str().ok_or_else(|| "the value is not UTF-8".to_owned()).and_then(self.0);
        let is_given = source != ValueSource::DefaultValue;
        Ok(Flag { name: format!("--{flag} ({})", variable(flag)), value, is_given })
    }
}

/// The environment variable of a flag: `GATEWAY_UPSTREAM_URL` of `upstream-url`.
pub(super) fn variable(flag: &str) -> String {
    format!("GATEWAY_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// What was found so far, one line for each.
#[derive(Debug, Default)]
pub(super) struct Validator {
    problems: Vec<String>,
    /// What is probably a mistake, and does not prevent the start.
    pub(super) warnings: Vec<String>,
    /// The settings that are not the defaults.
    pub(super) settings: Vec<String>,
}

/// A value is missing because of a problem that the [`Validator`] has recorded. Only a validator makes one, so that no value
/// is missing without a line that says why. No other value takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reported(());

/// So that `?` works on a value that is behind a reference.
impl From<&Self> for Reported {
    fn from(reported: &Self) -> Self {
        *reported
    }
}

impl Validator {
    /// Records a problem.
    pub(super) fn report(&mut self, problem: impl Into<String>) -> Reported {
        self.problems.push(problem.into());
        Reported(())
    }

    /// Records every problem of `result`, each after `prefix`, which names what it is about.
    pub(super) fn check_all<T>(
        &mut self,
        prefix: &str,
        result: Result<T, Vec<String>>,
    ) -> Result<T, Reported> {
        result.map_err(|problems| {
            self.problems.extend(problems.iter().map(|problem| format!("{prefix}{problem}")));
            Reported(())
        })
    }

    /// The value of a flag.
    pub(super) fn value<T: Clone>(&mut self, flag: &Flag<T>) -> Result<T, Reported> {
        flag.value.clone().map_err(|problem| self.report(format!("{}: {problem}", flag.name)))
    }

    /// The value of a flag that may be missing.
    pub(super) fn optional<T: Clone>(&mut self, flag: &Option<Flag<T>>) -> Result<Option<T>, Reported> {
        match flag {
            Some(flag) => Ok(Some(self.value(flag)?)),
            None => Ok(None),
        }
    }

    /// The value, if no problem was found in it or elsewhere. A warning may explain a problem.
    pub(super) fn finish<T>(mut self, value: Result<T, Reported>) -> Result<T, Vec<String>> {
        match value {
            Ok(value) if self.problems.is_empty() => Ok(value),
            Ok(_) | Err(Reported(())) => {
                self.problems.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
                Err(self.problems)
            }
        }
    }
}
