//! The HTTP API of this worker.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use weir_node::overload::State;

use super::Context;
use super::http::Service;

/// Answers one request.
pub(super) async fn answer(cx: &Context, request: &Request<Incoming>, service: Service) -> Response<Full<Bytes>> {
    if request.method() == Method::OPTIONS {
        return text(StatusCode::NO_CONTENT, "");
    }
    let path = request.uri().path();
    let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = match (service, path) {
        (_, "/api/v1/versions") => json_answer(&versions(cx)),
        (Service::Api, "/healthz") => text(StatusCode::OK, "ok\n"),
        (Service::Api, "/metrics") if reads => cx.scrape.answer().await,
        (Service::Api, "/metrics") => text(StatusCode::OK, ""),
        (Service::Api, "/readyz") => readiness(cx),
        _ => return text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    };
    if !reads {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        return response;
    }
    known
}

/// Whether clients can be served: not draining, every origin is reached, and not overloaded.
fn readiness(cx: &Context) -> Response<Full<Bytes>> {
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

/// SRS's shape.
fn versions(cx: &Context) -> Value {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    json!({
        "code": 0,
        "server": &*cx.worker,
        "service": &*cx.worker,
        "pid": std::process::id().to_string(),
        "data": { "major": next(), "minor": next(), "revision": next(), "version": env!("CARGO_PKG_VERSION") },
    })
}

fn json_answer(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
