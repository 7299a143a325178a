//! The documents against the program and against each other: tables of flags, metrics, log keys, statuses and reasons; links,
//! anchors, tables of contents, and how many clicks an answer is away from the README.
//!
//! `UPDATE_DOCS=1 cargo test --test gateway documents::` writes the generated tables of `docs/configuration.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::{Arg, Command};

use crate::support::*;
use backup_share_gateway::config::{self, ParseExit};

/// Folders that hold no documents of the project.
const SKIPPED: [&str; 6] = ["target", ".git", ".venv", "node_modules", "corpus", "artifacts"];
const README_MAX_LINES: usize = 200;
/// A longer document has a table of contents.
const MAX_LINES_WITHOUT_CONTENTS: usize = 120;
/// Questions of readers, and the sections that answer them.
const ANSWERS: [(&str, &str); 3] = [
    ("Why do I get UNAVAILABLE?", "docs/troubleshooting.md#unavailable"),
    ("Which URL?", "docs/getting-started.md#the-upstream-url-of-your-region"),
    ("How do I rotate the key?", "docs/authentication.md#rotate-a-credential"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One Markdown file.
struct Document {
    /// Its path from the root: `docs/api.md`.
    path: String,
    text: String,
}

impl Document {
    /// The text without fenced blocks, and without code spans if they are not wanted.
    fn prose(&self, with_code_spans: bool) -> String {
        let mut prose = String::new();
        let mut is_fenced = false;
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                is_fenced = !is_fenced;
            } else if !is_fenced {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        assert!(!is_fenced, "{}: a fenced block has no end", self.path);
        if with_code_spans { prose } else { prose.split('`').step_by(2).collect() }
    }

    /// The level and the text of each heading.
    fn headings(&self) -> Vec<(usize, String)> {
        let prose = self.prose(true);
        let headings = prose.lines().filter_map(|line| {
            let text = line.trim_start_matches('#');
            let level = line.len() - text.len();
            (level > 0 && text.starts_with(' ')).then(|| (level, text.trim().to_owned()))
        });
        headings.collect()
    }

    /// The anchors that GitHub gives to the headings.
    fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for (_, heading) in self.headings() {
            let anchor = slug(&heading);
            let repeats = (0..).map(|n| if n == 0 { anchor.clone() } else { format!("{anchor}-{n}") });
            let free = repeats.into_iter().find(|anchor| !anchors.contains(anchor));
            anchors.extend(free);
        }
        anchors
    }

    /// The targets of the links, as they are written.
    fn links(&self) -> Vec<String> {
        let prose = self.prose(false);
        let targets = prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        targets.collect()
    }

    /// The targets of the links inside the project: `docs/api.md#fields` or `docs/api.md`.
    fn local_links(&self) -> Vec<String> {
        let is_local = |link: &String| !link.contains("://") && !link.starts_with("mailto:");
        self.links().into_iter().filter(is_local).map(|link| self.resolve(&link)).collect()
    }

    fn resolve(&self, link: &str) -> String {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let path = if path.is_empty() { self.path.clone() } else { normalize(&self.path, path) };
        if anchor.is_empty() { path } else { format!("{path}#{anchor}") }
    }

    /// The text below the heading, up to the next heading of the same level or above.
    fn section(&self, heading: &str) -> String {
        let mut level = None;
        let mut section = String::new();
        for line in self.text.lines() {
            let text = line.trim_start_matches('#');
            let line_level = line.len() - text.len();
            match level {
                None if line_level > 0 && text.trim() == heading => level = Some(line_level),
                Some(level) if (1..=level).contains(&line_level) => break,
                Some(_) => {
                    section.push_str(line);
                    section.push('\n');
                }
                None => {}
            }
        }
        assert!(!section.is_empty(), "{}: no section '{heading}'", self.path);
        section
    }
}

/// The anchor of a heading: letters, digits, `-` and `_` in lower case, and `-` for each space.
fn slug(heading: &str) -> String {
    let heading = heading.to_lowercase();
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    heading.chars().filter(is_kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The path from the root that `link` has in a document.
fn normalize(document: &str, link: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let path = Path::new(document).parent().unwrap_or(Path::new("")).join(link);
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(parts.pop().is_some(), "{document}: {link} leaves the project"),
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => panic!("{document}: {link} is not relative"),
        }
    }
    parts.join("/")
}

/// Every Markdown file of the project.
pub fn markdown_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn documents() -> Vec<Document> {
    let document = |path: PathBuf| Document {
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    markdown_files().into_iter().map(document).collect()
}

fn document(path: &str) -> Document {
    Document { path: path.to_owned(), text: read(path) }
}

/// The first cells of the table rows that are code: `--listen` of `` | `--listen` | … | ``.
fn code_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// Shows the difference alone.
#[track_caller]
fn assert_same<T: Ord + std::fmt::Debug>(documented: BTreeSet<T>, in_program: BTreeSet<T>) {
    let stale: Vec<&T> = documented.difference(&in_program).collect();
    let missing: Vec<&T> = in_program.difference(&documented).collect();
    assert!(
        stale.is_empty() && missing.is_empty(),
        "not in the program: {stale:?}; not documented: {missing:?}"
    );
    assert!(!documented.is_empty());
}

#[test]
fn anchors_are_those_of_github() {
    for (heading, anchor) in [
        ("Time, retries and load", "time-retries-and-load"),
        ("The caller's token: `--auth passthrough`", "the-callers-token---auth-passthrough"),
        ("`grpc-timeout`, `x_y` & more", "grpc-timeout-x_y--more"),
        ("0.1.0 - 2026-11-28", "010---2026-11-28"),
    ] {
        assert_eq!(slug(heading), anchor);
    }
    let text = "# A\n```text\n# no heading\n```\n## A\n[x](b.md#c) `[y](z)` [w\nv](../d)\n";
    let document = Document { path: "docs/a.md".into(), text: text.into() };
    assert_eq!(document.anchors(), ["a", "a-1"]);
    assert_eq!(document.local_links(), ["docs/b.md#c", "d"]);
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut problems = Vec::new();
    for document in documents() {
        for link in document.local_links() {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = root().join(path);
            if !target.exists() {
                problems.push(format!("{}: {link} does not exist", document.path));
            } else if !anchor.is_empty() {
                let target = Document { path: path.into(), text: fs::read_to_string(&target).unwrap() };
                if !target.anchors().iter().any(|name| name == anchor) {
                    problems.push(format!("{}: {path} has no heading #{anchor}", document.path));
                }
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn readme_is_short_and_links_every_document() {
    let readme = document("README.md");
    let lines = readme.text.lines().count();
    assert!(lines <= README_MAX_LINES, "README.md has {lines} lines");
    let links: BTreeSet<String> = readme.local_links().iter().map(|link| file_of(link)).collect();
    let is_required = |path: &String| path.starts_with("docs/") || !path.contains('/');
    let documents: BTreeSet<String> = documents().into_iter().map(|document| document.path).collect();
    let missing: Vec<&String> = documents.iter().filter(|path| is_required(path)).collect();
    let missing: Vec<_> =
        missing.into_iter().filter(|path| *path != "README.md" && !links.contains(*path)).collect();
    assert_eq!(missing, Vec::<&String>::new(), "README.md links to each of these");
}

fn file_of(link: &str) -> String {
    link.split('#').next().unwrap_or_default().to_owned()
}

#[test]
fn answers_are_two_clicks_away() {
    let first: Vec<String> = document("README.md").local_links();
    let is_document = |link: &&String| link.split('#').next().is_some_and(|path| path.ends_with(".md"));
    let second = first.iter().filter(is_document).flat_map(|link| document(&file_of(link)).local_links());
    let reachable: BTreeSet<String> = first.iter().cloned().chain(second).collect();
    for (question, section) in ANSWERS {
        assert!(reachable.contains(section), "'{question}': no link leads to {section} in two clicks");
    }
}

#[test]
fn long_documents_have_a_table_of_contents() {
    for document in documents() {
        let headings = document.headings();
        let has_contents = headings.iter().any(|(_, heading)| heading == "Contents");
        // The README leads to the others, and a changelog is searched.
        let is_exempt = matches!(document.path.as_str(), "README.md" | "CHANGELOG.md");
        let is_short = document.text.lines().count() <= MAX_LINES_WITHOUT_CONTENTS;
        if !has_contents && (is_exempt || is_short) {
            continue;
        }
        let contents = Document { path: document.path.clone(), text: document.section("Contents") };
        let links: BTreeSet<String> = contents.links().into_iter().collect();
        for (level, heading) in headings {
            let is_listed =
                level != 2 || heading == "Contents" || links.contains(&format!("#{}", slug(&heading)));
            assert!(is_listed, "{}: the table of contents lacks '{heading}'", document.path);
        }
    }
}

/// `console` blocks are run by `tests/e2e/test_documents.py`, so that no command stands in a block that is not.
#[test]
fn commands_are_in_console_blocks() {
    for document in documents() {
        let fences = document.text.lines().filter(|line| line.starts_with("```"));
        for fence in fences.step_by(2) {
            let language = fence.trim_start_matches('`');
            assert!(!matches!(language, "" | "sh" | "bash" | "shell"), "{}: {fence}", document.path);
        }
    }
}

#[test]
fn statuses_and_reasons_are_documented() {
    let source = read("src/grpc/status.rs");
    let specs = source.split("(Code::").skip(1).filter_map(|rest| {
        let (code, rest) = rest.split_once(", \"")?;
        let is_name = code.bytes().all(|b| b.is_ascii_alphabetic());
        is_name.then(|| (upper_case(code), rest.split('"').next().unwrap_or_default().to_owned()))
    });
    let expected: BTreeSet<(String, String)> = specs.collect();
    assert!(expected.len() > 25, "{expected:?}");
    let table = document("docs/errors.md").section("All errors");
    let is_code = |cell: &str| cell.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let rows = table.lines().filter(|line| line.starts_with("| ")).filter_map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (code, reason) = (cells[1], cells[2].trim_matches('`'));
        (is_code(code) && is_code(reason)).then(|| (code.to_owned(), reason.to_owned()))
    });
    let documented: BTreeSet<(String, String)> = rows.collect();
    assert_same(documented, expected);
}

/// `DEADLINE_EXCEEDED` of `DeadlineExceeded`.
fn upper_case(code: &str) -> String {
    let mut name = String::new();
    for c in code.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[tokio::test]
async fn metrics_are_documented() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let (_, scrape) = gateway.admin_get("/metrics").await;
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families = types.filter(|family| !family.starts_with("process_")).map(str::to_owned);
    let table = document("docs/observability.md").section("Metrics");
    let documented =
        code_cells(&table).into_iter().map(|cell| cell.split('{').next().unwrap_or_default().to_owned());
    assert_same(documented.collect(), families.collect());
}

#[test]
fn keys_of_the_access_log_are_documented() {
    let source = read("src/grpc/access_log.rs");
    let (_, fields) = source.split_once("parent: None,").unwrap();
    let (fields, _) = fields.split_once("\"call\"").unwrap();
    let keys = fields.lines().filter_map(|line| line.trim().trim_end_matches(',').split(" = ").next());
    let keys = keys.filter(|key| !key.is_empty()).map(str::to_owned);
    // The formatter adds these to every line.
    let expected: BTreeSet<String> =
        keys.chain(["timestamp", "level", "message", "target"].map(str::to_owned)).collect();
    let table = document("docs/observability.md").section("Access log");
    assert_same(code_cells(&table), expected);
}

#[test]
fn configuration_is_documented_as_the_program_has_it() {
    const PATH: &str = "docs/configuration.md";
    let text = read(PATH);
    let generated = with_tables(&text, &config::command());
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(root().join(PATH), &generated).unwrap();
    } else {
        assert_eq!(text, generated, "run: UPDATE_DOCS=1 cargo test --test gateway documents::");
    }
}

/// The text with new content between each `<!-- flags of COMMAND: HEADING -->` and the next `<!-- end -->`.
fn with_tables(text: &str, command: &Command) -> String {
    const START: &str = "<!-- flags of ";
    const END: &str = "<!-- end -->";
    let mut parts = text.split(START);
    let mut result = parts.next().unwrap_or_default().to_owned();
    let mut flags = 0;
    for part in parts {
        let (name, rest) = part.split_once(" -->").expect("the end of a marker");
        let (_, rest) = rest.split_once(END).expect("the end of a table");
        let (subcommand, heading) = match name.split_once(": ") {
            Some((subcommand, heading)) => (subcommand, Some(heading)),
            None => (name, None),
        };
        let subcommand = command.find_subcommand(subcommand).expect("a command");
        let rows = rows(subcommand, heading);
        flags += rows.len();
        let head = if heading.is_some() { "Flag and variable" } else { "Argument or flag" };
        let table = rows.concat();
        result.push_str(&format!(
            "{START}{name} -->\n| {head} | Default | Value | Meaning |\n|---|---|---|---|\n{table}{END}{rest}"
        ));
    }
    let all = command.find_subcommand("serve").unwrap().get_arguments().filter(|arg| is_documented(arg));
    assert!(flags > all.count(), "a heading of the flags has no table");
    result
}

fn is_documented(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version")
}

fn rows(command: &Command, heading: Option<&str>) -> Vec<String> {
    let is_of_table = |arg: &&Arg| is_documented(arg) && arg.get_help_heading() == heading;
    command.get_arguments().filter(is_of_table).map(|arg| row(command, arg)).collect()
}

fn row(command: &Command, arg: &Arg) -> String {
    let value_name = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let name = match arg.get_long() {
        Some(flag) => format!("--{flag}"),
        None => value_name.to_owned(),
    };
    let variable = arg.get_env().map_or(String::new(), |name| format!("<br>`{}`", name.to_string_lossy()));
    let help = arg.get_long_help().or(arg.get_help()).expect("a help text").to_string();
    let (help, automatic_default) = split_default(help.trim_end_matches('.'));
    let default = match (arg.get_default_values().first(), automatic_default) {
        (Some(value), _) if !value.is_empty() => format!("`{}`", value.to_string_lossy()),
        (_, Some(text)) => text.to_owned(),
        (None, None) if arg.is_required_set() => "required".to_owned(),
        _ => "none".to_owned(),
    };
    let value = match (arg.get_long(), arg.get_action().takes_values()) {
        (Some(_), true) => values(command.get_name(), &name, value_name),
        (Some(_), false) => "no value".to_owned(),
        (None, _) => "text".to_owned(),
    };
    format!("| `{name}`{variable} | {default} | {value} | {} |\n", help.replace('|', "\\|"))
}

/// A help text and what it says of the default: `Log format [default: json]`.
fn split_default(help: &str) -> (&str, Option<&str>) {
    match help.split_once(" [default: ") {
        Some((help, rest)) => (help, rest.split(']').next()),
        None => (help, None),
    }
}

/// Which values a flag takes, as its error messages say.
fn values(command: &str, flag: &str, value_name: &str) -> String {
    let error = value_error(command, flag, "?");
    let rule = error.as_deref().map(after_must_be);
    match value_name {
        "FILE" => "a file that can be read".into(),
        "DIRECTORY" => "a directory that can be read".into(),
        "DURATION" => {
            let min =
                if value_error(command, flag, "0s").is_some() { " longer than 0" } else { ", also `0s`" };
            let max =
                value_error(command, flag, "4294967295h").map(|error| format!(", {}", after_must_be(&error)));
            format!("a duration{min}{}", max.unwrap_or_default())
        }
        "SIZE" => "a size above 0".into(),
        "URL" => "a URL".into(),
        _ => rule.map_or("text".into(), |rule| without_example(rule).replace('|', "\\|")),
    }
}

/// The rule of an error such as `'x' must be json or text`.
fn after_must_be(error: &str) -> &str {
    error.split_once("must be ").map_or("", |(_, rule)| rule)
}

fn without_example(rule: &str) -> &str {
    let rule = rule.split(", such as ").next().unwrap_or_default();
    rule.split("; ").next().unwrap_or_default().trim_end()
}

/// What is wrong with this value of the flag, if anything is.
fn value_error(command: &str, flag: &str, value: &str) -> Option<String> {
    let line = ["backup-share-gateway".into(), command.into(), format!("{flag}={value}").into()];
    let Err(ParseExit::Usage(lines)) = config::parse(line) else { return None };
    let of_serve = format!("{flag} (");
    let of_others = format!("invalid value '{value}' for '{flag} <");
    let lines = lines.iter().flat_map(|text| text.lines());
    let mut errors = lines.filter_map(|line| match line.split_once(&of_others) {
        Some((_, error)) => Some(error.to_owned()),
        None => line.strip_prefix(&of_serve).filter(|line| line.contains("): ")).map(str::to_owned),
    });
    errors.find(|error| error.contains("must be "))
}
