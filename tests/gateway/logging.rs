//! Log lines, as the process writes them.

use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;
use tonic::transport::Endpoint;

use crate::child::*;
use crate::harness::*;

const REQUEST_ID: &str = "request-id-of-the-call";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
/// Logged by `upstream` within a call.
const UNKNOWN_KEY: &str = "the upstream's response has an unknown key";

/// The lines of one call whose reply has an unknown key, with these flags; the access line comes last.
async fn lines_of_a_call(flags: &[&str]) -> Vec<String> {
    let body = DOCUMENTED.replacen('{', r#"{"new_key": 1,"#, 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut gateway = Served::start(&[&[&*url, "--allow-plaintext-upstream"], flags].concat()).await;
    let mut call = request(PROJECT, SHARE);
    call.metadata_mut().insert("x-request-id", REQUEST_ID.parse().unwrap());
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    call.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let channel = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect().await;
    let mut client = BackupShareServiceClient::new(channel.unwrap());
    soon("a call", client.get_backup_share(call)).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let line = soon("a line", gateway.log.next_line()).await.unwrap().unwrap();
        let is_last = line.contains(r#""message":"call""#);
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

#[tokio::test]
async fn line_within_a_call_has_its_request_id_and_trace_id_once() {
    // The spans that the IDs come from do not depend on what is logged.
    for filter in ["info", "warn,backup_share_gateway::app=info,backup_share_gateway::grpc=info", "debug"] {
        let lines = lines_of_a_call(&[&format!("--log={filter}")]).await;
        let within: Vec<_> = lines
            .iter()
            .filter(|line| line.contains(UNKNOWN_KEY) || line.contains(r#""message":"call""#))
            .collect();
        assert_eq!(within.len(), 2, "{lines:?}");
        for line in within {
            for (key, id) in [("request_id", REQUEST_ID), ("trace_id", TRACE_ID)] {
                let member = format!(r#""{key}":"{id}""#);
                assert_eq!(line.matches(&member).count(), 1, "{member} in {line}");
            }
        }
    }
}
