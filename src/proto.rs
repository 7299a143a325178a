//! The types that `build.rs` makes of `proto/`, and the descriptors that reflection and proto JSON need.
#![allow(
    missing_docs,
    unused_qualifications,
    clippy::clone_on_ref_ptr,
    clippy::too_many_lines,
    reason = "generated"
)]

tonic::include_proto!("vbs.v2");

/// The encoded `google.protobuf.FileDescriptorSet` of the service and all that it imports.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
