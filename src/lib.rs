//! A gRPC gateway to the backup shares of the Volume Backup Service (VBS) of Huawei Cloud and Open Telekom Cloud.
//!
//! One call, `vbs.v2.BackupShareService/GetBackupShare`, becomes one REST request,
//! `GET /v2/{project_id}/os-vendor-backup-sharing/{id}`; the JSON and the HTTP errors of the response become protobuf messages
//! and gRPC statuses. `README.md` and `docs/` describe how to use it, `CONTRIBUTING.md` how to change it, this page how to read it.
//!
//! # The life of a request
//!
//! Twelve files carry a successful call, in this order:
//!
//! 1. `server/connection.rs` serves HTTP/2 on the connection, within limits.
//! 2. `grpc/router.rs` finds the method.
//! 3. `grpc/call.rs` reads the headers into a [`domain::CallContext`] (`grpc/context.rs`), and refuses the call if it gets no
//!    slot (`grpc/admission.rs`), the caller is unknown, or the token is missing or invalid.
//! 4. `grpc/message_guard.rs` lets exactly one request message through to tonic.
//! 5. `grpc/service.rs` implements tonic's generated trait: it checks the project against the rules and the request against
//!    its own, and calls [`domain::BackupShares::get`]. What fails up to here is not sent upstream.
//! 6. `upstream.rs` implements that trait: the loop of attempts, as the policy in `upstream/retry.rs` decides.
//! 7. `credentials.rs` resolves what authenticates the request: the caller's token, the gateway's own token, or its keys.
//! 8. `upstream/attempt.rs` builds a URL from checked IDs, and sends one GET within its timeout.
//! 9. `http.rs` is the HTTP client; it reads the response completely.
//! 10. `upstream/json.rs` reads a 200 as a [`domain::BackupShare`].
//! 11. `grpc/convert.rs` makes the protobuf message.
//! 12. `grpc/access_log.rs` writes the access log line and observes the metrics, when the caller has got the whole response
//!     (`grpc/call_body.rs`) or the call has ended otherwise.
//!
//! They use types of `domain`, the spans of `telemetry` and the families of `metrics`, which can be read on their own. If the
//! call fails, `upstream/error.rs` finds the [`domain::ErrorKind`] of a response, and `grpc/status.rs` has the table of codes,
//! reasons and messages, and builds the status.
//!
//! # The modules
//!
//! A module may import modules of the same row and of the rows below. Exceptions: `grpc` and `upstream` meet in `domain` only,
//! and nothing else may import `app` or `commands`. `tests/gateway/sources.rs` enforces it, and that no two files import
//! each other. Each module owns its `Config`, which is plain data.
//!
//! | row | module | what it is |
//! |---|---|---|
//! | 1 | [`commands`] | entry points of `serve`, `check`, `get`, `health` and `sandbox`: runtime, signals, output, exit codes |
//! | 2 | [`app`] | the only composition: builds the parts, binds the ports, owns every task, ends them in order |
//! | | [`config`] | flags and environment to plain data; the only reader of the environment, `OTEL_` variables apart |
//! | 3 | [`grpc`] | inbound edge: the service, the layer around a call, statuses, authorization, access log, health |
//! | | [`upstream`] | outbound edge: attempts, retry policy, JSON, errors |
//! | | [`server`] | connections, their limits, TLS and drain; the threads that serve them |
//! | | [`admin`] | probes and metrics |
//! | | [`sandbox`] | the embedded upstream; shares no code with the client that calls it |
//! | | [`telemetry`] | logs and spans |
//! | 4 | [`credentials`] | what authenticates a request to the upstream |
//! | | `http` | the HTTP client, and the base URL of a service; the only file that names its library |
//! | 5 | [`metrics`] | the metric families |
//! | | `pem`, `files` | certificates from PEM files; what was read from files, and whether they have changed since |
//! | | `error_response` | what an error response of the upstream or the identity service says |
//! | | [`proto`] | generated code |
//! | | `sync` | locks |
//! | 6 | [`domain`] | IDs, share, call, errors, and the trait between `grpc` and `upstream` |

pub mod admin;
pub mod app;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod domain;
mod error_response;
mod files;
pub mod grpc;
mod http;
pub mod metrics;
mod pem;
pub mod proto;
pub mod sandbox;
pub mod server;
mod sync;
pub mod telemetry;
pub mod upstream;
