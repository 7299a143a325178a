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

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reloads certificates, rules and keys when their files change. Never ends.
pub(super) async fn reload_task(
    tls: Option<Arc<Tls>>,
    authorization: Option<Arc<AuthorizationPolicy>>,
    credentials: CredentialProvider,
    metrics: Metrics,
) {
    tokio::join!(
        reload_certificate(tls, &metrics),
        reload_rules(authorization),
        reload_credential(credentials)
    );
    // There are no files to watch.
    std::future::pending().await
}

async fn reload_certificate(tls: Option<Arc<Tls>>, metrics: &Metrics) {
    let Some(tls) = tls else { return };
    metrics.certificate_expiry.set(tls.expires());
    let reload = || {
        let result = tls.reload();
        match &result {
            Ok(()) => metrics.certificate_expiry.set(tls.expires()),
            Err(_) => metrics.reload_failures.inc(),
        }
        result
    };
    watch("certificate", tls.snapshot(), reload).await;
}

async fn reload_rules(authorization: Option<Arc<AuthorizationPolicy>>) {
    let Some(policy) = authorization else { return };
    watch("rule set", policy.snapshot(), || policy.reload()).await;
}

async fn reload_credential(credentials: CredentialProvider) {
    match credentials {
        CredentialProvider::PassThrough => {}
        CredentialProvider::Keystone(keystone) => {
            watch("credential", keystone.snapshot(), || keystone.reload()).await;
        }
        CredentialProvider::AkSk(aksk) => watch("credential", aksk.snapshot(), || aksk.reload()).await,
    }
}

/// Calls `reload` each time that the content of a file differs from the last snapshot. Never ends.
async fn watch(subject: &str, mut last: Snapshot, mut reload: impl FnMut() -> Result<(), String>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
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
