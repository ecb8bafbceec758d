//! Who may publish and play: the rules, and callbacks that answer in every way.

mod common;
mod e2e;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, WEIR, eventually, free_port};
use e2e::SOON;
use e2e::callbacks::{Callbacks, SLOW};
use e2e::ffmpeg::Ffmpeg;
use e2e::http;
use e2e::peer::Peer;
use e2e::scrape::Scrape;
use e2e::source::Source;
use serde_json::Value;

/// The fields of SRS's bodies in their order, as they were captured.
const HEAD: &str = "server_id service_id action client_id ip vhost app";
const ON_CONNECT: &str = "stream param tcUrl pageUrl";
const ON_CLOSE: &str = "send_bytes recv_bytes";
const ON_PUBLISH: &str = "tcUrl stream param stream_url stream_id";
const ON_PLAY: &str = "stream tcUrl param pageUrl stream_url stream_id";

fn publish(cluster: &Cluster, stream: &str, scratch: &Path) -> Ffmpeg {
    let publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/{stream}", cluster.rtmp), scratch);
    e2e::publishers_slot(cluster, stream.split('?').next().unwrap());
    publisher
}

/// Every hook of a vhost at one URL.
fn all_hooks(url: &str) -> String {
    let hooks = ["on_connect", "on_close", "on_publish", "on_unpublish", "on_play", "on_stop"];
    hooks.map(|hook| format!("{hook}: ['{url}']")).join(", ")
}

fn ids_of_clients(cluster: &Cluster) -> Vec<String> {
    let output = cluster.ctl(&["clients", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["clients"].as_array().unwrap().iter().map(|client| client["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn bodies_are_those_of_srs_and_ids_those_of_operators() {
    let callbacks = Callbacks::start();
    let hooks = all_hooks(&callbacks.url("/object"));
    let cluster = e2e::start(&format!(
        "{{ edge: {{ workers: 2 }}, origin: {{ workers: 1 }}, vhosts: {{ __defaultVhost__: {{ http_hooks: {{ {hooks} }} }} }} }}"
    ));
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = publish(&cluster, "live/river?token=abc&salt=xyz", scratch.path());
    let mut player = Ffmpeg::play(&format!("rtmp://{}/live/river?u=1", cluster.rtmp), 60, scratch.path());
    let flv = Peer::flv(cluster.http, "/live/river.flv?x=1");
    flv.wait_media(20, SOON);
    callbacks.wait("on_play", 2);
    let mut ids = eventually("three clients", SOON, || {
        let ids = ids_of_clients(&cluster);
        (ids.len() == 3).then_some(ids)
    });
    ids.sort();
    publisher.kill();
    player.kill();
    drop(flv);
    callbacks.wait("on_close", 2);
    callbacks.wait("on_stop", 2);
    let told = callbacks.told();
    let mut known: Vec<String> = Vec::new();
    for told in &told {
        let action = told.body["action"].as_str().unwrap();
        let own = match action {
            "on_connect" => ON_CONNECT,
            "on_close" => ON_CLOSE,
            "on_play" => ON_PLAY,
            _ => ON_PUBLISH,
        };
        // Keys in the order of the text: each begins behind the one before.
        let mut rest = told.text.as_str();
        let fields: Vec<&str> = HEAD.split(' ').chain(own.split(' ')).collect();
        for field in &fields {
            let (_, behind) =
                rest.split_once(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field}: {}", told.text));
            rest = behind;
        }
        assert_eq!(told.body.as_object().unwrap().len(), fields.len(), "{}", told.text);
        for field in &fields {
            let number = matches!(*field, "send_bytes" | "recv_bytes");
            assert_eq!(told.body[field].is_u64(), number, "{field}: {}", told.text);
            assert!(number || told.body[field].is_string(), "{field}: {}", told.text);
        }
        assert_eq!((&told.body["ip"], &told.body["app"]), (&"127.0.0.1".into(), &"live".into()));
        known.push(told.body["client_id"].as_str().unwrap().to_owned());
    }
    known.sort();
    known.dedup();
    assert_eq!(known, ids, "{told:#?}");
    let of = |action: &str, param: &str| {
        let found = callbacks.told_of(action).into_iter().filter(|body| body["param"] == param).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{action} {param}: {told:#?}");
        found.into_iter().next().unwrap()
    };
    let connect = of("on_connect", "?token=abc&salt=xyz");
    assert_eq!(
        (&connect["tcUrl"], &connect["stream"]),
        (&format!("rtmp://{}/live", cluster.rtmp).into(), &"river".into())
    );
    let publish = of("on_publish", "?token=abc&salt=xyz");
    let unpublish = of("on_unpublish", "?token=abc&salt=xyz");
    assert_eq!((&publish["stream_url"], &publish["stream_id"]), (&"/live/river".into(), &unpublish["stream_id"]));
    of("on_stop", "?u=1");
    let flv = of("on_play", "?x=1");
    assert_eq!((&flv["tcUrl"], &flv["stream"]), (&"rtmp://__defaultVhost__/live".into(), &"river".into()));
    assert!(callbacks.told_of("on_connect").len() == 2, "HTTP has no connect");
    let close =
        callbacks.told_of("on_close").into_iter().find(|body| body["client_id"] == publish["client_id"]).unwrap();
    assert!(close["recv_bytes"].as_u64().unwrap() > 10_000, "{close}");
    let order: Vec<&str> = told
        .iter()
        .filter(|told| told.body["client_id"] == publish["client_id"])
        .map(|told| told.body["action"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["on_connect", "on_publish", "on_unpublish", "on_close"]);
    let log = cluster.log();
    assert!(!log.contains("salt=xyz") && !log.contains("token=abc"), "a query in the log");
}

#[test]
fn whatever_a_callback_answers_is_a_yes_or_a_no() {
    let callbacks = Callbacks::start();
    let mut vhosts = String::new();
    let mut vhost = |name: &str, urls: &[String], more: &str| {
        let urls = urls.iter().map(|url| format!("'{url}'")).collect::<Vec<_>>().join(", ");
        let hooks = format!("on_play: [{urls}], on_publish: [{urls}], timeout: 1s, {more}");
        vhosts.push_str(&format!("  {name}: {{ http_flv: {{ wait: 0s }}, http_hooks: {{ {hooks} }} }}\n"));
    };
    let down = format!("http://127.0.0.1:{}/", free_port());
    // With a yes of everybody the stream is only not there: 404.
    let mut cases = Vec::new();
    for (path, closed, open) in [
        ("yes", 404, 404),
        ("object", 404, 404),
        ("no", 403, 403),
        ("forbidden", 403, 403),
        ("garbage", 503, 404),
        ("fault", 503, 404),
        ("redirect", 503, 404),
        ("huge", 503, 404),
        ("nonsense", 503, 404),
        ("close", 503, 404),
        ("slow", 503, 404),
    ] {
        let url = callbacks.url(&format!("/{path}"));
        vhost(&format!("{path}.closed"), std::slice::from_ref(&url), "");
        vhost(&format!("{path}.open"), std::slice::from_ref(&url), "on_error: allow");
        cases.extend([(format!("{path}.closed"), closed), (format!("{path}.open"), open)]);
    }
    vhost("down.closed", std::slice::from_ref(&down), "");
    vhost("down.open", std::slice::from_ref(&down), "on_error: allow");
    vhost("both.closed", &[callbacks.url("/yes"), callbacks.url("/no")], "");
    vhost("metadata.closed", &["http://169.254.169.254/latest".to_owned()], "");
    vhost("nobody.closed", &["http://0.0.0.0:1/".to_owned()], "");
    cases.extend(
        [("down.closed", 503), ("down.open", 404), ("both.closed", 403)]
            .map(|(name, status)| (name.to_owned(), status)),
    );
    cases.extend([("metadata.closed", 503), ("nobody.closed", 503)].map(|(name, status)| (name.to_owned(), status)));
    let cluster = e2e::start(&format!(
        "edge: {{ workers: 1 }}\norigin: {{ workers: 1 }}\nvhosts:\n  __defaultVhost__: {{}}\n{vhosts}"
    ));
    let asking = cases.iter().map(|(name, status)| {
        let (http, path, name, status) = (cluster.http, format!("/live/x.flv?vhost={name}"), name.clone(), *status);
        std::thread::spawn(move || {
            let begun = Instant::now();
            assert_eq!(http::get(http, &path).status, status, "{name}");
            assert!(begun.elapsed() < SLOW, "{name} took {:?}", begun.elapsed());
        })
    });
    asking.collect::<Vec<_>>().into_iter().for_each(|asking| asking.join().unwrap());
    assert!(cluster.log().contains("leads to a link-local address"), "{}", cluster.log());

    // RTMP clients are told as well, and may ask for something else.
    let refused = Peer::publish(cluster.rtmp, "live", "x?vhost=no.closed");
    refused.wait("the refusal", SOON, |notes| {
        notes
            .statuses
            .iter()
            .find(|(code, _)| code == "NetStream.Publish.Denied")
            .map(|(_, text)| assert_eq!(text, "access denied"))
    });
    let refused = Peer::play(cluster.rtmp, "live", "x?vhost=no.closed");
    refused.wait("the refusal", SOON, |notes| notes.said("NetStream.Play.Failed").then_some(()));
    let refusals = 2 + cases.iter().filter(|(_, status)| *status != 404).count();
    let page = eventually("the metrics", SOON, || {
        let page = Scrape::get(cluster.metrics).text;
        page.contains(&format!("weir_refusals_total{{reason=\"callback\"}} {refusals}\n")).then_some(page)
    });
    for result in ["ok", "refused", "failed"] {
        assert!(page.contains(&format!("weir_callbacks_total{{hook=\"on_play\",result=\"{result}\"}}")), "{page}");
    }
    assert!(page.contains("weir_callback_seconds_count{hook=\"on_play\"}"));
}

#[test]
fn a_slow_callback_server_delays_nobody_else() {
    let callbacks = Callbacks::start();
    let url = callbacks.url("/slow");
    let slow =
        format!("http_flv: {{ wait: 0s }}, http_hooks: {{ on_play: ['{url}'], on_stop: ['{url}'], in_flight: 16 }}");
    let cluster = e2e::start(&format!(
        "{{ edge: {{ workers: 1 }}, origin: {{ workers: 1 }}, vhosts: {{ __defaultVhost__: {{}}, slow.example: {{ {slow} }} }} }}"
    ));
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = publish(&cluster, "live/river", scratch.path());
    let players = [Peer::flv(cluster.http, "/live/river.flv"), Peer::play(cluster.rtmp, "live", "river")];
    Peer::wait_media_of(&players, 20, SOON);
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let http = cluster.http;
            std::thread::spawn(move || http::get(http, "/live/x.flv?vhost=slow.example").status)
        })
        .collect();
    let begun = Instant::now();
    // Others come and get their picture while these wait.
    let late = Peer::flv(cluster.http, "/live/river.flv");
    late.wait_media(10, SOON);
    assert!(begun.elapsed() < SLOW / 2, "{:?} for a picture", begun.elapsed());
    let statuses: Vec<u16> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
    assert!(statuses.iter().all(|status| *status == 404), "{statuses:?}");
    for player in &players {
        let pause = player.look(|notes| notes.longest_pause());
        assert!(pause < Duration::from_millis(600), "nothing for {pause:?}");
    }
    // Times in the worker, without those of this test's own threads.
    let page = eventually("the metrics", SOON, || {
        let page = Scrape::get(cluster.metrics).text;
        page.contains("weir_callback_seconds_count{hook=\"on_play\"} 40").then_some(page)
    });
    let figure = |name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (all, quick) =
        (figure("weir_frame_latency_seconds_count"), figure("weir_frame_latency_seconds_bucket{le=\"0.35\"}"));
    assert!(all > 50.0 && quick >= all - 1.0, "{quick} of {all} frames within 350 ms");
}

#[test]
fn addresses_pages_and_signatures() {
    let yaml = "
edge: { workers: 1 }
origin: { workers: 1 }
vhosts:
  __defaultVhost__: { http_flv: { wait: 0s } }
  denied.example: { http_flv: { wait: 0s }, access: { play: { deny: [127.0.0.0/8] }, publish: { allow: [192.0.2.1] } } }
  mapped.example: { http_flv: { wait: 0s }, access: { play: { allow: ['::ffff:127.0.0.1'] } } }
  page.example: { http_flv: { wait: 0s }, access: { play: { referer: [site.example] } } }
  two.example: { http_flv: { wait: 4s }, access: { limits: { players_per_ip: 2 } } }
  signed.example:
    http_flv: { wait: 8s }
    access:
      publish: { token: on }
      play: { token: on }
      sign_keys: { k1: 0123456789abcdef }
";
    let cluster = e2e::start(yaml);
    let status = |vhost: &str, more: &str, fields: &str| {
        http::request(cluster.http, "GET", &format!("/live/x.flv?vhost={vhost}{more}"), fields).status
    };
    assert_eq!((status("denied.example", "", ""), status("mapped.example", "", "")), (403, 404));
    assert_eq!(http::request(cluster.http, "HEAD", "/live/x.flv?vhost=denied.example", "").status, 403);
    for (page, wanted) in [("https://a.site.example/x", 404), ("https://site.example.evil/", 403)] {
        assert_eq!(status("page.example", "", &format!("Referer: {page}\r\n")), wanted, "{page}");
    }
    let refused = Peer::publish(cluster.rtmp, "live", "x?vhost=denied.example");
    refused.wait("the refusal", SOON, |notes| notes.said("NetStream.Publish.Denied").then_some(()));

    // Two wait for their stream; the third has no place until they leave.
    let two: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(cluster.http).unwrap();
            stream.write_all(b"GET /live/x.flv HTTP/1.1\r\nHost: two.example\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually("the two are there", SOON, || (cluster.row("edge", 0).connections >= 2).then_some(()));
    let third = http::get(cluster.http, "/live/x.flv?vhost=two.example");
    assert_eq!((third.status, third.field("retry-after")), (429, Some("5")));
    drop(two);
    eventually("the places are free", SOON, || (status("two.example", "", "") == 404).then_some(()));

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let sign = |action: &str, lasts: &str, url: &str| {
        let arguments = ["--key", "k1", "--action", action, "--for", lasts, url];
        let output = Command::new(WEIR).args(["sign", "-c"]).arg(file.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let unsigned = http::get(cluster.http, "/live/river.flv?vhost=signed.example");
    assert_eq!((unsigned.status, unsigned.field("www-authenticate")), (401, Some("Bearer realm=\"weir\"")));
    let url = sign("publish", "1m", &format!("rtmp://{}/live/river?vhost=signed.example", cluster.rtmp));
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Ffmpeg::publish(Source::plain(), &url, scratch.path());
    e2e::publishers_slot(&cluster, "signed.example/live/river");
    let play = sign("play", "1m", &format!("http://{}/live/river.flv?vhost=signed.example", cluster.http));
    let path = play.split_once(&cluster.http.to_string()).unwrap().1;
    Peer::flv(cluster.http, path).wait_media(10, SOON);
    let expired = sign("play", "0s", &format!("http://{}/live/river.flv?vhost=signed.example", cluster.http));
    for wrong in [
        expired.split_once(&cluster.http.to_string()).unwrap().1.to_owned(),
        path.replace("river.flv", "other.flv"),
        path.replace("sig=", "sig=0"),
        url.replace("rtmp://", "").replace(&cluster.rtmp.to_string(), "").replace("river", "river.flv"),
    ] {
        assert_eq!(http::get(cluster.http, &wrong).status, 401, "{wrong}");
    }
    let log = cluster.log();
    assert!(!log.contains("sig=") && !log.contains("0123456789abcdef"), "a signature in the log");
}

#[test]
fn clients_that_go_on_in_another_process_are_not_told_of_twice() {
    let callbacks = Callbacks::start();
    let hooks = all_hooks(&callbacks.url("/yes"));
    let cluster = e2e::start(&format!(
        "{{ edge: {{ workers: 2 }}, origin: {{ workers: 1 }}, vhosts: {{ __defaultVhost__: {{ http_hooks: {{ {hooks} }} }} }} }}"
    ));
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = publish(&cluster, "live/river", scratch.path());
    let players = [Peer::flv(cluster.http, "/live/river.flv"), Peer::play(cluster.rtmp, "live", "river")];
    Peer::wait_media_of(&players, 20, SOON);
    let before: Vec<u32> = cluster.rows().iter().filter(|row| row.role == "edge").map(|row| row.pid).collect();
    let upgraded = cluster.ctl(&["upgrade", "--binary", WEIR]);
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    eventually("other edges", Duration::from_secs(40), || {
        let rows: Vec<_> = cluster.rows().into_iter().filter(|row| row.role == "edge").collect();
        (rows.len() == 2 && rows.iter().all(|row| row.state == "ready" && !before.contains(&row.pid))).then_some(())
    });
    Peer::wait_media_of(&players, 50, SOON);
    let count = |action: &str| callbacks.told_of(action).len();
    let counts = ["on_connect", "on_publish", "on_play", "on_unpublish", "on_stop", "on_close"].map(count);
    assert_eq!(counts, [2, 1, 2, 0, 0, 0], "{:#?}", callbacks.told());
    publisher.kill();
    drop(players);
    callbacks.wait("on_close", 2);
    callbacks.wait("on_stop", 2);
    let unpublish = callbacks.wait("on_unpublish", 1);
    assert_eq!(unpublish[0]["client_id"], callbacks.told_of("on_publish")[0]["client_id"]);
    let close = callbacks.told_of("on_close");
    let of_publisher = close.iter().find(|body| body["client_id"] == unpublish[0]["client_id"]).unwrap();
    assert!(of_publisher["recv_bytes"].as_u64().unwrap() > 10_000, "{of_publisher}");
    let of_player = close.iter().find(|body| body["client_id"] != unpublish[0]["client_id"]).unwrap();
    assert!(of_player["send_bytes"].as_u64().unwrap() > 10_000, "{of_player}");
}

/// An offer of H.264 and Opus.
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

#[test]
fn webrtc_goes_through_the_same_gate() {
    let callbacks = Callbacks::start();
    let hooks = all_hooks(&callbacks.url("/yes"));
    let (no, token) = (callbacks.url("/no"), "access: { play: { token: on }, sign_keys: { k1: 0123456789abcdef } }");
    let (host, _) = e2e::rtc::start(&format!(
        "{{ edge: {{ workers: 2 }}, origin: {{ workers: 1 }}, vhosts: {{ __defaultVhost__: {{ http_hooks: {{ {hooks} }} }}, \
         no.example: {{ http_hooks: {{ on_publish: ['{no}'] }} }}, token.example: {{ {token} }} }} }}"
    ));
    let post = |path: &str, kind: &str, body: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\n", host.api);
        http::send(host.api, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    };
    let whip =
        |query: &str| post(&format!("/rtc/v1/whip/?app=live&stream=s{query}"), "application/sdp", &offer("sendonly"));
    let refused = whip("&vhost=no.example");
    assert_eq!((refused.status, refused.text().trim()), (403, "access denied"));
    let whep = post("/rtc/v1/whep/?app=live&stream=s&vhost=token.example", "application/sdp", &offer("recvonly"));
    assert_eq!((whep.status, whep.field("www-authenticate")), (401, Some("Bearer realm=\"weir\"")));

    let opened = whip("&token=abc");
    assert_eq!(opened.status, 201);
    let location = opened.field("location").unwrap().to_owned();
    // The first was refused.
    let published = callbacks.wait("on_publish", 2).remove(1);
    assert_eq!((&published["param"], &published["tcUrl"]), (&"app=live&stream=s&token=abc".into(), &"".into()));
    assert_eq!(http::request(host.api, "DELETE", &location, "Connection: close\r\n").status, 200);
    let unpublished = callbacks.wait("on_unpublish", 1).remove(0);
    assert_eq!(unpublished["client_id"], published["client_id"]);

    let srs = |vhost: &str, kind: &str, direction: &str| -> Value {
        let url = format!("webrtc://127.0.0.1:1985/live/s?vhost={vhost}");
        let wish = serde_json::json!({ "streamurl": url, "sdp": offer(direction) }).to_string();
        serde_json::from_str(&post(&format!("/rtc/v1/{kind}/"), "application/json", &wish).text()).unwrap()
    };
    assert_eq!(
        (srs("no.example", "publish", "sendonly")["code"].as_i64(), callbacks.told_of("on_publish").len()),
        (Some(400), 3)
    );
    assert_eq!(srs("token.example", "play", "recvonly")["status"], 401);
    assert_eq!(srs("x.example", "play", "recvonly")["code"], 0);
    let played = callbacks.wait("on_play", 1).remove(0);
    assert_eq!(
        (&played["tcUrl"], &played["param"]),
        (&"webrtc://127.0.0.1/live".into(), &"vhost=x.example&upstream=rtc".into())
    );
    // One that the origin refuses is told of as ended all the same.
    assert_eq!(post("/rtc/v1/whip/?app=live&stream=t", "application/sdp", "v=0\r\n").status, 400);
    callbacks.wait("on_unpublish", 2);
    assert_eq!(callbacks.told_of("on_connect").len(), 0);
}
