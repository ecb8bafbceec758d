//! Signaling: `/sig/v1/rtc` speaks WebSocket (RFC 6455), `/sig/v1/versions` says which signaling it is. The rooms
//! themselves are at the origins; see [`rooms`].

mod addresses;
mod outbox;
mod rooms;
mod socket;
mod stats;

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Context;
use crate::stats::Refused;
pub(super) use addresses::{Addresses, Place};
pub(super) use rooms::Rooms;
pub(super) use socket::serve;
pub(crate) use stats::Signaled;

type Answer = Response<Full<Bytes>>;

/// What SRS's signaling server says of itself.
const VERSION: &str = "1.0";

/// The version of WebSocket that there is (RFC 6455, 4.2.1), and the length of a key: 16 bytes in base64.
const WEBSOCKET: &[u8] = b"13";
const KEY: usize = 24;

/// Whether a path is answered here.
pub(super) fn is_ours(path: &str) -> bool {
    path.starts_with("/sig/v1/")
}

/// Answers one request of `ip`. With a connection it goes on by [`serve`] after the answer.
pub(super) fn answer(cx: &Context, request: Request<Incoming>, ip: IpAddr) -> (Answer, Option<(OnUpgrade, Place)>) {
    let config = cx.hub.config();
    let path = request.uri().path();
    let refused = match path.strip_suffix('/').unwrap_or(path) {
        "/sig/v1/versions" | "/sig/v1/rtc" if !config.edge.signal.enabled => StatusCode::NOT_FOUND,
        "/sig/v1/versions" => match *request.method() {
            Method::GET | Method::HEAD => return (text(StatusCode::OK, VERSION), None),
            _ => return (only_get(), None),
        },
        "/sig/v1/rtc" => match accept_key(&request) {
            Ok(_) if !config.edge.signal.cross_origin && !same_site(request.headers()) => StatusCode::FORBIDDEN,
            Ok(_) if cx.hub.draining() => StatusCode::SERVICE_UNAVAILABLE,
            Ok(key) => match cx.signalers.take(ip, config.edge.signal.connections_per_ip) {
                Some(place) => return (switching(&key), Some((hyper::upgrade::on(request), place))),
                None => {
                    cx.hub.stats().refuse(Refused::Limit);
                    StatusCode::TOO_MANY_REQUESTS
                }
            },
            Err(refusal) => return (*refusal, None),
        },
        _ => StatusCode::NOT_FOUND,
    };
    let why = match refused {
        StatusCode::FORBIDDEN => "pages of other sites may not connect here\n",
        StatusCode::SERVICE_UNAVAILABLE => "this server goes\n",
        StatusCode::TOO_MANY_REQUESTS => "too many connections of your address\n",
        _ => "there is nothing here\n",
    };
    (text(refused, why), None)
}

fn switching(key: &HeaderValue) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, key.clone());
    response
}

/// What proves to the client that its request was understood (RFC 6455, 4.2.2); or the answer to one that is none.
fn accept_key<T>(request: &Request<T>) -> Result<HeaderValue, Box<Answer>> {
    let fields = request.headers();
    if request.method() != Method::GET {
        return Err(Box::new(only_get()));
    }
    let wants = lists(fields, &UPGRADE, "websocket") && lists(fields, &CONNECTION, "upgrade");
    let version = fields.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    if !wants || version != Some(WEBSOCKET) || request.version() != Version::HTTP_11 {
        let mut response = text(StatusCode::UPGRADE_REQUIRED, "this speaks WebSocket, version 13\n");
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(response));
    }
    let key = fields.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY);
    let accept = key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    accept.ok_or_else(|| Box::new(text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or malformed\n")))
}

/// Whether a field's list has a word.
fn lists(fields: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = fields.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// Whether a request comes of a page of the host that it goes to, on whichever port, or of no page at all.
fn same_site(fields: &HeaderMap) -> bool {
    let Some(origin) = fields.get(ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = fields.get(HOST).and_then(|host| host.to_str().ok());
    match (origin, host) {
        (Some((_, origin)), Some(host)) => name_of(origin).eq_ignore_ascii_case(name_of(host)),
        _ => false,
    }
}

/// `host:port` without its port.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    }
}

fn only_get() -> Answer {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut HeaderMap)) -> Result<HeaderValue, Box<Answer>> {
        let mut request = Request::builder().uri("/sig/v1/rtc").body(()).unwrap();
        let fields = request.headers_mut();
        fields.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        fields.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        fields.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        fields.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        change(fields);
        accept_key(&request)
    }

    #[test]
    fn requests_to_speak_websocket() {
        // The example of RFC 6455, 1.3.
        assert_eq!(asked(|_| {}).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let status = |change: fn(&mut HeaderMap)| asked(change).unwrap_err().status();
        assert_eq!(status(|f| drop(f.remove(UPGRADE))), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(status(|f| drop(f.remove(CONNECTION))), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(
            status(|f| drop(f.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8")))),
            StatusCode::UPGRADE_REQUIRED
        );
        assert_eq!(
            status(|f| drop(f.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("short")))),
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn pages_of_the_same_host_are_told_from_others() {
        let from = |origin: &str, host: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(HOST, HeaderValue::from_str(host).unwrap());
            if !origin.is_empty() {
                fields.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            same_site(&fields)
        };
        assert!(from("", "a:1989") && from("http://a:8080", "A:1989") && from("https://[::1]", "[::1]:1989"));
        assert!(
            !from("http://b", "a") && !from("null", "a") && !from("http://a.b", "a") && !from("http://b:1", "b.c:1")
        );
    }
}
