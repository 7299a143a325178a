//! A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
//!
//! One call, `vbs.v2.BackupShareService/GetBackupShare`, becomes one REST request,
//! `GET /v2/{project_id}/os-vendor-backup-sharing/{id}`; the JSON and the HTTP errors that come back become protobuf
//! messages and gRPC statuses. `README.md` tells how to use it; this page tells how to read it.
//!
//! # The life of a request
//!
//! 1. [`server`] accepts the connection and carries HTTP/2 on it, within limits. It knows no gRPC service.
//! 2. [`grpc`] takes the request: the place among the calls in flight, the token (out of the HTTP headers, never out of
//!    trailers), the rules about who may read what, the deadline, the one message, and its check. What fails here never reaches the upstream.
//! 3. [`upstream`] builds the URL of checked values only, sends a GET, reads the reply, whole, and tries again where that
//!    is safe and there is time. It answers with the upstream's own share, or with an error whose kind names the step
//!    that failed.
//! 4. [`grpc`] turns the one into protobuf (`grpc/convert.rs`) and the other into a status (`grpc/status.rs`), and writes
//!    the access line.
//!
//! # The layout
//!
//! Arrows point down only; each part owns its `Config`.
//!
//! | part | what it is |
//! |---|---|
//! | [`process`] | runtime, signals, exit status |
//! | [`workers`] | the threads, and which of them a connection stays with |
//! | [`cli`] | commands and flags; the only reader of the environment, `OTEL_` variables apart |
//! | [`gateway`] | composition: takes the ports, owns every task, ends them in order |
//! | [`server`] | transport: accept loop, TLS, limits, drain |
//! | [`grpc`] | inbound edge: request, response, status, deadline, access log |
//! | [`admin`], [`health`] | probes and metrics |
//! | [`sandbox`] | the embedded upstream; shares no code with the client that asks it |
//! | [`client`] | the `get` and `health` commands |
//! | [`check`] | the `check` command |
//! | [`upstream`] | outbound edge: target, wire, error, retry |
//! | [`credentials`] | what proves to the upstream who asks |
//! | `http` | the HTTP client, and the base URL of a service |
//! | `certificate` | what a certificate says of itself |
//! | `reload` | files that may change while the process runs |
//! | [`telemetry`] | logs, metrics and traces; any part may use it |
//! | [`proto`] | generated |

pub mod admin;
mod certificate;
pub mod check;
pub mod cli;
pub mod client;
pub mod credentials;
pub mod domain;
pub mod gateway;
pub mod grpc;
pub mod health;
mod http;
pub mod process;
pub mod proto;
mod reload;
pub mod sandbox;
pub mod server;
pub mod telemetry;
pub mod upstream;
pub mod workers;
