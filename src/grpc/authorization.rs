//! Authorization: rules that state for each caller, by a name in its certificate, which projects it may name in a request.
//! Names are compared exactly.
//!
//! A name is a SPIFFE ID or a DNS name. This module must not know how a certificate is verified (`server` does) or what the upstream allows a token.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::ProjectId;
use crate::files::{Loaded, Snapshot};

/// The rules in force, of the flags and of a file that may change.
#[derive(Debug)]
pub struct AuthorizationPolicy {
    flags: Vec<String>,
    file: Option<PathBuf>,
    /// The file as it was when it was first read.
    snapshot: Snapshot,
    rules: ArcSwap<Rules>,
}

/// The projects of each caller; [`EVERY_PROJECT`] means all projects.
type Rules = HashMap<String, HashSet<String>>;

const EVERY_PROJECT: &str = "*";

impl AuthorizationPolicy {
    /// Reads the rules of the `flags` and those of the `file`. The error has a line for each invalid rule.
    pub fn load(flags: Vec<String>, file: Option<PathBuf>) -> Result<Self, Vec<String>> {
        let paths = file.iter().cloned().collect();
        let Loaded { value, snapshot } = Loaded::read(paths, || read_rules(&flags, file.as_deref()))?;
        Ok(Self { flags, file, snapshot, rules: ArcSwap::from_pointee(value) })
    }

    /// A line for each caller: how many projects it may read.
    pub(crate) fn summary(&self) -> Vec<String> {
        let rules = self.rules.load();
        let mut lines: Vec<String> = rules
            .iter()
            .map(|(caller, projects)| match projects.len() {
                _ if projects.contains(EVERY_PROJECT) => format!("{caller} may read every project"),
                1 => format!("{caller} may read 1 project"),
                count => format!("{caller} may read {count} projects"),
            })
            .collect();
        lines.sort();
        lines
    }

    /// One of the projects that a rule names.
    pub(crate) fn any_project(&self) -> Option<String> {
        let rules = self.rules.load();
        rules.values().flatten().filter(|project| *project != EVERY_PROJECT).min().cloned()
    }

    /// Reads the file again. After an error the rules in force stay.
    pub fn reload(&self) -> Result<(), String> {
        let rules = read_rules(&self.flags, self.file.as_deref()).map_err(|problems| problems.join("; "))?;
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    /// The file, if there is one, as it was when it was first read.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Whether any rule names a caller with one of these names.
    pub(super) fn is_known(&self, names: &[String]) -> bool {
        let rules = self.rules.load();
        names.iter().any(|name| rules.contains_key(name))
    }

    /// Whether a caller with these names may read shares of the project.
    pub(super) fn is_authorized(&self, names: &[String], project: &str) -> bool {
        let rules = self.rules.load();
        let mut allowed = names.iter().filter_map(|name| rules.get(name));
        allowed.any(|projects| projects.contains(EVERY_PROJECT) || projects.contains(project))
    }
}

/// Reads the rules of the flags, and of the lines of the file; `#` begins a comment.
fn read_rules(flags: &[String], file: Option<&Path>) -> Result<Rules, Vec<String>> {
    let mut rules = Rules::new();
    let mut problems = Vec::new();
    for rule in flags {
        if let Err(problem) = add_rule(&mut rules, rule) {
            problems.push(format!("'{rule}' {problem}"));
        }
    }
    let mut text = String::new();
    if let Some(file) = file {
        match std::fs::read_to_string(file) {
            Ok(read) => text = read,
            Err(error) => problems.push(format!("cannot read {} ({error})", file.display())),
        }
    }
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    for (index, line) in text.lines().enumerate() {
        let rule = line.split('#').next().unwrap_or_default().trim();
        if rule.is_empty() {
            continue;
        }
        if let Err(problem) = add_rule(&mut rules, rule) {
            problems.push(format!("{file}: line {} {problem}", index + 1));
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// Adds `CALLER=PROJECT[,PROJECT…]`; `*` is every project. Rules for the same caller add up.
fn add_rule(rules: &mut Rules, rule: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be CALLER=PROJECT[,PROJECT…], where CALLER is a SPIFFE ID or a DNS name";
    const PROJECT_FORM: &str =
        "names a project that is neither '*' nor 1 to 64 of A-Z, a-z, 0-9, '_' and '-'";
    let (caller, projects) = rule.split_once('=').ok_or(FORM)?;
    if caller.is_empty() || !caller.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(FORM);
    }
    let allowed = rules.entry(caller.to_owned()).or_default();
    for project in projects.split(',') {
        if project != EVERY_PROJECT && ProjectId::parse(project.to_owned()).is_none() {
            return Err(PROJECT_FORM);
        }
        allowed.insert(project.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn rules_are_exact_and_add_up() {
        let flags = names(&["spiffe://td/a=p1,p2", "b.example=*", "spiffe://td/a=p3"]);
        let policy = AuthorizationPolicy::load(flags, None).unwrap();
        let a = names(&["spiffe://td/a"]);
        for (project, allowed) in [
            ("p1", true),
            ("p3", true),
            ("p4", false),
            ("P1", false),
            ("p", false),
            ("", false),
            ("*", false),
        ] {
            assert_eq!(policy.is_authorized(&a, project), allowed, "{project}");
        }
        assert!(policy.is_authorized(&names(&["other.example", "b.example"]), "anything"));
        assert!(
            policy.is_known(&a)
                && !policy.is_known(&names(&["spiffe://td/ab", "B.example"]))
                && !policy.is_known(&[])
        );
    }

    #[test]
    fn invalid_rule_is_an_error() {
        for rule in ["", "a", "=p", "a=", "a=p,,q", "a b=p", "a=p/q", "a=p q", "a=p,*x"] {
            assert!(AuthorizationPolicy::load(vec![rule.to_owned()], None).is_err(), "{rule}");
        }
    }
}
