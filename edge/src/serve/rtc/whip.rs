//! WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep).

use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, LINK, LOCATION};
use hyper::{HeaderMap, Method, Request, StatusCode};

use super::{Answer, Failure, Place, Wanted, body, close, host, is_preflight, not_allowed, open, place, plain};
use crate::serve::Context;
use crate::serve::query::{Query, encode};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const METHODS: &str = "POST, PATCH, DELETE, OPTIONS";

/// What a POST may carry (RFC 9725 4.2; the field is of W3C's LDP).
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// What SRS means where nothing is said.
const APP: &str = "live";
const STREAM: &str = "livestream";

pub(super) async fn answer(cx: &Context, request: Request<Incoming>, client: SocketAddr, whip: bool) -> Answer {
    let method = request.method().clone();
    let answered = match method {
        Method::POST => opened(cx, request, client, whip).await,
        Method::DELETE => closed(cx, &request).await,
        Method::PATCH => patched(cx, request).await,
        ref other if is_preflight(other) => {
            let mut response = plain(StatusCode::NO_CONTENT, "text/plain", "");
            response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(SDP));
            return response;
        }
        _ => return not_allowed(METHODS),
    };
    answered.unwrap_or_else(|failure| {
        let mut response = failure.answer();
        if failure.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            let (name, kind) = if method == Method::PATCH { (ACCEPT_PATCH, FRAGMENT) } else { (ACCEPT_POST, SDP) };
            response.headers_mut().insert(name, HeaderValue::from_static(kind));
        }
        response
    })
}

/// Refuses a body of another kind than the wanted one.
fn check_type(headers: &HeaderMap, wanted: &str) -> Result<(), Failure> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body is to be {wanted}"))),
    }
}

/// The stream that the parameters name.
fn named(cx: &Context, host: &str, query: Query<'_>) -> Result<Place, Failure> {
    let (app, stream) = (query.raw("app").unwrap_or(APP), query.raw("stream").unwrap_or(STREAM));
    place(cx, host, &format!("/{app}/{stream}"), query.0)
}

async fn opened(cx: &Context, request: Request<Incoming>, client: SocketAddr, whip: bool) -> Result<Answer, Failure> {
    check_type(request.headers(), SDP)?;
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let query = Query(uri.query().unwrap_or_default());
    let host = host(&headers, &uri);
    let publish = whip && query.raw("action") != Some("play");
    let place = named(cx, host, query)?;
    let sdp = body(request).await?;
    // As SRS has it: no tcUrl, and all of the query.
    let (tc_url, param) = (String::new(), query.0.to_owned());
    let wanted = Wanted { publish, sdp, query: &query, host, client, headers: &headers, tc_url, param };
    let reply = open(cx, &place, wanted).await?;
    let name = &place.name;
    let mut location = format!(
        "/rtc/v1/{}/?action=delete&token={}&app={}&stream={}&session={}",
        if publish { "whip" } else { "whep" },
        encode(&reply.token),
        encode(&name.app),
        encode(&name.stream),
        encode(&reply.session),
    );
    if &*name.vhost != "__defaultVhost__" {
        location.push_str(&format!("&vhost={}", encode(&name.vhost)));
    }
    let etag = format!("\"{}\"", reply.session.split(':').next().unwrap_or_default());
    let mut response = plain(StatusCode::CREATED, SDP, reply.sdp);
    let fields = response.headers_mut();
    for (name, value) in [(LOCATION, &location), (ETAG, &etag)] {
        fields.insert(name, HeaderValue::from_str(value).map_err(|_| Failure::bad("a name that no URL can hold"))?);
    }
    for server in &cx.hub.config().rtc.ice_servers {
        if let Ok(value) = HeaderValue::from_str(&format!("<{server}>; rel=\"ice-server\"")) {
            fields.append(LINK, value);
        }
    }
    fields.insert(ACCEPT_PATCH, HeaderValue::from_static(FRAGMENT));
    Ok(response)
}

/// The session that a URL of ours names.
fn session(cx: &Context, request: &Request<Incoming>) -> Result<(Place, String, String), Failure> {
    let query = Query(request.uri().query().unwrap_or_default());
    let (Some(session), Some(token)) = (query.get("session"), query.get("token")) else {
        return Err(Failure::bad("which session?"));
    };
    Ok((named(cx, host(request.headers(), request.uri()), query)?, session, token))
}

async fn closed(cx: &Context, request: &Request<Incoming>) -> Result<Answer, Failure> {
    let (place, session, token) = session(cx, request)?;
    close(&place, session, token, false).await?;
    Ok(plain(StatusCode::OK, "text/plain", ""))
}

/// Trickled candidates of a client need no answer here: this end only waits for its checks (RFC 8445 2.5). A restart
/// would need new credentials, which a client gets by a new session.
async fn patched(cx: &Context, request: Request<Incoming>) -> Result<Answer, Failure> {
    check_type(request.headers(), FRAGMENT)?;
    let (place, session, token) = session(cx, &request)?;
    let matches = request.headers().get(IF_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let etag = format!("\"{}\"", session.split(':').next().unwrap_or_default());
    let fragment = body(request).await?;
    close(&place, session, token, true).await?;
    match matches.as_deref() {
        Some("*") => {
            Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "ICE restarts are not done: begin a new session"))
        }
        Some(tag) if tag != etag => Err(Failure::new(StatusCode::PRECONDITION_FAILED, "another session's tag")),
        _ if fragment.lines().count() > 256 => Err(Failure::bad("too many lines")),
        _ => {
            let mut response = plain(StatusCode::NO_CONTENT, "text/plain", "");
            response.headers_mut().remove(CONTENT_TYPE);
            Ok(response)
        }
    }
}
