//! Server reflection: tonic's service, over everything that the gRPC port serves.
//!
//! Its requests are a stream. They are read as they arrive, and only a few may wait for their turn: what is not read, h2 would keep,
//! and a frame of one byte takes a hundred. An error of the stream ends the response with its status; tonic's service would
//! end it with OK. Source: <https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>.

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyStream, StreamBody};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use super::message_guard::MessageGuard;
use super::status::RpcError;
use crate::proto::FILE_DESCRIPTOR_SET;

/// The paths of the methods, of both versions.
pub(super) const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The frames of a request that may wait.
const READ_AHEAD: usize = 16;

/// Both versions of the service.
pub(super) fn routes() -> Result<Routes, String> {
    let v1 = builder().build_v1().map_err(|error| error.to_string())?;
    let v1alpha = builder().build_v1alpha().map_err(|error| error.to_string())?;
    Ok(Routes::new(v1).add_service(v1alpha).prepare())
}

fn builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// The body for tonic, and the status of the first error in it. The task that reads ends with the stream.
pub(super) fn read_ahead<B>(body: MessageGuard<B>) -> (Body, oneshot::Receiver<Status>)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (frames, waiting) = mpsc::channel(READ_AHEAD);
    let (error, first_error) = oneshot::channel();
    let mut body = BodyStream::new(body);
    tokio::spawn(async move {
        while let Some(frame) = body.next().await {
            let problem = match frame {
                Ok(frame) => match frames.try_send(Ok::<_, Status>(frame)) {
                    Ok(()) => continue,
                    Err(_) => RpcError::Overloaded.into(),
                },
                Err(status) => status,
            };
            // The response has ended if nobody waits for it.
            let _ = error.send(problem);
            return;
        }
    });
    (Body::new(StreamBody::new(ReceiverStream::new(waiting))), first_error)
}
