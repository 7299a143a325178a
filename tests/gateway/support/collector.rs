//! An OpenTelemetry collector that stores what it receives.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

/// A collector with OTLP over HTTP.
pub struct Collector {
    pub address: SocketAddr,
    pub exports: Arc<Mutex<Vec<(http::HeaderMap, ExportTraceServiceRequest)>>>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let exports = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&exports);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let exports = Arc::clone(&shared);
                let response = service_fn(move |request: Request<Incoming>| {
                    let exports = Arc::clone(&exports);
                    async move {
                        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let spans = ExportTraceServiceRequest::decode(body).unwrap();
                        exports.lock().unwrap().push((head.headers, spans));
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), response));
            }
        });
        Self { address, exports }
    }

    pub fn spans(&self) -> Vec<Span> {
        let exports = self.exports.lock().unwrap();
        let scopes = exports.iter().flat_map(|(_, request)| &request.resource_spans);
        scopes.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).cloned().collect()
    }

    /// Everything received, as text in which to search for secrets.
    pub fn debug_text(&self) -> String {
        format!("{:?}", self.exports.lock().unwrap())
    }
}
