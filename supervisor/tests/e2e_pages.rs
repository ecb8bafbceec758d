//! The pages that come with the server, in a real browser.

mod common;
mod e2e;

use std::time::Duration;

use common::WEIR;
use e2e::{http, rtc};
use serde_json::{Value, json};

/// Browsers take what the machine has, which is no overload of the server's.
const YAML: &str = "{ edge: { workers: 1 }, origin: { workers: 1 }, overload: { enabled: off } }";

/// From publishing to having watched again what was lost.
const WITHIN: Duration = Duration::from_secs(100);

#[test]
fn one_page_publishes_and_another_watches_and_comes_back_by_itself() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    // To be looked at.
    let pictures = std::path::Path::new(WEIR).parent().unwrap().parent().unwrap().join("test-pictures");
    std::fs::create_dir_all(&pictures).unwrap();
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
