//! The pages for calls, in a real browser: two people, and four in a room.

mod common;
mod e2e;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::WEIR;
use e2e::rtc;
use nix::sys::signal::Signal;
use serde_json::json;

/// Browsers take what the machine has, which is no overload of the server's.
const YAML: &str = "{ edge: { workers: 1 }, origin: { workers: 1 }, overload: { enabled: off } }";

/// Four pages that each encode one picture and decode three take their time on a small machine.
const TWO_WITHIN: Duration = Duration::from_secs(150);
const FOUR_WITHIN: Duration = Duration::from_secs(240);

/// Where screenshots go, to be looked at.
fn pictures() -> PathBuf {
    let pictures = Path::new(WEIR).parent().unwrap().parent().unwrap().join("test-pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    pictures
}

/// Through the gateway, as people who are elsewhere do: a browser gives its camera to secure pages only.
#[test]
fn two_meet_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(WEIR).args(["cert", "dev", "--dir"]).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (port, at) = (common::free_port(), dir.path().display());
    let (host, _) = rtc::start(&format!(
        "{{ edge: {{ workers: 2, https: {{ listen: '127.0.0.1:{port}' }}, \
         tls: [{{ cert: {at}/weir-dev.pem, key: {at}/weir-dev.key }}] }}, \
         origin: {{ workers: 1 }}, overload: {{ enabled: off }} }}"
    ));
    let certificate = dir.path().join("weir-dev.pem");
    let origin = format!("https://localhost:{port}");
    let more = [certificate.to_str().unwrap()];
    let said = rtc::Client::pages("calls.mjs", &origin, &pictures(), &more, dir.path()).finish(TWO_WITHIN);
    assert_eq!((&said["secure"], &said["complaints"]), (&json!(true), &json!([])), "{said}");
    let sockets = said["sockets"].as_array().unwrap();
    assert!(!sockets.is_empty(), "{said}");
    for socket in sockets {
        assert!(socket.as_str().unwrap().starts_with(&format!("wss://localhost:{port}/sig/v1/rtc")), "{said}");
    }
    drop(host);
}

#[test]
fn two_see_and_hear_each_other_and_four_meet_in_a_room() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let pictures = pictures();
    let origin = format!("http://localhost:{}", host.signal.port());
    let mut pages = rtc::Client::pages("calls.mjs", &origin, &pictures, &[], scratch.path());
    pages.wait_line("calling", TWO_WITHIN);
    common::signal(host.row("edge", 0).pid, Signal::SIGKILL);
    let said = pages.finish(FOUR_WITHIN);
    let call = &said["one2one"];
    assert_eq!(call["names"], json!(["alice (you)", "bob <b>"]));
    assert_eq!(call["full"], "The room is full.");
    let words = call["said"].as_str().unwrap();
    assert!(words.contains("bob <b>") && words.contains("<img src=x onerror=alert(1)> hello"), "{said}");
    assert_eq!((&call["dark"], &call["asked"]), (&json!(true), &json!(3)), "{said}");
    let ms = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!(ms(&call["begun"]) < 5, "each wish to refresh was followed: {said}");
    assert!(ms(&call["backMs"]) < 2000, "it took long to come back: {said}");
    assert!(ms(&call["goneMs"]) < 2000 && ms(&said["room"]["goneMs"]) < 5000, "a tile stayed: {said}");
    assert_eq!(said["complaints"], json!([]), "{said}");
    assert_eq!(said["manifest"], json!([]));
    assert_eq!(said["overflows"], json!({"demos": false, "room-form": false, "one2one": false, "room": false}));
    assert!(pictures.join("room-phone-dark.png").exists());
}
