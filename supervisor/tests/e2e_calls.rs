//! The pages for calls, in a real browser: two people, and four in a room.

mod common;
mod e2e;

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

#[test]
fn two_see_and_hear_each_other_and_four_meet_in_a_room() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    // To be looked at.
    let pictures = std::path::Path::new(WEIR).parent().unwrap().parent().unwrap().join("test-pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let origin = format!("http://localhost:{}", host.signal.port());
    let mut pages = rtc::Client::pages("calls.mjs", &origin, &pictures, scratch.path());
    pages.wait_line("calling", TWO_WITHIN);
    common::signal(host.row("edge", 0).pid, Signal::SIGKILL);
    let said = pages.finish(FOUR_WITHIN);
    let call = &said["one2one"];
    assert_eq!(call["names"], json!(["alice (you)", "bob <b>"]));
    assert_eq!(call["full"], "The room is full.");
    let words = call["said"].as_str().unwrap();
    assert!(words.contains("bob <b>") && words.contains("<img src=x onerror=alert(1)> hello"), "{said}");
    let ms = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!(ms(&call["backMs"]) < 2000, "it took long to come back: {said}");
    assert!(ms(&call["goneMs"]) < 2000 && ms(&said["room"]["goneMs"]) < 5000, "a tile stayed: {said}");
    assert_eq!(said["complaints"], json!([]), "{said}");
    assert_eq!(said["manifest"], json!([]));
    assert_eq!(said["overflows"], json!({"demos": false, "room-form": false, "one2one": false, "room": false}));
    assert!(pictures.join("room-phone-dark.png").exists());
}
