//! The steps to a service: name resolution, TCP, TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error as TlsError};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::report::{Failure, Report, Stopped};
use crate::http::{BaseUrl, tls_config};
use crate::pem::Certificate;
use crate::upstream::{HttpConfig, Roots};

/// Connects to `service`. Each step takes at most the connect timeout.
pub(super) async fn check(
    report: &Report,
    service: &str,
    url: &BaseUrl,
    roots: &Roots,
    http: &HttpConfig,
) -> Result<(), Stopped> {
    if http.proxy.is_some() {
        let step = format!("{service}, name, TCP and TLS");
        report.skip(&step, "the proxy of --upstream-proxy connects to it");
        return Ok(());
    }
    let limit = http.connect_timeout;
    let (host, port) = url.host_and_port();
    let addresses = report.step(&format!("{service}, name"), resolve(&host, port, limit).await)?;
    let stream = report.step(&format!("{service}, TCP"), connect(&addresses, limit).await)?;
    let tls = format!("{service}, TLS");
    if url.is_plaintext() {
        report.skip(&tls, "the URL is http: tokens are sent unencrypted");
        return Ok(());
    }
    report.step(&tls, handshake(&host, roots, stream, limit).await)
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<(String, Vec<SocketAddr>), Failure> {
    let addresses: Vec<SocketAddr> = match timeout(limit, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(unresolved(host, &error.to_string())),
        Err(_) => return Err(unresolved(host, &no_answer(limit))),
    };
    if addresses.is_empty() {
        return Err(unresolved(host, "it has no address"));
    }
    let texts: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    Ok((format!("{host} is {}", texts.join(", ")), addresses))
}

fn unresolved(host: &str, reason: &str) -> Failure {
    Failure::new(format!("{host} cannot be resolved ({reason})"), "check the URL and the name server")
}

async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<(String, TcpStream), Failure> {
    let mut problems = Vec::new();
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((format!("{address} accepts connections"), stream)),
            Ok(Err(error)) => problems.push(format!("{address}: {error}")),
            Err(_) => problems.push(format!("{address}: {}", no_answer(limit))),
        }
    }
    let advice = "check port, firewall and network policy, or set --upstream-proxy";
    Err(Failure::new(problems.join(", "), advice))
}

async fn handshake(
    host: &str,
    roots: &Roots,
    stream: TcpStream,
    limit: Duration,
) -> Result<(String, ()), Failure> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Failure::new(error, "check the URL"))?;
    let config = tls_config(roots).map_err(Failure::internal)?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::new(&error, handshake_advice(&error))),
        Err(_) => return Err(Failure::new(no_answer(limit), NOT_TLS)),
    };
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.and_then(|leaf| Certificate::parse(leaf).ok());
    let finding = leaf.map_or_else(|| "no certificate".to_owned(), |leaf| leaf.to_string());
    Ok((finding, ()))
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs_f64())
}

const NOT_TLS: &str = "check that the port uses TLS";

fn handshake_advice(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    let Some(TlsError::InvalidCertificate(error)) = cause else { return NOT_TLS };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other errors have no advice of their own")]
    match error {
        // BadSignature: another CA may have the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its CA is not trusted: set --upstream-ca (OS_CACERT for the identity service)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate has another name: check the URL"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired: its owner must renew it, or the local clock is wrong"
        }
        _ => NOT_TLS,
    }
}
