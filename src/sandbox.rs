//! The embedded upstream: a small HTTP/1.1 server that responds as the Volume Backup Service does, to try the gateway and for
//! tests. It shares no code with the client that calls it. `tests/gateway/statuses.rs` calls it through the gateway.
//!
//! Sources: the vendor's API reference, OpenStack's faults, and the error formats of the vendor's API gateway.
//!
//! | share | response |
//! |---|---|
//! | `8332443e-9866-41d8-8a58-a898cf5db030` | the share of the vendor's document, for either of its two projects |
//! | `ac0fb374-a288-4399-ac63-cc080a13a2ee` | a share with few keys, and no content type, for either of its two projects |
//! | `00000000-0000-4000-8000-000000000NNN` | HTTP status NNN with a body in the upstream's own shape |
//! | any other UUID | 404 |

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The share of the vendor's document.
pub const DOCUMENTED_SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
/// The two projects of the documented share.
pub const DOCUMENTED_PROJECTS: [&str; 2] =
    ["c13f5220dc1949b0b741ea81a7cd5554", "722513ed0a324dadaabe5b2d0fe848c9"];

const SPARSE_SHARE: &str = "ac0fb374-a288-4399-ac63-cc080a13a2ee";
const SPARSE_PROJECTS: [&str; 2] = ["17fbda95add24720a4038ba4b1c705ed", "91d687759aed45d28b5f6084bc2fa8ad"];
const STATUS_SHARE: &str = "00000000-0000-4000-8000-000000000";

const DOCUMENTED_JSON: &str = include_str!("sandbox/documented_share.json");
const SPARSE_JSON: &str = include_str!("sandbox/sparse_share.json");

type HttpResponse = Response<Full<Bytes>>;

/// A bound sandbox.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
}

impl Sandbox {
    /// Binds the address; port 0 takes any free port.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .serve_connection(TokioIo::new(stream), service_fn(handle));
                        connections.spawn(connection);
                    }
                    // Probably out of file descriptors: some connections may end meanwhile.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn handle(request: Request<Incoming>) -> Result<HttpResponse, Infallible> {
    let mut response = respond(&request);
    if let Ok(id) = HeaderValue::try_from(format!("req-{}", random_id())) {
        response.headers_mut().insert("x-openstack-request-id", id);
    }
    Ok(response)
}

fn respond(request: &Request<Incoming>) -> HttpResponse {
    let path: Vec<&str> = request.uri().path().split('/').collect();
    let ["", "v2", project, "os-vendor-backup-sharing", id] = path.as_slice() else { return unknown_route() };
    if project.is_empty() {
        return unknown_route();
    }
    if request.method() != Method::GET {
        return status_response(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.headers().get("x-auth-token").is_none_or(HeaderValue::is_empty) {
        return status_response(StatusCode::UNAUTHORIZED);
    }
    match *id {
        DOCUMENTED_SHARE if DOCUMENTED_PROJECTS.contains(project) => {
            json(StatusCode::OK, DOCUMENTED_JSON.into())
        }
        SPARSE_SHARE if SPARSE_PROJECTS.contains(project) => {
            let mut response = json(StatusCode::OK, SPARSE_JSON.into());
            response.headers_mut().remove(header::CONTENT_TYPE);
            response
        }
        id => match id.strip_prefix(STATUS_SHARE).and_then(final_status) {
            Some(StatusCode::OK) => json(StatusCode::OK, DOCUMENTED_JSON.replace(DOCUMENTED_SHARE, id)),
            Some(status) => status_response(status),
            None => status_response(StatusCode::NOT_FOUND),
        },
    }
}

/// The status in three digits, if it can end an exchange. Interim statuses cannot.
fn final_status(digits: &str) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(digits.as_bytes()).ok()?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS { None } else { Some(status) }
}

/// The API gateway's response to a path that it does not know.
fn unknown_route() -> HttpResponse {
    json(StatusCode::NOT_FOUND, format!(r#"{{"message":"API not found","request_id":"{}"}}"#, random_id()))
}

/// The response with a status: in the Volume Backup Service's own shapes, in the API gateway's, or as a proxy's page.
fn status_response(status: StatusCode) -> HttpResponse {
    let code = status.as_u16();
    let mut response = json(status, body(status));
    let headers = response.headers_mut();
    match code {
        407 | 502 => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        }
        300..=399 => {
            headers.insert(header::LOCATION, HeaderValue::from_static("/v2/moved"));
        }
        429 | 503 => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

fn body(status: StatusCode) -> String {
    const COMPUTE_FAULT: &str =
        "The server has either erred or is incapable of performing the requested operation.";
    const THROTTLED: &str =
        "The throttling threshold has been reached: policy user over ratelimit,limit:100,time:1 minute";
    let code = status.as_u16();
    match code {
        100..=199 | 204 | 205 | 304 => String::new(),
        200..=399 => "{}".into(),
        400 => fault("badRequest", "The request is invalid.", code),
        401 => r#"{"error":{"message":"The token is invalid.","code":401,"title":"Unauthorized"}}"#.into(),
        403 => service_error("The user has no rights.", 42),
        404 => fault("itemNotFound", "The backup share could not be found.", code),
        405 => fault("badMethod", "The method is not allowed.", code),
        407 => html_page(code, "Proxy Authentication Required"),
        409 => fault("conflictingRequest", "The backup is being changed.", code),
        413 => gateway_error("0201", "The request is too large."),
        414 => gateway_error("0201", "The URI is too long."),
        429 => gateway_error("0308", THROTTLED),
        494 => gateway_error("0201", "The headers are too large."),
        500 => fault("computeFault", COMPUTE_FAULT, code),
        501 => fault("notImplemented", "The call is not implemented.", code),
        502 => html_page(code, "Bad Gateway"),
        503 => fault("serviceUnavailable", "The service is unavailable.", code),
        504 => gateway_error("0201", "The backend timed out."),
        _ if status.is_client_error() => service_error("The request was refused.", code),
        _ => fault("computeFault", "The server failed.", code),
    }
}

/// OpenStack's form: one wrapper object.
fn fault(wrapper: &str, message: &str, code: u16) -> String {
    format!(r#"{{"{wrapper}":{{"message":"{message}","code":{code}}}}}"#)
}

/// The error format of VBS, with a `VolumeBackup.` code.
fn service_error(message: &str, code: u16) -> String {
    format!(r#"{{"error":{{"message":"{message}","code":"VolumeBackup.{code:04}"}}}}"#)
}

/// The API gateway's form.
fn gateway_error(number: &str, message: &str) -> String {
    let id = random_id();
    format!(r#"{{"error_msg":"{message}","error_code":"APIGW.{number}","request_id":"{id}"}}"#)
}

/// A proxy's form.
fn html_page(code: u16, title: &str) -> String {
    format!("<html><head><title>{code} {title}</title></head><body><h1>{code} {title}</h1></body></html>\n")
}

fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn json(status: StatusCode, body: String) -> HttpResponse {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
