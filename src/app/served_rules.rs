//! The rules, compared with the project that the gateway's account is for. With `OS_PROJECT_ID` the configuration has compared
//! them; otherwise the ID is known from the first token on, and rules may change later.

use std::path::PathBuf;
use std::sync::Arc;

use crate::credentials::CredentialProvider;
use crate::files::{Reload, Snapshot};
use crate::grpc::AuthorizationPolicy;

/// The rules, and the account that serves what they grant.
#[derive(Clone)]
pub(super) struct ServedRules {
    pub(super) rules: Arc<AuthorizationPolicy>,
    pub(super) credentials: CredentialProvider,
}

impl ServedRules {
    /// Logs a warning if a rule names a project that the account is not for: calls for it are denied.
    pub(super) fn warn_of_conflict(&self) {
        if let Some(own) = self.credentials.own_project()
            && let Some(conflict) = self.rules.conflict_with(&own)
        {
            tracing::warn!("{conflict}");
        }
    }
}

impl Reload for ServedRules {
    fn subject(&self) -> &'static str {
        self.rules.subject()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.rules.files()
    }

    fn snapshot(&self) -> Snapshot {
        self.rules.snapshot()
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let put_in_use = self.rules.read()?;
        Ok(Box::new(|| {
            put_in_use();
            self.warn_of_conflict();
        }))
    }
}
