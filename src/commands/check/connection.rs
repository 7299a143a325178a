//! The steps to a service: name resolution, TCP, TLS. The error of the first that fails says what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error as TlsError};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::super::process::print_line;
use crate::http::{BaseUrl, tls_config};
use crate::pem::Certificate;
use crate::upstream::{HttpConfig, Roots};

/// Connects to `service`. Each step takes at most the connect timeout.
pub(super) async fn check(
    service: &str,
    url: &BaseUrl,
    roots: &Roots,
    http: &HttpConfig,
) -> Result<(), String> {
    if http.proxy.is_some() {
        print_line(&format!(
            "skip  {service}, name, TCP and TLS: the proxy of --upstream-proxy connects to it"
        ));
        return Ok(());
    }
    let limit = http.connect_timeout;
    let (host, port) = url.host_and_port();
    let addresses = resolve(&host, port, limit).await.map_err(|problem| {
        format!("{service}, name: {host} cannot be resolved ({problem}); check the URL and the name server")
    })?;
    let texts: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    print_line(&format!("ok    {service}, name: {host} is {}", texts.join(", ")));

    let (address, stream) = connect(&addresses, limit).await.map_err(|problem| {
        format!("{service}, TCP: {problem}; check port, firewall and network policy, or set --upstream-proxy")
    })?;
    print_line(&format!("ok    {service}, TCP: {address} accepts connections"));

    if url.is_plaintext() {
        print_line(&format!("skip  {service}, TLS: the URL is http: tokens are sent unencrypted"));
        return Ok(());
    }
    let handshake = handshake(&host, roots, stream, limit).await;
    let certificate = handshake.map_err(|problem| format!("{service}, TLS: {problem}"))?;
    print_line(&format!("ok    {service}, TLS: {certificate}"));
    Ok(())
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    match timeout(limit, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            if addresses.is_empty() { Err("it has no address".into()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(no_answer(limit)),
    }
}

async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<(SocketAddr, TcpStream), String> {
    let mut problems = Vec::new();
    for address in addresses {
        match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((*address, stream)),
            Ok(Err(error)) => problems.push(format!("{address}: {error}")),
            Err(_) => problems.push(format!("{address}: {}", no_answer(limit))),
        }
    }
    Err(problems.join(", "))
}

/// Returns what the peer's certificate is. The error says what to do.
async fn handshake(host: &str, roots: &Roots, stream: TcpStream, limit: Duration) -> Result<String, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{error}; check the URL"))?;
    let config = tls_config(roots).map_err(|problem| format!("{problem}; this is a bug of the gateway"))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("{error}; {}", handshake_advice(&error))),
        Err(_) => return Err(format!("{}; {NOT_TLS}", no_answer(limit))),
    };
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let certificate = leaf.and_then(|leaf| Certificate::parse(leaf).ok());
    Ok(certificate.map_or_else(|| "no certificate".to_owned(), |certificate| certificate.to_string()))
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
        _ => "the certificate is invalid: its owner must renew it, or the local clock is wrong",
    }
}
