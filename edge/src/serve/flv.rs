//! HTTP-FLV players.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::timeout;
use tracing::info;
use weir_media::{StreamName, flv};
use weir_wire::http::Head;
use weir_wire::rtmp::{self, Limits};

use super::http::while_there;
use super::{Client, Context};
use crate::fanout::{CloseReason, Format, Start};
use crate::hub::{Counted, add};
use crate::stream::Member;

/// What pages of other sites need to read an answer. Browsers want the second private-network name, older ones of SRS's
/// players the first.
const CORS: [(&str, &str); 6] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    ("access-control-allow-headers", "*"),
    ("access-control-expose-headers", "*"),
    ("access-control-request-private-network", "true"),
    ("access-control-allow-private-network", "true"),
];

/// Adds them.
pub(super) fn cors(headers: &mut HeaderMap) {
    for (name, value) in CORS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Serves `GET`, `HEAD` and `OPTIONS` of `/app/stream.flv`; `path` comes without the extension.
pub(super) async fn serve(cx: &Context, client: &Client, head: &Head, path: &str) {
    let refusal = match play(cx, client, head, path).await {
        Ok(()) => return,
        Err(refusal) => refusal,
    };
    let (status, text) = match refusal {
        Refusal::Options => ("204 No Content", ""),
        Refusal::Method => ("405 Method Not Allowed", "a stream can be played with GET\n"),
        Refusal::Name(error) => return not_found(cx, client, head, &format!("{error}\n")).await,
        Refusal::NoStream(text) => return not_found(cx, client, head, text).await,
        Refusal::Unavailable => ("503 Service Unavailable", "this cluster has no origin\n"),
    };
    reply(cx, client, head, status, text).await;
}

enum Refusal {
    Options,
    Method,
    Name(rtmp::NameError),
    NoStream(&'static str),
    Unavailable,
}

async fn not_found(cx: &Context, client: &Client, head: &Head, text: &str) {
    reply(cx, client, head, "404 Not Found", text).await;
}

async fn reply(cx: &Context, client: &Client, head: &Head, status: &str, text: &str) {
    let mut answer = response_head(cx, head, status, "text/plain; charset=utf-8");
    let allow = if status.starts_with("405") { "Allow: GET, HEAD, OPTIONS\r\n" } else { "" };
    answer.push_str(&format!("{allow}Content-Length: {}\r\n\r\n", text.len()));
    if head.method != "HEAD" {
        answer.push_str(text);
    }
    client.write(answer.as_bytes()).await.ok();
}

/// Status line and fields, without the empty line.
fn response_head(cx: &Context, head: &Head, status: &str, content_type: &str) -> String {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nServer: weir/{}\r\nContent-Type: {content_type}\r\nCache-Control: no-store\r\nConnection: close\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if head.cross_origin && cx.hub.config().edge.http.cors {
        for (name, value) in CORS {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text
}

async fn play(cx: &Context, client: &Client, head: &Head, path: &str) -> Result<(), Refusal> {
    match head.method.as_str() {
        "GET" | "HEAD" => {}
        "OPTIONS" => return Err(Refusal::Options),
        _ => return Err(Refusal::Method),
    }
    let request = rtmp::from_url(&head.host, path, &head.query, &Limits::default()).map_err(Refusal::Name)?;
    let config = cx.hub.config();
    let (vhost, rules) = config.vhost(&request.vhost).ok_or(Refusal::NoStream("there is no such vhost here\n"))?;
    if !rules.http_flv.enabled {
        return Err(Refusal::NoStream("HTTP-FLV is off for this vhost\n"));
    }
    let name = StreamName { vhost: vhost.into(), app: request.app.into(), stream: request.stream.into() };
    let stream = cx.hub.stream(&name).ok_or(Refusal::Unavailable)?;
    let mut intro = response_head(cx, head, "200 OK", "video/x-flv").into_bytes();
    intro.extend_from_slice(b"\r\n");
    if head.method == "GET" {
        intro.extend_from_slice(&flv::FILE_HEADER);
    }
    if head.method == "HEAD" {
        // The answer must be what GET's would be: it waits for the stream as well.
        let probe = stream.watch();
        let live = while_there(cx, client, timeout(rules.http_flv.wait, probe.live())).await;
        return match live {
            Some(Ok(())) => {
                client.write(&intro).await.ok();
                Ok(())
            }
            Some(Err(_)) => Err(Refusal::NoStream("this stream is not published\n")),
            None => Ok(()),
        };
    }
    let start = Start { front: Vec::new(), intro, cached: rules.play.gop_cache };
    let Ok(socket) = client.socket() else { return Ok(()) };
    let member = stream.join(Format::Flv, socket.clone(), start);
    let wait = rules.http_flv.wait;
    let started = async {
        while !member.handle().started() && member.handle().closed().is_none() {
            member.handle().changed().await;
        }
    };
    // A published stream may take longer than a missing one: its next key frame is awaited.
    let missing = timeout(wait, async {
        while !member.handle().live() && member.handle().closed().is_none() {
            member.handle().changed().await;
        }
    });
    match while_there(cx, client, missing).await {
        None => return Ok(()),
        Some(Err(_)) => return Err(Refusal::NoStream("this stream is not published\n")),
        Some(Ok(())) => {}
    }
    if while_there(cx, client, started).await.is_none() {
        return Ok(());
    }
    info!(client = %client.id, peer = %client.peer, stream = %name, "flv play");
    let reason = watch(cx, client, &member).await;
    info!(client = %client.id, peer = %client.peer, stream = %name, bytes = member.handle().sent(), reason, "flv player left");
    Ok(())
}

/// Waits until the player or its stream goes. The body ends with the connection.
async fn watch(cx: &Context, client: &Client, member: &Member) -> &'static str {
    let _count = Counted::new(cx.hub.stats(), |s| &s.players);
    let ended = async {
        loop {
            if let Some(reason) = member.handle().closed() {
                if reason == CloseReason::TooSlow {
                    add(&cx.hub.stats().slow_closed, 1);
                }
                return reason.as_str();
            }
            if !member.handle().live() {
                return "the stream has ended";
            }
            member.handle().changed().await;
        }
    };
    let reason = tokio::select! {
        reason = ended => reason,
        () = super::http::gone(cx, client) => return "closed by the client",
        () = cx.hub.closing() => "the server is going away",
    };
    // What no round has written yet is part of the body.
    tokio::select! {
        _ = member.finish() => {}
        () = super::http::gone(cx, client) => {}
    }
    reason
}
