//! The connection of `get` and `health` to a gateway, and what is probably wrong if there is none. `tests/gateway/cli.rs` and
//! `tests/gateway/tls.rs` make it fail.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error as TlsError};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error as TransportError, Identity};
use tonic::{Status, TimeoutExpired};
use tower::util::MapResult;

use super::process::one_line;
use crate::config::Target;
use crate::domain::error_chain;
use crate::http::{Roots, tls_config};

/// How long the peer may take to show that it uses TLS.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

type BoxError = Box<dyn StdError + Send + Sync>;
type CheckResponse = fn(Result<Response<Body>, TransportError>) -> Result<Response<Body>, BoxError>;
/// A channel whose responses are gRPC.
pub(super) type GrpcChannel = MapResult<Channel, CheckResponse>;

/// Connects to a gateway. The error says what to do.
pub(super) async fn connect(target: &Target) -> Result<GrpcChannel, String> {
    let address = &target.address;
    let scheme = if target.tls_ca.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|error| format!("--address: '{address}' cannot be used ({error})"))?;
    if let Some(ca) = &target.tls_ca {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.0));
        if let (Some(certificate), Some(key)) = (&target.tls_cert, &target.tls_key) {
            tls = tls.identity(Identity::from_pem(&certificate.0, &key.0));
        }
        if let Some(name) = &target.tls_server_name {
            tls = tls.domain_name(name);
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| format!("--tls-cert, --tls-key: cannot be used ({})", causes(&error)))?;
    }
    match endpoint.connect().await {
        Ok(channel) => Ok(MapResult::new(channel, check_is_grpc as CheckResponse)),
        Err(error) => Err(connection_error(target, "cannot connect to", &error).await),
    }
}

/// Why a call failed, if the status is not the gateway's: only then does it have a source.
pub(super) async fn describe_failure(target: &Target, status: &Status) -> Option<String> {
    let source = status.source()?;
    if let Some(NotGrpc(http_status)) = find(source) {
        return Some(format!(
            "--address: {} answered with HTTP status {http_status}, and not with gRPC: give the gRPC port of the gateway, not its admin port",
            target.address
        ));
    }
    if find::<TimeoutExpired>(source).is_some() {
        return Some(deadline_exceeded(target));
    }
    Some(connection_error(target, "no answer from", source).await)
}

pub(super) fn deadline_exceeded(target: &Target) -> String {
    let Target { address, deadline, .. } = target;
    format!("DEADLINE_EXCEEDED\n  message: {address} did not answer within {deadline:?} (--deadline)")
}

/// The response is not one of a gRPC server.
#[derive(Debug)]
struct NotGrpc(StatusCode);

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {} without gRPC", self.0)
    }
}

impl StdError for NotGrpc {}

fn check_is_grpc(result: Result<Response<Body>, TransportError>) -> Result<Response<Body>, BoxError> {
    let mut response = result?;
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // `application/grpc-web` is another protocol.
    if content_type.strip_prefix(b"application/grpc").is_none_or(|rest| rest.starts_with(b"-")) {
        return Err(NotGrpc(response.status()).into());
    }
    remove_malformed_details(response.headers_mut());
    Ok(response.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            frame.trailers_mut().map(remove_malformed_details);
            frame
        }))
    }))
}

/// tonic panics if the details of a status are not base64.
fn remove_malformed_details(headers: &mut HeaderMap) {
    const DETAILS: &str = "grpc-status-details-bin";
    let metadata = MetadataMap::from_headers(headers.clone());
    if metadata.get_bin(DETAILS).is_some_and(|details| details.to_bytes().is_err()) {
        headers.remove(DETAILS);
    }
}

async fn connection_error(target: &Target, what: &str, error: &(dyn StdError + 'static)) -> String {
    let advice = match find::<TlsError>(error) {
        Some(error) => tls_advice(error),
        None if find::<io::Error>(error)
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) =>
        {
            "nothing listens there: check --address"
        }
        None if causes(error).starts_with("dns error") => "check the name in --address",
        // The handshake ended well for the client, and then the gateway refused it.
        None if target.tls_ca.is_some() && find::<hyper::Error>(error).is_some() => CLIENT_CERTIFICATE,
        // TLS without ALPN.
        None if causes(error).starts_with("HTTP/2 was not negotiated") => NOT_GRPC,
        None if target.tls_ca.is_some() => NOT_TLS,
        None if uses_tls(&target.address).await => "it uses TLS: name its CA with --tls-ca",
        None => NOT_GRPC,
    };
    one_line(&format!("--address: {what} {}: {}; {advice}", target.address, causes(error)))
}

const CLIENT_CERTIFICATE: &str =
    "it requires a client certificate that it knows: check --tls-cert and --tls-key";
const NOT_TLS: &str = "check that it uses TLS; if it does not, leave out --tls-ca";
const NOT_GRPC: &str = "check that --address is the gRPC port of a gateway";

fn tls_advice(error: &TlsError) -> &'static str {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other errors have no advice of their own")]
    match error {
        TlsError::InvalidCertificate(error) => match error {
            // BadSignature: another CA may have the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not from the CA of --tls-ca"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate has another name: give that with --tls-server-name"
            }
            _ => {
                "its certificate is invalid: the gateway's operator must renew it, or the local clock is wrong"
            }
        },
        TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => NOT_GRPC,
        TlsError::AlertReceived(AlertDescription::UnrecognisedName) => "check --tls-server-name",
        TlsError::AlertReceived(_) => CLIENT_CERTIFICATE,
        _ => NOT_TLS,
    }
}

/// Whether the peer answers a TLS handshake, with any certificate.
async fn uses_tls(address: &str) -> bool {
    let (Ok(config), Ok(name)) = (tls_config(&Roots::none()), ServerName::try_from("localhost")) else {
        return false;
    };
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    match timeout(PROBE_TIMEOUT, handshake).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            matches!(find(&error), Some(TlsError::InvalidCertificate(_) | TlsError::AlertReceived(_)))
        }
        Err(_) => false,
    }
}

/// The first error of this type in the chain. An `io::Error` is not the source of the one that it wraps.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    error_chain(error).find_map(|error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.downcast_ref().or_else(|| wrapped.and_then(|error| error.downcast_ref()))
    })
}

/// The causes of a transport error, which by itself says nothing.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = error_chain(error).map(ToString::to_string).collect();
    texts.retain(|text| text != "transport error");
    texts.dedup();
    texts.join(": ")
}
