//! Watches files and applies what changed in them: certificates, rules, and the gateway's own credential.
//!
//! Files are polled: `inotify` loses the swap of symbolic links by which Kubernetes updates mounted files. The files are
//! small, and in the page cache.

use std::sync::Arc;
use std::time::Duration;

use crate::credentials::CredentialProvider;
use crate::files::Snapshot;
use crate::grpc::AuthorizationPolicy;
use crate::metrics::Metrics;
use crate::server::Tls;

/// Reads the files of certificates, rules and keys once an interval, and applies what has changed. Never ends.
pub(super) async fn reload_task(
    interval: Duration,
    tls: Option<Arc<Tls>>,
    authorization: Option<Arc<AuthorizationPolicy>>,
    credentials: CredentialProvider,
    metrics: Metrics,
) {
    tokio::join!(
        reload_certificate(interval, tls, &metrics),
        reload_rules(interval, authorization),
        reload_credential(interval, credentials)
    );
    // There are no files to watch.
    std::future::pending().await
}

async fn reload_certificate(interval: Duration, tls: Option<Arc<Tls>>, metrics: &Metrics) {
    let Some(tls) = tls else { return };
    metrics.certificate_expiry.set(tls.expiry_timestamp());
    let reload = || {
        let result = tls.reload();
        match &result {
            Ok(()) => metrics.certificate_expiry.set(tls.expiry_timestamp()),
            Err(_) => metrics.reload_failures.inc(),
        }
        result
    };
    watch(interval, "certificate", tls.snapshot(), reload).await;
}

async fn reload_rules(interval: Duration, authorization: Option<Arc<AuthorizationPolicy>>) {
    let Some(policy) = authorization else { return };
    watch(interval, "rule set", policy.snapshot(), || policy.reload()).await;
}

async fn reload_credential(interval: Duration, credentials: CredentialProvider) {
    match credentials {
        CredentialProvider::PassThrough => {}
        CredentialProvider::Keystone(keystone) => {
            watch(interval, "credential", keystone.snapshot(), || keystone.reload()).await;
        }
        CredentialProvider::AkSk(aksk, _) => {
            watch(interval, "credential", aksk.snapshot(), || aksk.reload()).await
        }
    }
}

/// Calls `reload` each time that the content of a file differs from the last snapshot. Never ends.
async fn watch(
    interval: Duration,
    subject: &str,
    mut last: Snapshot,
    mut reload: impl FnMut() -> Result<(), String>,
) {
    loop {
        tokio::time::sleep(interval).await;
        let paths = last.paths().to_vec();
        // A slow file system must not block a thread that serves calls.
        let Ok(current) = tokio::task::spawn_blocking(|| Snapshot::take(paths)).await else { continue };
        if current == last {
            continue;
        }
        last = current;
        match reload() {
            Ok(()) => tracing::info!("the new {subject} is in use"),
            Err(error) => tracing::error!(error, "the new {subject} was rejected; the old one stays in use"),
        }
    }
}
