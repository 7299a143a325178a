//! Requests, and the statuses that come back.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::*;
use backup_share_gateway::proto::GetBackupShareRequest;

/// A request with the tests' token.
pub fn request(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    let mut request = without_token(project_id, id);
    request.metadata_mut().insert("x-auth-token", TOKEN.parse().unwrap());
    request
}

pub fn without_token(project_id: &str, id: &str) -> Request<GetBackupShareRequest> {
    Request::new(GetBackupShareRequest { project_id: project_id.into(), id: id.into() })
}

/// A status with its details, as a caller reads them.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub reason: String,
    pub metadata: HashMap<String, String>,
    pub details: ErrorDetails,
    pub status: Status,
}

impl Failure {
    /// Reads a status, and checks what holds for every one of them.
    pub fn of(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}")).clone();
        assert_eq!(info.domain, "backup-share-gateway");
        let id = &details.request_info().expect("RequestInfo").request_id;
        assert!(!id.is_empty());
        let sent_back = status.metadata().get("x-request-id").expect("x-request-id");
        assert_eq!(sent_back.to_str().unwrap(), id);
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

    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn attempts(&self) -> Option<&str> {
        self.metadata("attempts")
    }

    pub fn retry_delay(&self) -> Option<Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }

    /// The delay by which the client's own retry policy is told to wait, in milliseconds.
    pub fn pushback(&self) -> Option<&str> {
        self.status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap())
    }
}

/// What a status takes on the wire, before HPACK.
pub fn size(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum()
}

pub const SERVICE: &str = "vbs.v2.BackupShareService";

pub fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}
