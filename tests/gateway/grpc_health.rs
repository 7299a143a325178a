//! The health service.

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::*;

#[tokio::test]
async fn health_check_reports_both_services_on_both_ports() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let admin = tonic::transport::Endpoint::from_shared(format!("http://{}", gateway.admin)).unwrap();
    for channel in [gateway.channel().await, admin.connect().await.unwrap()] {
        let mut health = HealthClient::new(channel);
        for service in ["", SERVICE] {
            let reply = health.check(health_request(service)).await.unwrap().into_inner();
            assert_eq!(reply.status(), ServingStatus::Serving);
        }
        assert_eq!(health.check(health_request("nope")).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn watch_of_unknown_service_reports_it_and_stays_open() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut unknown = health.watch(health_request("nope")).await.unwrap().into_inner();
    let first = with_timeout("a state", unknown.next()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    // It is still open after a complete exchange of another watch on the same connection.
    let mut known = health.watch(health_request(SERVICE)).await.unwrap().into_inner();
    assert_eq!(
        with_timeout("a state", known.next()).await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    assert!(futures_util::FutureExt::now_or_never(unknown.next()).is_none());
}
