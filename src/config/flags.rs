//! The flags of `serve`. Each has an environment variable: `GATEWAY_` and the flag's name ([`with_variables`]).
//!
//! To add a flag, add a field here, read it where its module's `Config` is made, and run `UPDATE_DOCS=1 cargo test --test gateway
//! documents::`, which writes `docs/configuration.md`.

#![allow(rustdoc::bare_urls, reason = "the documentation of a flag is its help text")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, Command};

use super::validator::{Flag, flag, variable};
use super::value::{
    AuthMode, address, auth_mode, boolean, ca_file, chain, count, directory, duration, duration_or_zero,
    log_filter, log_format, path, private_key, roots, rules, scheme, size, text,
};
use crate::credentials::Scheme;
use crate::grpc::Rules;
use crate::telemetry::LogFormat;
use crate::upstream::{Proxy, RootsFile};

#[derive(Args)]
pub(super) struct ServeFlags {
    /// Address of the gRPC port; with --sandbox 127.0.0.1:50051. Port 0 takes any free port; the log line `listening` names it.
    #[arg(long, value_parser = flag(address), value_name = "ADDRESS", default_value = "0.0.0.0:50051", help_heading = "Server")]
    pub(super) listen: Flag<SocketAddr>,
    /// Address of the admin port: probes and metrics, without TLS; with --sandbox 127.0.0.1:9090.
    #[arg(long, value_parser = flag(address), value_name = "ADDRESS", default_value = "0.0.0.0:9090", help_heading = "Server")]
    pub(super) admin_listen: Flag<SocketAddr>,
    /// Certificate of the gRPC port, followed by its intermediate certificates (PEM). Reloaded when it changes.
    #[arg(long, value_parser = flag(chain), value_name = "FILE", help_heading = "Server")]
    pub(super) tls_cert: Option<Flag<PathBuf>>,
    /// Private key of --tls-cert (PEM). Reloaded when it changes.
    #[arg(long, value_parser = flag(private_key), value_name = "FILE", help_heading = "Server")]
    pub(super) tls_key: Option<Flag<PathBuf>>,
    /// Client CA bundle (PEM); enables mutual TLS: callers must present a certificate. Reloaded when it changes.
    #[arg(long, value_parser = flag(ca_file), value_name = "FILE", help_heading = "Server")]
    pub(super) tls_client_ca: Option<Flag<PathBuf>>,
    /// Allow a caller to read shares of these projects. CALLER is the SPIFFE ID, otherwise a DNS name, in the client's
    /// certificate, compared exactly; the project `*` is every project. Repeatable; in the variable, separate rules with spaces.
    #[arg(long, value_parser = flag(rules), value_name = "CALLER=PROJECT[,PROJECT…]", help_heading = "Server")]
    pub(super) allow: Vec<Flag<Rules>>,
    /// File of --allow rules, one per line; # starts a comment. Reloaded when it changes.
    #[arg(long, value_parser = flag(path), value_name = "FILE", help_heading = "Server")]
    pub(super) allow_file: Option<Flag<PathBuf>>,
    /// Disable gRPC server reflection.
    #[arg(long, value_parser = flag(boolean), value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Server")]
    pub(super) no_reflection: Flag<bool>,
    /// Threads that serve calls. A connection stays on one of them; the main thread serves the admin port and renews credentials
    /// [default: the CPUs that the cgroup grants].
    #[arg(long, value_parser = flag(count::<1024>), value_name = "COUNT", help_heading = "Server")]
    pub(super) workers: Option<Flag<u32>>,

    /// Limit of calls in flight in the process. Calls beyond it are rejected with OVERLOADED.
    #[arg(long, value_parser = flag(count::<1_000_000>), value_name = "COUNT", default_value = "1000", help_heading = "Load")]
    pub(super) max_in_flight: Flag<u32>,
    /// Limit of open gRPC connections. Connections beyond it are closed immediately.
    #[arg(long, value_parser = flag(count::<1_000_000>), value_name = "COUNT", default_value = "10000", help_heading = "Load")]
    pub(super) max_connections: Flag<u32>,
    /// Limit of concurrent calls on one connection.
    #[arg(long, value_parser = flag(count::<1_000_000>), value_name = "COUNT", default_value = "200", help_heading = "Load")]
    pub(super) max_streams_per_connection: Flag<u32>,
    /// Age (±10 %) at which a connection gets GOAWAY, so that clients find new replicas. Its calls finish.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "30m", help_heading = "Load")]
    pub(super) max_connection_age: Flag<Duration>,
    /// Time after which a connection without calls is closed.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "15m", help_heading = "Load")]
    pub(super) max_connection_idle: Flag<Duration>,
    /// Timeout of the TLS and HTTP/2 handshake of a new connection, and of a request message.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "10s", help_heading = "Load")]
    pub(super) handshake_timeout: Flag<Duration>,
    /// Interval of HTTP/2 PINGs to a silent peer.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "60s", help_heading = "Load")]
    pub(super) keepalive_interval: Flag<Duration>,
    /// Time that a peer has to answer a PING before its connection is closed.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "20s", help_heading = "Load")]
    pub(super) keepalive_timeout: Flag<Duration>,

    /// Deadline of a call without one.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "15s", help_heading = "Time")]
    pub(super) default_deadline: Flag<Duration>,
    /// Maximum deadline of a call, whatever the caller requests.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "60s", help_heading = "Time")]
    pub(super) max_deadline: Flag<Duration>,
    /// Time after SIGTERM in which calls are still accepted, so that clients notice NOT_SERVING; with --sandbox and neither of
    /// the addresses given 0s.
    #[arg(long, value_parser = flag(duration_or_zero), value_name = "DURATION", default_value = "5s", help_heading = "Time")]
    pub(super) drain_delay: Flag<Duration>,
    /// Time that calls in flight then have to finish.
    #[arg(long, value_parser = flag(duration_or_zero), value_name = "DURATION", default_value = "20s", help_heading = "Time")]
    pub(super) drain_timeout: Flag<Duration>,

    /// Base URL of VBS: https, host, optional port and path without /v2, such as https://vbs.eu-de.otc.t-systems.com. With --auth
    /// keystone it may be left out: the endpoint is then the one in the catalog.
    #[arg(long, value_parser = flag(text), value_name = "URL", help_heading = "Upstream")]
    pub(super) upstream_url: Option<Flag<String>>,
    /// Start the embedded upstream on a loopback port and use it in place of --upstream-url.
    #[arg(long, value_parser = flag(boolean), value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    pub(super) sandbox: Flag<bool>,
    /// Accept http URLs of VBS and the identity service. Tokens and passwords then travel unencrypted.
    #[arg(long, value_parser = flag(boolean), value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    pub(super) allow_plaintext_upstream: Flag<bool>,
    /// CA bundle that replaces the system's root certificates for the upstream (PEM). Reloaded when it changes.
    #[arg(long, value_parser = flag(roots), value_name = "FILE", help_heading = "Upstream")]
    pub(super) upstream_ca: Option<Flag<RootsFile>>,
    /// Forward proxy to the upstream and the identity service. HTTP_PROXY and similar variables are not read.
    #[arg(long, value_parser = flag(Proxy::parse), value_name = "URL", help_heading = "Upstream")]
    pub(super) upstream_proxy: Option<Flag<Proxy>>,
    /// Timeout of opening a connection: name resolution, TCP and TLS together.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "2s", help_heading = "Upstream")]
    pub(super) connect_timeout: Flag<Duration>,
    /// Timeout of one attempt, including the connection.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "4s", help_heading = "Upstream")]
    pub(super) attempt_timeout: Flag<Duration>,
    /// Maximum number of attempts for one call; 1 disables retries.
    #[arg(long, value_parser = flag(count::<10>), value_name = "COUNT", default_value = "3", help_heading = "Upstream")]
    pub(super) max_attempts: Flag<u32>,
    /// Maximum size of the body of a 200. Of the body of an error, 64 KiB are read.
    #[arg(long, value_parser = flag(size), value_name = "SIZE", default_value = "1MiB", help_heading = "Upstream")]
    pub(super) max_response_bytes: Flag<usize>,
    /// Time that an idle connection is kept. It should be shorter than the upstream's own idle timeout.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "15s", help_heading = "Upstream")]
    pub(super) upstream_idle_timeout: Flag<Duration>,
    /// Time that a connection may be reused, so that DNS changes take effect.
    #[arg(long, value_parser = flag(duration), value_name = "DURATION", default_value = "5m", help_heading = "Upstream")]
    pub(super) upstream_connection_lifetime: Flag<Duration>,

    /// Credential for the upstream: passthrough (the caller's token), keystone (a token of the gateway's own account, from the
    /// OS_* variables of OpenStack) or aksk (requests are signed with the gateway's own access key).
    #[arg(long, value_parser = flag(auth_mode), value_name = "MODE", default_value = "passthrough", help_heading = "Credentials")]
    pub(super) auth: Flag<AuthMode>,
    /// Signature scheme of --auth aksk: sdk, or legacy (the scheme of Open Telekom Cloud's own clients).
    #[arg(long, value_parser = flag(scheme), value_name = "SCHEME", default_value = "sdk", help_heading = "Credentials")]
    pub(super) aksk_scheme: Flag<Scheme>,
    /// Directory of files that replace variables of the same name, such as a mounted Kubernetes Secret: OS_PASSWORD and the
    /// other variables of keystone mode; OS_ACCESS_KEY, OS_SECRET_KEY and OS_SECURITY_TOKEN, or HUAWEICLOUD_SDK_AK,
    /// HUAWEICLOUD_SDK_SK and HUAWEICLOUD_SDK_SECURITY_TOKEN. Reloaded when they change. --auth passthrough ignores it with a
    /// warning.
    #[arg(long, value_parser = flag(directory), value_name = "DIRECTORY", help_heading = "Credentials")]
    pub(super) secrets_dir: Option<Flag<PathBuf>>,

    /// Log filter: a level, or a comma-separated list of levels and target=level, such as info,h2=debug. A level alone is that of
    /// the gateway's own events; those of the libraries are logged at error and above unless the list names their target.
    #[arg(long, value_parser = flag(log_filter), value_name = "FILTER", default_value = "info", help_heading = "Log")]
    pub(super) log: Flag<String>,
    /// Log format: json or text [default: text on a terminal, else json].
    #[arg(long, value_parser = flag(log_format), value_name = "FORMAT", help_heading = "Log")]
    pub(super) log_format: Option<Flag<LogFormat>>,
}

/// Gives every flag its variable. An empty variable counts as not set: templates write one for a value that is not given.
pub(super) fn with_variables(command: Command) -> Command {
    command.mut_args(|arg| {
        // The flags of `check` that are not flags of `serve`.
        if arg.get_id() == "connect" || arg.get_id() == "project_id" {
            return arg;
        }
        let variable = variable(arg.get_id().as_str());
        let arg = if is_number(&arg) { arg.allow_hyphen_values(true) } else { arg };
        match std::env::var_os(&variable) {
            Some(value) if value.is_empty() => arg,
            _ => arg.env(variable).hide_env_values(true),
        }
    })
}

/// Whether a value such as `-1` is an invalid number and not the name of another flag.
fn is_number(arg: &Arg) -> bool {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().any(|name| matches!(name.as_str(), "COUNT" | "DURATION" | "SIZE"))
}
