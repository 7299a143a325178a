//! GetBackupShare: the trait that tonic generates from the `.proto`, implemented over [`BackupShares`].
//!
//! By the time it runs, the call layer (`call.rs`) has refused what can be refused without the message: overload, an
//! unknown caller, and, where there are no rules, a missing or invalid token.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::authorization::AuthorizationPolicy;
use super::call::Call;
use super::deadline;
use super::status::{RpcError, Violation};
use crate::domain::{BackupShares, ProjectId, ShareId, ShareRef};
use crate::proto::backup_share_service_server::BackupShareService;
use crate::proto::{GetBackupShareRequest, GetBackupShareResponse};

/// The service.
pub(super) struct BackupShareGateway<S> {
    shares: S,
    authorization: Option<Arc<AuthorizationPolicy>>,
}

impl<S> BackupShareGateway<S> {
    pub(super) fn new(shares: S, authorization: Option<Arc<AuthorizationPolicy>>) -> Self {
        Self { shares, authorization }
    }

    /// A rule is about a project, which only the message names.
    fn check_project(&self, call: &Call, project_id: &str) -> Result<(), RpcError> {
        match &self.authorization {
            Some(policy) if !policy.is_authorized(&call.peer.names, project_id) => {
                Err(RpcError::CallerNotAllowed)
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl<S: BackupShares> BackupShareService for BackupShareGateway<S> {
    async fn get_backup_share(
        &self,
        request: Request<GetBackupShareRequest>,
    ) -> Result<Response<GetBackupShareResponse>, Status> {
        let call = Call::of(&request)?;
        let message = request.into_inner();
        self.check_project(&call, &message.project_id)?;
        call.check_token()?;
        let share_ref = validate(message, &call)?;
        call.context.stats.set_target(&share_ref);
        let share = self.shares.get(&call.context, &share_ref).await?;
        Ok(Response::new(share.into()))
    }
}

/// Checks every field and the timeout, and reports all violations together.
fn validate(message: GetBackupShareRequest, call: &Call) -> Result<ShareRef, RpcError> {
    let project_id = ProjectId::parse(message.project_id);
    let id = ShareId::parse(message.id);
    let mut violations = Vec::new();
    if project_id.is_none() {
        violations.push(Violation { field: "project_id", rule: ProjectId::RULE });
    }
    if id.is_none() {
        violations.push(Violation { field: "id", rule: ShareId::RULE });
    }
    if call.is_timeout_malformed {
        violations.push(Violation { field: deadline::HEADER, rule: deadline::RULE });
    }
    match (project_id, id) {
        (Some(project_id), Some(id)) if violations.is_empty() => Ok(ShareRef { project_id, id }),
        _ => Err(RpcError::InvalidRequest(violations)),
    }
}
