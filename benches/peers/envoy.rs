//! Envoy as a gateway: its filter `grpc_json_reverse_transcoder` makes of a gRPC call the GET that `vbs.proto` names, and
//! of the JSON that comes back the message.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::process::{Process, output};

const PROTO: &str = "vbs.proto";

/// Envoy's own word of its version.
pub(crate) fn version(binary: &Path) -> String {
    let said = Command::new(binary).arg("--version").output().unwrap().stdout;
    String::from_utf8(said).unwrap().trim().rsplit("version: ").next().unwrap().to_owned()
}

/// Envoy before `upstream`, with one worker and all else that is on by default; `log` adds a line of JSON a call in a file.
pub(crate) fn start(binary: &Path, upstream: SocketAddr, log: Option<&Path>) -> Process {
    let descriptors = output("envoy.binpb");
    fs::write(&descriptors, descriptor_set()).unwrap();
    // Only its admin port, which is not wanted here, would tell a port that the kernel chose.
    let grpc = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = if log.is_some() { "envoy-logging" } else { "envoy" };
    let configuration = output(&format!("{name}.json"));
    let log: Vec<Value> = log.map(access_log).into_iter().collect();
    fs::write(&configuration, configured(grpc, upstream, &descriptors, &log).to_string()).unwrap();
    let mut command = Command::new(binary);
    command.arg("--config-path").arg(configuration);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
    Process::listening(command, name, grpc)
}

/// With the files that it imports, and with its options, which prost's own types lose.
fn descriptor_set() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let mut compiler = protox::Compiler::new([folder]).unwrap();
    compiler.include_imports(true).open_file(PROTO).unwrap().encode_file_descriptor_set()
}

/// What of the gateway's line Envoy knows.
fn access_log(file: &Path) -> Value {
    let format = json!({"json_format": {
        "timestamp": "%START_TIME%",
        "rpc.method": "%REQ(:PATH)%",
        "rpc.code": "%GRPC_STATUS%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "http.status": "%RESPONSE_CODE%",
        "upstream_request_id": "%RESP(X-REQUEST-ID)%",
        "duration_ms": "%DURATION%",
        "upstream_ms": "%RESPONSE_DURATION%",
    }});
    let logger = typed("access_loggers.file.v3.FileAccessLog", json!({"path": file, "log_format": format}));
    json!({"name": "envoy.access_loggers.file", "typed_config": logger})
}

fn configured(grpc: SocketAddr, upstream: SocketAddr, descriptors: &Path, log: &[Value]) -> Value {
    let transcoder = typed(
        "filters.http.grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder",
        json!({"descriptor_path": descriptors}),
    );
    let router = typed("filters.http.router.v3.Router", json!({}));
    let manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "callers",
            "access_log": log,
            "route_config": {"virtual_hosts": [{
                "name": "vbs",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "vbs"}}],
            }]},
            "http_filters": [
                {"name": "envoy.filters.http.grpc_json_reverse_transcoder", "typed_config": transcoder},
                {"name": "envoy.filters.http.router", "typed_config": router},
            ],
        }),
    );
    let endpoint = json!({"endpoint": {"address": socket(upstream)}});
    json!({"static_resources": {
        "listeners": [{
            "name": "callers",
            "address": socket(grpc),
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
            ]}],
        }],
        "clusters": [{
            "name": "vbs",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "vbs", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }],
    }})
}

fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/envoy.extensions.{name}").into();
    fields
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
