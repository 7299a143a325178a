//! The lines that `check` prints: one for each step.

use std::fmt::Display;
use std::io;

use super::super::output::write_line;

/// Why a step failed, and what to do about it.
pub(super) struct Failure {
    problem: String,
    advice: String,
}

impl Failure {
    pub(super) fn new(problem: impl Display, advice: impl Display) -> Self {
        Self { problem: problem.to_string(), advice: advice.to_string() }
    }

    pub(super) fn internal(problem: impl Display) -> Self {
        Self::new(problem, "this is a bug of the gateway")
    }
}

/// A step failed, and its line was printed. The steps that depend on it are left out.
pub(super) struct Stopped;

/// Prints one line for each step.
pub(super) struct Report;

impl Report {
    pub(super) fn ok(&self, step: &str, finding: &str) {
        write_line(io::stdout(), &format!("ok    {step}: {finding}"));
    }

    pub(super) fn skip(&self, step: &str, reason: &str) {
        write_line(io::stdout(), &format!("skip  {step}: {reason}"));
    }

    pub(super) fn fail(&self, step: &str, failure: &Failure) -> Stopped {
        write_line(io::stdout(), &format!("FAIL  {step}: {}; {}", failure.problem, failure.advice));
        Stopped
    }

    /// Prints the finding of a step, and returns what the next steps need of it.
    pub(super) fn step<T>(&self, step: &str, result: Result<(String, T), Failure>) -> Result<T, Stopped> {
        match result {
            Ok((finding, value)) => {
                self.ok(step, &finding);
                Ok(value)
            }
            Err(failure) => Err(self.fail(step, &failure)),
        }
    }
}
