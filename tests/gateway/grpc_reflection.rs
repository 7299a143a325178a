//! Server reflection.

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::*;

#[tokio::test]
async fn reflection_serves_both_versions_and_can_be_disabled() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let off = Gateway::start(&["--sandbox", "--no-reflection"]).await;

    let ask = || {
        let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
        tokio_stream::once(v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) })
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(gateway.channel().await);
    let reply =
        client.server_reflection_info(ask()).await.unwrap().into_inner().next().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains(SERVICE), "{reply:?}");
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(off.channel().await);
    assert_eq!(client.server_reflection_info(ask()).await.unwrap_err().code(), Code::Unimplemented);

    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = tokio_stream::once(v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    });
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(gateway.channel().await);
    let reply = client.server_reflection_info(ask).await.unwrap().into_inner().next().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains(SERVICE), "{reply:?}");
}
