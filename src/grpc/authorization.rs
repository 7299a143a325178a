//! Who may read what: rules that say for each caller, by the name that its certificate proves, which projects it may
//! name in a request. A name is compared exactly.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::ProjectId;
use crate::files::{Loaded, Snapshot};

/// Rules of the flags, the file of further rules, and all of them as they were when the configuration was read.
#[derive(Debug)]
pub struct Config {
    fixed: Vec<String>,
    file: Option<PathBuf>,
    rules: Loaded<Rules>,
}

impl Config {
    /// Reads the `fixed` rules and those of the `file`. The error has a line for each rule that is wrong.
    pub fn load(fixed: Vec<String>, file: Option<PathBuf>) -> Result<Self, Vec<String>> {
        let rules = Loaded::read(file.iter().cloned().collect(), || Rules::read(&fixed, file.as_deref()))?;
        Ok(Self { fixed, file, rules })
    }

    /// The projects of each caller, for people.
    pub(crate) fn describe(&self) -> Vec<String> {
        self.rules.value.describe()
    }

    /// One of the projects that a rule names.
    pub(crate) fn a_project(&self) -> Option<String> {
        self.rules.value.a_project()
    }
}

/// Rules, of the flags and of a file that may change.
#[derive(Debug)]
pub struct AuthorizationPolicy {
    fixed: Vec<String>,
    file: Option<PathBuf>,
    snapshot: Snapshot,
    rules: ArcSwap<Rules>,
}

#[derive(Debug, Default)]
struct Rules(HashMap<String, Projects>);

#[derive(Debug, Default)]
struct Projects {
    every: bool,
    these: HashSet<String>,
}

impl AuthorizationPolicy {
    /// Starts with the rules that the configuration has read.
    pub fn new(config: Config) -> Self {
        let Config { fixed, file, rules } = config;
        Self { fixed, file, snapshot: rules.snapshot, rules: ArcSwap::from_pointee(rules.value) }
    }

    /// Reads the file again. After an error the rules that were in force stay.
    pub fn reload(&self) -> Result<(), String> {
        let rules = Rules::read(&self.fixed, self.file.as_deref()).map_err(|problems| problems.join("; "))?;
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    /// The file, if there is one, as it was when it was read for the first time.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Whether any rule is about a caller with one of these names.
    pub(super) fn is_known(&self, names: &[String]) -> bool {
        let rules = self.rules.load();
        names.iter().any(|name| rules.0.contains_key(name))
    }

    /// Whether a caller with these names may read shares of the project.
    pub(super) fn is_authorized(&self, names: &[String], project: &str) -> bool {
        let rules = self.rules.load();
        let allows = |projects: &Projects| projects.every || projects.these.contains(project);
        names.iter().filter_map(|name| rules.0.get(name)).any(allows)
    }
}

impl Rules {
    fn read(fixed: &[String], file: Option<&Path>) -> Result<Self, Vec<String>> {
        let (mut rules, mut problems) = (Self::default(), Vec::new());
        for rule in fixed {
            rules.add(rule).unwrap_or_else(|why| problems.push(format!("'{rule}' {why}")));
        }
        let text = file.map(std::fs::read_to_string).transpose();
        let text = text.unwrap_or_else(|error| {
            problems.push(format!("cannot be read ({error})"));
            None
        });
        for (number, line) in text.iter().flat_map(|text| text.lines()).enumerate() {
            let rule = line.split('#').next().unwrap_or_default().trim();
            if !rule.is_empty() {
                rules.add(rule).unwrap_or_else(|why| problems.push(format!("line {} {why}", number + 1)));
            }
        }
        if problems.is_empty() { Ok(rules) } else { Err(problems) }
    }

    fn describe(&self) -> Vec<String> {
        let of = |projects: &Projects| match (projects.every, projects.these.len()) {
            (true, _) => "every project".to_owned(),
            (false, 1) => "1 project".to_owned(),
            (false, count) => format!("{count} projects"),
        };
        let mut lines: Vec<String> =
            self.0.iter().map(|(caller, projects)| format!("{caller} may read {}", of(projects))).collect();
        lines.sort();
        lines
    }

    fn a_project(&self) -> Option<String> {
        self.0.values().flat_map(|projects| &projects.these).min().cloned()
    }

    /// `CALLER=PROJECT[,PROJECT…]`; `*` is every project. Rules about one caller add up.
    fn add(&mut self, rule: &str) -> Result<(), &'static str> {
        const FORM: &str = "must be CALLER=PROJECT[,PROJECT…], where CALLER is a SPIFFE ID or a DNS name";
        let (caller, projects) = rule.split_once('=').ok_or(FORM)?;
        if caller.is_empty() || !caller.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(FORM);
        }
        let entry = self.0.entry(caller.to_owned()).or_default();
        for project in projects.split(',') {
            match ProjectId::parse(project.to_owned()) {
                Some(project) => drop(entry.these.insert(project.as_str().to_owned())),
                None if project == "*" => entry.every = true,
                None => {
                    return Err(
                        "names a project that is neither '*' nor 1 to 64 of A-Z, a-z, 0-9, '_' and '-'",
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn rules_are_exact_and_add_up() {
        let fixed = names(&["spiffe://td/a=p1,p2", "b.example=*", "spiffe://td/a=p3"]);
        let access = AuthorizationPolicy::new(Config::load(fixed, None).unwrap());
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
            assert_eq!(access.is_authorized(&a, project), allowed, "{project}");
        }
        assert!(access.is_authorized(&names(&["other.example", "b.example"]), "anything"));
        assert!(
            access.is_known(&a)
                && !access.is_known(&names(&["spiffe://td/ab", "B.example"]))
                && !access.is_known(&[])
        );
    }

    #[test]
    fn what_is_no_rule_is_told() {
        for rule in ["", "a", "=p", "a=", "a=p,,q", "a b=p", "a=p/q", "a=p q", "a=p,*x"] {
            assert!(Config::load(vec![rule.to_owned()], None).is_err(), "{rule}");
        }
    }
}
