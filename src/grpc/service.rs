//! The service: the trait that tonic generates from the `.proto`, implemented over [`BackupShares`].
//!
//! Before it, the call layer (`call.rs`) has refused what can be refused without the message: overload, an unknown caller, and,
//! without rules, a missing or invalid token. An error becomes a [`Status`] in `status.rs`.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tonic_types::FieldViolation;

use super::authorization::AuthorizationPolicy;
use super::context::{Call, GRPC_TIMEOUT};
use super::status::RpcError;
use crate::domain::{BackupShares, ProjectId, ShareId, ShareRef};
use crate::proto::backup_share_service_server::BackupShareService;
use crate::proto::{GetBackupShareRequest, GetBackupShareResponse};

/// The service, over any source of shares.
pub(super) struct BackupShareGateway<S> {
    pub(super) shares: S,
    pub(super) authorization: Option<Arc<AuthorizationPolicy>>,
}

#[tonic::async_trait]
impl<S: BackupShares> BackupShareService for BackupShareGateway<S> {
    async fn get_backup_share(
        &self,
        request: Request<GetBackupShareRequest>,
    ) -> Result<Response<GetBackupShareResponse>, Status> {
        // `CallHandler` adds it to every request.
        let call = request.extensions().get::<Arc<Call>>().cloned().ok_or(RpcError::Internal)?;
        let message = request.into_inner();
        if let Some(policy) = &self.authorization {
            call.identify(policy.authorized_name(&call.peer.names, &message.project_id))?;
        }
        call.check_token()?;
        let share_ref = validate(message, &call)?;
        let (share_ref, _) = call.context.stats.target.get_or_init(|| (share_ref, Instant::now()));
        let share = self.shares.get(&call.context, share_ref).await?;
        Ok(Response::new(share.into()))
    }
}

/// Checks every field and the timeout, and reports all violations together.
fn validate(message: GetBackupShareRequest, call: &Call) -> Result<ShareRef, RpcError> {
    let project_id = ProjectId::parse(message.project_id);
    let id = ShareId::parse(message.id);
    let mut violations = Vec::new();
    if project_id.is_none() {
        violations.push(FieldViolation::new("project_id", ProjectId::RULE));
    }
    if id.is_none() {
        violations.push(FieldViolation::new("id", ShareId::RULE));
    }
    if call.is_timeout_malformed {
        let rule = "must be 1 to 8 digits and a unit: H, M, S, m, u or n";
        violations.push(FieldViolation::new(GRPC_TIMEOUT.as_str(), rule));
    }
    match (project_id, id) {
        (Some(project_id), Some(id)) if violations.is_empty() => Ok(ShareRef { project_id, id }),
        _ => Err(RpcError::InvalidRequest(violations)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::{BufMut, Bytes, BytesMut};
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full};
    use prost::Message;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::{BackupShare, CallContext, Error, ErrorKind};
    use crate::grpc::Config;
    use crate::grpc::admission::{Admission, CallerId, Policy};
    use crate::grpc::call::CallHandler;
    use crate::metrics::Metrics;
    use crate::proto::METHODS;
    use crate::server::Peer;

    const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";

    /// One share in memory, and the IDs that were requested.
    #[derive(Default)]
    struct InMemoryShares(Mutex<Vec<String>>);

    impl BackupShares for Arc<InMemoryShares> {
        async fn get(&self, call: &CallContext, share: &ShareRef) -> Result<BackupShare, Error> {
            assert!(call.token.is_some(), "the caller's token");
            self.0.lock().unwrap().push(share.id.as_str().to_owned());
            if share.id.as_str() != SHARE {
                return Err(Error::new(ErrorKind::ShareNotFound, "not in memory"));
            }
            Ok(BackupShare {
                id: SHARE.into(),
                backup_id: "b".into(),
                from_project_id: "from".into(),
                to_project_id: share.project_id.as_str().into(),
                created_at: None,
                updated_at: None,
                backup: None,
            })
        }
    }

    /// Calls the service with these IDs. Returns the `grpc-status`, the message, and the IDs that were requested.
    async fn call(project_id: &str, id: &str) -> (String, Option<GetBackupShareResponse>, Vec<String>) {
        let shares = Arc::new(InMemoryShares::default());
        let second = std::time::Duration::from_secs(1);
        let config = Config {
            max_in_flight: 1,
            default_deadline: second,
            max_deadline: second,
            message_timeout: second,
            reflection: false,
            uses_callers_token: true,
        };
        let metrics = Metrics::new(|| 0).unwrap();
        let handler = CallHandler::new(config, None, Arc::clone(&shares), metrics, CancellationToken::new());
        let message = GetBackupShareRequest { project_id: project_id.into(), id: id.into() };
        let request = http::Request::post(format!("/{}", METHODS[0]))
            .header("content-type", "application/grpc")
            .header("x-auth-token", "token-of-the-test")
            .body(Full::new(framed(&message)))
            .unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer { address, addr_display: "127.0.0.1:1".into(), names: Arc::default() };
        let caller = Admission::new(Policy::FairShares { limit: 1 }).caller(CallerId::of(&peer));
        let response = Arc::new(handler).call(METHODS[0], request, Arc::new(peer), &caller).await;
        let status = |headers: &HeaderMap| headers.get("grpc-status").map(|v| v.to_str().unwrap().to_owned());
        let header_status = status(response.headers());
        let body = response.into_body().collect().await.unwrap();
        let trailer_status = body.trailers().and_then(status);
        let reply = body.to_bytes().get(5..).map(|reply| GetBackupShareResponse::decode(reply).unwrap());
        let requested = shares.0.lock().unwrap().clone();
        (header_status.or(trailer_status).unwrap(), reply, requested)
    }

    fn framed(message: &GetBackupShareRequest) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.encoded_len().try_into().unwrap());
        message.encode(&mut frame).unwrap();
        frame.freeze()
    }

    #[tokio::test]
    async fn service_reads_from_any_backup_shares() {
        let (status, reply, requested) = call("p1", &SHARE.to_uppercase()).await;
        let share = reply.unwrap().backup_share.unwrap();
        assert_eq!((status.as_str(), share.to_project_id.as_deref()), ("0", Some("p1")));
        assert_eq!(requested, [SHARE]);
    }

    #[tokio::test]
    async fn domain_error_becomes_a_status() {
        let other = "00000000-0000-4000-8000-000000000000";
        let (status, reply, requested) = call("p1", other).await;
        assert_eq!((status.as_str(), reply.is_none()), ("5", true), "NOT_FOUND, and no message");
        assert_eq!(requested, [other]);
    }

    #[tokio::test]
    async fn invalid_request_never_reaches_the_shares() {
        for (project_id, id) in [("../p", SHARE), ("p1", "detail"), ("", "")] {
            let (status, reply, requested) = call(project_id, id).await;
            assert_eq!(
                (status.as_str(), reply.is_none(), requested.len()),
                ("3", true, 0),
                "{project_id} {id}"
            );
        }
    }
}
