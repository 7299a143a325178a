//! Compiles the service's `.proto` with protox, so that no `protoc` is needed, and keeps the descriptor set
//! for reflection and for proto JSON.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const ROOT: &str = "proto";
const SERVICE: &str = "vbs/v2/backup_share_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile([SERVICE], [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().codec_path("crate::proto::SmallMessageCodec").compile_fds(descriptors)?;
    Ok(())
}
