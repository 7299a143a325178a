//! Rules about the source text that the compiler does not check: which module may import which, no import cycle between files,
//! one HTTP client. `CONTRIBUTING.md` explains them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The root modules in rows: a module may import those of its own row and of the rows below.
const ROWS: [&[&str]; 7] = [
    &["main"],
    &["commands"],
    &["app", "config"],
    &["grpc", "upstream", "server", "admin", "sandbox", "telemetry"],
    &["credentials", "http"],
    &["metrics", "pem", "files", "error_response", "proto", "sync"],
    &["domain"],
];

/// Imports that the rows allow and that must not be: the two edges meet in `domain`, the transport knows no service, and the
/// sandbox shares no code with the client that calls it.
const FORBIDDEN: [(&str, &str); 8] = [
    ("config", "app"),
    ("grpc", "upstream"),
    ("upstream", "grpc"),
    ("grpc", "credentials"),
    ("server", "grpc"),
    ("server", "upstream"),
    ("sandbox", "http"),
    ("http", "credentials"),
];

/// A path in the source, such as `["crate", "domain", "ShareId"]`.
type Segments = Vec<String>;

/// One file below `src`, without its unit tests.
struct Source {
    /// The file below `src`: `grpc/call.rs`.
    file: String,
    /// Its module: `["grpc", "call"]`.
    module: Segments,
    /// The modules that it declares: `mod headers;`.
    children: Vec<String>,
    /// The paths of its `use` declarations.
    uses: Vec<Segments>,
    /// The paths of its `pub use` declarations: re-exports, which are no imports.
    re_exports: Vec<Segments>,
    /// Other paths of two segments or more: `crate::telemetry::dropped_log_lines`, `reload::reload_task`.
    paths: Vec<Segments>,
}

impl Source {
    fn read(src: &Path, path: &Path) -> Self {
        let file = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
        let module = match file.trim_end_matches(".rs") {
            "main" => vec!["main".to_owned()],
            "lib" => Vec::new(),
            name => name.split('/').map(str::to_owned).collect(),
        };
        let text = fs::read_to_string(path).unwrap();
        let mut source = Self {
            file,
            module,
            children: Vec::new(),
            uses: Vec::new(),
            re_exports: Vec::new(),
            paths: Vec::new(),
        };
        let mut rest = String::new();
        for statement in code(&text).split_inclusive([';', '{', '}']) {
            rest.push_str(statement);
            // A group of a `use` has braces: the declaration ends with its semicolon.
            let is_use = declaration(&rest, "use").is_some();
            if is_use && !rest.ends_with(';') {
                continue;
            }
            source.add(&rest);
            rest.clear();
        }
        source
    }

    fn add(&mut self, statement: &str) {
        if let Some((is_public, tree)) = declaration(statement, "use") {
            let paths = if is_public { &mut self.re_exports } else { &mut self.uses };
            expand(tree, &[], paths);
        } else if let Some((_, name)) = declaration(statement, "mod") {
            if statement.ends_with(';') {
                self.children.push(name.trim().to_owned());
            }
        } else {
            self.paths.extend(paths(statement));
        }
    }

    /// The absolute path, without `crate`, of a path in this file; `None` for one of another crate.
    fn absolute(&self, path: &[String]) -> Option<Segments> {
        let (first, rest) = path.split_first()?;
        let mut absolute = match first.as_str() {
            "crate" | "backup_share_gateway" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module.split_last()?.1.to_vec(),
            child if self.children.iter().any(|name| name == child) => {
                [self.module.as_slice(), std::slice::from_ref(first)].concat()
            }
            _ => return None,
        };
        for segment in rest {
            if segment == "super" {
                absolute.pop();
            } else {
                absolute.push(segment.clone());
            }
        }
        Some(absolute)
    }
}

/// The text up to the unit tests, without comments, attributes and string literals.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines =
        text.lines().map(str::trim_start).filter(|line| !line.starts_with("//") && !line.starts_with('#'));
    let text = lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let text = text.replace("'\"'", " ").replace("\\\"", " ");
    text.split('"').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Whether `statement` is a declaration such as `use …;` or `pub use …;`: whether it is public, and what is declared.
fn declaration<'a>(statement: &'a str, keyword: &str) -> Option<(bool, &'a str)> {
    let statement = statement.trim().trim_end_matches(';');
    let (is_public, rest) = match statement.strip_prefix("pub") {
        Some(rest) => (true, rest.trim_start_matches("(crate)").trim_start_matches("(super)").trim_start()),
        None => (false, statement),
    };
    Some((is_public, rest.strip_prefix(keyword)?.strip_prefix(' ')?))
}

/// Every path of a `use` tree: `a::{b, c::{self, D as E}}` is `a::b`, `a::c` and `a::c::D`.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Segments>) {
    let tree = tree.trim();
    let (path, group) = match tree.split_once('{') {
        Some((path, group)) => (path, Some(group.trim_end().strip_suffix('}').unwrap_or(group))),
        None => (tree.split(" as ").next().unwrap_or_default(), None),
    };
    let segments = path.split("::").map(str::trim).filter(|name| !name.is_empty());
    let mut full: Segments = prefix.iter().cloned().chain(segments.map(str::to_owned)).collect();
    let Some(group) = group else {
        if prefix.len() < full.len() && full.last().is_some_and(|last| last == "self" && full.len() > 1) {
            full.pop();
        }
        if !tree.is_empty() {
            paths.push(full);
        }
        return;
    };
    let mut depth = 0;
    let is_separator = |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    };
    for part in group.split(is_separator) {
        expand(part, &full, paths);
    }
}

/// The paths of two segments or more in a piece of code.
fn paths(code: &str) -> Vec<Segments> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c| !is_path(c)).filter(|word| word.contains("::"));
    words.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()).collect()
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources: Vec<Source> = source_files(&src)
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::read(&src, path))
        .collect();
    assert!(sources.len() > 50, "{} files", sources.len());
    sources
}

/// The files with the items that each file imports. An item that a module re-exports is an item of the file that defines it.
fn imported_files(sources: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let modules: BTreeMap<&[String], &Source> =
        sources.iter().map(|source| (source.module.as_slice(), source)).collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let files = imports.entry(&source.file).or_default();
        for path in source.uses.iter().chain(&source.paths) {
            let Some(path) = source.absolute(path) else { continue };
            files.extend(defining_file(&modules, &path, 0));
        }
        files.remove(source.file.as_str());
    }
    imports
}

/// The file that defines the item at an absolute path.
fn defining_file<'a>(
    modules: &BTreeMap<&[String], &'a Source>,
    path: &[String],
    depth: usize,
) -> Option<&'a str> {
    let length = (1..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let source = modules[&path[..length]];
    if let Some(item) = path.get(length) {
        let exports = source.re_exports.iter().chain(&source.uses);
        let export =
            exports.filter(|export| export.last() == Some(item)).find_map(|path| source.absolute(path));
        if let Some(export) = export.filter(|_| depth < 4) {
            return defining_file(modules, &export, depth + 1);
        }
    }
    Some(&source.file)
}

/// The edges of a graph that are part of a cycle.
fn cyclic_edges<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<(&'a str, &'a str)> {
    let edges = graph.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (*from, *to)));
    edges.filter(|(from, to)| reachable(graph, to).contains(from)).collect()
}

/// The nodes that can be reached from `start`, itself included.
fn reachable<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::from([start]);
    let mut pending = vec![start];
    while let Some(node) = pending.pop() {
        let next = graph.get(node).into_iter().flatten();
        pending.extend(next.filter(|node| reached.insert(node)));
    }
    reached
}

/// The row of a root module, and its name.
fn row(module: &str) -> (usize, &'static str) {
    let rows = ROWS.iter().enumerate().flat_map(|(row, names)| names.iter().map(move |name| (row, *name)));
    rows.into_iter().find(|(_, name)| *name == module).unwrap_or_else(|| panic!("{module} is in no row"))
}

#[test]
fn use_trees_are_expanded() {
    let mut paths = Vec::new();
    expand("crate::grpc::{self, health::{Readiness as R, self}, Router}", &[], &mut paths);
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    let expected =
        ["crate::grpc", "crate::grpc::health::Readiness", "crate::grpc::health", "crate::grpc::Router"];
    assert_eq!(paths, expected);
}

#[test]
fn cyclic_edges_are_found() {
    let mut graph = BTreeMap::from([("a", ["b"].into()), ("b", ["c"].into()), ("c", BTreeSet::new())]);
    assert_eq!(cyclic_edges(&graph), []);
    graph.insert("c", ["b"].into());
    assert_eq!(cyclic_edges(&graph), [("b", "c"), ("c", "b")]);
}

#[test]
fn root_modules_import_only_their_row_and_the_rows_below() {
    let mut same_row: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources() {
        let Some(root) = source.module.first() else { continue };
        let (root_row, root) = row(root);
        for path in source.uses.iter().chain(&source.re_exports).chain(&source.paths) {
            let Some(path) = source.absolute(path) else { continue };
            let Some(imported) = path.first() else { continue };
            let (imported_row, imported) = row(imported);
            assert!(root_row <= imported_row, "{} imports {imported}, which is above {root}", source.file);
            assert!(!FORBIDDEN.contains(&(root, imported)), "{} imports {imported}", source.file);
            if root_row == imported_row && root != imported {
                same_row.entry(root).or_default().insert(imported);
            }
        }
    }
    assert_eq!(cyclic_edges(&same_row), [], "modules that import each other");
}

#[test]
fn files_do_not_import_each_other() {
    let sources = sources();
    let imports = imported_files(&sources);
    assert!(imports["grpc/call.rs"].contains("grpc/status.rs"), "{:?}", imports["grpc/call.rs"]);
    assert!(imports["app.rs"].contains("grpc/router.rs"), "{:?}", imports["app.rs"]);
    assert_eq!(cyclic_edges(&imports), [], "files that import each other");
}

fn source_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The files below `src` that contain `text`.
fn files_with(text: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = source_files(&src);
    files.retain(|path| fs::read_to_string(path).unwrap().contains(text));
    files.iter().map(|path| path.strip_prefix(&src).unwrap().to_owned()).collect()
}

#[test]
fn http_client_is_reqwest_and_only_one_file_names_it() {
    assert_eq!(files_with("reqwest"), [Path::new("http.rs")]);
    for other in ["hyper::client", "hyper_util::client", "hyper_rustls"] {
        assert_eq!(files_with(other), Vec::<PathBuf>::new(), "{other}");
    }
}

/// A document names files by their paths in the project, or by a path below `src`, its own folders or `tests/gateway`.
#[test]
fn files_named_in_documentation_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = source_files(&root.join("src"));
    documents.extend(crate::documents::markdown_files());
    let mut checked = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let (beside, below) = (document.parent().unwrap(), document.with_extension(""));
        let places = [root, &root.join("src"), beside, &below, &root.join("tests/gateway")];
        let is_file = |name: &&str| name.ends_with(".rs") || name.starts_with("docs/");
        for name in text.split('`').filter(is_file).filter(|name| !name.contains(['<', ' '])) {
            let exists = places.iter().any(|place| place.join(name).exists());
            assert!(exists, "{} names {name}, which does not exist", document.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} names");
}
