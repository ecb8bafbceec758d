//! WebRTC's signalling over HTTP: what clients that are in the right get, and what the others are told.

mod common;
mod e2e;

use std::net::SocketAddr;

use e2e::http::{self, Answer};
use e2e::rtc;
use serde_json::{Value, json};

const YAML: &str = "{ edge: { workers: 2 }, origin: { workers: 1 }, \
    rtc: { sessions: 3, ice_servers: ['stun:stun.example.com:3478'] }, \
    vhosts: { __defaultVhost__: {}, off.example: { rtc: { enabled: off } } } }";

/// What a client of H.264 and Opus offers: one that publishes, or one that plays.
fn offer(direction: &str) -> String {
    let common = "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdef0123456789\r\n\
        a=fingerprint:sha-256 AB:CD:EF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D\r\n\
        a=setup:actpass\r\na=rtcp-mux\r\n";
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{common}a=mid:0\r\na={direction}\r\na=rtpmap:111 opus/48000/2\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 106\r\n{common}a=mid:1\r\na={direction}\r\na=rtpmap:106 H264/90000\r\n\
         a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
    )
}

/// A request with a body, on a connection of its own.
fn with_body(address: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}");
    http::send(address, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    with_body(address, "POST", path, "Content-Type: application/sdp\r\nOrigin: http://page.example\r\n", body)
}

/// Status and text of an answer; a refusal always says why.
fn told(answer: Answer) -> (u16, String) {
    let status = answer.status;
    let text = answer.text();
    assert!(status < 400 || text.trim().len() > 5, "{status} without a reason");
    (status, text)
}

const FRAGMENT: &str = "Content-Type: application/trickle-ice-sdpfrag\r\n";

#[test]
fn whip_and_whep_as_the_rfc_has_them() {
    let (host, media) = rtc::start(YAML);
    let (api, whip) = (host.api, "/rtc/v1/whip/?app=live&stream=s");
    // The other HTTP port answers as well.
    for address in [api, host.http] {
        let answer = http::request(address, "OPTIONS", whip, "Origin: http://page.example\r\nConnection: close\r\n");
        assert_eq!(answer.status, 204);
        assert!(answer.cors_fields().len() >= 3 && answer.field("accept-post") == Some("application/sdp"));
    }
    let answer = post(api, whip, &offer("sendonly"));
    assert_eq!((answer.status, answer.field("content-type")), (201, Some("application/sdp")));
    assert_eq!(answer.field("link"), Some("<stun:stun.example.com:3478>; rel=\"ice-server\""));
    assert!(answer.field("access-control-expose-headers").is_some_and(|fields| fields == "*"));
    let (location, tag) = (answer.field("location").unwrap().to_owned(), answer.field("etag").unwrap().to_owned());
    let sdp = answer.text();
    assert!(sdp.contains("a=recvonly") && sdp.contains("a=ice-lite"), "{sdp}");
    assert!(sdp.contains(&format!(" udp 2130706431 127.0.0.1 {} typ host", media.port())), "{sdp}");

    assert_eq!(post(host.http, whip, &offer("sendonly")).status, 409, "the stream has its publisher");
    // Trickling needs nothing; a restart is not done.
    let patch = |fields: &str, to: &str| {
        with_body(api, "PATCH", to, fields, "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\n")
    };
    assert_eq!(patch(&format!("{FRAGMENT}If-Match: {tag}\r\n"), &location).status, 204);
    assert_eq!(told(patch(&format!("{FRAGMENT}If-Match: \"other\"\r\n"), &location)).0, 412);
    assert_eq!(told(patch(&format!("{FRAGMENT}If-Match: *\r\n"), &location)).0, 422);
    let wrong = patch("Content-Type: text/plain\r\n", &location);
    assert_eq!((wrong.status, wrong.field("accept-patch")), (415, Some("application/trickle-ice-sdpfrag")));

    let (before, token) = location.split_once("token=").unwrap();
    let (token, after) = token.split_at(token.find('&').unwrap());
    let forged = format!("{before}token={}{after}", "a".repeat(token.len()));
    assert_eq!(told(http::request(api, "DELETE", &forged, "Connection: close\r\n")).0, 403);
    // Any worker ends it, and once more does no harm.
    for address in [host.http, api] {
        assert_eq!(http::request(address, "DELETE", &location, "Connection: close\r\n").status, 200);
    }
    let unknown = location.replace("session=", "session=x");
    assert_eq!(told(http::request(api, "DELETE", &unknown, "Connection: close\r\n")).0, 404);
    assert_eq!(post(api, whip, &offer("sendonly")).status, 201, "the name is free again");
}

#[test]
fn what_is_wrong_is_told() {
    let (host, _) = rtc::start(YAML);
    let (api, whip, whep) = (host.api, "/rtc/v1/whip/?app=live&stream=s", "/rtc/v1/whep/?app=live&stream=s");
    for method in ["GET", "PUT"] {
        let answer = http::request(api, method, whip, "Connection: close\r\n");
        assert_eq!((answer.status, answer.field("allow")), (405, Some("POST, PATCH, DELETE, OPTIONS")));
    }
    let kind = with_body(api, "POST", whip, "Content-Type: application/json\r\n", "{}");
    assert_eq!((kind.status, kind.field("accept-post")), (415, Some("application/sdp")));
    let video = offer("sendonly").replace("H264", "H261").replace("opus", "speex");
    let large = format!("{}a={}\r\n", offer("sendonly"), "x".repeat(200_000));
    for (path, body, status) in [
        (whip, "", 400),
        (whip, "v=0\r\n", 400),
        (whip, "\u{0}\u{1}", 400),
        (whip, &*offer("recvonly"), 400),
        (whep, &*offer("sendonly"), 400),
        (whip, &video, 406),
        (whip, &large, 413),
        ("/rtc/v1/whip/?app=live&stream=%00", &*offer("sendonly"), 400),
        ("/rtc/v1/whip/?app=live&stream=s&vhost=off.example", &*offer("sendonly"), 404),
        ("/rtc/v1/nothing/", &*offer("sendonly"), 404),
    ] {
        let (got, text) = told(post(api, path, body));
        assert_eq!(got, status, "{path}: {text}");
    }
    // Sessions are bounded, and come to an end.
    for _ in 0..3 {
        assert_eq!(post(api, whep, &offer("recvonly")).status, 201);
    }
    let full = post(api, whep, &offer("recvonly"));
    assert_eq!((full.status, full.field("retry-after")), (503, Some("1")));
}

#[test]
fn the_form_of_srs() {
    let (host, _) = rtc::start(YAML);
    let ask = |path: &str, body: &str| -> Value {
        let answer = with_body(host.api, "POST", path, "Content-Type: application/json\r\n", body);
        assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
        serde_json::from_str(&answer.text()).unwrap()
    };
    let wish = |direction: &str| {
        let (api, url) = (format!("http://{}/rtc/v1/publish/", host.api), "webrtc://127.0.0.1/live/s");
        json!({"api": api, "tid": "1a2b3c4", "streamurl": url, "clientip": "192.0.2.1", "sdp": offer(direction)})
            .to_string()
    };
    let published = ask("/rtc/v1/publish/", &wish("sendonly"));
    assert_eq!(published["code"], 0, "{published}");
    for field in ["server", "service", "pid", "sdp", "sessionid"] {
        assert!(published[field].is_string(), "{field}: {published}");
    }
    let played = ask("/rtc/v1/play/", &wish("recvonly"));
    assert!(played["sdp"].as_str().unwrap().contains("a=sendonly") && played["code"] == 0, "{played}");
    for body in ["", "[]", "{}", "{\"streamurl\":\"live/s\",\"sdp\":\"v=0\"}", &wish("recvonly")] {
        let refused = ask("/rtc/v1/publish/", body);
        assert!(refused["code"] == 400 && refused["reason"].is_string(), "{body}: {refused}");
    }
}
