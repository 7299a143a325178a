//! Watches files and applies what changed in them: certificates, rules, and the gateway's own credential.
//!
//! Files are polled: a watcher of the file system loses the swap of symbolic links by which Kubernetes updates mounted
//! files.

use std::sync::Arc;
use std::time::Duration;

use crate::credentials::CredentialProvider;
use crate::files::Snapshot;
use crate::grpc::AuthorizationPolicy;
use crate::metrics::Metrics;
use crate::server::Tls;

/// Reloads certificates, rules and keys when their files change, which are read once per `interval`. Never ends.
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
        reload_credential(interval, credentials),
    );
    // There was nothing to watch.
    std::future::pending().await
}

async fn reload_certificate(interval: Duration, tls: Option<Arc<Tls>>, metrics: &Metrics) {
    let Some(tls) = tls else { return };
    metrics.certificate_expiry.set(tls.expiry_timestamp());
    on_change(interval, tls.snapshot(), || match tls.reload() {
        Ok(()) => {
            metrics.certificate_expiry.set(tls.expiry_timestamp());
            tracing::info!("the new certificate is in use");
        }
        Err(error) => {
            metrics.reload_failures.inc();
            tracing::error!(error, "the new certificate is refused, the old one stays in use");
        }
    })
    .await;
}

async fn reload_rules(interval: Duration, authorization: Option<Arc<AuthorizationPolicy>>) {
    let Some(policy) = authorization else { return };
    on_change(interval, policy.snapshot(), || match policy.reload() {
        Ok(()) => tracing::info!("the new rules are in force"),
        Err(error) => tracing::error!(error, "the new rules are refused, the old ones stay in force"),
    })
    .await;
}

async fn reload_credential(interval: Duration, credentials: CredentialProvider) {
    match credentials {
        CredentialProvider::PassThrough => {}
        CredentialProvider::Keystone(keystone) => {
            on_change(interval, keystone.snapshot(), || log_credential(keystone.reload())).await;
        }
        CredentialProvider::AkSk(aksk) => {
            on_change(interval, aksk.snapshot(), || log_credential(aksk.reload())).await
        }
    }
}

fn log_credential(reloaded: Result<(), String>) {
    match reloaded {
        Ok(()) => tracing::info!("the new credential is in use"),
        Err(error) => tracing::error!(error, "the new credential is refused, the old one stays in use"),
    }
}

/// Calls `changed` each time that the content of a file differs from the last snapshot. Never ends.
async fn on_change(interval: Duration, mut last: Snapshot, mut changed: impl FnMut()) {
    loop {
        tokio::time::sleep(interval).await;
        let paths = last.paths().to_vec();
        // A file system may be slow; it must not block a thread that serves calls.
        let Ok(current) = tokio::task::spawn_blocking(|| Snapshot::take(paths)).await else { continue };
        if current != last {
            last = current;
            changed();
        }
    }
}
