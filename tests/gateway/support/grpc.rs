//! gRPC requests, and error statuses with their details.

use std::collections::HashMap;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use backup_share_gateway::proto::{GetBackupShareRequest, GetBackupShareResponse};

/// A request with [`TOKEN`].
pub fn request(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    let mut request = request_without_token(project_id, id);
    request.metadata_mut().insert("x-auth-token", TOKEN.parse().unwrap());
    request
}

/// A request for the documented share with more metadata.
pub fn request_with(metadata: &[(&'static str, &str)]) -> Request<GetBackupShareRequest> {
    let mut request = request(PROJECT, SHARE);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// The request as the retry policy of a client repeats it (gRFC A6).
pub fn client_retry() -> Request<GetBackupShareRequest> {
    request_with(&[("grpc-previous-rpc-attempts", "1")])
}

pub fn request_without_token(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    Request::new(GetBackupShareRequest { project_id: project_id.into(), id: id.into() })
}

/// Calls for the documented share.
pub async fn get_share(
    client: &mut BackupShareServiceClient<Channel>,
) -> Result<Response<GetBackupShareResponse>, Status> {
    with_timeout("a call", client.get_backup_share(request(PROJECT, SHARE))).await
}

/// An error status with its details, decoded as a client does it.
#[derive(Debug)]
pub struct ErrorStatus {
    pub code: Code,
    pub message: String,
    pub reason: String,
    pub metadata: HashMap<String, String>,
    pub details: ErrorDetails,
    pub status: Status,
}

impl ErrorStatus {
    /// Decodes a status, and checks what the contract says of every error.
    pub fn decode(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).clone();
        assert_eq!(info.domain, "backup-share-gateway");
        let id = &details.request_info().expect("RequestInfo").request_id;
        assert!(!id.is_empty());
        let header = status.metadata().get("x-request-id").expect("x-request-id");
        assert_eq!(header.to_str().unwrap(), id);
        assert!(!format!("{status:?}").contains(TOKEN), "the token is in the status");
        assert!(size(&status) < 4096, "the status takes {} bytes", size(&status));
        let keys = ["httpStatus", "upstreamCode", "upstreamRequestId", "attempts", "service"];
        for (key, value) in &info.metadata {
            assert!(keys.contains(&key.as_str()), "metadata key {key}");
            assert!(value.len() <= 128, "{key} takes {} bytes", value.len());
        }
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.reason,
            metadata: info.metadata,
            details,
            status,
        }
    }

    /// Code and reason.
    pub fn outcome(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }

    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn attempts(&self) -> Option<&str> {
        self.metadata("attempts")
    }

    pub fn retry_delay(&self) -> Option<Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }

    /// The retry pushback of gRFC A6, in milliseconds.
    pub fn pushback(&self) -> Option<&str> {
        self.status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap())
    }
}

/// The size of a status as header fields, before HPACK.
fn size(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum()
}

pub const SERVICE: &str = "vbs.v2.BackupShareService";

/// A health check of `service`.
pub fn health_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}
