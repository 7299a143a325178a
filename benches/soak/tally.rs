//! How the calls of each kind have ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// How many unexpected ends of a kind are shown.
const SHOWN: usize = 5;

#[derive(Default)]
pub(crate) struct Tally {
    kinds: Mutex<BTreeMap<&'static str, Ends>>,
}

#[derive(Default)]
struct Ends {
    count: u64,
    unexpected: u64,
    examples: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&self, kind: &'static str, is_expected: bool, end: impl FnOnce() -> String) {
        let mut kinds = self.kinds.lock().unwrap();
        let ends = kinds.entry(kind).or_default();
        ends.count += 1;
        if !is_expected {
            ends.unexpected += 1;
            if ends.examples.len() < SHOWN {
                ends.examples.push(end());
            }
        }
    }

    /// All kinds in a few words.
    pub(crate) fn line(&self) -> String {
        let kinds = self.kinds.lock().unwrap();
        let sum = |of: fn(&Ends) -> u64| kinds.values().map(of).sum::<u64>();
        format!("{} ends, {} unexpected", sum(|ends| ends.count), sum(|ends| ends.unexpected))
    }

    pub(crate) fn is_as_expected(&self) -> bool {
        self.kinds.lock().unwrap().values().all(|ends| ends.unexpected == 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | count | unexpected | such as |\n|---|---|---|---|")?;
        for (kind, ends) in &*self.kinds.lock().unwrap() {
            writeln!(f, "| {kind} | {} | {} | {} |", ends.count, ends.unexpected, ends.examples.join(", "))?;
        }
        Ok(())
    }
}
