//! The documents against the program: flags and their defaults, variables, metrics, log keys, statuses and reasons.
//!
//! `UPDATE_DOCS=1 cargo test --test gateway documents::` writes the generated tables of `docs/configuration.md`.

use std::collections::BTreeSet;
use std::fs;

use clap::{Arg, Command};

use super::{Document, document, documents, read, root};
use crate::support::*;
use backup_share_gateway::config::{self, ParseExit};

/// The first cells of the table rows that are code: `--listen` of `` | `--listen` | … | ``.
fn code_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// Shows the difference alone, and where to change it.
#[track_caller]
fn assert_same<T: Ord + std::fmt::Debug>(table: &str, documented: BTreeSet<T>, in_program: BTreeSet<T>) {
    let stale: Vec<&T> = documented.difference(&in_program).collect();
    let missing: Vec<&T> = in_program.difference(&documented).collect();
    assert!(
        stale.is_empty() && missing.is_empty(),
        "change the table in {table}: the program does not have {stale:?}; the table lacks {missing:?}"
    );
    assert!(!documented.is_empty());
}

/// Each code with its reason, such as `("NOT_FOUND", "BACKUP_SHARE_NOT_FOUND")`.
fn statuses() -> BTreeSet<(String, String)> {
    let source = read("src/grpc/status.rs");
    let specs = source.split("(Code::").skip(1).filter_map(|rest| {
        let (code, rest) = rest.split_once(", \"")?;
        let is_name = code.bytes().all(|b| b.is_ascii_alphabetic());
        is_name.then(|| (upper_case(code), rest.split('"').next().unwrap_or_default().to_owned()))
    });
    let statuses: BTreeSet<(String, String)> = specs.collect();
    assert!(statuses.len() > 25, "{statuses:?}");
    statuses
}

#[test]
fn statuses_and_reasons_are_documented() {
    let table = document("docs/errors.md").section("All errors");
    let is_code = |cell: &str| cell.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let rows = table.lines().filter(|line| line.starts_with("| ")).filter_map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (code, reason) = (cells[1], cells[2].trim_matches('`'));
        (is_code(code) && is_code(reason)).then(|| (code.to_owned(), reason.to_owned()))
    });
    let documented: BTreeSet<(String, String)> = rows.collect();
    assert_same("docs/errors.md, 'All errors'", documented, statuses());
}

/// In the column 'Gateway retries', `yes` is for errors that the gateway retries whatever the upstream sent with them.
#[test]
fn retried_errors_are_documented() {
    let (retry, status) = (read("src/upstream/retry.rs"), read("src/grpc/status.rs"));
    let kinds = retry.split_once("match error.kind {").and_then(|(_, arms)| arms.split_once("=>")).unwrap().0;
    let reason_of = |kind: &str| {
        let (_, spec) = status.split_once(&format!("Error{} => (", kind.trim())).unwrap();
        spec.split('"').nth(1).unwrap_or_default().to_owned()
    };
    let errors = document("docs/errors.md");
    let sections = ["Answered by VBS or the identity service", "No complete answer"];
    let tables = sections.map(|heading| errors.section(heading)).concat();
    let rows = tables.lines().map(|row| row.split(" | ").collect::<Vec<_>>());
    let documented =
        rows.filter(|cells| cells.get(4) == Some(&"yes")).map(|cells| cells[2].trim_matches('`').into());
    let table = "docs/errors.md, column 'Gateway retries'";
    assert_same(table, documented.collect(), kinds.split('|').map(reason_of).collect());
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
    assert_same("docs/observability.md, 'Metrics'", documented.collect(), families.collect());
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
    assert_same("docs/observability.md, 'Access log'", code_cells(&table), expected);
}

#[test]
fn configuration_is_documented_as_the_program_has_it() {
    const PATH: &str = "docs/configuration.md";
    let text = read(PATH);
    let generated = with_tables(&text, &config::command());
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(root().join(PATH), &generated).unwrap();
        return;
    }
    let difference =
        text.lines().zip(generated.lines()).find(|(documented, in_program)| documented != in_program);
    assert!(
        text == generated,
        "{PATH} is not what the program says: {difference:#?}\nrun: UPDATE_DOCS=1 cargo test --test gateway documents::"
    );
}

/// Flags and a variable of other programs that the documents name: of the benches, and of kubectl.
const OTHER_NAMES: &[&str] = &[
    "--seconds",
    "--json",
    "--rounds",
    "--minutes",
    "--rate",
    "--go",
    "--only",
    "--svg",
    "--grace-period",
    "--force",
    "--places",
    "--matrix",
    "--heap",
    "--no-default-features",
    "--in-flight",
    "--connections",
    "GATEWAY_BINARY",
];

#[test]
fn flags_variables_and_reasons_that_texts_name_exist() {
    let command = config::command();
    let arguments: Vec<&Arg> = command.get_subcommands().flat_map(Command::get_arguments).collect();
    let flags: BTreeSet<String> =
        arguments.iter().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    let variables: BTreeSet<&str> = arguments.iter().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let statuses = statuses();
    let is_code = |name: &str| statuses.iter().any(|(code, _)| code == name);
    let is_reason = |name: &str| statuses.iter().any(|(_, reason)| reason == name);
    let mut problems = Vec::new();
    for document in documents_for_users() {
        let spans = code_spans(&document);
        let is_of_gateway = |span: &&str| !span.contains("cargo ") && !span.starts_with("python3 ");
        let words = spans.iter().map(|(_, span, _)| *span).filter(is_of_gateway);
        let words = words.flat_map(|span| span.split([' ', '='])).chain(arguments_of_commands(&document));
        for word in words.filter(|word| word.is_ascii()) {
            let is_known = match word {
                "--" | "--help" | "--version" => true,
                flag if flag.starts_with("--") => flags.contains(flag) || OTHER_NAMES.contains(&flag),
                name if name.starts_with("GATEWAY_") => {
                    variables.contains(name) || OTHER_NAMES.contains(&name)
                }
                name if name.starts_with("UPSTREAM_") => is_reason(name),
                _ => true,
            };
            if !is_known {
                problems.push(format!("{}: the program has no {word}", document.path));
            }
        }
        // A code and its reason: NOT_FOUND `BACKUP_SHARE_NOT_FOUND`.
        for (before, reason, _) in spans {
            let code =
                before.strip_suffix(' ').and_then(|text| text.split(' ').next_back()).unwrap_or_default();
            let is_pair = statuses.contains(&(code.to_owned(), reason.to_owned()));
            if is_code(code) && is_reason(reason) && !is_pair {
                problems.push(format!("{}: the program has no error {code} {reason}", document.path));
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new(), "change these documents");
}

/// `` `--drain-delay` (5s) `` in a text, and the rows of the README's table of settings.
#[test]
fn defaults_that_texts_repeat_are_those_of_the_program() {
    let command = config::command();
    let default = |name: &str| {
        let serve = command.find_subcommand("serve").unwrap();
        let arg = serve.get_arguments().find(|arg| arg.get_long() == name.strip_prefix("--"))?;
        Some(
            arg.get_default_values()
                .first()
                .map_or("none".into(), |value| value.to_string_lossy().into_owned()),
        )
    };
    let mut found = Vec::new();
    for document in documents_for_users() {
        for (_, span, after) in code_spans(&document) {
            let value = after.strip_prefix(" (").and_then(|text| text.split([')', '±', ',']).next());
            let value = value.filter(|value| value.starts_with(|c: char| c.is_ascii_digit()));
            if let (Some(value), Some(default)) = (value, default(span)) {
                found.push((document.path.clone(), span.to_owned(), value.replace(' ', ""), default));
            }
        }
    }
    for row in document("README.md").section("The five settings that matter").lines() {
        let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect();
        if let Some(default) = default(cells[0].split('`').next().unwrap_or_default()) {
            found.push(("README.md".into(), cells[0].to_owned(), cells[1].to_owned(), default));
        }
    }
    assert!(found.len() > 10, "{found:?}");
    for (path, flag, documented, default) in found {
        assert_eq!(documented, default, "{path}: the default of {flag}");
    }
}

/// The README and `docs/`. The others also name flags of tools, and of former versions.
fn documents_for_users() -> Vec<Document> {
    let is_for_users =
        |document: &Document| document.path == "README.md" || document.path.starts_with("docs/");
    documents().into_iter().filter(is_for_users).collect()
}

/// The code spans of a document, each with the text before it and after it.
fn code_spans(document: &Document) -> Vec<(&str, &str, &str)> {
    let mut is_fenced = false;
    let prose = document.text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    });
    let spans = prose.flat_map(|line| {
        let parts: Vec<&str> = line.split('`').collect();
        let spans: Vec<_> = parts.windows(3).step_by(2).map(|part| (part[0], part[1], part[2])).collect();
        spans
    });
    spans.collect()
}

/// What the commands of the `console` blocks give to the gateway.
fn arguments_of_commands(document: &Document) -> Vec<&str> {
    let commands = document.text.split("\n$ ").skip(1).filter_map(|command| {
        // A command ends with the first line that does not end with a backslash.
        let end = command.match_indices('\n').find(|(at, _)| !command[..*at].ends_with('\\'))?.0;
        Some(command[..end].rsplit_once("backup-share-gateway ")?.1)
    });
    commands.flat_map(str::split_whitespace).collect()
}

/// The text with new content between each `<!-- flags of COMMAND: HEADING -->` and the next `<!-- end -->`.
fn with_tables(text: &str, command: &Command) -> String {
    const START: &str = "<!-- flags of ";
    const END: &str = "<!-- end -->";
    let mut parts = text.split(START);
    let mut result = parts.next().unwrap_or_default().to_owned();
    let mut flags_of_serve = 0;
    for part in parts {
        let (name, rest) = part.split_once(" -->").expect("the end of a marker");
        let (_, rest) = rest.split_once(END).expect("the end of a table");
        let (subcommand, heading) = match name.split_once(": ") {
            Some((subcommand, heading)) => (subcommand, Some(heading)),
            None => (name, None),
        };
        let subcommand = command.find_subcommand(subcommand).expect("a command");
        let rows = rows(subcommand, heading);
        if subcommand.get_name() == "serve" {
            flags_of_serve += rows.len();
        }
        let head = if heading.is_some() { "Flag and variable" } else { "Argument or flag" };
        let table = rows.concat();
        result.push_str(&format!(
            "{START}{name} -->\n| {head} | Default | Value | Meaning |\n|---|---|---|---|\n{table}{END}{rest}"
        ));
    }
    let all = command.find_subcommand("serve").unwrap().get_arguments().filter(|arg| is_documented(arg));
    assert_eq!(flags_of_serve, all.count(), "a heading of the flags has no table");
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
