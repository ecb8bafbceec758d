//! Other programs behind the same ports (`edge.proxy`): what begins with their path is passed on to them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

/// An answer that was made here, or the other program's.
pub(super) type Body = Either<Full<Bytes>, Incoming>;

/// How long the other program may take to be reached, and to begin its answer once it has the request.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long neither end of a WebSocket may say anything.
const SILENT_FOR: Duration = Duration::from_secs(600);

/// Bytes that are carried at once, in each direction.
const CARRY: usize = 16 * 1024;

/// Fields of one connection (RFC 9110 7.6.1; RFC 9113 3.1), and those that only a proxy may write.
const LEFT_OUT: [&str; 15] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "http2-settings",
    "forwarded",
    "x-real-ip",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-ssl",
];

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub(super) peer: SocketAddr,
    pub(super) over_tls: bool,
    /// A proxy of `edge.http.trusted_proxies` asks for it.
    pub(super) by_trusted: bool,
}

/// Where requests of a path go, by the longest beginning that fits; a beginning ends where a part of the path does.
pub(super) fn target<'a>(rules: &'a weir_node::config::Proxy, path: &str) -> Option<&'a str> {
    let fits = |rule: &&String| {
        let rest = path.strip_prefix(rule.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rule.ends_with('/') || rest.starts_with('/'))
    };
    let rule = rules.keys().filter(fits).max_by_key(|rule| rule.len())?;
    rules.get(rule).map(String::as_str)
}

/// Whether a path has parts that lead out of its beginning, which another program may follow.
pub(super) fn climbs(path: &str) -> bool {
    let path: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    path.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| matches!(part, b"." | b".."))
}

/// The two ends of a connection that goes on as a WebSocket.
pub(super) struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
}

impl Tunnel {
    /// Carries what they say, until one ends it or both are silent for long.
    pub(super) async fn carry(self) {
        let (Ok(client), Ok(server)) = tokio::join!(self.client, self.server) else { return };
        let (from_client, to_client) = split(TokioIo::new(client));
        let (from_server, to_server) = split(TokioIo::new(server));
        let active = Cell::new(Instant::now());
        tokio::select! {
            _ = carry(from_client, to_server, &active) => {}
            _ = carry(from_server, to_client, &active) => {}
            () = silent(&active, SILENT_FOR) => {}
        }
    }
}

/// One direction.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    active: &Cell<Instant>,
) -> io::Result<()> {
    let mut part = vec![0; CARRY];
    loop {
        let read = from.read(&mut part).await?;
        let Some(bytes) = part.get(..read).filter(|bytes| !bytes.is_empty()) else { return to.shutdown().await };
        to.write_all(bytes).await?;
        to.flush().await?;
        active.set(Instant::now());
    }
}

/// Returns when nothing has happened for so long.
async fn silent(active: &Cell<Instant>, within: Duration) {
    while active.get().elapsed() < within {
        sleep_until(active.get() + within).await;
    }
}

/// Passes a request on to `target`, `http://HOST:PORT`. What its sender and the other program say next is in the tunnel, if
/// they agree to speak WebSocket.
pub(super) async fn pass(request: Request<Incoming>, target: &str, asks: Asks) -> (Response<Body>, Option<Tunnel>) {
    let active = Rc::new(Cell::new(Instant::now()));
    let answered = tokio::select! {
        answered = tell(request, target, asks, active.clone()) => Some(answered),
        () = silent(&active, ANSWER_WITHIN) => None,
    };
    match answered {
        Some(Ok(answered)) => answered,
        Some(Err(error)) => {
            warn!(target, %error, "edge.proxy: the other program cannot be reached");
            (failed(StatusCode::BAD_GATEWAY), None)
        }
        None => {
            warn!(target, "edge.proxy: the other program does not answer");
            (failed(StatusCode::GATEWAY_TIMEOUT), None)
        }
    }
}

fn failed(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::from("the program behind this path does not answer\n")));
    *response.status_mut() = status;
    response
}

async fn tell(
    mut request: Request<Incoming>,
    target: &str,
    asks: Asks,
    active: Rc<Cell<Instant>>,
) -> anyhow::Result<(Response<Body>, Option<Tunnel>)> {
    let authority = target.strip_prefix("http://").unwrap_or(target);
    let socket = timeout(CONNECT_WITHIN, TcpStream::connect(authority)).await??;
    socket.set_nodelay(true).ok();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    spawn_local(async move {
        connection.with_upgrades().await.ok();
    });
    let upgrade = wants_websocket(&request);
    let client = hyper::upgrade::on(&mut request);
    forward(request.headers_mut(), authority, asks)?;
    if upgrade {
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    *request.version_mut() = Version::HTTP_11;
    // While the client sends, the other program need not answer.
    let request = request.map(|body| {
        body.map_frame(move |frame| {
            active.set(Instant::now());
            frame
        })
    });
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        leave_out(response.headers_mut(), &LEFT_OUT[..3]);
        return Ok((response.map(Either::Right), None));
    }
    anyhow::ensure!(upgrade, "it answers 101 to who did not ask for that");
    let server = hyper::upgrade::on(&mut response);
    Ok((response.map(|_| Either::Left(Full::default())), Some(Tunnel { client, server })))
}

/// Other protocols, such as HTTP/2 without TLS, would take requests past our rules.
fn wants_websocket(request: &Request<Incoming>) -> bool {
    let fields = request.headers();
    let names = |field: HeaderName, wanted: &str| {
        let mut values = fields.get_all(field).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case(wanted)))
    };
    *request.method() == Method::GET && names(CONNECTION, "upgrade") && names(UPGRADE, "websocket")
}

/// Leaves out what is of this connection only, what its `Connection` field names included.
fn leave_out(fields: &mut HeaderMap, names: &[&'static str]) {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').filter_map(|word| word.trim().parse().ok()))
        .collect();
    // How the body is framed is for who sends it to say.
    for name in named.iter().filter(|name| !["content-length", "transfer-encoding", "host"].contains(&name.as_str())) {
        fields.remove(name);
    }
    fields.remove(UPGRADE);
    for name in names {
        fields.remove(*name);
    }
    // To programs that read fields as variables, x_real_ip is x-real-ip.
    let twins: Vec<HeaderName> = fields.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in twins {
        fields.remove(name);
    }
}

/// Says who asks, as the gateway of SRS's demos does. What the client says of itself is not passed on, but what a proxy does
/// that is trusted: how and by which name it was asked.
fn forward(fields: &mut HeaderMap, authority: &str, asks: Asks) -> anyhow::Result<()> {
    let ip = HeaderValue::from_str(&asks.peer.ip().to_canonical().to_string())?;
    let said = |name: &str| fields.get(name).filter(|_| asks.by_trusted).cloned();
    let own = || HeaderValue::from_static(if asks.over_tls { "https" } else { "http" });
    let scheme = said("x-forwarded-proto").unwrap_or_else(own);
    let host = said("x-forwarded-host").or_else(|| fields.get(HOST).cloned()).unwrap_or(HeaderValue::from_static(""));
    leave_out(fields, &LEFT_OUT);
    for (name, value) in [
        ("x-real-ip", ip.clone()),
        ("x-forwarded-for", ip),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", scheme.clone()),
        ("x-real-schema", scheme),
    ] {
        fields.insert(HeaderName::from_static(name), value);
    }
    fields.insert(HOST, HeaderValue::from_str(authority)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_wins_and_ends_with_a_part() {
        let rules = [("/a", "1"), ("/a/b", "2"), ("/c/", "3")];
        let rules = rules.into_iter().map(|(path, to)| (path.to_owned(), to.to_owned())).collect();
        for (path, to) in [("/a", "1"), ("/a/x", "1"), ("/a/b", "2"), ("/a/b/c", "2"), ("/a/bc", "1"), ("/c/x", "3")] {
            assert_eq!(target(&rules, path), Some(to), "{path}");
        }
        for path in ["/", "/ab", "/c", "/A"] {
            assert_eq!(target(&rules, path), None, "{path}");
        }
    }

    #[test]
    fn paths_that_climb_are_seen() {
        for path in
            ["/app/../admin", "/app/%2e%2e/admin", "/app/.%2E", "/app/x%2f..%2f..%2fy", "/app/..%5cadmin", "/./a"]
        {
            assert!(climbs(path), "{path}");
        }
        for path in ["/", "/app/a..b", "/app/...", "/app/.well-known/x", "/app/%252e%252e/x"] {
            assert!(!climbs(path), "{path}");
        }
    }

    #[test]
    fn nobody_says_for_others_who_they_are() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("host", "public.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("http2-settings", "AAMAAABk"),
            ("cookie", "kept=1"),
            ("content-length", "5"),
        ] {
            fields.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let asks = Asks { peer: "[::ffff:192.0.2.7]:5".parse().unwrap(), over_tls: true, by_trusted: false };
        forward(&mut fields, "127.0.0.1:3000", asks).unwrap();
        let is = |name: &str, value: &str| assert_eq!(fields.get(name).unwrap(), value, "{name}");
        is("host", "127.0.0.1:3000");
        is("x-forwarded-for", "192.0.2.7");
        is("x-forwarded-host", "public.example");
        is("x-forwarded-proto", "https");
        is("cookie", "kept=1");
        is("content-length", "5");
        for left_out in ["x-secret", "forwarded", "connection", "x_forwarded_for", "http2-settings"] {
            assert!(!fields.contains_key(left_out), "{left_out}");
        }
    }

    #[test]
    fn a_trusted_proxy_says_how_it_was_asked() {
        for (by_trusted, proto, host) in [(true, "https", "public.example"), (false, "http", "inner.example")] {
            let mut fields = HeaderMap::new();
            fields.insert(HOST, HeaderValue::from_static("inner.example"));
            fields.insert("x-forwarded-proto", HeaderValue::from_static("https"));
            fields.insert("x-forwarded-host", HeaderValue::from_static("public.example"));
            let asks = Asks { peer: "192.0.2.7:0".parse().unwrap(), over_tls: false, by_trusted };
            forward(&mut fields, "127.0.0.1:3000", asks).unwrap();
            let is = |name: &str, value: &str| assert_eq!(fields.get(name).unwrap(), value, "{name}");
            is("x-forwarded-proto", proto);
            is("x-forwarded-host", host);
        }
    }
}
