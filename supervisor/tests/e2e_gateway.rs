//! The gateway: TLS with HTTP/2 and HTTP/1.1, RTMPS, certificates by name, and other programs behind the same ports.

mod common;
mod e2e;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Cluster, WEIR, eventually, free_port};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::http;
use e2e::peer::Peer;
use e2e::source::Source;

/// A host with certificates for localhost and for b.example.
struct Gateway {
    cluster: Cluster,
    https: SocketAddr,
    rtmps: SocketAddr,
    dir: tempfile::TempDir,
}

fn make_certificate(dir: &Path, names: &[&str]) {
    let made = Command::new(WEIR).args(["cert", "dev", "--dir"]).arg(dir).args(names).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Gateway {
    fn start(more: &str) -> Self {
        Self::start_with(more, &[])
    }

    fn start_with(more: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_certificate(dir.path(), &[]);
        make_certificate(dir.path(), &["b.example"]);
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (https, rtmps, at) = (address(), address(), dir.path().display());
        let yaml = format!(
            "edge:\n  workers: 1\n  https: {{ listen: '{https}' }}\n  rtmps: {{ listen: '{rtmps}' }}\n  tls:\n  \
             - {{ cert: {at}/weir-dev.pem, key: {at}/weir-dev.key }}\n  \
             - {{ cert: {at}/b.example.pem, key: {at}/b.example.key }}\n{more}origin: {{ workers: 1 }}\n"
        );
        Self { cluster: e2e::start_with(&yaml, env), https, rtmps, dir }
    }

    /// Asks with curl, which trusts one certificate only.
    fn curl(&self, host: &str, trusted: &str, path: &str, arguments: &[&str]) -> Output {
        let port = self.https.port();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--resolve", &format!("{host}:{port}:127.0.0.1")]);
        curl.arg("--cacert").arg(self.dir.path().join(trusted));
        curl.args(arguments).arg(format!("https://{host}:{port}{path}"));
        curl.output().unwrap()
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn everything_is_there_over_tls() {
    let gateway = Gateway::start("");
    let scratch = tempfile::tempdir().unwrap();
    for (version, told) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let ask = |path: &str, more: &[&str]| {
            let arguments = [&[version, "--write-out", " %{http_version} %{http_code}"], more].concat();
            text(&gateway.curl("localhost", "weir-dev.pem", path, &arguments))
        };
        let versions = ask("/api/v1/versions", &[]);
        assert!(versions.contains("\"version\"") && versions.ends_with(&format!(" {told} 200")), "{versions}");
        assert!(ask("/", &[]).contains("<!doctype html>"));
        assert!(ask("/httpx/v1/versions", &[]).contains("\"version\""));
        assert!(ask("/nothing", &[]).ends_with("404"));
        let offer =
            ask("/rtc/v1/whip/?app=live&stream=a", &["--data", "nonsense", "-H", "Content-Type: application/sdp"]);
        assert!(offer.starts_with("WebRTC is off") && offer.ends_with("404"), "{offer}");
        let large = format!("X-Large: {}", "a".repeat(20_000));
        let refused = gateway.curl("localhost", "weir-dev.pem", "/", &[version, "--header", &large]);
        let status = gateway.curl(
            "localhost",
            "weir-dev.pem",
            "/",
            &[version, "--write-out", "%{http_code}", "-o", "/dev/null"],
        );
        assert!(!String::from_utf8_lossy(&refused.stdout).contains("doctype"), "{refused:?}");
        assert_eq!(text(&status), "200");
    }
    // Media: published over TLS, played over it and without.
    let url = format!("rtmps://{}/live/river", gateway.rtmps);
    let mut publisher = Ffmpeg::publish(Source::plain(), &url, scratch.path());
    let plain = Peer::play(gateway.cluster.rtmp, "live", "river");
    plain.wait_media(50, 2 * SOON);
    for version in ["--http2", "--http1.1"] {
        let file = scratch.path().join("played.flv");
        let arguments = [version, "--max-time", "4", "--output", file.to_str().unwrap()];
        gateway.curl("localhost", "weir-dev.pem", "/live/river.flv", &arguments);
        let probe =
            ["-v", "error", "-count_packets", "-show_entries", "stream=codec_name,nb_read_packets", "-of", "csv=p=0"];
        let probe = Command::new("ffprobe").args(probe).arg(&file).output().unwrap();
        let found = String::from_utf8_lossy(&probe.stdout).into_owned();
        let packets = |codec: &str| {
            let line = found.lines().find(|line| line.starts_with(codec)).unwrap_or_default();
            line.split(',').nth(1).and_then(|count| count.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        assert!(packets("h264") > 70 && packets("aac") > 100, "{version}: {found}");
    }
    let mut player = Ffmpeg::decode(&url, 2, scratch.path());
    assert!(player.wait(3 * SOON).success(), "{}", player.errors());
    publisher.assert_running();
    // Each is a client as any other, under its own address.
    let clients = String::from_utf8(gateway.cluster.ctl(&["clients"]).stdout).unwrap();
    assert!(clients.contains("fmle-publish") && clients.contains("127.0.0.1:"), "{clients}");
}

#[test]
fn certificates_are_chosen_by_name_and_read_again() {
    let gateway = Gateway::start("");
    let trusts = |host: &str, trusted: &str| gateway.curl(host, trusted, "/api/v1/versions", &[]).status.success();
    assert!(trusts("localhost", "weir-dev.pem") && trusts("b.example", "b.example.pem"));
    assert!(!trusts("localhost", "b.example.pem") && !trusts("b.example", "weir-dev.pem"));
    // Another one takes its place, without anybody being told.
    let old = gateway.dir.path().join("old.pem");
    std::fs::copy(gateway.dir.path().join("b.example.pem"), &old).unwrap();
    for file in ["b.example.pem", "b.example.key"] {
        std::fs::remove_file(gateway.dir.path().join(file)).unwrap();
    }
    make_certificate(gateway.dir.path(), &["b.example"]);
    eventually("the new one is shown", 3 * SOON, || trusts("b.example", "b.example.pem").then_some(()));
    assert!(!trusts("b.example", "old.pem"));
    // One that is broken changes nothing, and is named.
    std::fs::write(gateway.dir.path().join("b.example.pem"), "nonsense").unwrap();
    let refused = gateway.cluster.ctl(&["reload"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("edge.tls") && why.contains("b.example.pem"), "{why}");
    assert!(trusts("localhost", "weir-dev.pem"));
}

#[test]
fn who_says_nothing_or_nonsense_holds_nobody_up() {
    let gateway = Gateway::start("");
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(gateway.https).unwrap()).collect();
    for stream in silent.iter().take(25) {
        let mut stream = stream;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    (&silent[30]).write_all(&hello).unwrap();
    assert!(text(&gateway.curl("localhost", "weir-dev.pem", "/", &[])).contains("doctype"));
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        assert!(rest.len() < 100, "an alert at most");
    }
}

#[test]
fn who_comes_without_tls_is_sent_there() {
    let dir = tempfile::tempdir().unwrap();
    make_certificate(dir.path(), &[]);
    let (port, at) = (free_port(), dir.path().display());
    let yaml = format!(
        "{{ edge: {{ workers: 1, https: {{ listen: '127.0.0.1:{port}', redirect: on }}, \
         tls: [{{ cert: {at}/weir-dev.pem, key: {at}/weir-dev.key }}] }}, origin: {{ workers: 1 }} }}"
    );
    let cluster = e2e::start(&yaml);
    let answer = http::get(cluster.http, "/players/?stream=live/a");
    assert_eq!(answer.status, 308);
    assert_eq!(answer.field("location").unwrap(), format!("https://127.0.0.1:{port}/players/?stream=live/a"));
    assert_eq!(http::get(cluster.api, "/readyz").status, 200, "probes are not");
}

/// What `openssl s_client` says to the gateway and hears of it.
struct Talk(std::process::Child);

impl Talk {
    fn start(gateway: &Gateway, protocol: &str) -> Self {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-ign_eof", "-alpn", protocol, "-connect", &gateway.https.to_string()]);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(openssl.spawn().unwrap())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A WebSocket of another program goes on over TLS for as long as it likes, and counts as a client.
#[test]
fn websockets_of_other_programs_last_over_tls() {
    let (other, asked) = other_program();
    let gateway = Gateway::start(&format!("  proxy: {{ /app: 'http://{other}' }}\n"));
    let mut talk = Talk::start(&gateway, "http/1.1");
    let mut input = talk.0.stdin.take().unwrap();
    let mut output = BufReader::new(talk.0.stdout.take().unwrap());
    input
        .write_all(b"GET /app/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    asked.recv_timeout(SOON).unwrap();
    let mut line = String::new();
    while line.trim() != "" || line.is_empty() {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended");
    }
    // Longer than what is under way at the end of a connection may take.
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        input.write_all(b"tick\n").unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "tick\n", "it ended");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(gateway.cluster.row("edge", 0).connections, 1);
}

/// A query may have a token, and pages of https load nothing without TLS.
#[test]
fn who_came_over_tls_is_sent_on_over_tls() {
    // No host has less than one per cent of its memory in use.
    let redirect = "redirect: { http: 'plain:80', https: 'safe:443' }";
    let overload = format!("overload: {{ enabled: on, enter: 0s, memory: {{ warn: off, refuse: 1 }}, {redirect} }}\n");
    let gateway = Gateway::start_with(&overload, &[("WEIR_OVERLOAD__ENABLED", "on")]);
    let arguments = ["--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}"];
    for version in ["--http2", "--http1.1"] {
        let arguments = [&[version], &arguments[..]].concat();
        let told = eventually("it is refused", SOON, || {
            let told = text(&gateway.curl("localhost", "weir-dev.pem", "/players/?token=x", &arguments));
            (!told.starts_with("200")).then_some(told)
        });
        assert_eq!(told.trim_end_matches('/'), "302 https://safe:443/players/?token=x&redirected=1");
    }
}

/// Without a request there is no reason to keep a connection.
#[test]
fn who_speaks_http2_and_asks_for_nothing_is_not_kept() {
    let gateway = Gateway::start("  http: { header_timeout: 1s }\n");
    let mut silent = Talk::start(&gateway, "h2");
    eventually("it is a client", SOON, || (gateway.cluster.row("edge", 0).connections == 1).then_some(()));
    eventually("it is none any more", SOON, || (gateway.cluster.row("edge", 0).connections == 0).then_some(()));
    eventually("it is told", SOON, || silent.0.try_wait().unwrap().map(drop));
}

/// A proxy in front of this host says who asks; of nobody else is that believed.
#[test]
fn clients_behind_a_proxy_are_known_by_their_own_address() {
    for (trusted, address) in [("[127.0.0.1]", "203.0.113.9:0"), ("[10.0.0.0/8]", "127.0.0.1:")] {
        let yaml =
            format!("{{ edge: {{ workers: 1, http: {{ trusted_proxies: {trusted} }} }}, origin: {{ workers: 1 }} }}");
        let cluster = e2e::start(&yaml);
        let scratch = tempfile::tempdir().unwrap();
        let _publisher =
            Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
        let fields = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n";
        let answer = http::request(cluster.http, "GET", "/live/river.flv", fields);
        assert_eq!(answer.status, 200);
        let clients = String::from_utf8(cluster.ctl(&["clients"]).stdout).unwrap();
        let player = clients.lines().find(|line| line.contains("flv-play")).unwrap_or_default();
        assert!(player.contains(address), "{trusted}: {clients}");
    }
}

/// Another program: tells what it was asked, and answers each request once. An upgrade is answered and then echoed.
fn other_program() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, told) = (stream.unwrap(), told.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let upgrade = head.to_ascii_lowercase().contains("upgrade: websocket");
                    told.send(head).ok();
                    if upgrade {
                        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
                        std::io::copy(&mut reader, &mut stream).ok();
                        return;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Own: 1\r\n\r\nother").unwrap();
                }
            });
        }
    });
    (address, asked)
}

#[test]
fn other_programs_are_behind_the_same_ports() {
    let (other, asked) = other_program();
    let nobody = free_port();
    let gateway =
        Gateway::start(&format!("  proxy: {{ /app: 'http://{other}', /gone: 'http://127.0.0.1:{nobody}' }}\n"));
    let answer = http::request(gateway.cluster.http, "GET", "/app/x?y=1", "X-Real-IP: 10.0.0.1\r\nCookie: a=b\r\n");
    assert_eq!((answer.status, answer.field("x-own")), (200, Some("1")));
    assert_eq!(answer.text(), "other");
    let head = asked.recv_timeout(SOON).unwrap().to_ascii_lowercase();
    let has = |line: &str| assert!(head.contains(&format!("{line}\r\n")), "{line}: {head}");
    has("get /app/x?y=1 http/1.1");
    has(&format!("host: {other}"));
    has("x-real-ip: 127.0.0.1");
    has(&format!("x-forwarded-host: {}", gateway.cluster.http));
    has("x-forwarded-proto: http");
    has("cookie: a=b");
    assert!(!head.contains("10.0.0.1"), "{head}");
    for version in ["--http2", "--http1.1"] {
        assert_eq!(text(&gateway.curl("localhost", "weir-dev.pem", "/app", &[version])), "other");
        assert!(asked.recv_timeout(SOON).unwrap().to_ascii_lowercase().contains("x-forwarded-proto: https\r\n"));
    }
    assert_eq!(http::get(gateway.cluster.http, "/apple").status, 404, "another path");
    assert_eq!(http::get(gateway.cluster.http, "/gone/x").status, 502);

    // WebSockets pass.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let answer = http::request(gateway.cluster.http, "GET", "/app/ws", upgrade);
    assert_eq!(answer.status, 101);
    asked.recv_timeout(SOON).unwrap();
    let mut stream = answer.body;
    stream.get_mut().write_all(b"echo!").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"echo!");

    // Other protocols do not, nor paths that lead out of their beginning.
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(http::request(gateway.cluster.http, "GET", "/app/h2c", upgrade).status, 200);
    let head = asked.recv_timeout(SOON).unwrap().to_ascii_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    for path in ["/app/../admin", "/app/%2e%2e/admin", "/app/x%2f..%2f..%2fadmin"] {
        assert_eq!(http::get(gateway.cluster.http, path).status, 400, "{path}");
    }

    // A request is not hidden in another one (both families of request smuggling), nor behind one.
    let hidden = "GET /app/hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for fields in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}", hidden.len() + 5),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\x0bchunked\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\n\r\n{hidden}"),
    ] {
        let bytes = format!("POST /app/first HTTP/1.1\r\nHost: x\r\n{fields}");
        let mut stream = TcpStream::connect(gateway.cluster.http).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{fields:?}: {}", String::from_utf8_lossy(&answer));
        while let Ok(head) = asked.recv_timeout(Duration::from_millis(300)) {
            assert!(!head.contains("/app/hidden"), "{fields:?}");
        }
    }
}
