//! HTTP clients: the request head is read here; a live stream leaves HTTP behind, everything else goes to hyper.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use weir_node::config::Config;
use weir_wire::http::{Error, Head, parse_head};
use weir_wire::rtmp::{self, Limits};

use super::{Client, Context, api, flv, forwarded, pages, proxy, rtc, signal};
use crate::admission::Refusal;

/// The longest that a client may take to read an answer of the API.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a client whose answer has no end of its own may take nothing of it.
const UNTAKEN_FOR: Duration = Duration::from_secs(60);

/// Has the kernel end a connection when its client takes nothing for so long (RFC 5482), were it by a closed window.
pub(in crate::serve) fn takes_within(socket: &TcpStream, within: Duration) {
    // Inside TLS it is another kind of socket, and the outer one has it.
    SockRef::from(socket).set_tcp_user_timeout(Some(within)).ok();
}

/// Which listener a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Media and pages.
    Http,
    /// The API.
    Api,
    /// Both, over TLS.
    Https,
    /// Signaling, and pages.
    Signal,
}

/// Serves one client. Every answer ends the connection: live streams end it anyway, and a kept connection could not
/// leave HTTP behind when a page asks for a stream on it.
pub(crate) async fn serve(cx: Context, client: Client, service: Service, refused: Option<Refusal>) {
    let within = cx.hub.config().edge.http.header_timeout;
    let read = async {
        let mut buffer = BytesMut::new();
        loop {
            match parse_head(&buffer) {
                Ok(None) => {}
                Ok(Some(head)) => return Ok(Some((head, buffer))),
                Err(error) => return Ok(refuse(&client, error).await),
            }
            if client.read(&cx, |bytes| buffer.extend_from_slice(bytes)).await?.is_none() {
                return Ok::<_, io::Error>(None);
            }
        }
    };
    let (head, buffer) = tokio::select! {
        read = timeout(within, read) => match read {
            Ok(Ok(Some(read))) => read,
            Ok(_) => return,
            Err(_) => {
                let text = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                client.write(text.as_bytes()).await.ok();
                return;
            }
        },
        () = cx.hub.closing() => return,
    };
    let config = cx.hub.config();
    let peer = forwarded::client(&config.edge.http.trusted_proxies, client.peer, &head.forwarded_for);
    let by_trusted = peer != client.peer;
    let client = Client { peer, ..client };
    debug!(client = %client.id, peer = %client.peer, method = head.method, path = head.path, "http request");
    if let Some(why) = refused {
        return turn_away(&cx, &client, &head, why).await;
    }
    if service == Service::Http && config.edge.https.redirect {
        return to_https(&config, &client, &head).await;
    }
    match head.path.strip_suffix(".flv") {
        Some(path) if service != Service::Api && proxy::target(&config.edge.proxy, &head.path).is_none() => {
            flv::serve(&cx, &client, &head, path).await
        }
        _ => answer(&cx, client, by_trusted, &head, buffer, service).await,
    }
}

/// Sends a client that has no place here to another host, or says when to come again. Its request was read: an answer to
/// one that was not may be lost with the reset that follows (RFC 9112, 9.6).
async fn turn_away(cx: &Context, client: &Client, head: &Head, why: Refusal) {
    let config = cx.hub.config();
    let named = rtmp::from_url(&head.host, &head.path, &head.query, &Limits::default());
    let vhost = named.map(|named| named.vhost).unwrap_or_default();
    let elsewhere = cx.gate.http(&config, client.over_tls, &vhost, &head.path, &head.query);
    let (status, field) = match (elsewhere, head.method.as_str()) {
        // Others than these would come again as GET (RFC 9110, 15.4.3).
        (Some(url), "GET" | "HEAD") => ("302 Found", format!("Location: {url}")),
        (Some(url), _) => ("307 Temporary Redirect", format!("Location: {url}")),
        (None, _) => ("503 Service Unavailable", format!("Retry-After: {}", config.overload.leave.as_secs().max(1))),
    };
    let mut answer = flv::response_head(cx, head, status, "text/plain; charset=utf-8");
    let text = why.text();
    answer.push_str(&format!("{field}\r\nContent-Length: {}\r\n\r\n", text.len() + 1));
    if head.method != "HEAD" {
        answer.push_str(text);
        answer.push('\n');
    }
    client.write(answer.as_bytes()).await.ok();
}

/// Sends a client to the same address over TLS.
async fn to_https(config: &Config, client: &Client, head: &Head) {
    let port = config.edge.https.listen.addresses().first().map_or(443, std::net::SocketAddr::port);
    // Without its port; an IPv6 address stands in brackets.
    let host = match head.host.rfind(']') {
        Some(end) => head.host.get(..=end).unwrap_or_default(),
        None => head.host.split(':').next().unwrap_or_default(),
    };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let query = if head.query.is_empty() { String::new() } else { format!("?{}", head.query) };
    let answer = match host.is_empty() {
        true => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
        false => format!(
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://{host}{port}{}{query}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            head.path
        ),
    };
    client.write(answer.as_bytes()).await.ok();
}

async fn refuse<T>(client: &Client, error: Error) -> Option<T> {
    let status = match error {
        Error::TooLarge => "431 Request Header Fields Too Large",
        _ => "400 Bad Request",
    };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{error}",
        error.to_string().len()
    );
    client.write(text.as_bytes()).await.ok();
    None
}

/// Gives the connection, with what was read of it, to hyper for one request.
async fn answer(cx: &Context, client: Client, by_trusted: bool, head: &Head, read: BytesMut, service: Service) {
    let config = cx.hub.config();
    let cors = config.edge.http.cors && head.cross_origin;
    let elsewhere =
        proxy::target(&config.edge.proxy, &head.path).filter(|_| service != Service::Api).map(str::to_owned);
    if elsewhere.is_some() && proxy::climbs(&head.path) {
        let text = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return drop(client.write(text.as_bytes()).await);
    }
    let (peer, id) = (client.peer, client.id);
    let asks = proxy::Asks { peer, over_tls: client.over_tls, by_trusted };
    // How long another program takes is its own affair, and events go on.
    let lasting = elsewhere.is_some() || head.path == api::EVENTS;
    let Some(Ok(socket)) = client.socket.map(Rc::try_unwrap) else { return };
    takes_within(&socket, UNTAKEN_FOR);
    let io = Rewound { read: read.freeze(), io: TokioIo::new(socket) };
    // Where a request to speak WebSocket goes on after its answer.
    let upgrade: Rc<Cell<Option<Upgraded>>> = Rc::default();
    let upgrading = upgrade.clone();
    let handling = cx.clone();
    let handle = service_fn(move |request: Request<Incoming>| {
        let (cx, upgrade, elsewhere) = (handling.clone(), upgrading.clone(), elsewhere.clone());
        async move {
            if let Some(target) = elsewhere {
                let (passed, tunnel) = proxy::pass(request, &target, asks).await;
                upgrade.set(tunnel.map(Upgraded::Proxied));
                return Ok::<_, std::convert::Infallible>(closing(passed.map(Either::Right)));
            }
            let page = if cx.hub.config().edge.http.pages { pages::answer(&request) } else { None };
            let mut response = match page {
                Some(page) => page.map(Either::Left),
                None if rtc::is_ours(request.uri().path()) => rtc::answer(&cx, request, peer).await.map(Either::Left),
                None if signal::is_ours(request.uri().path()) => {
                    let (response, upgraded) = signal::answer(&cx, request, peer.ip());
                    upgrade.set(upgraded.map(Upgraded::Signaling));
                    response.map(Either::Left)
                }
                None => api::answer(&cx, &request, service, peer).await,
            };
            if cors {
                flv::cors(response.headers_mut());
            }
            Ok(closing(response.map(Either::Left)))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let connection = http.max_buf_size(64 * 1024).serve_connection(io, handle).with_upgrades();
    match lasting {
        true => tokio::select! {
            ended = connection => drop(ended),
            () = cx.hub.closing() => {}
        },
        false => drop(timeout(ANSWER_WITHIN, connection).await),
    }
    match upgrade.take() {
        Some(Upgraded::Signaling((upgrade, _place))) => {
            if let Ok(io) = upgrade.await {
                signal::serve(cx, io, (id, peer)).await;
            }
        }
        Some(Upgraded::Proxied(tunnel)) => tokio::select! {
            () = tunnel.carry() => {}
            () = cx.hub.closing() => {}
        },
        None => {}
    }
}

/// A WebSocket.
enum Upgraded {
    Signaling((OnUpgrade, signal::Place)),
    Proxied(proxy::Tunnel),
}

/// Has the connection end with the answer, unless it goes on in another protocol. hyper's own way to that end, without
/// keep-alive, would write `Connection: close` into an upgrade too, which careful clients take for none.
fn closing<T>(mut response: Response<T>) -> Response<T> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A socket of which the first bytes were read already.
struct Rewound {
    read: Bytes,
    io: TokioIo<TcpStream>,
}

impl Read for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(task, into);
        }
        let n = self.read.len().min(into.remaining());
        into.put_slice(&self.read.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl Write for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

/// Runs until the client goes; for what must not outlive it.
pub(super) async fn gone(cx: &Context, client: &Client) {
    // What a client sends behind its request is read and forgotten.
    while let Ok(Some(())) = client.read(cx, |_| ()).await {}
}

/// A future that is dropped when the client goes. `None`: it went.
pub(super) async fn while_there<T>(cx: &Context, client: &Client, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = gone(cx, client) => None,
        () = cx.hub.closing() => None,
    }
}
