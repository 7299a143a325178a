//! Rules about the source text that the compiler does not check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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

/// The files below `src` that hold `text`, by their paths there.
fn files_that_hold(text: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = source_files(&src);
    files.retain(|path| fs::read_to_string(path).unwrap().contains(text));
    files.iter().map(|path| path.strip_prefix(&src).unwrap().to_owned()).collect()
}

/// The root modules that a file names in a path that begins with `crate::`, outside of its unit tests.
fn imports(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    paths.flat_map(first_names).filter(|module| !module.is_empty()).map(str::to_owned).collect()
}

/// The first name of each path: `a` of `a::b`, `a` and `b` of `{a, b::c}`.
fn first_names(path: &str) -> Vec<&str> {
    let group = path.strip_prefix('{').and_then(|group| group.split('}').next());
    let paths: Vec<&str> = group.map_or_else(|| vec![path], |group| group.split(',').collect());
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    paths.iter().map(|path| path.trim().split(|c| !is_name(c)).next().unwrap_or_default()).collect()
}

/// Pairs of root modules, of which the first must not import the second.
const FORBIDDEN: [(&str, &str); 14] = [
    ("grpc", "upstream"),
    ("upstream", "grpc"),
    ("grpc", "credentials"),
    ("server", "grpc"),
    ("server", "upstream"),
    ("http", "server"),
    ("http", "upstream"),
    ("http", "telemetry"),
    ("credentials", "server"),
    ("credentials", "upstream"),
    ("credentials", "grpc"),
    ("config", "app"),
    ("config", "commands"),
    ("sandbox", "http"),
];

#[test]
fn first_names_are_those_of_every_path_in_a_group() {
    assert_eq!(first_names("grpc::Router;"), ["grpc"]);
    assert_eq!(
        first_names("{credentials, grpc::{self, Config}, server};"),
        ["credentials", "grpc", "Config"]
    );
}

#[test]
fn root_modules_import_only_what_is_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for file in source_files(&src) {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let path = file.strip_prefix(&src).unwrap();
        let root = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let imports = imports(&file);
        for (module, forbidden) in FORBIDDEN {
            assert!(root != module || !imports.contains(forbidden), "{} imports {forbidden}", path.display());
        }
        // The composition and the entry points are above everything.
        for above in ["app", "commands"] {
            let may = ["app", "commands", "main"].contains(&root);
            assert!(may || !imports.contains(above), "{} imports {above}", path.display());
        }
        let foreign = imports.iter().filter(|module| *module != "domain").count();
        assert!(root != "domain" || foreign == 0, "{} imports {imports:?}", path.display());
        checked += 1;
    }
    assert!(checked > 50, "{checked} files");
}

#[test]
fn http_client_is_reqwest_and_only_one_file_names_it() {
    assert_eq!(files_that_hold("reqwest"), [Path::new("http.rs")]);
    for other in ["hyper::client", "hyper_util::client", "hyper_rustls"] {
        assert_eq!(files_that_hold(other), Vec::<PathBuf>::new(), "{other}");
    }
}
