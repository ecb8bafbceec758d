//! HTTP/2: each request is served as one of HTTP/1.1 would be, by the same code, over a connection of its own within this
//! process.

use std::convert::Infallible;
use std::net::SocketAddr;
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
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::inner;
use crate::admission::Refusal;
use crate::serve::Context;
use crate::serve::http::{self, Service};

/// Requests of one connection at a time.
const STREAMS_MAX: u32 = 100;

/// Bytes of a request's fields.
const FIELDS_MAX: u32 = 16 * 1024;

/// Bytes that may be under way to a client for one request: a stream of 20 Mbit/s over a quarter of a second.
const WINDOW: u32 = 1024 * 1024;

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

/// Serves one connection.
pub(super) async fn serve(cx: Context, stream: TlsStream<TcpStream>, peer: SocketAddr, refused: Option<Refusal>) {
    let handle = service_fn(|request| {
        let cx = cx.clone();
        async move { Ok::<_, Infallible>(answer(cx, request, peer, refused).await) }
    });
    let mut h2 = hyper::server::conn::http2::Builder::new(Here);
    h2.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PONG_WITHIN);
    h2.max_concurrent_streams(STREAMS_MAX).max_header_list_size(FIELDS_MAX);
    h2.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW).max_send_buf_size(WINDOW as usize);
    let connection = h2.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    tokio::select! {
        done = &mut connection => if let Err(error) = done {
            debug!(%peer, %error, "HTTP/2 connection ended");
        },
        () = cx.hub.closing() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

async fn answer(cx: Context, request: Request<Incoming>, peer: SocketAddr, refused: Option<Refusal>) -> Response<Body> {
    match pass(cx, request, peer, refused).await {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            debug!(%peer, %error, "no answer to an HTTP/2 request");
            let mut response = Response::new(Either::Right(Full::from("there is no answer\n")));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn pass(
    cx: Context,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    refused: Option<Refusal>,
) -> anyhow::Result<Response<Incoming>> {
    let id = cx.client_id();
    let (ours, client) = inner(peer, id)?;
    spawn_local(http::serve(cx, client, Service::Https, refused));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await?;
    spawn_local(async move {
        connection.await.ok();
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
