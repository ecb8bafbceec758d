//! The WebRTC clients of these tests, against themselves: what they report can be believed, and can fail.

mod common;
mod e2e;

use std::time::Duration;

use e2e::rtc::{Client, assert_watchable, figure};
use serde_json::{Value, json};

/// The browser sends and decodes H.264, and its camera and microphone are found watchable.
#[test]
fn chromium_in_a_loop() {
    let scratch = tempfile::tempdir().unwrap();
    let wishes = [json!({"kind": "capabilities"}), json!({"kind": "loop", "codec": "H264"})];
    let mut browser = Client::chromium(&wishes, scratch.path());
    let line = browser.wait_frames(1, 40);
    assert_watchable(&line, Duration::from_secs(1));
    assert_eq!(line["inbound-rtp"].as_array().unwrap().len(), 2, "{line}");
    assert!(figure(&line, "inbound-rtp", "video", "keyFramesDecoded") >= 1.0, "{line}");
    let can = browser.newest(0).unwrap();
    for side in ["send", "receive"] {
        let codecs: Vec<_> = can[side].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let baseline = |codec: &&&str| {
            codec.starts_with("video/H264") && codec.contains("packetization-mode=1") && codec.contains("42e01f")
        };
        assert!(codecs.iter().any(|codec| baseline(&codec)), "no H.264 to {side}: {codecs:?}");
    }
    assert_eq!(browser.leave(), [(1, Value::Null)]);
}

/// An offer that nobody answers is told, not waited for.
#[test]
fn a_refusal_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let nobody = format!("http://127.0.0.1:{}/rtc/v1/whep/", common::free_port());
    let browser = Client::chromium_plays(&nobody, scratch.path());
    let error = common::eventually("the browser complains", Duration::from_secs(40), || {
        browser.newest(0)?.get("error").cloned()
    });
    assert!(error.as_str().unwrap().contains("Failed to fetch"), "{error}");
}
