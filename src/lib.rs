//! A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
//!
//! One call, `vbs.v2.BackupShareService/GetBackupShare`, becomes one REST request,
//! `GET /v2/{project_id}/os-vendor-backup-sharing/{id}`; the JSON and the HTTP errors that come back become protobuf
//! messages and gRPC statuses. `README.md` tells how to use it; this page tells how to read it.
//!
//! # The life of a request
//!
//! 1. [`server`] accepts the connection and serves HTTP/2 on it, within limits. It knows no gRPC service.
//! 2. [`grpc`] takes the request. `grpc/call.rs` reads its headers into a [`domain::CallContext`], admits it or refuses it as
//!    overload, and refuses an unknown caller and an invalid token. `grpc/message_guard.rs` lets one message through to
//!    tonic, whose generated trait `grpc/service.rs` implements: it checks the project against the rules and the request
//!    against its own, and calls [`domain::BackupShares::get`]. What fails here never reaches the upstream.
//! 3. [`upstream`] implements that trait. `upstream/attempt.rs` builds a URL of checked IDs only, sends a GET with the
//!    credential of [`credentials`] by the HTTP client in `http.rs`, and reads the whole response; `upstream/retry.rs` decides
//!    whether there is another attempt. The result is a [`domain::BackupShare`] or a [`domain::Error`], whose kind names the
//!    step that failed.
//! 4. [`grpc`] turns the one into a protobuf message (`grpc/convert.rs`) and the other into a status (`grpc/status.rs`), and
//!    writes the access log line (`grpc/access_log.rs`).
//!
//! # The modules
//!
//! A module may use those below it; each has its own `Config`, which is plain data.
//!
//! | module | what it is |
//! |---|---|
//! | [`commands`] | entry points of `serve`, `check`, `get`, `health` and `sandbox`: runtime, signals, output, exit codes |
//! | [`app`] | the only composition: makes the parts, binds the ports, owns every task, ends them in order |
//! | [`config`] | command line and environment to plain data; the only reader of the environment, `OTEL_` variables apart |
//! | [`grpc`] | inbound edge: the service, the layer around it, statuses, authorization, access log, health |
//! | [`upstream`] | outbound edge: attempts, retry policy, JSON, error bodies |
//! | [`server`] | connections, their limits, TLS and drain; the threads that serve them |
//! | [`admin`] | probes and metrics |
//! | [`sandbox`] | the embedded upstream; shares no code with the client that calls it |
//! | [`telemetry`] | logs and spans |
//! | [`credentials`] | what authenticates a request to the upstream: the caller's token, the gateway's own token, or its keys |
//! | `http` | the HTTP client, and the base URL of a service; the only file that names its library |
//! | `pem`, `files` | the reader of PEM files and certificates; what was read from files, and whether they have changed since |
//! | [`metrics`] | the metric families |
//! | [`proto`] | generated code |
//! | [`domain`] | IDs, share, call, errors, and the trait that `grpc` and `upstream` meet in |

pub mod admin;
pub mod app;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod domain;
mod files;
pub mod grpc;
mod http;
pub mod metrics;
mod pem;
pub mod proto;
pub mod sandbox;
pub mod server;
pub mod telemetry;
pub mod upstream;
