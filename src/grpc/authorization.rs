//! Authorization: rules that state for each caller, by a name in its certificate, which projects it may name in a request.
//! Names are compared exactly, so `*.example.com` is only the caller whose certificate has that very name.
//!
//! A name is a SPIFFE ID or a DNS name. This module must not know how a certificate is verified (`server` does) or what the upstream allows a token.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::{ProjectId, spiffe_id};
use crate::files::{self, Loaded, Reload, Snapshot};

const EVERY_PROJECT: &str = "*";

/// The projects of each caller; [`EVERY_PROJECT`] means all projects. Without a rule, no caller is admitted.
#[derive(Clone, Debug, Default)]
pub struct Rules(HashMap<String, HashSet<String>>);

impl Rules {
    /// Adds `CALLER=PROJECT[,PROJECT…]`; `*` is every project. Rules for the same caller add up.
    pub fn add(&mut self, rule: &str) -> Result<(), &'static str> {
        const FORM: &str = "must be CALLER=PROJECT[,PROJECT…], where CALLER is a SPIFFE ID or a DNS name";
        const EVERY_CALLER: &str = "names '*' as the caller: '*' is for projects only, and a caller is a name in a client certificate, compared exactly; write a rule for each caller";
        const SPIFFE_FORM: &str = "names a SPIFFE ID that no certificate can have: it must be like spiffe://trust-domain/path, the trust domain in lower case";
        const PROJECT_FORM: &str =
            "names a project that is neither '*' nor 1 to 64 of A-Z, a-z, 0-9, '_' and '-'";
        let (caller, projects) = rule.split_once('=').ok_or(FORM)?;
        if caller.is_empty() || !caller.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(FORM);
        }
        if caller == "*" {
            return Err(EVERY_CALLER);
        }
        // A rule that no certificate can match would lock its caller out without a word.
        let caller = match spiffe_id(caller) {
            Some(id) => id.map_err(|_| SPIFFE_FORM)?,
            None if caller.contains([':', '/', ',']) => return Err(FORM),
            None => caller.to_owned(),
        };
        let allowed = self.0.entry(caller).or_default();
        for project in projects.split(',') {
            if project != EVERY_PROJECT && ProjectId::parse(project.to_owned()).is_none() {
                return Err(PROJECT_FORM);
            }
            allowed.insert(project.to_owned());
        }
        Ok(())
    }

    /// Adds other rules to these.
    pub fn extend(&mut self, other: Self) {
        for (caller, projects) in other.0 {
            self.0.entry(caller).or_default().extend(projects);
        }
    }

    /// Adds the rules of a file, one for each line; `#` begins a comment. The error has a line for each problem.
    fn add_file(&mut self, path: &Path) -> Result<(), Vec<String>> {
        let text = files::read_text(path)
            .map_err(|error| vec![format!("cannot read {} ({error})", path.display())])?;
        let mut problems = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let rule = line.split('#').next().unwrap_or_default().trim();
            if !rule.is_empty()
                && let Err(problem) = self.add(rule)
            {
                problems.push(format!("{}: line {} {problem}", path.display(), index + 1));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// The rules in force, of the flags and of a file that may change.
#[derive(Debug)]
pub struct AuthorizationPolicy {
    flags: Rules,
    file: Option<PathBuf>,
    /// The file as it was when it was first read.
    snapshot: Snapshot,
    rules: ArcSwap<Rules>,
}

impl AuthorizationPolicy {
    /// Adds the rules of the `file` to those of the `flags`. The error has a line for each problem of the file.
    pub fn load(flags: Rules, file: Option<PathBuf>) -> Result<Self, Vec<String>> {
        let paths = file.iter().cloned().collect();
        let Loaded { value, snapshot } = Loaded::read(paths, || read_rules(&flags, file.as_deref()))?;
        Ok(Self { flags, file, snapshot, rules: ArcSwap::from_pointee(value) })
    }

    /// A line for each caller: how many projects it may read. One line if there is no rule.
    pub(crate) fn summary(&self) -> Vec<String> {
        let rules = self.rules.load();
        if rules.0.is_empty() {
            return vec!["there is none, so no caller is admitted".into()];
        }
        let describe = |(caller, projects): (&String, &HashSet<String>)| {
            let projects = match projects.len() {
                _ if projects.contains(EVERY_PROJECT) => "every project".to_owned(),
                1 => "1 project".to_owned(),
                count => format!("{count} projects"),
            };
            let exact = if caller.contains('*') { " (the certificate with exactly this name)" } else { "" };
            format!("{caller}{exact} may read {projects}")
        };
        let mut lines: Vec<String> = rules.0.iter().map(describe).collect();
        lines.sort();
        lines
    }

    /// The projects that rules name, in order.
    fn projects(&self) -> Vec<String> {
        let rules = self.rules.load();
        let named: BTreeSet<&String> =
            rules.0.values().flatten().filter(|name| *name != EVERY_PROJECT).collect();
        named.into_iter().cloned().collect()
    }

    /// One of the projects that a rule names.
    pub(crate) fn any_project(&self) -> Option<String> {
        self.projects().into_iter().next()
    }

    /// What is wrong with the rules if the gateway's account is for one project: they name others.
    pub(crate) fn conflict_with(&self, own: &ProjectId) -> Option<String> {
        const SHOWN: usize = 8;
        let mut others = self.projects();
        others.retain(|project| project != own.as_str());
        let more = others.len().saturating_sub(SHOWN);
        others.truncate(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let list = others.join(", ");
        (!others.is_empty()).then(|| {
            format!(
                "the rules name {list}{more}, but the gateway's account is for the project {}: remove them, or unset OS_PROJECT_ID and OS_PROJECT_NAME to serve each project with a password",
                own.as_str()
            )
        })
    }

    /// The first of a caller's names that has a rule, as an index.
    pub(super) fn known_name(&self, names: &[String]) -> Option<usize> {
        let rules = self.rules.load();
        names.iter().position(|name| rules.0.contains_key(name))
    }

    /// The first of a caller's names whose rule admits it to the project, as an index.
    pub(super) fn authorized_name(&self, names: &[String], project: &str) -> Option<usize> {
        let rules = self.rules.load();
        let admits =
            |projects: &HashSet<String>| projects.contains(EVERY_PROJECT) || projects.contains(project);
        names.iter().position(|name| rules.0.get(name).is_some_and(admits))
    }
}

impl Reload for AuthorizationPolicy {
    fn subject(&self) -> &'static str {
        "rule set"
    }

    fn files(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let rules = read_rules(&self.flags, self.file.as_deref()).map_err(|problems| problems.join("; "))?;
        Ok(Box::new(|| self.rules.store(Arc::new(rules))))
    }
}

fn read_rules(flags: &Rules, file: Option<&Path>) -> Result<Rules, Vec<String>> {
    let mut rules = flags.clone();
    if let Some(file) = file {
        rules.add_file(file)?;
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn rules_are_exact_and_add_up() {
        let mut rules = Rules::default();
        for rule in ["spiffe://td/a=p1,p2", "b.example=*", "SPIFFE://td/a=p3", "*.example=p1"] {
            rules.add(rule).unwrap();
        }
        let policy = AuthorizationPolicy::load(rules, None).unwrap();
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
            assert_eq!(policy.authorized_name(&a, project).is_some(), allowed, "{project}");
        }
        let two = names(&["other.example", "b.example"]);
        assert_eq!((policy.known_name(&two), policy.authorized_name(&two, "anything")), (Some(1), Some(1)));
        assert_eq!(policy.known_name(&a), Some(0));
        assert_eq!(policy.known_name(&names(&["spiffe://td/ab", "B.example", "c.example"])), None);
        assert_eq!(policy.known_name(&[]), None);
        assert_eq!(policy.authorized_name(&names(&["*.example"]), "p1"), Some(0));
    }

    #[test]
    fn invalid_rule_is_an_error() {
        for rule in [
            "",
            " ",
            "a",
            "=p",
            "=",
            "a=",
            "a=,",
            "a=p,",
            "a=p,,q",
            "a b=p",
            "a=p/q",
            "a=p q",
            "a=p,*x",
            "*=p",
            "*=*",
            "a,b=p",
            "https://a/b=p",
            "a:b=p",
            "10.0.0.0/8=p",
            "spiffe://td=p",
            "spiffe://td/=p",
            "spiffe://td/*=p",
            "spiffe://Td/a=p",
            "spiffe:/td/a=p",
        ] {
            assert!(Rules::default().add(rule).is_err(), "{rule}");
        }
        assert!(Rules::default().add("*=p").unwrap_err().contains("'*' is for projects only"));
    }
}
