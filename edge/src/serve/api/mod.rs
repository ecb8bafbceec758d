//! The HTTP API: SRS's under `/api/v1`, and what probes and Prometheus ask for.
//!
//! Every worker answers for the whole host: what it does not know itself it asks the supervisor for.

mod access;
pub(crate) mod host;
mod system;
mod v1;

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tracing::debug;
use weir_node::overload::State;
use weir_proto::supervisor::MetricsRequest;

use super::Context;
use super::http::Service;

/// An answer.
type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub(super) async fn answer(cx: &Context, request: &Request<Incoming>, service: Service, peer: SocketAddr) -> Answer {
    if request.method() == Method::OPTIONS {
        return text(StatusCode::NO_CONTENT, "");
    }
    let path = request.uri().path();
    let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
    if path == "/api" || path.starts_with("/api/") {
        return v1::answer(cx, request, path, peer).await;
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = match (service, path) {
        (Service::Api, "/healthz") => text(StatusCode::OK, "ok\n"),
        (Service::Api, "/metrics") if reads => metrics(cx).await,
        (Service::Api, "/metrics") => text(StatusCode::OK, ""),
        (Service::Api, "/readyz") => readiness(cx),
        _ => return text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    };
    if reads { known } else { only("GET, HEAD, OPTIONS") }
}

/// Whether clients can be served: not draining, every origin is reached, and not overloaded.
fn readiness(cx: &Context) -> Answer {
    let no = |why| text(StatusCode::SERVICE_UNAVAILABLE, why);
    if cx.hub.draining() {
        return no("draining\n");
    }
    if !cx.hub.links().iter().all(|link| link.is_up()) {
        return no("an origin is not reached\n");
    }
    let verdict = cx.gate.verdict();
    match verdict.state {
        State::Ok => text(StatusCode::OK, "ready\n"),
        State::Warn => text(StatusCode::OK, format!("ready, near its limits: {verdict}\n")),
        State::Refuse => text(StatusCode::SERVICE_UNAVAILABLE, format!("overloaded: {verdict}\n")),
    }
}

/// The page of the whole host, which the supervisor makes.
async fn metrics(cx: &Context) -> Answer {
    match cx.supervisor.ask(async |mut admin| admin.metrics(MetricsRequest {}).await).await {
        Ok(reply) => {
            let mut response = text(StatusCode::OK, reply.text);
            let format = HeaderValue::from_static(weir_proto::metrics::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        Err(error) => {
            debug!(%error, "no metrics from the supervisor");
            text(StatusCode::SERVICE_UNAVAILABLE, format!("the supervisor gives no metrics: {error}\n"))
        }
    }
}

/// JSON with a status. It may not be kept, as it is true for a moment.
fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The methods that there are.
fn only(methods: &'static str) -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
