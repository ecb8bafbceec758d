//! Signalling of WebRTC: offers come by HTTP to any edge, and are answered by the origin that owns the stream.

mod srs;
mod whip;

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, REFERER, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use rustc_hash::FxHasher;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tonic::Code;
use weir_media::StreamName;
use weir_node::access::Action;
use weir_node::hooks::Farewell;
use weir_proto::origin::{self, CloseRtcRequest, OpenRtcReply, OpenRtcRequest};
use weir_wire::rtmp::{self, Limits};
use weir_wire::sdp::OFFER_MAX;

use super::Context;
use super::query::Query;
use crate::guard::{CHALLENGE, Caller, Denial, Wish};

/// How long a client may take to send its offer, a name server to answer, and the origin.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const LOOKUP_WITHIN: Duration = Duration::from_millis(500);
const CALL_WITHIN: Duration = Duration::from_secs(3);

/// The longest request body: an offer, as JSON writes it.
const BODY_MAX: usize = OFFER_MAX + OFFER_MAX / 4;

/// Names that are looked up at a time.
const LOOKUPS_MAX: usize = 4;

/// Addresses that a client may ask to be announced.
const EIPS_MAX: usize = 8;

pub(super) type Answer = Response<Full<Bytes>>;

/// Why a request is not served.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn answer(&self) -> Answer {
        let mut response = plain(self.status, "text/plain; charset=utf-8", format!("{}\n", self.text));
        let field = match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some((RETRY_AFTER, "1")),
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, CHALLENGE)),
            _ => None,
        };
        if let Some((name, value)) = field {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Whether a path is answered here.
pub(super) fn is_ours(path: &str) -> bool {
    path.starts_with("/rtc/v1/")
}

/// Answers one request.
pub(super) async fn answer(cx: &Context, request: Request<Incoming>, client: SocketAddr) -> Answer {
    let path = request.uri().path();
    let name = path.trim_start_matches("/rtc/v1/").trim_end_matches('/');
    match name {
        "publish" => srs::answer(cx, request, client, true).await,
        "play" => srs::answer(cx, request, client, false).await,
        "whip" | "whep" | "whip-play" => {
            let publish = name == "whip";
            whip::answer(cx, request, client, publish).await
        }
        _ => Failure::new(StatusCode::NOT_FOUND, "there is nothing here").answer(),
    }
}

fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut response = Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}")).answer();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// The body as text.
async fn body(request: Request<Incoming>) -> Result<String, Failure> {
    let too_large = || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {BODY_MAX} bytes"));
    if request.body().size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    let read = timeout(BODY_WITHIN, Limited::new(request.into_body(), BODY_MAX).collect()).await;
    let read = read.map_err(|_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the offer did not come in time"))?;
    let bytes = read.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => too_large(),
        false => Failure::bad("the request broke off"),
    })?;
    String::from_utf8(bytes.to_bytes().into()).map_err(|_| Failure::bad("the request is not UTF-8"))
}

/// The host of a request, with its port.
fn host<'a>(headers: &'a HeaderMap, uri: &'a hyper::Uri) -> &'a str {
    let named = headers.get(HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

/// Which stream, and where it lives.
struct Place {
    name: StreamName,
    link: std::rc::Rc<crate::relay::Link>,
    key: u64,
    query: String,
}

/// The stream that a path means on a host.
fn place(cx: &Context, host: &str, path: &str, query: &str) -> Result<Place, Failure> {
    let named =
        rtmp::from_url(host, path, query, &Limits::default()).map_err(|error| Failure::bad(error.to_string()))?;
    let config = cx.hub.config();
    let (vhost, rules) =
        config.vhost(&named.vhost).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such vhost here"))?;
    if !rules.rtc.enabled {
        return Err(Failure::new(StatusCode::NOT_FOUND, "WebRTC is off for this vhost"));
    }
    let name = StreamName { vhost: vhost.into(), app: named.app.into(), stream: named.stream.into() };
    let link =
        cx.hub.link_for(&name).ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "there is no origin"))?;
    let mut key = FxHasher::default();
    named.query.hash(&mut key);
    Ok(Place { name, link: link.clone(), key: key.finish(), query: named.query })
}

/// What a client wants opened.
struct Wanted<'a> {
    publish: bool,
    sdp: String,
    query: &'a Query<'a>,
    host: &'a str,
    client: SocketAddr,
    headers: &'a HeaderMap,
    /// `tcUrl` and `param` as callbacks are told them.
    tc_url: String,
    param: String,
}

/// Has the origin open a session.
async fn open(cx: &Context, place: &Place, wanted: Wanted<'_>) -> Result<OpenRtcReply, Failure> {
    let config = cx.hub.config();
    if cx.hub.draining() {
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "this server goes"));
    }
    let eip = wanted.query.all("eip").chain(wanted.query.all("candidate")).take(EIPS_MAX).collect();
    let name = &place.name;
    // Until the session is there its end is told from here.
    let farewell = admit(cx, place, &wanted).await?;
    let (end_client, end) =
        farewell.as_ref().map(|it| (it.client().to_owned(), it.body().to_owned())).unwrap_or_default();
    let (api_host, api_addresses) = match config.rtc.api_as_candidates {
        true => announced(wanted.host, config.rtc.resolve_api_domain).await,
        false => Default::default(),
    };
    let request = OpenRtcRequest {
        end_client,
        end,
        name: Some(origin::StreamName {
            vhost: name.vhost.to_string(),
            app: name.app.to_string(),
            stream: name.stream.to_string(),
        }),
        publish: wanted.publish,
        sdp: wanted.sdp,
        codec: wanted.query.get("codec").unwrap_or_default(),
        eip,
        api_host,
        api_addresses,
        key: place.key,
        client: wanted.client.to_string(),
    };
    let mut control = place.link.rpc().ok_or_else(unreached)?;
    let opened = timeout(CALL_WITHIN, control.open_rtc(request)).await.map_err(|_| silent())?;
    let opened = opened.map(|reply| reply.into_inner()).map_err(|status| {
        let text = status.message();
        match status.code() {
            Code::InvalidArgument => Failure::bad(text),
            Code::FailedPrecondition => Failure::new(StatusCode::NOT_ACCEPTABLE, text),
            Code::AlreadyExists => Failure::new(StatusCode::CONFLICT, text),
            Code::Unimplemented => Failure::new(StatusCode::NOT_FOUND, text),
            Code::ResourceExhausted => Failure::new(StatusCode::SERVICE_UNAVAILABLE, text),
            _ => unreached(),
        }
    })?;
    if let Some(farewell) = farewell {
        farewell.forget();
    }
    Ok(opened)
}

/// Asks whether the client may. Its seat is the origin's matter.
async fn admit(cx: &Context, place: &Place, wanted: &Wanted<'_>) -> Result<Option<Farewell>, Failure> {
    let config = cx.hub.config();
    let (_, rules) = config.vhost(&place.name.vhost).ok_or_else(|| Failure::bad("there is no such vhost here"))?;
    let field = |name: HeaderName| wanted.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let caller = Caller::new(cx.hub.guard().client_id(cx.client_id()), wanted.client.ip());
    let mut caller = caller.with_fields(field(REFERER), field(AUTHORIZATION));
    caller.tc_url.clone_from(&wanted.tc_url);
    let action = if wanted.publish { Action::Publish } else { Action::Play };
    let query = if place.query.is_empty() { wanted.query.0 } else { &place.query };
    let wish = Wish { action, name: &place.name, query, param: &wanted.param };
    cx.hub.guard().admit_elsewhere(rules, &caller, wish).await.map_err(|denial: Denial| {
        cx.hub.stats().refuse(denial.counted());
        Failure::new(denial.status(), denial.text())
    })
}

/// Ends a session, or only looks for it.
async fn close(place: &Place, session: String, token: String, look: bool) -> Result<(), Failure> {
    let mut control = place.link.rpc().ok_or_else(unreached)?;
    let call = control.close_rtc(CloseRtcRequest { session, token, look });
    let closed = timeout(CALL_WITHIN, call).await.map_err(|_| silent())?;
    closed.map(|_| ()).map_err(|status| match status.code() {
        Code::NotFound | Code::Unimplemented => Failure::new(StatusCode::NOT_FOUND, status.message()),
        Code::PermissionDenied => Failure::new(StatusCode::FORBIDDEN, status.message()),
        _ => unreached(),
    })
}

fn unreached() -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the stream's origin is not reached")
}

fn silent() -> Failure {
    Failure::new(StatusCode::GATEWAY_TIMEOUT, "the stream's origin did not answer in time")
}

/// The host that a request named, as something that its client can reach: a name, and its addresses.
async fn announced(host: &str, resolve: bool) -> (String, Vec<String>) {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = name.parse::<IpAddr>() {
        let usual = !address.is_loopback() && !address.is_unspecified();
        return (String::new(), if usual { vec![address.to_string()] } else { Vec::new() });
    }
    if !resolve || name.is_empty() || name.eq_ignore_ascii_case("localhost") {
        return (name.to_owned(), Vec::new());
    }
    let addresses = look_up(name).await.into_iter().map(|address| address.ip());
    let usual = addresses.filter(|address| !address.is_loopback() && !address.is_unspecified());
    (name.to_owned(), usual.map(|address| address.to_string()).take(EIPS_MAX).collect())
}

/// The addresses of a name, which a client chose: there are not many such questions at a time, and one that takes long goes
/// on without anybody.
async fn look_up(name: &str) -> Vec<SocketAddr> {
    static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);
    let Ok(permit) = LOOKUPS.try_acquire() else { return Vec::new() };
    let name = name.to_owned();
    let found = spawn_local(async move {
        let _permit = permit;
        lookup_host((name, 0)).await.map(Iterator::collect).unwrap_or_default()
    });
    timeout(LOOKUP_WITHIN, found).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Whether a request is one of a page that asks what it may do.
fn is_preflight(method: &Method) -> bool {
    *method == Method::OPTIONS
}
