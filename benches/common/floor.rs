//! The floor: the least that a translator on tonic and reqwest can be. It checks nothing, limits nothing, logs nothing,
//! counts nothing, and knows one error. What the gateway costs beside it is what its promises cost.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;

use backup_share_gateway::proto::{Backup, BackupShare, GetBackupShareRequest, GetBackupShareResponse};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::http::accept;

/// Serves until the process is killed. The first line on standard output is the address, as the gateway's log has it.
pub(crate) fn serve(upstream: SocketAddr) -> ! {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build().unwrap().block_on(async {
        // reqwest takes the process's provider where none is named.
        rustls::crypto::ring::default_provider().install_default().unwrap();
        let client = reqwest::Client::builder().http1_only().no_proxy().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!(r#"{{"grpc.address": "{}"}}"#, listener.local_addr().unwrap());
        let serve = |stream| {
            let floor = Floor { client: client.clone(), upstream };
            let service = service_fn(move |request: http::Request<Incoming>| {
                let codec = ProstCodec::<GetBackupShareResponse, GetBackupShareRequest>::default();
                let floor = floor.clone();
                async move { Ok::<_, Infallible>(Grpc::new(codec).unary(floor, request).await) }
            });
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service)
        };
        accept(listener, serve).await
    })
}

#[derive(Clone)]
struct Floor {
    client: reqwest::Client,
    upstream: SocketAddr,
}

impl Floor {
    async fn get(self, request: Request<GetBackupShareRequest>) -> Result<GetBackupShareResponse, Status> {
        let token = request.metadata().get("x-auth-token").and_then(|token| token.to_str().ok());
        let GetBackupShareRequest { project_id, id } = request.get_ref();
        let reply = self
            .client
            .get(format!("http://{}/v2/{project_id}/os-vendor-backup-sharing/{id}", self.upstream))
            .header("x-auth-token", token.unwrap_or_default())
            .header("accept", "application/json")
            .send()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let body = reply.bytes().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let envelope: Envelope =
            serde_json::from_slice(&body).map_err(|error| Status::internal(error.to_string()))?;
        Ok(GetBackupShareResponse { backup_share: Some(envelope.shared.into()) })
    }
}

impl UnaryService<GetBackupShareRequest> for Floor {
    type Response = GetBackupShareResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<GetBackupShareResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<GetBackupShareRequest>) -> Self::Future {
        let floor = self.clone();
        Box::pin(async move { floor.get(request).await.map(Response::new) })
    }
}

#[derive(Deserialize)]
struct Envelope {
    shared: Share,
}

#[derive(Deserialize)]
struct Share {
    id: Option<String>,
    backup_id: Option<String>,
    from_project_id: Option<String>,
    to_project_id: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    backup: Option<SharedBackup>,
}

#[derive(Deserialize)]
struct SharedBackup {
    id: Option<String>,
    name: Option<String>,
    description: Option<String>,
    status: Option<String>,
    fail_reason: Option<String>,
    size: Option<i64>,
    object_count: Option<i64>,
    container: Option<String>,
    availability_zone: Option<String>,
    volume_id: Option<String>,
    snapshot_id: Option<String>,
    is_incremental: Option<bool>,
    has_dependent_backups: Option<bool>,
    service_metadata: Option<String>,
    data_timestamp: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
}

impl From<Share> for BackupShare {
    fn from(share: Share) -> Self {
        Self {
            id: share.id,
            backup_id: share.backup_id,
            from_project_id: share.from_project_id,
            to_project_id: share.to_project_id,
            created_at: share.created_at.and_then(time),
            updated_at: share.updated_at.and_then(time),
            backup: share.backup.map(Backup::from),
        }
    }
}

impl From<SharedBackup> for Backup {
    fn from(backup: SharedBackup) -> Self {
        Self {
            id: backup.id,
            name: backup.name,
            description: backup.description,
            status: backup.status,
            fail_reason: backup.fail_reason,
            size: backup.size,
            object_count: backup.object_count,
            container: backup.container,
            availability_zone: backup.availability_zone,
            volume_id: backup.volume_id,
            snapshot_id: backup.snapshot_id,
            is_incremental: backup.is_incremental,
            has_dependent_backups: backup.has_dependent_backups,
            service_metadata: backup.service_metadata,
            data_timestamp: backup.data_timestamp.and_then(time),
            created_at: backup.created_at.and_then(time),
            updated_at: backup.updated_at.and_then(time),
        }
    }
}

fn time(text: String) -> Option<prost_types::Timestamp> {
    (text + "Z").parse().ok()
}
