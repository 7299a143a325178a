//! Compiles the service's `.proto` with protox, so that no `protoc` is needed, and keeps the descriptor set
//! for reflection and for proto JSON. Finds the revision of the source, without calling git.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

const ROOT: &str = "proto";
const SERVICE: &str = "vbs/v2/backup_share_service.proto";
/// Where there is no repository, such as in an image, this variable may name the revision. The program is built with it.
const REVISION: &str = "SOURCE_REVISION";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-env-changed={REVISION}");
    let given = env::var(REVISION).ok().filter(|revision| !revision.is_empty());
    if let Some(revision) = given.as_deref().filter(|revision| !is_revision(revision)) {
        return Err(format!("{REVISION}: '{revision}' is not 1 to 64 of A-Z a-z 0-9 . _ -").into());
    }
    let revision = given.or_else(git_revision).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env={REVISION}={revision}");
    let descriptors = protox::compile([SERVICE], [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().codec_path("crate::proto::SmallMessageCodec").compile_fds(descriptors)?;
    Ok(())
}

/// The commit that is checked out (gitrepository-layout(5)).
fn git_revision() -> Option<String> {
    // In a worktree, `.git` is a file that names the directory, and most references are in the repository's own directory.
    let git = match read(Path::new(".git")) {
        Some(link) => PathBuf::from(link.strip_prefix("gitdir:")?.trim()),
        None => PathBuf::from(".git"),
    };
    let common = read(&git.join("commondir")).map_or_else(|| git.clone(), |common| git.join(common));
    // Changes with each commit.
    read(&git.join("logs/HEAD"));
    let head = read(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else { return Some(head).filter(|id| is_revision(id)) };
    let loose = read(&common.join(reference));
    let packed = read(&common.join("packed-refs"));
    let packed = packed.as_deref().unwrap_or_default().lines().find_map(|line| {
        let (revision, name) = line.split_once(' ')?;
        (name == reference).then(|| revision.to_owned())
    });
    loose.or(packed).filter(|id| is_revision(id))
}

/// The content of a file, if there is one. cargo would run this program in each build if it watched a file that does not exist.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo:rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn is_revision(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}
