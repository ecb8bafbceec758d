//! HTTP/2: each request is served as one of HTTP/1.1 would be, by the same code, over a connection of its own within this
//! process.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::inner;
use crate::admission::{Admission, Refusal, admit};
use crate::hub::Counted;
use crate::serve::Context;
use crate::serve::http::{self, Service, takes_within};

/// Requests of one connection at a time. Each has sockets of its own, and counts as a client.
const STREAMS_MAX: u32 = 32;

/// Bytes of a request's fields.
const FIELDS_MAX: u32 = 16 * 1024;

/// Bytes that a client may send for one request before they are read.
const WINDOW: u32 = 256 * 1024;

/// Bytes that wait here for a client, for one request. What is more stays where it is cheap, and where a player that falls
/// behind is seen.
const UNSENT: usize = 64 * 1024;

/// How long a connection without requests is kept.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// How long a client may take nothing, or for the last of what it is sent.
const UNTAKEN_FOR: Duration = Duration::from_secs(60);
const LINGER: Duration = Duration::from_secs(2);

/// A client that is silent is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Fields that are of one connection (RFC 9113 8.2.2).
const OF_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

type Body = Either<Incoming, Full<Bytes>>;

/// Tasks of this thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

/// What a connection is doing.
#[derive(Debug)]
struct Activity {
    open: Cell<u32>,
    /// When the last request ended, or the connection began.
    last: Cell<Instant>,
    /// How long it may do nothing.
    within: Cell<Duration>,
}

/// One request, until the last of its answer.
struct Open(Rc<Activity>);

impl Activity {
    /// The first request has to come as soon as one without HTTP/2 would.
    fn new(first_within: Duration) -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), last: Cell::new(Instant::now()), within: Cell::new(first_within) })
    }

    fn open(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        self.within.set(IDLE_FOR);
        Open(self.clone())
    }

    /// When it has done nothing for too long; `None`: there are requests.
    fn ends(&self) -> Option<Instant> {
        (self.open.get() == 0).then(|| self.last.get() + self.within.get())
    }

    /// Returns then.
    async fn idle(&self) {
        loop {
            let soon = Instant::now() + Duration::from_secs(1);
            match self.ends() {
                Some(by) if by <= Instant::now() => return,
                by => sleep_until(by.unwrap_or(soon)).await,
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.last.set(Instant::now());
    }
}

/// Serves one connection.
pub(super) async fn serve(cx: Context, stream: TlsStream<TcpStream>, peer: SocketAddr) {
    takes_within(stream.get_ref().0, UNTAKEN_FOR);
    let activity = Activity::new(cx.hub.config().edge.http.header_timeout);
    let handle = service_fn(|request| {
        let (cx, open) = (cx.clone(), activity.open());
        async move { Ok::<_, Infallible>(answer(cx, request, peer, open).await) }
    });
    let mut h2 = hyper::server::conn::http2::Builder::new(Here);
    h2.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PONG_WITHIN);
    h2.max_concurrent_streams(STREAMS_MAX).max_header_list_size(FIELDS_MAX);
    h2.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW).max_send_buf_size(UNSENT);
    let connection = h2.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    tokio::select! {
        done = &mut connection => {
            if let Err(error) = done {
                debug!(%peer, %error, "HTTP/2 connection ended");
            }
            return;
        }
        () = cx.hub.going() => {}
        () = activity.idle() => {}
    }
    // What is under way goes on, and new requests go elsewhere.
    connection.as_mut().graceful_shutdown();
    let over = async {
        tokio::select! {
            () = cx.hub.closing() => {}
            () = activity.idle() => {}
        }
        sleep(LINGER).await;
    };
    tokio::select! {
        ended = connection => drop(ended),
        () = over => {}
    }
}

async fn answer(cx: Context, request: Request<Incoming>, peer: SocketAddr, open: Open) -> Response<Body> {
    // A connection may live long: whether there is room is asked for each request, as for each client without HTTP/2.
    let stats = cx.hub.stats();
    let limit = u64::from(cx.hub.config().edge.connections);
    let refused = match admit(false, stats.connections.get(), limit, &cx.gate.verdict()) {
        Admission::Serve => None,
        Admission::Refuse(why) => Some(why),
        Admission::Drop(why) => {
            cx.gate.refused(stats, why);
            return short(StatusCode::SERVICE_UNAVAILABLE, why.text());
        }
    };
    if let Some(why) = refused {
        cx.gate.refused(stats, why);
    }
    match pass(cx, request, peer, refused, open).await {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            debug!(%peer, %error, "no answer to an HTTP/2 request");
            short(StatusCode::BAD_GATEWAY, "there is no answer\n")
        }
    }
}

fn short(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::from(text)));
    *response.status_mut() = status;
    response
}

async fn pass(
    cx: Context,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    refused: Option<Refusal>,
    open: Open,
) -> anyhow::Result<Response<Incoming>> {
    let id = cx.client_id();
    let (ours, client) = inner(peer, id)?;
    spawn_local(async move {
        let stats = cx.hub.stats().clone();
        let _count = Counted::new(&stats, |stats| &stats.connections);
        http::serve(cx, client, Service::Https, refused).await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
    spawn_local(async move {
        connection.await.ok();
        drop(open);
    });
    leave_connection(request.headers_mut());
    // The authority of HTTP/2 is the Host of HTTP/1.1 (RFC 9113 8.3.1).
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    *request.version_mut() = Version::HTTP_11;
    let mut response = sender.send_request(request).await?;
    leave_connection(response.headers_mut());
    *response.version_mut() = Version::HTTP_2;
    Ok(response)
}

fn leave_connection(fields: &mut HeaderMap) {
    for name in OF_CONNECTION {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_that_asks_for_nothing() {
        let first = Duration::from_secs(10);
        let activity = Activity::new(first);
        let begun = activity.last.get();
        assert_eq!(activity.ends(), Some(begun + first), "the first request may take so long");
        let (one, two) = (activity.open(), activity.open());
        drop(one);
        assert_eq!(activity.ends(), None, "one goes on");
        drop(two);
        assert_eq!(activity.ends(), Some(activity.last.get() + IDLE_FOR));
        assert!(activity.last.get() > begun);
    }
}
