//! Parses values and collects what is wrong with them, so that all problems are reported together.

use std::path::Path;
use std::time::Duration;

use super::flags::variable;
use super::units;

/// The problems found so far, one line for each.
#[derive(Debug, Default)]
pub(super) struct Validator {
    problems: Vec<String>,
}

/// A value could not be read, and the [`Validator`] has recorded why. Only a validator makes one, so that no value is
/// missing without a line that says so. There are no values that stand in for those that could not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// So that `?` passes on what another value has reported.
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

    /// Records every problem of `result`, each after the name of what it is about.
    pub(super) fn check_all<T>(
        &mut self,
        about: &str,
        result: Result<T, Vec<String>>,
    ) -> Result<T, Reported> {
        result.map_err(|problems| {
            self.problems.extend(problems.into_iter().map(|why| format!("{about}{why}")));
            Reported(())
        })
    }

    /// The value of a flag that has no variable.
    pub(super) fn flag<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Reported> {
        parse(text).map_err(|why| self.report(format!("--{name} {why}")))
    }

    /// The content of the file that a flag names.
    pub(super) fn file(&mut self, name: &str, path: &Path) -> Result<Vec<u8>, Reported> {
        std::fs::read(path)
            .map_err(|error| self.report(format!("--{name} {} cannot be read: {error}", path.display())))
    }

    /// The value of a flag that has a variable, as those of `serve` do.
    pub(super) fn value<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Reported> {
        self.flag(&format!("{name} ({})", variable(name)), text, parse)
    }

    /// A duration that is not zero.
    pub(super) fn duration(&mut self, name: &str, text: &str) -> Result<Duration, Reported> {
        self.value(name, text, units::positive_duration)
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count(&mut self, name: &str, text: &str, max: u32) -> Result<u32, Reported> {
        self.value(name, text, units::count(max))
    }

    /// `true` or `false`.
    pub(super) fn bool(&mut self, name: &str, text: &str) -> Result<bool, Reported> {
        self.value(name, text, units::parse_bool)
    }

    /// The value, if there is no problem, with it or with anything else.
    pub(super) fn finish<T>(self, value: Result<T, Reported>) -> Result<T, Vec<String>> {
        match value {
            Ok(value) if self.problems.is_empty() => Ok(value),
            Ok(_) | Err(Reported(())) => Err(self.problems),
        }
    }
}
