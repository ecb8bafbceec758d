//! The pages that come with the server, in a real browser.

mod common;
mod e2e;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::WEIR;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::source::Source;
use e2e::{SOON, http, rtc};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Browsers take what the machine has, which is no overload of the server's.
const YAML: &str = "{ edge: { workers: 1 }, origin: { workers: 1 }, overload: { enabled: off } }";

/// From publishing to having watched again what was lost.
const WITHIN: Duration = Duration::from_secs(100);

/// Where screenshots go, to be looked at.
fn pictures() -> PathBuf {
    let pictures = Path::new(WEIR).parent().unwrap().parent().unwrap().join("test-pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    pictures
}

#[test]
fn the_console_shows_what_runs_and_disconnects_a_client() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", host.rtmp), scratch.path());
    let players: Vec<Peer> = (0..3).map(|_| Peer::flv(host.http, "/live/river.flv")).collect();
    Peer::wait_media_of(&players, 10, SOON);
    let pictures = pictures();
    let mut console = rtc::Client::console(&format!("http://localhost:{}", host.api.port()), &pictures, scratch.path());
    let said = console.finish(WITHIN);
    let shown = &said["shown"];
    assert_eq!((&shown["said"], &shown["workers"], &shown["clients"]), (&json!("All is well."), &json!(2), &json!(3)));
    for word in ["H264 Baseline 320 x 180, AAC", "kbit/s", "Watch"] {
        assert!(shown["stream"].as_str().unwrap().contains(word), "{word}: {shown}");
    }
    assert_eq!((&said["complaints"], &said["faults"]), (&json!([]), &json!([])), "{said}");
    let strange = json!({"link": "/players/?stream=live%2Fa%2520b%3Fvhost%3Dv.example&autostart=true",
        "counts": ["1 to 100 of 150", "101 to 150 of 150"], "last": true});
    assert_eq!(said["strange"], strange);
    assert!(said["narrow"].as_object().unwrap().values().all(|wide| wide == false), "{said}");
    assert_eq!(players.iter().filter(|player| player.look(|notes| notes.end.is_some())).count(), 1);
}

#[test]
fn one_page_publishes_and_another_watches_and_comes_back_by_itself() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let pictures = pictures();
    let origin = format!("http://localhost:{}", host.http.port());
    let mut pages = rtc::Client::pages("pages.mjs", &origin, &pictures, &[], scratch.path());
    pages.wait(0, "it is watched", |line| (line["watching"] == true).then_some(()));
    let clients: Value = serde_json::from_slice(&host.ctl(&["clients", "--json"]).stdout).unwrap();
    let player = clients["clients"].as_array().unwrap().iter().find(|client| client["type"] == "rtc-play").unwrap();
    assert_eq!(player["stream"], "Anna Maria");
    assert!(host.ctl(&["kick", player["id"].as_str().unwrap()]).status.success());
    let said = pages.finish(WITHIN);
    let ms = |field: &str| said[field].as_u64().unwrap();
    assert!(ms("noticedMs") + ms("backMs") < 2500, "it took long to come back: {said}");
    assert_eq!(said["states"], json!(["Not watching", "Not publishing"]));
    assert_eq!(said["complaints"], json!([]), "{said}");
    assert_eq!(said["overflows"], json!({"home": false, "publisher": false, "watcher": false}));
    for figure in ["H264, opus", "kbit/s", "Lost packets"] {
        assert!(said["figures"].as_str().unwrap().contains(figure), "{said}");
    }
    assert!(pictures.join("watcher-phone-dark.png").exists());
}

#[test]
fn pages_say_what_is_wrong_and_come_back() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let origin = format!("http://localhost:{}", host.http.port());
    let mut pages = rtc::Client::pages("troubles.mjs", &origin, &pictures(), &[], scratch.path());
    pages.wait_line("killing", WITHIN);
    common::signal(host.row("origin", 0).pid, Signal::SIGKILL);
    let said = pages.finish(WITHIN);
    let endpoints = [
        "/rtc/v1/whip/?app=live&stream=river",
        "/rtc/v1/whep/?app=Anna%20Maria&stream=a%20b%2Bc",
        "/rtc/v1/whep/?token=x%2By&vhost=v&app=live&stream=a",
        "http://h.example:1985/rtc/v1/whep/?app=live&stream=x",
        "https://h.example/rtc/v1/whip/?schema=https&app=a%20b&stream=x",
        "https://h.example/whep?a=b+c",
    ];
    assert_eq!(said["endpoints"], json!(endpoints));
    let addresses = [
        ["/players/?stream=live%2Friver&autostart=true", "/live/river.flv", "rtmp://localhost/live/river"],
        [
            "/players/?stream=live%2Fa%2520b%3Fvhost%3Dv&autostart=true",
            "/live/a%20b.flv?vhost=v",
            "rtmp://localhost/live/a%20b?vhost=v",
        ],
        [
            "/players/?stream=webrtc%3A%2F%2Fh.example%2Flive%2Fx&autostart=true",
            "http://h.example:8080/live/x.flv",
            "rtmp://h.example/live/x",
        ],
    ];
    assert_eq!(said["addresses"], json!([addresses[0], addresses[1], addresses[2], []]));
    let nothing = ["Connecting: Nothing comes yet under this name.", "Connecting: Nothing comes at the moment."];
    assert_eq!(said["nobody"], json!(nothing));
    assert_eq!(
        said["noWay"],
        "Reconnecting: There is no way for pictures and sound to the server: see rtc.candidate and UDP 8000."
    );
    let foreign = [
        "Not publishing: this goes through elsewhere.example",
        "This goes through third.example and elsewhere.example.",
    ];
    assert_eq!(said["foreign"], json!({"said": foreign, "asked": 0}));
    let left = json!({"room": 0, "tiles": 0, "publish": ["ended"], "copied": ["Marked", true],
        "without": "Failed: This browser has no WebRTC, or it is switched off."});
    assert_eq!(said["failures"], left);
    assert_eq!(said["noCamera"], "No camera was found: the others only hear you.");
    let ms = |of: &str, field: &str| said[of][field].as_u64().unwrap();
    assert!(ms("offline", "backMs") < 2000 && said["offline"]["refused"] == 0, "its name stayed taken: {said}");
    assert!(ms("silence", "noticedMs") < 6000, "a silent server was not noticed: {said}");
    assert!(ms("killed", "noticedMs") < 5000 && ms("killed", "backMs") < 5000, "it took long to come back: {said}");
    assert_eq!(said["errors"], json!([]), "{said}");
}

/// Another program that serves the files of a directory, each request on a connection of its own.
fn files(dir: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let dir = dir.clone();
            std::thread::spawn(move || {
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
                let name = head.split(['/', '?', ' ']).find(|part| part.contains('.')).unwrap_or("none");
                let (status, body) = match std::fs::read(dir.join(name)) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).ok();
            });
        }
    });
    address
}

#[test]
fn each_way_to_watch_shows_the_picture() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Source::plain();
    let playlists = scratch.path().join("hls");
    std::fs::create_dir(&playlists).unwrap();
    let (host, _) = rtc::start(&format!(
        "{{ edge: {{ workers: 1, proxy: {{ /elsewhere: 'http://{}' }} }}, origin: {{ workers: 1 }}, overload: {{ enabled: off }} }}",
        files(playlists.clone())
    ));
    let url = |name: &str| format!("rtmp://{}/live/{name}", host.rtmp);
    let _both = Ffmpeg::publish(source, &url("river"), scratch.path());
    let input = ["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-t", "300", "-i"];
    let publish = |arguments: &[&str]| {
        let mut command = Command::new("ffmpeg");
        command.args(input).arg(&source.path).args(["-c", "copy"]).args(arguments);
        Ffmpeg::spawn(command, format!("{arguments:?}"), scratch.path())
    };
    let _mute = publish(&["-an", "-f", "flv", &url("mute")]);
    let playlist = playlists.join("river.m3u8");
    let _hls = publish(&["-f", "hls", "-hls_time", "2", "-hls_list_size", "5", playlist.to_str().unwrap()]);

    let origin = format!("http://localhost:{}", host.http.port());
    let address = format!("hls={origin}/elsewhere/river.m3u8");
    let more = ["webrtc=live/river", "flv=live/mute", &address, "flv=live/river"];
    let mut page = rtc::Client::pages("players.mjs", &origin, &pictures(), &more, scratch.path());
    page.wait_line("watching", WITHIN);
    let clients: Value = serde_json::from_slice(&host.ctl(&["clients", "--json"]).stdout).unwrap();
    let player = clients["clients"].as_array().unwrap().iter().find(|client| client["type"] == "flv-play").unwrap();
    assert!(host.ctl(&["kick", player["id"].as_str().unwrap()]).status.success());
    let last = page.finish(WITHIN);
    assert!(last["backMs"].as_u64().unwrap() < 2000, "it took long to come back: {last}");
    let lines = page.lines();
    let shown: Vec<&Value> = lines.iter().filter(|line| line["way"].is_string()).collect();
    assert_eq!(shown.len(), more.len());
    for said in &shown {
        assert!(said["contrast"].as_u64().unwrap() > 100, "the picture is black: {said}");
        assert_eq!((&said["stopped"], &said["complaints"]), (&json!("Not watching"), &json!([])), "{said}");
        for figure in ["320 x 180", "Dropped pictures", "Pictures a second"] {
            assert!(said["figures"].as_str().unwrap().contains(figure), "{said}");
        }
    }
    assert_eq!(shown.iter().map(|said| &said["sound"]).collect::<Vec<_>>(), [true, false, true, true], "{lines:?}");
    assert!(shown[3]["behind"].as_f64().unwrap() < 2.0, "HTTP-FLV lags: {last}");
}

#[test]
fn pages_can_be_switched_off() {
    for (pages, status) in [("on", 200), ("off", 404)] {
        let host =
            e2e::start(&format!("{{ edge: {{ workers: 1, http: {{ pages: {pages} }} }}, origin: {{ workers: 1 }} }}"));
        for address in [host.http, host.api] {
            let answer = http::request(address, "GET", "/players/", "Connection: close\r\n");
            assert_eq!(answer.status, status);
            assert!(
                status != 200 || answer.field("content-security-policy").unwrap().starts_with("default-src 'self'")
            );
        }
        assert_eq!(http::get(host.api, "/api/v1/versions").status, 200);
    }
}
