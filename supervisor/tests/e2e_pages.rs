//! The pages that come with the server, in a real browser.

mod common;
mod e2e;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::WEIR;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::source::Source;
use e2e::{SOON, http, rtc};
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
    assert!(said["narrow"].as_object().unwrap().values().all(|wide| wide == false), "{said}");
    assert_eq!(players.iter().filter(|player| player.look(|notes| notes.end.is_some())).count(), 1);
}

#[test]
fn one_page_publishes_and_another_watches_and_comes_back_by_itself() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let pictures = pictures();
    let origin = format!("http://localhost:{}", host.http.port());
    let mut pages = rtc::Client::pages("pages.mjs", &origin, &pictures, scratch.path());
    pages.wait(0, "it is watched", |line| (line["watching"] == true).then_some(()));
    let clients: Value = serde_json::from_slice(&host.ctl(&["clients", "--json"]).stdout).unwrap();
    let player = clients["clients"].as_array().unwrap().iter().find(|client| client["type"] == "rtc-play").unwrap();
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
