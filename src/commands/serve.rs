//! The `serve` command: runs the gateway until a signal stops it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::process::{Signals, hangup, print_error, runtime};
use crate::app::{self, Control};
use crate::config::{Config, UpstreamLocation};
use crate::sandbox::{DOCUMENTED_PROJECTS, DOCUMENTED_SHARE};
use crate::telemetry::traces::Exporter;

/// The time limit for tasks that a forced shutdown has cancelled.
const EXIT_TIMEOUT: Duration = Duration::from_millis(200);
/// The time limit for the export of the last spans after an orderly shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(config: Config) -> Result<(), String> {
    let limit = raise_descriptor_limit();
    let runtime = runtime()?;
    // The log is dropped last, because calls that a forced shutdown cancels are still logged.
    let (_log, exporter) = config.log.install(|| config.traces.as_ref().map(Exporter::start).transpose())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = limit {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
    }
    let ended = runtime.block_on(serve(config));
    // Dropping the runtime would wait for name lookups, which block a thread.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    if let Some(exporter) = exporter {
        exporter.shutdown(if ended.is_ok() { FLUSH_TIMEOUT } else { EXIT_TIMEOUT });
    }
    ended
}

async fn serve(config: Config) -> Result<(), String> {
    let has_sandbox = matches!(config.upstream_location, UpstreamLocation::Sandbox);
    let ports = [
        ("--listen (GATEWAY_LISTEN)", config.listen),
        ("--admin-listen (GATEWAY_ADMIN_LISTEN)", config.admin_listen),
    ];
    let server_name = config.tls.as_ref().map(|tls| tls.certificate().dns_names);
    let tls = config.summary.tls;
    let mut signals = Signals::handle()?;
    let mut hangup = hangup()?;
    let app = app::build(config).await.map_err(|error| error.to_string())?;
    let app = app.bind().map_err(|error| bind_error(&error, &ports))?;
    if has_sandbox {
        let server_name = server_name.and_then(|names| names.into_iter().next());
        print_error(&quickstart_hint(app.grpc_address(), tls, server_name.as_deref()));
    }
    let control = Control::default();
    // The first signal drains the gateway, the second one ends the process immediately.
    let forward_signals = async {
        signals.next().await;
        control.drain.cancel();
        signals.next().await;
        control.now.cancel();
        std::future::pending::<Infallible>().await
    };
    let forward_hangup = async {
        loop {
            hangup.recv().await;
            tracing::info!("SIGHUP: the files are read again if they have changed");
            control.reload.notify_one();
        }
    };
    tokio::select! {
        ended = app.run(control.clone()) => ended.map_err(|error| error.to_string()),
        never = forward_signals => match never {},
        never = forward_hangup => match never {},
    }
}

/// The error of a port starts with its flag.
fn bind_error(error: &app::Error, ports: &[(&str, SocketAddr)]) -> String {
    let app::Error::Bind { address: at_fault, .. } = error else { return error.to_string() };
    let flag = ports.iter().find(|(_, address)| address == at_fault);
    flag.map_or_else(|| error.to_string(), |(flag, _)| format!("{flag}: {error}"))
}

/// Example commands that work against the embedded upstream.
fn quickstart_hint(mut address: SocketAddr, tls: &str, server_name: Option<&str>) -> String {
    let [project, _] = DOCUMENTED_PROJECTS;
    let program = std::env::args_os().next().unwrap_or_else(|| env!("CARGO_PKG_NAME").into());
    let program = program.to_string_lossy();
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    let (mut get, mut grpcurl, mut files) = (String::new(), "-plaintext".to_owned(), String::new());
    if tls != "off" {
        get += " --tls-ca ca.pem";
        grpcurl = "-cacert ca.pem".to_owned();
        files += "\nca.pem is the CA of --tls-cert.";
        if let Some(name) = server_name {
            get += &format!(" --tls-server-name {name}");
            grpcurl += &format!(" -authority {name}");
        }
    }
    if tls == "mutual" {
        get += " --tls-cert client.pem --tls-key client.key";
        grpcurl += " -cert client.pem -key client.key";
        files += " client.pem and client.key are a certificate of --tls-client-ca and its key.";
    }
    format!(
        "\nThe gateway uses its embedded upstream, which accepts any token. Try:

  OS_TOKEN=any {program} get --address {address}{get} --project-id {project} {DOCUMENTED_SHARE}

  grpcurl {grpcurl} -H 'x-auth-token: any' \\
    -d '{{\"project_id\": \"{project}\", \"id\": \"{DOCUMENTED_SHARE}\"}}' \\
    {address} vbs.v2.BackupShareService/GetBackupShare
{files}"
    )
}

/// Each connection takes a file descriptor, and the soft limit of many systems is 1024.
fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
