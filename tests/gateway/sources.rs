//! Rules about the source text that the compiler does not check.

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

#[test]
fn http_client_is_reqwest_and_only_one_file_names_it() {
    assert_eq!(files_that_hold("reqwest"), [Path::new("http.rs")]);
    for other in ["hyper::client", "hyper_util::client", "hyper_rustls"] {
        assert_eq!(files_that_hold(other), Vec::<PathBuf>::new(), "{other}");
    }
}
