//! Other programs behind the same ports (`edge.proxy`): what begins with their path is passed on to them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{debug, warn};

/// An answer that was made here, or the other program's.
pub(super) type Body = Either<Full<Bytes>, Incoming>;

/// How long the other program may take to be reached, and to begin its answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Fields of one connection (RFC 9110 7.6.1), and those that only a proxy may write.
const LEFT_OUT: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "forwarded",
    "x-real-ip",
    "x-forwarded-host",
];

/// Where requests of a path go, by the longest beginning that fits; a beginning ends where a part of the path does.
pub(super) fn target<'a>(rules: &'a weir_node::config::Proxy, path: &str) -> Option<&'a str> {
    let fits = |rule: &&String| {
        let rest = path.strip_prefix(rule.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rule.ends_with('/') || rest.starts_with('/'))
    };
    let rule = rules.keys().filter(fits).max_by_key(|rule| rule.len())?;
    rules.get(rule).map(String::as_str)
}

/// Passes a request on to `target`, `http://HOST:PORT`.
pub(super) async fn pass(request: Request<Incoming>, target: &str, peer: SocketAddr, over_tls: bool) -> Response<Body> {
    let answered = timeout(ANSWER_WITHIN, tell(request, target, peer, over_tls)).await;
    match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            warn!(target, %error, "edge.proxy: the other program cannot be reached");
            failed(StatusCode::BAD_GATEWAY)
        }
        Err(_) => {
            warn!(target, "edge.proxy: the other program does not answer");
            failed(StatusCode::GATEWAY_TIMEOUT)
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
    peer: SocketAddr,
    over_tls: bool,
) -> anyhow::Result<Response<Body>> {
    let authority = target.strip_prefix("http://").unwrap_or(target);
    let socket = timeout(CONNECT_WITHIN, TcpStream::connect(authority)).await??;
    socket.set_nodelay(true).ok();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    spawn_local(async move {
        connection.with_upgrades().await.ok();
    });
    let upgrade = request.headers().get(UPGRADE).filter(|_| wants_upgrade(request.headers())).cloned();
    let client = hyper::upgrade::on(&mut request);
    forward(request.headers_mut(), authority, peer, over_tls)?;
    if let Some(upgrade) = &upgrade {
        request.headers_mut().insert(UPGRADE, upgrade.clone());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse()?;
    *request.version_mut() = Version::HTTP_11;
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        leave_out(response.headers_mut(), &LEFT_OUT[..3]);
        return Ok(response.map(Either::Right));
    }
    let server = hyper::upgrade::on(&mut response);
    spawn_local(async move {
        let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
        let ended = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
        debug!(%peer, ?ended, "edge.proxy: an upgraded connection ended");
    });
    Ok(response.map(|_| Either::Left(Full::default())))
}

fn wants_upgrade(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
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
}

/// Says who asks, as the gateway of SRS's demos does. What the client says of itself is not passed on.
fn forward(fields: &mut HeaderMap, authority: &str, peer: SocketAddr, over_tls: bool) -> anyhow::Result<()> {
    let ip = HeaderValue::from_str(&peer.ip().to_canonical().to_string())?;
    let scheme = HeaderValue::from_static(if over_tls { "https" } else { "http" });
    let host = fields.get(HOST).cloned().unwrap_or(HeaderValue::from_static(""));
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
    fn nobody_says_for_others_who_they_are() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("host", "public.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("cookie", "kept=1"),
            ("content-length", "5"),
        ] {
            fields.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        forward(&mut fields, "127.0.0.1:3000", "[::ffff:192.0.2.7]:5".parse().unwrap(), true).unwrap();
        let is = |name: &str, value: &str| assert_eq!(fields.get(name).unwrap(), value, "{name}");
        is("host", "127.0.0.1:3000");
        is("x-forwarded-for", "192.0.2.7");
        is("x-forwarded-host", "public.example");
        is("x-forwarded-proto", "https");
        is("cookie", "kept=1");
        is("content-length", "5");
        assert!(
            !fields.contains_key("x-secret") && !fields.contains_key("forwarded") && !fields.contains_key("connection")
        );
    }
}
