//! Collects what is wrong with a configuration, so that all problems are reported together.

use super::value::{Flag, FlagValue};

/// The problems found so far, one line for each.
#[derive(Debug, Default)]
pub(super) struct Validator {
    problems: Vec<String>,
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
    pub(super) fn value<T: FlagValue>(&mut self, flag: &Flag<T>) -> Result<T, Reported> {
        flag.value.clone().map_err(|problem| self.report(format!("{}: {problem}", flag.name)))
    }

    /// The value of a flag that may be missing.
    pub(super) fn optional<T: FlagValue>(&mut self, flag: Option<&Flag<T>>) -> Result<Option<T>, Reported> {
        match flag {
            Some(flag) => Ok(Some(self.value(flag)?)),
            None => Ok(None),
        }
    }

    /// The value, if no problem was found in it or elsewhere.
    pub(super) fn finish<T>(self, value: Result<T, Reported>) -> Result<T, Vec<String>> {
        match value {
            Ok(value) if self.problems.is_empty() => Ok(value),
            Ok(_) | Err(Reported(())) => Err(self.problems),
        }
    }
}
