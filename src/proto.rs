//! The code that `build.rs` generates from `proto/`, the codec that it uses, and the descriptors for reflection and for JSON
//! (ProtoJSON). It must not know what a call does.
//!
//! Source: `proto/vbs/v2/backup_share_service.proto`. A test compares [`METHODS`] with its descriptor.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

pub use generated::*;

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::clone_on_ref_ptr,
        clippy::too_many_lines,
        reason = "generated"
    )]

    tonic::include_proto!("vbs.v2");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the service and its imports.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The methods of the service, as OpenTelemetry names them (`rpc.method`).
pub const METHODS: [&str; 1] = ["vbs.v2.BackupShareService/GetBackupShare"];

/// tonic's protobuf codec with buffers of the size of this service's messages. The default of 8 KiB for each request and
/// each response is served by the slow path of the allocator. A buffer grows for a larger message.
#[derive(Clone, Debug, Default)]
pub struct SmallMessageCodec<T, U>(PhantomData<(T, U)>);

/// In bytes. A request has about 80, the response with the vendor's documented share about 350.
const REQUEST_BUFFER: usize = 256;
const RESPONSE_BUFFER: usize = 1024;
/// When a stream of messages is flushed: tonic's default. A unary call has one message.
const YIELD_THRESHOLD: usize = 32 * 1024;

impl<T, U> Codec for SmallMessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(RESPONSE_BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(REQUEST_BUFFER, YIELD_THRESHOLD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_descriptor() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let service =
            set.file.iter().flat_map(|file| &file.service).find(|service| !service.method.is_empty());
        let methods = &service.unwrap().method;
        let names = methods.iter().map(|method| format!("vbs.v2.BackupShareService/{}", method.name()));
        assert_eq!(names.collect::<Vec<_>>(), METHODS);
    }
}
