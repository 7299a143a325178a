//! The flags of `serve`. Each has a variable, `GATEWAY_` and the flag's name: [`with_variables`] gives it to them all.

#![allow(rustdoc::bare_urls, reason = "the documentation of a flag is its help text")]

use std::collections::HashMap;
use std::env::VarError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Command};
use zeroize::Zeroizing;

use super::{Reader, units};
use crate::app::{self, UpstreamAt};
use crate::credentials::{
    AKSK_VARIABLES, AkSk, CA_VARIABLE, KEYSTONE_VARIABLES, Keystone, KeystoneConfig, Mode, Scheme, Secret,
    Variables,
};
use crate::rpc::{self, Access};
use crate::server::{self, Tls, TlsFiles};
use crate::telemetry::{self, LogFormat, Traces, traces};
use crate::upstream::{self, BaseUrl, HttpConfig, Proxy, Roots};

/// What `serve` runs on.
#[derive(Debug)]
pub struct Serve {
    /// The gateway.
    pub gateway: app::Config,
    /// The log.
    pub telemetry: telemetry::Config,
    /// Where spans go, if anywhere.
    pub traces: Option<traces::Config>,
    /// Threads that serve calls.
    pub workers: usize,
}

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Where gRPC is served. Port 0 takes any.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:50051", help_heading = "Server")]
    listen: String,
    /// Where probes and metrics are served, unencrypted.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090", help_heading = "Server")]
    admin_listen: String,
    /// PEM file of the gRPC port's certificate, and of those between it and the root. Read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    tls_key: Option<PathBuf>,
    /// PEM file of the certificates that may sign the callers'. With it every caller must have one (mutual TLS).
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    tls_client_ca: Option<PathBuf>,
    /// What a caller may read, by the SPIFFE ID or else the DNS name in its certificate; `*` is every project. May stand
    /// more than once; in the variable, rules stand between blanks.
    #[arg(long, value_name = "CALLER=PROJECT[,PROJECT…]", value_delimiter = ' ', help_heading = "Server")]
    allow: Vec<String>,
    /// File of such rules, one a line, with comments after #. Read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    allow_file: Option<PathBuf>,
    /// Do not tell clients which services and types there are.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Server")]
    no_reflection: String,
    /// Threads that serve calls, each for the connections dealt out to it [default: the CPUs that the cgroup grants].
    #[arg(long, value_name = "COUNT", help_heading = "Server")]
    workers: Option<String>,

    /// Calls in flight in the whole process; one more is refused with OVERLOADED.
    #[arg(long, value_name = "COUNT", default_value = "1000", help_heading = "Load")]
    max_in_flight: String,
    /// Open connections; one more is closed at once.
    #[arg(long, value_name = "COUNT", default_value = "10000", help_heading = "Load")]
    max_connections: String,
    /// Calls at once on one connection.
    #[arg(long, value_name = "COUNT", default_value = "200", help_heading = "Load")]
    max_streams_per_connection: String,
    /// Age at which a connection is asked to go, give or take a tenth, so that clients find new replicas.
    #[arg(long, value_name = "DURATION", default_value = "30m", help_heading = "Load")]
    max_connection_age: String,
    /// How long a connection may be without a call.
    #[arg(long, value_name = "DURATION", default_value = "15m", help_heading = "Load")]
    max_connection_idle: String,
    /// How long a peer may take until it has shown that it speaks HTTP/2.
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Load")]
    handshake_timeout: String,
    /// How often a silent peer is sent a PING.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Load")]
    keepalive_interval: String,
    /// How long a peer may take to answer it.
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Load")]
    keepalive_timeout: String,

    /// Deadline of a call that brings none.
    #[arg(long, value_name = "DURATION", default_value = "15s", help_heading = "Time")]
    default_deadline: String,
    /// Longest deadline, whatever the caller says.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Time")]
    max_deadline: String,
    /// How long calls are still taken after SIGTERM, so that callers have time to hear of it.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Time")]
    drain_delay: String,
    /// How long the calls that run may take after that.
    #[arg(long, value_name = "DURATION", default_value = "20s", help_heading = "Time")]
    drain_timeout: String,

    /// The upstream: https, host, optional port and path, such as https://vbs.eu-de.otc.t-systems.com.
    #[arg(long, value_name = "URL", help_heading = "Upstream")]
    upstream_url: Option<String>,
    /// Start the embedded upstream beside the gateway, on a loopback port, and point the gateway at it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    sandbox: String,
    /// Let the upstream's URL be http: tokens then travel unencrypted.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Upstream")]
    allow_plaintext_upstream: String,
    /// PEM file of the certificates that may sign the upstream's, in place of the system's.
    #[arg(long, value_name = "FILE", help_heading = "Upstream")]
    upstream_ca: Option<String>,
    /// Forward proxy to the upstream. HTTP_PROXY and its kin are not read.
    #[arg(long, value_name = "URL", help_heading = "Upstream")]
    upstream_proxy: Option<String>,
    /// Longest time to connect: name, TCP and TLS together.
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Upstream")]
    connect_timeout: String,
    /// Longest time of one attempt.
    #[arg(long, value_name = "DURATION", default_value = "4s", help_heading = "Upstream")]
    attempt_timeout: String,
    /// Attempts at one call; 1 means no retry.
    #[arg(long, value_name = "COUNT", default_value = "3", help_heading = "Upstream")]
    max_attempts: String,
    /// Longest reply that is read.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", help_heading = "Upstream")]
    max_response_bytes: String,
    /// How long an unused connection is kept: less than the upstream keeps it.
    #[arg(long, value_name = "DURATION", default_value = "15s", help_heading = "Upstream")]
    upstream_idle_timeout: String,
    /// How long a connection may be reused, so that changes in DNS are seen.
    #[arg(long, value_name = "DURATION", default_value = "5m", help_heading = "Upstream")]
    upstream_connection_lifetime: String,

    /// Whose credential goes upstream: passthrough, the caller's token; keystone, a token of the gateway's own account at the
    /// identity service (OS_AUTH_URL and the others of OpenStack's variables); aksk, the gateway's own keys.
    #[arg(long, value_name = "MODE", default_value = "passthrough", help_heading = "Credentials")]
    auth: String,
    /// How the keys sign: sdk, or legacy as Open Telekom Cloud's own clients do.
    #[arg(long, value_name = "SCHEME", default_value = "sdk", help_heading = "Credentials")]
    aksk_scheme: String,
    /// Folder whose files are named as the variables that they replace: OS_PASSWORD and its kin; OS_ACCESS_KEY, OS_SECRET_KEY,
    /// OS_SECURITY_TOKEN, or HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK, HUAWEICLOUD_SDK_SECURITY_TOKEN. Read again when they change.
    #[arg(long, value_name = "FOLDER", help_heading = "Credentials")]
    secrets_dir: Option<PathBuf>,

    /// What is logged: a filter such as info, or warn,backup_share_gateway=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", help_heading = "Log")]
    log: String,
    /// json or text [default: text on a terminal, else json].
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    log_format: Option<String>,
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

/// The variables that are not UTF-8, which nothing can be read from.
pub(super) fn broken_variables(command: &Command) -> Vec<String> {
    let variables = command.get_arguments().map(|arg| variable(arg.get_id().as_str()));
    let is_broken = |name: &String| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    variables.filter(is_broken).map(|name| format!("{name} is not UTF-8")).collect()
}

fn variable(flag: &str) -> String {
    format!("GATEWAY_{}", flag.replace('-', "_").to_ascii_uppercase())
}

impl Reader {
    /// The value of a flag of `serve`, or the fallback, which never runs.
    fn value<T>(
        &mut self,
        name: &str,
        text: &str,
        fallback: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.flag(&format!("{name} ({})", variable(name)), text, read).unwrap_or(fallback)
    }

    fn duration(&mut self, name: &str, text: &str) -> Duration {
        self.value(name, text, Duration::ZERO, units::positive_duration)
    }

    fn count(&mut self, name: &str, text: &str, most: u32) -> u32 {
        self.value(name, text, 0, units::count(most))
    }

    fn yes_or_no(&mut self, name: &str, text: &str) -> bool {
        self.value(name, text, false, units::yes_or_no)
    }
}

/// Whose credential goes upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    PassThrough,
    Keystone,
    AkSk,
}

/// Bounds that catch a slip of the finger.
const MOST: u32 = 1_000_000;
const MOST_WORKERS: u32 = 1024;
const MOST_ATTEMPTS: u32 = 10;

impl Flags {
    /// Reads every flag before the first complaint.
    pub(super) fn read(self) -> Result<Serve, Vec<String>> {
        let mut reader = Reader::default();
        let upstream_at = self.upstream_at(&mut reader);
        let upstream = self.upstream(&mut reader, &upstream_at);
        let max_deadline = reader.duration("max-deadline", &self.max_deadline);
        let gateway = app::Config {
            listen: reader.value("listen", &self.listen, units::NOWHERE, units::address),
            admin_listen: reader.value("admin-listen", &self.admin_listen, units::NOWHERE, units::address),
            server: self.server(&mut reader, max_deadline),
            rpc: rpc::Config {
                max_in_flight: reader.count("max-in-flight", &self.max_in_flight, MOST) as usize,
                deadlines: rpc::DeadlineLimits {
                    default: reader.duration("default-deadline", &self.default_deadline),
                    max: max_deadline,
                },
                reflection: !reader.yes_or_no("no-reflection", &self.no_reflection),
                access: self.access(&mut reader),
                credentials: self.credentials(&mut reader, &upstream.http),
                traces: Traces::default(),
            },
            tls: self.tls(&mut reader),
            upstream,
            upstream_at,
            drain_delay: reader.value("drain-delay", &self.drain_delay, Duration::ZERO, units::duration),
            drain_timeout: reader.value(
                "drain-timeout",
                &self.drain_timeout,
                Duration::ZERO,
                units::duration,
            ),
        };
        let workers = match &self.workers {
            Some(text) => reader.count("workers", text, MOST_WORKERS) as usize,
            // Knows about the quota of a cgroup.
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let telemetry = self.telemetry(&mut reader);
        let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        let traces = traces::Config::read(variable).unwrap_or_else(|problems| {
            reader.problems.extend(problems);
            None
        });
        let problems = reader.problems;
        if problems.is_empty() { Ok(Serve { gateway, telemetry, traces, workers }) } else { Err(problems) }
    }

    fn upstream_at(&self, reader: &mut Reader) -> UpstreamAt {
        let sandbox = reader.yes_or_no("sandbox", &self.sandbox);
        let plaintext = reader.yes_or_no("allow-plaintext-upstream", &self.allow_plaintext_upstream);
        match &self.upstream_url {
            Some(_) if sandbox => {
                reader.problems.push("--sandbox (GATEWAY_SANDBOX) and --upstream-url (GATEWAY_UPSTREAM_URL) exclude each other".into());
                UpstreamAt::Sandbox
            }
            Some(text) => {
                let read = |text: &str| {
                    BaseUrl::parse(text, plaintext).map(UpstreamAt::Url).map_err(|why| {
                        let is_plaintext = BaseUrl::parse(text, true).is_ok();
                        let hint =
                            "; --allow-plaintext-upstream (GATEWAY_ALLOW_PLAINTEXT_UPSTREAM) allows it";
                        if is_plaintext { format!("{why}{hint}") } else { why }
                    })
                };
                reader.value("upstream-url", text, UpstreamAt::Sandbox, read)
            }
            None if sandbox => UpstreamAt::Sandbox,
            None if self.is_keystone() => UpstreamAt::Catalog,
            None => {
                reader.problems.push("--upstream-url (GATEWAY_UPSTREAM_URL) is needed, such as https://vbs.eu-de.otc.t-systems.com; --sandbox tries the gateway without one, and --auth keystone finds it in the catalog".into());
                UpstreamAt::Sandbox
            }
        }
    }

    fn tls(&self, reader: &mut Reader) -> Option<Arc<Tls>> {
        let files = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.tls_client_ca.clone(),
            },
            (None, None) if self.tls_client_ca.is_none() => return None,
            _ => {
                reader.problems.push("--tls-cert (GATEWAY_TLS_CERT) and --tls-key (GATEWAY_TLS_KEY) go together, and --tls-client-ca (GATEWAY_TLS_CLIENT_CA) needs both".into());
                return None;
            }
        };
        let problem = |why| format!("--tls-cert, --tls-key, --tls-client-ca (GATEWAY_TLS_…) {why}");
        Tls::load(files).map(Arc::new).map_err(|why| reader.problems.push(problem(why))).ok()
    }

    fn access(&self, reader: &mut Reader) -> Option<Arc<Access>> {
        let rules: Vec<String> = self.allow.iter().filter(|rule| !rule.is_empty()).cloned().collect();
        if rules.is_empty() && self.allow_file.is_none() {
            return None;
        }
        if self.tls_client_ca.is_none() {
            reader.problems.push("--allow (GATEWAY_ALLOW) and --allow-file (GATEWAY_ALLOW_FILE) need --tls-client-ca (GATEWAY_TLS_CLIENT_CA): without it callers cannot prove who they are".into());
        }
        let problem =
            |why: String| format!("--allow (GATEWAY_ALLOW), --allow-file (GATEWAY_ALLOW_FILE) {why}");
        let refused = |problems: Vec<String>| reader.problems.extend(problems.into_iter().map(problem));
        Access::load(rules, self.allow_file.clone()).map(Arc::new).map_err(refused).ok()
    }

    fn credentials(&self, reader: &mut Reader, http: &HttpConfig) -> Mode {
        let scheme = reader.value("aksk-scheme", &self.aksk_scheme, Scheme::Sdk, |text| match text {
            "sdk" => Ok(Scheme::Sdk),
            "legacy" => Ok(Scheme::Legacy),
            _ => Err("must be sdk or legacy".into()),
        });
        let auth = self.auth(reader);
        if auth == Auth::PassThrough {
            return Mode::PassThrough;
        }
        if self.tls_client_ca.is_none() || (self.allow.is_empty() && self.allow_file.is_none()) {
            reader.problems.push(format!("--auth {} (GATEWAY_AUTH) lends the gateway's own rights to its callers, so they must prove who they are (--tls-cert, --tls-key, --tls-client-ca) and rules must say what each may read (--allow or --allow-file)", self.auth));
        }
        let mode = if auth == Auth::AkSk {
            let variables = self.variables(reader, &AKSK_VARIABLES);
            AkSk::load(variables, scheme).map(|aksk| Mode::AkSk(Arc::new(aksk))).map_err(|why| vec![why])
        } else {
            let config = KeystoneConfig {
                variables: self.variables(reader, &KEYSTONE_VARIABLES),
                allow_plaintext: reader.yes_or_no("allow-plaintext-upstream", &self.allow_plaintext_upstream),
                endpoint_from_catalog: self.upstream_url.is_none(),
                http: http.clone(),
            };
            Keystone::load(config).map(|keystone| Mode::Keystone(Arc::new(keystone)))
        };
        let problem = |why| format!("--auth {} (GATEWAY_AUTH): {why}", self.auth);
        let refused = |problems: Vec<String>| reader.problems.extend(problems.into_iter().map(problem));
        mode.map_err(refused).unwrap_or(Mode::PassThrough)
    }

    fn is_keystone(&self) -> bool {
        self.auth == "keystone"
    }

    fn auth(&self, reader: &mut Reader) -> Auth {
        reader.value("auth", &self.auth, Auth::PassThrough, |text| match text {
            "passthrough" => Ok(Auth::PassThrough),
            "keystone" => Ok(Auth::Keystone),
            "aksk" => Ok(Auth::AkSk),
            _ => Err("must be passthrough, keystone or aksk".into()),
        })
    }

    fn variables(&self, reader: &mut Reader, names: &[&'static str]) -> Variables {
        let mut set = HashMap::new();
        for name in names {
            match std::env::var(name).map(Zeroizing::new) {
                Ok(value) => drop(set.insert(*name, Secret::new(value.as_str()))),
                Err(VarError::NotPresent) => {}
                Err(VarError::NotUnicode(_)) => reader.problems.push(format!("{name} is not UTF-8")),
            }
        }
        Variables { folder: self.secrets_dir.clone(), set }
    }

    fn server(&self, reader: &mut Reader, max_deadline: Duration) -> server::Config {
        server::Config {
            protocol: server::Protocol::Http2,
            max_connections: reader.count("max-connections", &self.max_connections, MOST) as usize,
            max_streams: reader.count("max-streams-per-connection", &self.max_streams_per_connection, MOST),
            max_age: reader.duration("max-connection-age", &self.max_connection_age),
            max_idle: reader.duration("max-connection-idle", &self.max_connection_idle),
            handshake_timeout: reader.duration("handshake-timeout", &self.handshake_timeout),
            keepalive_interval: reader.duration("keepalive-interval", &self.keepalive_interval),
            keepalive_timeout: reader.duration("keepalive-timeout", &self.keepalive_timeout),
            linger: max_deadline,
        }
    }

    fn upstream(&self, reader: &mut Reader, at: &UpstreamAt) -> upstream::Config {
        upstream::Config {
            http: HttpConfig {
                roots: self.roots(reader, at),
                proxy: self.upstream_proxy.as_ref().and_then(|text| {
                    reader.value("upstream-proxy", text, None, |text| Proxy::parse(text).map(Some))
                }),
                connect_timeout: reader.duration("connect-timeout", &self.connect_timeout),
                idle_timeout: reader.duration("upstream-idle-timeout", &self.upstream_idle_timeout),
                connection_lifetime: reader
                    .duration("upstream-connection-lifetime", &self.upstream_connection_lifetime),
                max_response_bytes: reader.value(
                    "max-response-bytes",
                    &self.max_response_bytes,
                    0,
                    units::bytes,
                ),
            },
            attempt_timeout: reader.duration("attempt-timeout", &self.attempt_timeout),
            max_attempts: reader.count("max-attempts", &self.max_attempts, MOST_ATTEMPTS),
        }
    }

    fn roots(&self, reader: &mut Reader, at: &UpstreamAt) -> Roots {
        if let Some(file) = &self.upstream_ca {
            return reader
                .value("upstream-ca", file, Roots::none(), |file| Roots::from_pem_file(Path::new(file)));
        }
        // It is for every service, as OpenStack has it. That it can be read is seen to with the rest of the account.
        let file = self.is_keystone().then(|| self.variables(reader, &[CA_VARIABLE]).value(CA_VARIABLE).ok());
        if let Some(file) = file.flatten().flatten() {
            return Roots::from_pem_file(Path::new(file.expose())).unwrap_or(Roots::none());
        }
        let is_plaintext = match at {
            UpstreamAt::Url(url) => url.is_plaintext(),
            UpstreamAt::Sandbox => true,
            UpstreamAt::Catalog => false,
        };
        if is_plaintext {
            return Roots::none();
        }
        let roots = Roots::system();
        // Where a catalog may say http, it is not needed for certain.
        if roots.is_empty() && self.upstream_url.is_some() {
            reader.problems.push(
                "--upstream-ca (GATEWAY_UPSTREAM_CA) is needed: the system has no root certificates".into(),
            );
        }
        roots
    }

    fn telemetry(&self, reader: &mut Reader) -> telemetry::Config {
        let format = self.log_format.as_deref().map_or_else(LogFormat::for_stdout, |text| {
            reader.value("log-format", text, LogFormat::Json, |text| match text {
                "json" => Ok(LogFormat::Json),
                "text" => Ok(LogFormat::Text),
                _ => Err("must be json or text".into()),
            })
        });
        let quiet = telemetry::Config { filter: String::new(), format };
        let read = |text: &str| {
            telemetry::Config::new(text, format).map_err(|why| format!("is not a filter ({why})"))
        };
        reader.value("log", &self.log, quiet, read)
    }
}
