//! The HTTP API: SRS's under `/api/v1`, weir's own under `/api/v2`, and what probes and Prometheus ask for.
//!
//! Every worker answers for the whole host: what it does not know itself it asks the supervisor for.

mod access;
pub(crate) mod events;
pub(crate) mod host;
mod openapi;
mod system;
mod v1;
mod v2;

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tracing::debug;
use weir_node::overload::State;
use weir_proto::supervisor::MetricsRequest;

use super::Context;
use super::http::Service;
use super::query::Query;
use access::Denied;

/// An answer.
type Answer = Response<Full<Bytes>>;

/// Where events are told.
pub(super) const EVENTS: &str = "/api/v2/events";

/// Answers one request.
pub(super) async fn answer(
    cx: &Context,
    request: &Request<Incoming>,
    service: Service,
    peer: SocketAddr,
) -> Response<events::Body> {
    let now = |answer: Answer| answer.map(Either::Left);
    let method = request.method();
    if method == Method::OPTIONS {
        return now(text(StatusCode::NO_CONTENT, ""));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let path = request.uri().path();
    let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
    if path == "/api" || path.starts_with("/api/") {
        let changes = !reads || v1::changes(path, request.uri().query());
        // What runs here is no secret.
        if path != "/api/v1/versions"
            && let Err(denied) = access::check(&cx.hub.config().edge.api, request.headers(), peer, changes)
        {
            return now(refuse(denied));
        }
        return match path.strip_prefix("/api/v2") {
            Some("/events") if reads => events::answer(cx),
            Some(below) if below.is_empty() || below.starts_with('/') => now(own(cx, request, below).await),
            _ => now(v1::answer(cx, request, path).await),
        };
    }
    let known = match (service, path) {
        // As the gateway of SRS's demos says which version it is.
        (_, "/httpx/v1/versions") => v1::answer(cx, request, "/api/v1/versions").await,
        (Service::Api, "/healthz") => text(StatusCode::OK, "ok\n"),
        (Service::Api, "/metrics") if reads => metrics(cx).await,
        (Service::Api, "/metrics") => text(StatusCode::OK, ""),
        (Service::Api, "/readyz") => readiness(cx),
        _ => return now(text(StatusCode::NOT_FOUND, "there is nothing here\n")),
    };
    now(if reads { known } else { only("GET, HEAD, OPTIONS") })
}

/// Answers a request of `/api/v2`, for what is below that.
async fn own(cx: &Context, request: &Request<Incoming>, path: &str) -> Answer {
    let query = Query(request.uri().query().unwrap_or_default());
    let done = match (request.method(), path.strip_prefix("/clients/")) {
        (&Method::DELETE, Some(id)) => v2::kick(cx, id).await,
        (_, Some(_)) => return only("DELETE, OPTIONS"),
        (&Method::GET | &Method::HEAD, None) => v2::read(cx, path, query).await,
        _ => return only("GET, HEAD, OPTIONS"),
    };
    match done {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(failed) => json_answer(failed.status, &serde_json::to_value(&failed).unwrap_or_default()),
    }
}

/// The answer to one who may not ask.
fn refuse(denied: Denied) -> Answer {
    let unknown = denied == Denied::Unknown;
    let status = if unknown { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    let mut answer = json_answer(status, &json!({ "code": v1::code::DENIED, "error": denied.text() }));
    if unknown {
        let basic = HeaderValue::from_static("Basic realm=\"weir\", charset=\"UTF-8\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    answer
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
