//! The configuration of the gateway, with the server, the calls and the log. The upstream and the security settings have files
//! of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::available_parallelism;
use std::time::Duration;

use super::flags::ServeFlags;
use super::settings;
use super::upstream::UpstreamLocation;
use super::validator::{Flag, Reported, Validator};
use crate::telemetry::{self, LogFormat, traces};
use crate::upstream;
use crate::{credentials, grpc, server};

/// The configuration of the gateway, composed of those of its modules. Plain data: the content of files is included, with a
/// snapshot that later shows whether they have changed.
#[derive(Debug)]
pub struct Config {
    /// The address of the gRPC port.
    pub listen: SocketAddr,
    /// The address of the admin port.
    pub admin_listen: SocketAddr,
    /// The number of threads that serve calls.
    pub workers: usize,
    /// The connections of the gRPC port.
    pub server: server::Config,
    /// TLS on the gRPC port; `None` is plaintext.
    pub tls: Option<server::Tls>,
    /// The calls.
    pub grpc: grpc::Config,
    /// Which caller may read which project. Without rules, the caller's token alone decides.
    pub authorization: Option<grpc::AuthorizationPolicy>,
    /// The credential for the upstream.
    pub credentials: credentials::Config,
    /// Where the upstream is.
    pub upstream_location: UpstreamLocation,
    /// How the upstream is called.
    pub upstream: upstream::Config,
    /// How long calls are accepted after the first signal, so that clients notice NOT_SERVING.
    pub drain_delay: Duration,
    /// How long calls in flight then have to finish.
    pub drain_timeout: Duration,
    /// How often it is checked whether certificates, rules and credentials have changed.
    pub reload_interval: Duration,
    /// The log.
    pub log: telemetry::Config,
    /// The export of spans, if one is configured.
    pub traces: Option<traces::Config>,
    /// What the log says of this at the start.
    pub summary: Summary,
    /// What is probably a mistake: variables that are ignored, and values that are replaced by their defaults.
    pub warnings: Vec<String>,
    /// The settings that are not the defaults, each with its source and without secrets.
    pub settings: Vec<String>,
}

/// What the log line `listening` says of the configuration.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The value of `--auth`.
    pub auth: &'static str,
    /// The host of the upstream's URL, or where the URL comes from: `catalog`, `sandbox`.
    pub upstream_host: String,
    /// TLS of the gRPC port: `off`, `tls` or `mutual`.
    pub tls: &'static str,
}

impl Config {
    /// What is wrong with certificate files that can be used nevertheless: one line for each expired CA certificate.
    fn file_warnings(&self) -> Vec<String> {
        let mut warnings = self.tls.as_ref().map(server::Tls::warnings).unwrap_or_default();
        warnings.extend_from_slice(self.upstream.http.roots.warnings());
        if let credentials::Config::Keystone(keystone) = &self.credentials {
            warnings.extend_from_slice(keystone.account.roots().warnings());
        }
        warnings.extend_from_slice(self.traces.as_ref().map(traces::Config::warnings).unwrap_or_default());
        // One file may have several uses.
        warnings.sort();
        warnings.dedup();
        warnings
    }
}

/// Files are small, and in the cache of the system.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than any round trip.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

impl ServeFlags {
    /// Checks every flag and reads every file before the first `?`, so that all problems are reported together.
    pub(super) fn read(&self, validator: &mut Validator) -> Result<Config, Reported> {
        // An invalid value allows nothing.
        let allow_plaintext = validator.value(&self.allow_plaintext_upstream).unwrap_or(false);
        let upstream_location = self.upstream_location(validator, allow_plaintext);
        let authorization = self.authorization(validator);
        let credentials = self.credentials(validator, allow_plaintext, &authorization);
        let max_in_flight = validator.value(&self.max_in_flight).map(|limit| limit as usize);
        let upstream = self.upstream(validator, max_in_flight, &upstream_location, &credentials);
        let max_deadline = validator.value(&self.max_deadline);
        let listen = self.address(validator, &self.listen);
        let admin_listen = self.address(validator, &self.admin_listen);
        if listen.is_ok() && listen == admin_listen && listen.is_ok_and(|address| address.port() != 0) {
            validator.report(
                "--listen (GATEWAY_LISTEN) and --admin-listen (GATEWAY_ADMIN_LISTEN) must be different addresses",
            );
        }
        let server = self.server(validator, max_deadline);
        let grpc = self.grpc(validator, max_in_flight, max_deadline, &server, &credentials);
        let tls = self.tls(validator);
        let drain_delay = self.drain_delay(validator);
        let drain_timeout = validator.value(&self.drain_timeout);
        let workers = self.workers(validator);
        let log = self.log(validator);
        let traces = traces::Config::read(otel_variable, &mut validator.warnings);
        let traces = validator.check_all("", traces);

        let (credentials, upstream_location) = (credentials?, upstream_location?);
        validator.settings.extend(settings::of_opentelemetry());
        let mut config = Config {
            summary: self.summary(&credentials, &upstream_location),
            listen: listen?,
            admin_listen: admin_listen?,
            workers: workers?,
            server: server?,
            tls: tls?,
            grpc: grpc?,
            authorization: authorization?,
            credentials,
            upstream_location,
            upstream: upstream?,
            drain_delay: drain_delay?,
            drain_timeout: drain_timeout?,
            reload_interval: RELOAD_INTERVAL,
            log: log?,
            traces: traces?,
            warnings: validator.warnings.clone(),
            settings: validator.settings.clone(),
        };
        config.warnings.extend(config.file_warnings());
        Ok(config)
    }

    fn summary(&self, credentials: &credentials::Config, upstream: &UpstreamLocation) -> Summary {
        let auth = match credentials {
            credentials::Config::PassThrough => "passthrough",
            credentials::Config::Keystone(_) => "keystone",
            credentials::Config::AkSk(..) => "aksk",
        };
        let tls = match (&self.tls_cert, &self.tls_client_ca) {
            (None, _) => "off",
            (Some(_), None) => "tls",
            (Some(_), Some(_)) => "mutual",
        };
        Summary { auth, upstream_host: upstream.host(), tls }
    }

    /// The address of a port. With the embedded upstream, which takes any token, the default is for this machine only.
    fn address(&self, validator: &mut Validator, flag: &Flag<SocketAddr>) -> Result<SocketAddr, Reported> {
        let mut address = validator.value(flag)?;
        if self.is_sandbox() && !flag.is_given {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok(address)
    }

    /// No load balancer sends calls to a gateway on this machine's own addresses: nothing must notice NOT_SERVING first.
    fn drain_delay(&self, validator: &mut Validator) -> Result<Duration, Reported> {
        let is_local = self.is_sandbox() && !self.listen.is_given && !self.admin_listen.is_given;
        if is_local && !self.drain_delay.is_given {
            Ok(Duration::ZERO)
        } else {
            validator.value(&self.drain_delay)
        }
    }

    fn is_sandbox(&self) -> bool {
        self.sandbox.value == Ok(true)
    }

    fn server(
        &self,
        validator: &mut Validator,
        max_deadline: Result<Duration, Reported>,
    ) -> Result<server::Config, Reported> {
        let max_connections = validator.value(&self.max_connections);
        let max_streams = validator.value(&self.max_streams_per_connection);
        let max_age = validator.value(&self.max_connection_age);
        let max_idle = validator.value(&self.max_connection_idle);
        let handshake_timeout = validator.value(&self.handshake_timeout);
        let keepalive_interval = validator.value(&self.keepalive_interval);
        let keepalive_timeout = validator.value(&self.keepalive_timeout);
        Ok(server::Config {
            http1: false,
            max_connections: max_connections? as usize,
            max_streams: max_streams?,
            max_connection_age: max_age?,
            max_connection_idle: max_idle?,
            handshake_timeout: handshake_timeout?,
            keepalive_interval: keepalive_interval?,
            keepalive_timeout: keepalive_timeout?,
            goaway_timeout: GOAWAY_TIMEOUT,
            max_connection_age_grace: max_deadline?,
        })
    }

    fn grpc(
        &self,
        validator: &mut Validator,
        max_in_flight: Result<usize, Reported>,
        max_deadline: Result<Duration, Reported>,
        server: &Result<server::Config, Reported>,
        credentials: &Result<credentials::Config, Reported>,
    ) -> Result<grpc::Config, Reported> {
        let default_deadline = validator.value(&self.default_deadline);
        let no_reflection = validator.value(&self.no_reflection);
        Ok(grpc::Config {
            max_in_flight: max_in_flight?,
            default_deadline: default_deadline?,
            max_deadline: max_deadline?,
            message_timeout: server.as_ref()?.handshake_timeout,
            reflection: !no_reflection?,
            uses_callers_token: matches!(credentials.as_ref()?, credentials::Config::PassThrough),
        })
    }

    fn workers(&self, validator: &mut Validator) -> Result<usize, Reported> {
        match validator.optional(&self.workers)? {
            Some(workers) => Ok(workers as usize),
            // The standard library reads the quota of the cgroup.
            None => Ok(available_parallelism().map_or(1, usize::from)),
        }
    }

    fn log(&self, validator: &mut Validator) -> Result<telemetry::Config, Reported> {
        let filter = validator.value(&self.log);
        let format = validator.optional(&self.log_format);
        let format = format?.unwrap_or_else(LogFormat::for_stdout);
        Ok(telemetry::Config { filter: filter?, format })
    }
}

/// A variable of the OpenTelemetry specification. Bytes that are not UTF-8 become a character that is rejected later.
fn otel_variable(name: &str) -> Option<String> {
    Some(std::env::var_os(name)?.to_string_lossy().into_owned())
}
