//! The flags of `serve` as text, and the variable of each: `GATEWAY_` and the flag's name ([`with_variables`]).
//!
//! Nothing is parsed here: clap stops at the first value that does not parse, and all problems are to be reported together.

#![allow(rustdoc::bare_urls, reason = "the documentation of a flag is its help text")]

use std::path::PathBuf;

use clap::{Args, Command};

#[derive(Debug, Args)]
pub(super) struct ServeFlags {
    /// Where gRPC is served. Port 0 takes any.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:50051", help_heading = "Server")]
    pub(super) listen: String,
    /// Where probes and metrics are served, unencrypted.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090", help_heading = "Server")]
    pub(super) admin_listen: String,
    /// PEM file of the gRPC port's certificate, and of those between it and the root. Read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) tls_key: Option<PathBuf>,
    /// PEM file of the certificates that may sign the callers'. With it every caller must have one (mutual TLS).
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) tls_client_ca: Option<PathBuf>,
    /// What a caller may read, by the SPIFFE ID or else the DNS name in its certificate; `*` is every project. May stand
    /// more than once; in the variable, rules stand between blanks.
    #[arg(long, value_name = "CALLER=PROJECT[,PROJECT…]", value_delimiter = ' ', help_heading = "Server")]
    pub(super) allow: Vec<String>,
    /// File of such rules, one a line, with comments after #. Read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(super) allow_file: Option<PathBuf>,
    /// Do not tell clients which services and types there are.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Server")]
    pub(super) no_reflection: String,
    /// Threads that serve calls, each for the connections dealt out to it [default: the CPUs that the cgroup grants].
    #[arg(long, value_name = "COUNT", help_heading = "Server")]
    pub(super) workers: Option<String>,

    /// Calls in flight in the whole process; one more is refused with OVERLOADED.
    #[arg(long, value_name = "COUNT", default_value = "1000", help_heading = "Load")]
    pub(super) max_in_flight: String,
    /// Open connections; one more is closed at once.
    #[arg(long, value_name = "COUNT", default_value = "10000", help_heading = "Load")]
    pub(super) max_connections: String,
    /// Calls at once on one connection.
    #[arg(long, value_name = "COUNT", default_value = "200", help_heading = "Load")]
    pub(super) max_streams_per_connection: String,
    /// Age at which a connection is asked to go, give or take a tenth, so that clients find new replicas.
    #[arg(long, value_name = "DURATION", default_value = "30m", help_heading = "Load")]
    pub(super) max_connection_age: String,
    /// How long a connection may be without a call.
    #[arg(long, value_name = "DURATION", default_value = "15m", help_heading = "Load")]
    pub(super) max_connection_idle: String,
    /// How long a peer may take until it has shown that it speaks HTTP/2.
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Load")]
    pub(super) handshake_timeout: String,
    /// How often a silent peer is sent a PING.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Load")]
    pub(super) keepalive_interval: String,
    /// How long a peer may take to answer it.
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Load")]
    pub(super) keepalive_timeout: String,

    /// Deadline of a call that brings none.
    #[arg(long, value_name = "DURATION", default_value = "15s", help_heading = "Time")]
    pub(super) default_deadline: String,
    /// Longest deadline, whatever the caller says.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Time")]
    pub(super) max_deadline: String,
    /// How long calls are still taken after SIGTERM, so that callers have time to hear of it.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Time")]
    pub(super) drain_delay: String,
    /// How long the calls that run may take after that.
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Time")]
    pub(super) drain_timeout: String,

    /// The upstream: https, host, optional port and path, such as https://vbs.eu-de.otc.t-systems.com.
    #[arg(long, value_name = "URL", help_heading = "Upstream")]
    pub(super) upstream_url: Option<String>,
    /// Start the embedded upstream beside the gateway, on a loopback port, and point the gateway at it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    pub(super) sandbox: String,
    /// Let the upstream's URL be http: tokens then travel unencrypted.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    pub(super) allow_plaintext_upstream: String,
    /// PEM file of the certificates that may sign the upstream's, in place of the system's.
    #[arg(long, value_name = "FILE", help_heading = "Upstream")]
    pub(super) upstream_ca: Option<String>,
    /// Forward proxy to the upstream. HTTP_PROXY and its kin are not read.
    #[arg(long, value_name = "URL", help_heading = "Upstream")]
    pub(super) upstream_proxy: Option<String>,
    /// Longest time to connect: name, TCP and TLS together.
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Upstream")]
    pub(super) connect_timeout: String,
    /// Longest time of one attempt.
    #[arg(long, value_name = "DURATION", default_value = "4s", help_heading = "Upstream")]
    pub(super) attempt_timeout: String,
    /// Attempts at one call; 1 means no retry.
    #[arg(long, value_name = "COUNT", default_value = "3", help_heading = "Upstream")]
    pub(super) max_attempts: String,
    /// Longest reply that is read.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", help_heading = "Upstream")]
    pub(super) max_response_bytes: String,
    /// How long an unused connection is kept: less than the upstream keeps it.
    #[arg(long, value_name = "DURATION", default_value = "15s", help_heading = "Upstream")]
    pub(super) upstream_idle_timeout: String,
    /// How long a connection may be reused, so that changes in DNS are seen.
    #[arg(long, value_name = "DURATION", default_value = "5m", help_heading = "Upstream")]
    pub(super) upstream_connection_lifetime: String,

    /// Whose credential goes upstream: passthrough, the caller's token; keystone, a token of the gateway's own account at the
    /// identity service (OS_AUTH_URL and the others of OpenStack's variables); aksk, the gateway's own keys.
    #[arg(long, value_name = "MODE", default_value = "passthrough", help_heading = "Credentials")]
    pub(super) auth: String,
    /// How the keys sign: sdk, or legacy as Open Telekom Cloud's own clients do.
    #[arg(long, value_name = "SCHEME", default_value = "sdk", help_heading = "Credentials")]
    pub(super) aksk_scheme: String,
    /// Folder whose files are named as the variables that they replace: OS_PASSWORD and its kin; OS_ACCESS_KEY, OS_SECRET_KEY,
    /// OS_SECURITY_TOKEN, or HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK, HUAWEICLOUD_SDK_SECURITY_TOKEN. Read again when they change.
    #[arg(long, value_name = "FOLDER", help_heading = "Credentials")]
    pub(super) secrets_dir: Option<PathBuf>,

    /// What is logged: a filter such as info, or warn,backup_share_gateway=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", help_heading = "Log")]
    pub(super) log: String,
    /// json or text [default: text on a terminal, else json].
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub(super) log_format: Option<String>,
}

/// Gives every flag its variable: `--upstream-url` is `GATEWAY_UPSTREAM_URL`. An empty one counts as none, as a template
/// writes it where there is nothing to say.
pub(super) fn with_variables(command: Command) -> Command {
    command.mut_args(|arg| {
        // The one flag that is `check`'s alone.
        if arg.get_id() == "connect" {
            return arg;
        }
        let variable = variable(arg.get_id().as_str());
        match std::env::var_os(&variable) {
            Some(value) if value.is_empty() => arg,
            _ => arg.env(variable).hide_env_values(true),
        }
    })
}

/// A line for each variable that is not UTF-8, which clap cannot read.
pub(super) fn invalid_variables(command: &Command) -> Vec<String> {
    let variables = command.get_arguments().map(|arg| variable(arg.get_id().as_str()));
    let is_invalid = |name: &String| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    variables.filter(is_invalid).map(|name| format!("{name} is not UTF-8")).collect()
}

/// The variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("GATEWAY_{}", flag.replace('-', "_").to_ascii_uppercase())
}
