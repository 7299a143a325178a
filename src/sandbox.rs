//! The embedded upstream: a small HTTP/1.1 server that answers as the Volume Backup Service does, for trying the
//! gateway and for tests. It shares no code with the client that asks it.
//!
//! | share | answer |
//! |---|---|
//! | `8332443e-9866-41d8-8a58-a898cf5db030` | the share of the vendor's document, for either of its two projects |
//! | `ac0fb374-a288-4399-ac63-cc080a13a2ee` | a share with few keys, and no content type, for either of its two projects |
//! | `00000000-0000-4000-8000-000000000NNN` | HTTP status NNN with a body in the upstream's own shape |
//! | any other UUID | 404 |

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

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

type Reply = Response<Full<Bytes>>;

/// A bound sandbox.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
}

impl Sandbox {
    /// Binds the address; port 0 takes any.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// The address with the port that was taken.
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
                            .serve_connection(TokioIo::new(stream), service_fn(respond));
                        connections.spawn(connection);
                    }
                    // Out of descriptors, most likely: let some connections end first.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Reply, Infallible> {
    let mut reply = answer(&request);
    if let Ok(id) = HeaderValue::from_str(&format!("req-{:032x}", fastrand::u128(..))) {
        reply.headers_mut().insert("x-openstack-request-id", id);
    }
    Ok(reply)
}

fn answer(request: &Request<Incoming>) -> Reply {
    let path: Vec<&str> = request.uri().path().split('/').collect();
    let ["", "v2", project, "os-vendor-backup-sharing", id] = path.as_slice() else { return no_such_route() };
    if project.is_empty() {
        return no_such_route();
    }
    if request.method() != Method::GET {
        return of_status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.headers().get("x-auth-token").is_none_or(HeaderValue::is_empty) {
        return of_status(StatusCode::UNAUTHORIZED);
    }
    match *id {
        DOCUMENTED_SHARE if DOCUMENTED_PROJECTS.contains(project) => {
            json(StatusCode::OK, DOCUMENTED_JSON.into())
        }
        SPARSE_SHARE if SPARSE_PROJECTS.contains(project) => {
            let mut reply = json(StatusCode::OK, SPARSE_JSON.into());
            reply.headers_mut().remove(header::CONTENT_TYPE);
            reply
        }
        id => match id.strip_prefix(STATUS_SHARE).and_then(status) {
            Some(StatusCode::OK) => json(StatusCode::OK, DOCUMENTED_JSON.replace(DOCUMENTED_SHARE, id)),
            Some(status) => of_status(status),
            None => of_status(StatusCode::NOT_FOUND),
        },
    }
}

/// A status that can end an exchange: the interim ones cannot.
fn status(digits: &str) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(digits.as_bytes()).ok()?;
    (!status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS).then_some(status)
}

/// The API gateway's words for a path that it does not know.
fn no_such_route() -> Reply {
    let body = format!(r#"{{"message":"API not found","request_id":"{:032x}"}}"#, fastrand::u128(..));
    json(StatusCode::NOT_FOUND, body)
}

/// The body that goes with a status: the Volume Backup Service's own shapes, the API gateway's, or a proxy's page.
fn of_status(status: StatusCode) -> Reply {
    let code = status.as_u16();
    let wrapped =
        |key: &str, message: &str| format!(r#"{{"{key}":{{"message":"{message}","code":{code}}}}}"#);
    let gateway = |number: &str, message: &str| {
        let id = fastrand::u128(..);
        format!(r#"{{"error_msg":"{message}","error_code":"APIGW.{number}","request_id":"{id:032x}"}}"#)
    };
    let body = match code {
        100..=199 | 204 | 205 | 304 => String::new(),
        200..=399 => "{}".into(),
        400 => wrapped("badRequest", "The request is invalid."),
        401 => r#"{"error":{"message":"The token is invalid.","code":401,"title":"Unauthorized"}}"#.into(),
        403 => r#"{"error":{"message":"The user has no rights.","code":"VolumeBackup.0042"}}"#.into(),
        404 => wrapped("itemNotFound", "The backup share could not be found."),
        405 => wrapped("badMethod", "The method is not allowed."),
        407 => page(code, "Proxy Authentication Required"),
        409 => wrapped("conflictingRequest", "The backup is being changed."),
        413 => r#"{"overLimitFault":{"code":413,"message":"The request is too large.","details":""}}"#.into(),
        414 => gateway("0201", "The URI is too long."),
        429 => gateway(
            "0308",
            "The throttling threshold has been reached: policy user over ratelimit,limit:100,time:1 minute",
        ),
        494 => gateway("0201", "The headers are too large."),
        500 => wrapped(
            "computeFault",
            "The server has either erred or is incapable of performing the requested operation.",
        ),
        501 => wrapped("notImplemented", "The call is not implemented."),
        502 => page(code, "Bad Gateway"),
        503 => wrapped("serviceUnavailable", "The service is unavailable."),
        504 => gateway("0201", "The backend timed out."),
        _ if status.is_client_error() => {
            format!(r#"{{"error":{{"message":"The request was refused.","code":"VolumeBackup.{code:04}"}}}}"#)
        }
        _ => wrapped("computeFault", "The server failed."),
    };
    let mut reply = json(status, body);
    let headers = reply.headers_mut();
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
    reply
}

fn page(code: u16, title: &str) -> String {
    format!("<html><head><title>{code} {title}</title></head><body><h1>{code} {title}</h1></body></html>\n")
}

fn json(status: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
