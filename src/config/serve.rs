//! What `serve` runs on: the flags parsed, with the server, the calls and the log. The upstream and what keeps strangers out
//! have files of their own.

use std::net::SocketAddr;
use std::thread::available_parallelism;
use std::time::Duration;

use super::flags::ServeFlags;
use super::security::Auth;
use super::units;
use super::upstream::UpstreamLocation;
use super::validator::{Reported, Validator};
use crate::telemetry::{self, LogFormat, traces};
use crate::upstream;
use crate::{credentials, grpc, server};

/// Everything that `serve` runs on, composed of the configuration of each module. Plain data: what was read from files is in
/// it, together with how the files were then.
#[derive(Debug)]
pub struct Config {
    /// The gRPC port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin_listen: SocketAddr,
    /// Threads that serve calls.
    pub workers: usize,
    /// The gRPC port's connections.
    pub server: server::Config,
    /// TLS on the gRPC port; without it, connections are not encrypted.
    pub tls: Option<server::TlsConfig>,
    /// The calls.
    pub grpc: grpc::Config,
    /// Who may read what; without rules, any caller may name any project, and its token decides.
    pub authorization: Option<grpc::AuthorizationPolicy>,
    /// Where the credentials for the upstream come from.
    pub credentials: credentials::Config,
    /// Where the upstream is.
    pub upstream_location: UpstreamLocation,
    /// How it is called.
    pub upstream: upstream::Config,
    /// How long calls are taken after the first signal to stop, so that callers have time to hear of it.
    pub drain_delay: Duration,
    /// How long calls in flight may take after that.
    pub drain_timeout: Duration,
    /// The log.
    pub log: telemetry::Config,
    /// Where spans go, if anywhere.
    pub traces: Option<traces::Config>,
}

/// Bounds that catch a slip of the finger.
const MAX_COUNT: u32 = 1_000_000;
const MAX_WORKERS: u32 = 1024;

impl ServeFlags {
    /// Parses every flag and reads every file before it gives up, so that all problems are reported together: values are
    /// parsed first, and `?` comes where they are put together.
    pub(super) fn read(&self, validator: &mut Validator) -> Result<Config, Reported> {
        let plaintext = validator.bool("allow-plaintext-upstream", &self.allow_plaintext_upstream);
        let upstream_location = self.upstream_location(validator, plaintext);
        let auth = self.auth(validator, plaintext);
        let upstream = self.upstream(validator, &upstream_location, &auth);
        let max_deadline = validator.duration("max-deadline", &self.max_deadline);
        let listen = validator.value("listen", &self.listen, units::address);
        let admin_listen = validator.value("admin-listen", &self.admin_listen, units::address);
        let server = self.server(validator, max_deadline);
        let grpc = self.grpc(validator, max_deadline, &auth);
        let authorization = self.authorization(validator);
        let tls = self.tls(validator);
        let drain_delay = validator.value("drain-delay", &self.drain_delay, units::duration);
        let drain_timeout = validator.value("drain-timeout", &self.drain_timeout, units::duration);
        let workers = self.workers(validator);
        let log = self.log(validator);
        let traces = validator.check_all("", traces::Config::read(otel_variable));

        let upstream = upstream?;
        Ok(Config {
            listen: listen?,
            admin_listen: admin_listen?,
            workers: workers?,
            server: server?,
            tls: tls?,
            grpc: grpc?,
            authorization: authorization?,
            credentials: self.credentials(auth?, &upstream.http),
            upstream_location: upstream_location?,
            upstream,
            drain_delay: drain_delay?,
            drain_timeout: drain_timeout?,
            log: log?,
            traces: traces?,
        })
    }

    fn server(
        &self,
        validator: &mut Validator,
        max_deadline: Result<Duration, Reported>,
    ) -> Result<server::Config, Reported> {
        let max_connections = validator.count("max-connections", &self.max_connections, MAX_COUNT);
        let max_streams =
            validator.count("max-streams-per-connection", &self.max_streams_per_connection, MAX_COUNT);
        let max_age = validator.duration("max-connection-age", &self.max_connection_age);
        let max_idle = validator.duration("max-connection-idle", &self.max_connection_idle);
        let handshake_timeout = validator.duration("handshake-timeout", &self.handshake_timeout);
        let keepalive_interval = validator.duration("keepalive-interval", &self.keepalive_interval);
        let keepalive_timeout = validator.duration("keepalive-timeout", &self.keepalive_timeout);
        Ok(server::Config {
            protocol: server::Protocol::Http2,
            max_connections: max_connections? as usize,
            max_streams: max_streams?,
            max_age: max_age?,
            max_idle: max_idle?,
            handshake_timeout: handshake_timeout?,
            keepalive_interval: keepalive_interval?,
            keepalive_timeout: keepalive_timeout?,
            linger: max_deadline?,
        })
    }

    fn grpc(
        &self,
        validator: &mut Validator,
        max_deadline: Result<Duration, Reported>,
        auth: &Result<Auth, Reported>,
    ) -> Result<grpc::Config, Reported> {
        let max_in_flight = validator.count("max-in-flight", &self.max_in_flight, MAX_COUNT);
        let default_deadline = validator.duration("default-deadline", &self.default_deadline);
        let no_reflection = validator.bool("no-reflection", &self.no_reflection);
        Ok(grpc::Config {
            max_in_flight: max_in_flight? as usize,
            deadlines: grpc::DeadlineLimits { default: default_deadline?, max: max_deadline? },
            reflection: !no_reflection?,
            uses_callers_token: matches!(auth.as_ref()?, Auth::PassThrough),
        })
    }

    fn workers(&self, validator: &mut Validator) -> Result<usize, Reported> {
        match &self.workers {
            Some(text) => Ok(validator.count("workers", text, MAX_WORKERS)? as usize),
            // It knows the quota of a cgroup.
            None => Ok(available_parallelism().map_or(1, usize::from)),
        }
    }

    fn log(&self, validator: &mut Validator) -> Result<telemetry::Config, Reported> {
        let format = match &self.log_format {
            Some(text) => validator.value("log-format", text, |text| match text {
                "json" => Ok(LogFormat::Json),
                "text" => Ok(LogFormat::Text),
                _ => Err("must be json or text".into()),
            }),
            None => Ok(LogFormat::for_stdout()),
        };
        let filter = validator.value("log", &self.log, |text| {
            telemetry::Config::check_filter(text).map_err(|why| format!("is not a filter ({why})"))
        });
        filter?;
        Ok(telemetry::Config { filter: self.log.clone(), format: format? })
    }
}

/// A variable that the OpenTelemetry specification defines. One that is not UTF-8 holds a character that is refused.
fn otel_variable(name: &str) -> Option<String> {
    Some(std::env::var_os(name)?.to_string_lossy().into_owned())
}
