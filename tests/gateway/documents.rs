//! The documents: links, anchors, tables of contents, and how many clicks an answer is away from the README. What they say of
//! the program is compared with it in `documents/program.rs`.

mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

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
    assert!(
        lines <= README_MAX_LINES,
        "README.md has {lines} lines, at most {README_MAX_LINES} are allowed: move text into docs/"
    );
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

#[test]
fn recipes_that_documents_name_are_in_the_justfile() {
    let justfile = read("justfile");
    let is_recipe = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.contains(":=");
    let lines = justfile.lines().filter(is_recipe);
    let recipes: BTreeSet<&str> = lines.filter_map(|line| line.split([' ', ':']).next()).collect();
    for document in documents() {
        let prose = document.prose(true);
        let commands = prose.split('`').skip(1).step_by(2).filter_map(|span| span.strip_prefix("just "));
        for name in commands.filter_map(|command| command.split(' ').next()) {
            let is_known = name.starts_with("--") || recipes.contains(name);
            assert!(is_known, "{}: the justfile has no recipe {name}", document.path);
        }
    }
}

/// `RELEASING.md` lists these places.
#[test]
fn version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, text) in [
        ("CHANGELOG.md", format!("\n## {version} - 20")),
        ("Dockerfile", format!("image.version=\"{version}\"")),
        (
            "deploy/helm/backup-share-gateway/Chart.yaml",
            format!("\nversion: {version}\nappVersion: {version}\n"),
        ),
        ("deploy/kubernetes/overlays/production/kustomization.yaml", format!("newTag: {version}\n")),
    ] {
        assert!(read(path).contains(&text), "{path}: {text:?} is missing");
    }
    let released = fs::read_dir(root().join("proto/released")).unwrap();
    let released: Vec<_> = released.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(released, [&*format!("{version}.binpb")]);

    let documents = documents().into_iter().map(|document| (document.path, document.text));
    let files =
        ["Dockerfile", "deploy/kubernetes/base/deployment.yaml"].map(|path| (path.to_owned(), read(path)));
    for (path, text) in documents.chain(files) {
        // Of an image, `:0.2.0`; of a file, `-0.2.0.tgz`.
        for rest in text.split("backup-share-gateway").skip(1) {
            let Some(tag) = rest.strip_prefix([':', '-']) else { continue };
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let is_version = tag.split_once('.').is_some_and(|(major, _)| is_number(major));
            assert!(
                !is_version || tag.starts_with(version),
                "{path}: an image or a file that is not {version}"
            );
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
            let is_allowed = !matches!(language, "" | "sh" | "bash" | "shell");
            assert!(is_allowed, "{}: {fence} has to be ```console for commands, or ```text", document.path);
        }
    }
}
