//! SRS's own form: an offer in JSON, and an answer in JSON with status 200 whatever comes of it.

use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Failure, Wanted, body, host, is_preflight, not_allowed, open, place, plain};
use crate::serve::Context;
use crate::serve::query::Query;

/// `clientip` is not among the fields: whoever sends it could say anything.
#[derive(Deserialize)]
struct Offer {
    streamurl: String,
    sdp: String,
}

pub(super) async fn answer(cx: &Context, request: Request<Incoming>, client: SocketAddr, publish: bool) -> Answer {
    match *request.method() {
        Method::POST => {}
        ref other if is_preflight(other) => return plain(StatusCode::NO_CONTENT, "text/plain", ""),
        _ => return not_allowed("POST, OPTIONS"),
    }
    let value = match opened(cx, request, client, publish).await {
        Ok(value) => value,
        // What SRS's clients look at, and why for people.
        Err(failure) => json!({ "code": 400, "reason": failure.text, "status": failure.status.as_u16() }),
    };
    plain(StatusCode::OK, "application/json", value.to_string())
}

async fn opened(
    cx: &Context,
    request: Request<Incoming>,
    client: SocketAddr,
    publish: bool,
) -> Result<serde_json::Value, Failure> {
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let query = Query(uri.query().unwrap_or_default());
    let offer: Offer =
        serde_json::from_str(&body(request).await?).map_err(|error| Failure::bad(format!("the request: {error}")))?;
    let (authority, path, stream_query) = parts(&offer.streamurl)?;
    let place = place(cx, authority, path, stream_query)?;
    let host = host(&headers, &uri);
    // As SRS has it: without a port.
    let tc_url = format!("webrtc://{}/{}", url_host(authority), place.name.app);
    let joint = if place.query.is_empty() { "" } else { "&" };
    let param = format!("{}{joint}upstream=rtc", place.query);
    let wanted = Wanted { publish, sdp: offer.sdp, query: &query, host, client, headers: &headers, tc_url, param };
    let reply = open(cx, &place, wanted).await?;
    Ok(json!({
        "code": 0,
        "server": cx.host.server,
        "service": cx.host.service,
        "pid": cx.host.pid.to_string(),
        "sdp": reply.sdp,
        "sessionid": reply.session,
    }))
}

/// The host of an authority.
fn url_host(authority: &str) -> &str {
    let port = authority.rfind(':').filter(|at| !authority.get(*at..).unwrap_or_default().contains(']'));
    port.and_then(|at| authority.get(..at)).unwrap_or(authority)
}

/// Host, path and query of `webrtc://host[:port]/app/stream?query`.
fn parts(url: &str) -> Result<(&str, &str, &str), Failure> {
    let (_, rest) = url.split_once("://").ok_or_else(|| Failure::bad("streamurl is no URL"))?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((authority, path, query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(parts("webrtc://h:1985/live/a?vhost=v&x=1").unwrap(), ("h:1985", "/live/a", "vhost=v&x=1"));
        assert_eq!(parts("webrtc://h/live/a").unwrap(), ("h", "/live/a", ""));
        assert_eq!(parts("webrtc://h?x").unwrap(), ("h", "", "x"));
        assert!(parts("live/a").is_err());
    }
}
