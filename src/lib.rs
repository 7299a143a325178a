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
//! A module uses those of its own line and below; each has its own `Config`.
//!
//! | module | what it is |
//! |---|---|
//! | [`commands`] | entry points of `serve`, `check`, `get`, `health` and `sandbox`: runtime, signals, output, exit codes |
//! | [`app`] | the only composition: makes the parts, takes the ports, owns every task, ends them in order |
//! | [`config`] | command line and environment to plain data; the only reader of the environment, `OTEL_` variables apart |
//! | [`server`] | transport: accept loop, TLS, limits, drain |
//! | [`grpc`] | inbound edge: request, response, status, deadline, access log |
//! | [`admin`], [`health`] | probes and metrics |
//! | [`sandbox`] | the embedded upstream; shares no code with the client that asks it |
//! | [`upstream`] | outbound edge: target, wire, error, retry |
//! | [`telemetry`] | logs, metrics and traces; any module may use it |
//! | [`credentials`] | what proves to the upstream who asks |
//! | `http` | the HTTP client, and the base URL of a service |
//! | [`workers`] | the threads, and which of them a connection stays with |
//! | `certificate` | what a certificate says of itself |
//! | `files` | what was read from files, and whether they have changed since |
//! | [`proto`] | generated |

pub mod admin;
pub mod app;
mod certificate;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod domain;
mod files;
pub mod grpc;
pub mod health;
mod http;
pub mod proto;
pub mod sandbox;
pub mod server;
pub mod telemetry;
pub mod upstream;
pub mod workers;
