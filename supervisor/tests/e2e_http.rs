//! HTTP as browsers, players, proxies and worse send it.

mod common;
mod e2e;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Cluster, eventually, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::flv::{Tag, Tags, assert_monotonic};
use e2e::http::{self, Answer};
use e2e::source::{GOP, Source};
use nix::sys::signal::Signal;

/// A request waits that long for a stream.
const WAIT: Duration = Duration::from_secs(2);

/// So soon a lost origin is known.
const LOST: Duration = Duration::from_secs(2);

/// So soon comes what comes at once, and so late at most what comes after [`WAIT`].
const SLACK: Duration = Duration::from_millis(1500);

const YAML: &str = "
edge: { workers: 1, http: { header_timeout: 1s } }
origin: { workers: 1 }
vhosts:
  __defaultVhost__: { http_flv: { wait: 2s } }
  impatient.example: { http_flv: { wait: 0s } }
  off.example: { http_flv: { enabled: off } }
";

/// A host with `live/river` published.
struct Published {
    cluster: Cluster,
    _publisher: Ffmpeg,
    _scratch: tempfile::TempDir,
}

fn published() -> Published {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let publisher = publish(&cluster, "live/river", scratch.path());
    Published { cluster, _publisher: publisher, _scratch: scratch }
}

fn publish(cluster: &Cluster, stream: &str, scratch: &Path) -> Ffmpeg {
    let publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/{stream}", cluster.rtmp), scratch);
    e2e::publishers_slot(cluster, stream);
    publisher
}

/// Reads that many tags of a live body; panics unless it is one, from a keyframe on, whole.
fn assert_plays(answer: Answer, who: &str) {
    assert_eq!(answer.status, 200, "{who}");
    let tags: Vec<Tag> = Tags::new(answer.body).take(3 * GOP).map(Result::unwrap).collect();
    let source = Source::plain();
    source.assert_whole(&source.place_tags(&tags), who);
    assert_monotonic(&tags, who);
    let front: Vec<(u8, Option<u8>)> = tags.iter().take(3).map(|tag| (tag.kind, tag.body.get(1).copied())).collect();
    assert_eq!(front[0].0, 18, "{who}: metadata comes first: {front:?}");
    assert!(front[1..].contains(&(9, Some(0))) && front[1..].contains(&(8, Some(0))), "{who}: {front:?}");
}

#[test]
fn a_live_body_is_flv_up_to_the_end_of_the_connection() {
    let published = published();
    let http = published.cluster.http;
    let answer = http::get(http, "/live/river.flv");
    assert_eq!((answer.version.as_str(), answer.field("content-type")), ("HTTP/1.1", Some("video/x-flv")));
    assert_eq!((answer.field("transfer-encoding"), answer.field("content-length")), (None, None));
    assert_eq!((answer.field("connection"), answer.field("cache-control")), (Some("close"), Some("no-store")));
    assert_eq!(answer.cors_fields(), [""; 0], "nobody asked from another site");
    assert_plays(answer, "a player");

    let old = http::send(http, b"GET /live/river.flv HTTP/1.0\r\n\r\n");
    assert_eq!(old.field("transfer-encoding"), None);
    assert_plays(old, "HTTP/1.0");
    let proxied = format!("GET http://{http}/live/river.flv?x=1 HTTP/1.1\r\nHost: {http}\r\n\r\n");
    assert_plays(http::send(http, proxied.as_bytes()), "a proxy");
    assert_plays(http::get(http, "/live/%72iver.flv"), "an encoded name");
    assert_plays(http::request(http, "GET", "/live/river.flv", "Connection: keep-alive\r\n"), "keep-alive");

    // Byte by byte.
    let mut slow = TcpStream::connect(http).unwrap();
    slow.set_nodelay(true).unwrap();
    for byte in b"GET /live/river.flv HTTP/1.1\r\nHost: x\r\n\r\n" {
        slow.write_all(&[*byte]).unwrap();
    }
    assert_plays(Answer::read(slow), "a slow writer");
}

#[test]
fn browsers_are_told_that_other_sites_may_play() {
    let published = published();
    let http = published.cluster.http;
    let origin = "Origin: https://site.example\r\n";
    let answer = http::request(http, "GET", "/live/river.flv", origin);
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert_plays(answer, "a page");

    let preflight = format!("{origin}Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range\r\n");
    let answer = http::request(http, "OPTIONS", "/live/river.flv", &preflight);
    assert_eq!((answer.status, answer.field("access-control-allow-origin")), (204, Some("*")));
    assert!(answer.field("access-control-allow-methods").unwrap().contains("GET"));
    assert!(answer.field("access-control-allow-headers").is_some());
    assert_eq!(answer.text(), "");

    // A page must be able to read a refusal as well.
    let refused = http::request(http, "GET", "/live/none.flv?vhost=impatient.example", origin);
    assert_eq!((refused.status, refused.field("access-control-allow-origin")), (404, Some("*")));
    let options = http::request(http, "OPTIONS", "/live/river.flv", "");
    assert_eq!((options.status, options.cors_fields()), (204, vec![]));
    drop(published);

    let closed = e2e::start(
        "edge: { workers: 1, http: { cors: off } }\nvhosts: { __defaultVhost__: { http_flv: { wait: 0s } } }\n",
    );
    let answer = http::request(closed.http, "GET", "/live/river.flv", origin);
    assert_eq!((answer.status, answer.cors_fields()), (404, vec![]));
}

#[test]
fn head_answers_as_get_does_without_the_body() {
    let published = published();
    let http = published.cluster.http;
    let answer = http::request(http, "HEAD", "/live/river.flv", "");
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("video/x-flv")));
    assert_eq!(answer.text(), "");
    let answer = http::request(http, "HEAD", "/live/none.flv?vhost=impatient.example", "");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.text(), "");
}

#[test]
fn what_cannot_be_a_stream_is_not_found_at_once() {
    let cluster = e2e::start(YAML);
    let begun = Instant::now();
    for path in [
        "/live/..flv",
        "/live/%2e%2e/x.flv",
        "/live/a%2fb.flv",
        "/live/a%00b.flv",
        "/live/a%zz.flv",
        "/live/%ff%fe.flv",
        "/.flv",
        "/live/a.flv?vhost=no/../host%0a",
        "/live/a.flv?vhost=off.example",
        "/live/a.mp4",
        "/live/a",
        "/live/",
        &format!("/live/{}.flv", "a".repeat(300)),
    ] {
        let answer = http::get(cluster.http, path);
        assert_eq!((answer.status, answer.field("connection")), (404, Some("close")), "{path}");
        answer.text();
    }
    assert!(begun.elapsed() < WAIT + SLACK, "{:?} for all of them", begun.elapsed());
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let answer = http::request(cluster.http, method, "/live/a.flv", "Content-Length: 0\r\n");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.field("allow").unwrap().contains("GET"));
    }
}

#[test]
fn a_stream_is_waited_for_as_long_as_the_configuration_says() {
    let cluster = e2e::start(YAML);
    let begun = Instant::now();
    let answer = http::get(cluster.http, "/live/none.flv");
    let took = begun.elapsed();
    assert_eq!(answer.status, 404);
    assert!(took >= WAIT && took < WAIT + SLACK, "{took:?}");
    assert!(answer.text().contains("not published"));

    let begun = Instant::now();
    assert_eq!(http::get(cluster.http, "/live/none.flv?vhost=impatient.example").status, 404);
    assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
    let by_host = http::send(cluster.http, b"GET /live/none.flv HTTP/1.1\r\nHost: impatient.example:80\r\n\r\n");
    assert_eq!(by_host.status, 404);
    assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
}

#[test]
fn a_stream_that_is_published_while_a_player_waits_begins() {
    let cluster = e2e::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    let scratch = tempfile::tempdir().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(cluster.http).unwrap();
        stream.write_all(b"GET /live/later.flv HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        waiting.push(stream);
    }
    eventually("six clients", SOON, || {
        (cluster.rows().iter().map(|row| row.connections).sum::<u64>() >= 6).then_some(())
    });
    let _publisher = publish(&cluster, "live/later", scratch.path());
    let players = waiting.into_iter().map(|stream| std::thread::spawn(|| assert_plays(Answer::read(stream), "waited")));
    players.collect::<Vec<_>>().into_iter().for_each(|player| player.join().unwrap());
}

#[test]
fn heads_that_are_none_are_refused() {
    let cluster = e2e::start(YAML);
    for head in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /live/a.flv HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let answer = http::send(cluster.http, head.as_bytes());
        assert_eq!(answer.status, 400, "{head:?}");
    }
    let long = format!("GET /live/a.flv HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    assert_eq!(http::send(cluster.http, long.as_bytes()).status, 431);
    let many = format!("GET /live/a.flv HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(200));
    assert_eq!(http::send(cluster.http, many.as_bytes()).status, 431);

    let begun = Instant::now();
    assert_eq!(http::send(cluster.http, b"GET /live/a.flv HT").status, 408);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(1) + SLACK, "{took:?}");
    // Some bytes now and then do not help.
    let mut dripping = TcpStream::connect(cluster.http).unwrap();
    dripping.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    dripping.write_all(b"GET /live/a.flv HTTP/1.1\r\n").unwrap();
    while answer.is_empty() && begun.elapsed() < SOON {
        dripping.write_all(b"A: b\r\n").ok();
        let mut buffer = [0; 512];
        match dripping.read(&mut buffer) {
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    assert!(String::from_utf8_lossy(&answer).contains(" 408 "), "{:?} after {:?}", answer, begun.elapsed());
}

#[test]
fn the_api_port_tells_of_the_process() {
    let cluster = e2e::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = http::get(cluster.api, path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.text(), text);
        assert_eq!(http::get(cluster.http, path).status, 404, "{path} is not for the public");
    }
    for address in [cluster.api, cluster.http] {
        let answer = http::get(address, "/api/v1/versions");
        assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
        let value: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((&value["code"], &value["data"]["version"]), (&0.into(), &env!("CARGO_PKG_VERSION").into()));
    }
    let answer = http::request(cluster.api, "GET", "/api/v1/versions", "Origin: https://site.example\r\n");
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert_eq!(http::request(cluster.api, "DELETE", "/api/v1/versions", "").status, 405);
    assert_eq!(http::get(cluster.api, "/live/a.flv").status, 404, "media is not on the API port");
}

#[test]
fn readiness_is_withdrawn_while_the_origin_does_not_answer() {
    let cluster = e2e::start("edge: { workers: 1 }\norigin: { workers: 1 }\n");
    let ready = || http::get(cluster.api, "/readyz").status;
    assert_eq!(ready(), 200);
    let origin = cluster.row("origin", 0).pid;
    signal(origin, Signal::SIGSTOP);
    eventually("the edge is not ready", LOST + SLACK, || (ready() == 503).then_some(()));
    assert_eq!(http::get(cluster.api, "/healthz").status, 200);
    signal(origin, Signal::SIGCONT);
    eventually("the edge is ready again", SOON, || (ready() == 200).then_some(()));
}
