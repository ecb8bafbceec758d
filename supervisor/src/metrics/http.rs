//! `GET /metrics` on `metrics.listen`.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use weir_proto::metrics::TEXT_FORMAT;

use crate::admin::{self, Ask};

/// Connections at a time of one address; more are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take over the head of its request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may last: one request and its answer.
const DONE_WITHIN: Duration = Duration::from_secs(15);

/// Bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;

/// Fields of a request's head.
const FIELDS_MAX: usize = 64;

/// How long the loop may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The pause after an accept error (EMFILE and its kind); it never ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the connections of one address, for as long as the process lives. What it answers it asks of `asks`.
pub async fn serve(listener: TcpListener, asks: mpsc::Sender<Ask>) {
    let places = Rc::new(());
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                failing = false;
                // This function's own is one of them.
                if Rc::strong_count(&places) <= CONNECTIONS_MAX {
                    spawn_local(connection(socket, asks.clone(), places.clone()));
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "accepting for /metrics failed; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, asks: mpsc::Sender<Ask>, _place: Rc<()>) {
    socket.set_nodelay(true).ok();
    let handle = service_fn(|request: Request<Incoming>| {
        let asks = asks.clone();
        async move { Ok::<_, Infallible>(answer(&request, &asks).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_MAX).max_headers(FIELDS_MAX);
    // A scrape every few seconds is not worth a connection that is held in between.
    let served = http.keep_alive(false).serve_connection(TokioIo::new(socket), handle);
    match timeout(DONE_WITHIN, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for /metrics failed"),
        Err(_) => debug!("a connection for /metrics took too long"),
    }
}

async fn answer(request: &Request<Incoming>, asks: &mpsc::Sender<Ask>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics here\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match timeout(ANSWER_WITHIN, admin::ask(asks, Ask::Metrics)).await {
        Ok(Some(text)) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
            response
        }
        Ok(None) | Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is busy or leaving\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
