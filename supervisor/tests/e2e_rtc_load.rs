//! WebRTC for a crowd: publishers and players by the dozen, over a good network and over a bad one.

mod common;
mod e2e;

use std::time::Duration;

use e2e::loadtest::Crowd;
use e2e::lossy::{Badness, Lossy};
use e2e::rtc::{self, whep, whip};

/// Two edges, so that offers come in anywhere, and one origin.
const YAML: &str = "{ edge: { workers: 2 }, origin: { workers: 1 } }";

/// Longer than any run of these tests.
const END: Duration = Duration::from_secs(60);

/// What never happens where nothing is lost on the way.
const NOTHING: [&str; 7] = ["failed", "disconnected", "gaps", "skips", "lost", "bad", "duplicates"];

#[test]
fn a_crowd_over_a_good_network_loses_nothing() {
    let (host, media) = rtc::start(YAML);
    let publishers = Crowd::rtc_publish(&whip(host.api, "s{i}", ""), 4, media, 14);
    std::thread::sleep(Duration::from_secs(2));
    let players = Crowd::rtc_play(&whep(host.api, "s{i}", ""), 60, 4, media, 6).report(END);
    players.assert_none(&NOTHING);
    assert_eq!(players.figure("ok"), 60.0);
    // Thirty pictures a second, and a keyframe every two seconds, for each of sixty players.
    assert!(players.figure("frames") > 0.95 * 30.0 * 6.0 * 60.0, "{} frames", players.figure("frames"));
    assert!(players.figure("keyframes") >= 2.0 * 60.0, "{} keyframes", players.figure("keyframes"));
    assert!(players.figure("latency_p99_ms") < 200.0, "{} ms", players.figure("latency_p99_ms"));
    assert!(players.figure("first_key_p90_ms") < 3000.0, "{} ms", players.figure("first_key_p90_ms"));
    publishers.report(END).assert_none(&["failed", "disconnected", "bad", "nacked"]);
}

#[test]
fn a_crowd_over_srs_api() {
    let (host, media) = rtc::start(YAML);
    let url = format!("webrtc://{}/live/s{{i}}", host.api);
    let publishers = Crowd::rtc_publish(&url, 2, media, 8);
    std::thread::sleep(Duration::from_secs(2));
    let players = Crowd::rtc_play(&url, 6, 2, media, 3).report(END);
    players.assert_none(&NOTHING);
    assert_eq!(players.figure("ok"), 6.0);
    publishers.report(END).assert_none(&["failed", "disconnected"]);
}

#[test]
fn what_a_bad_network_loses_is_sent_again() {
    let (host, media) = rtc::start(YAML);
    let bad = Badness { loss: 30, delay: Duration::from_millis(15), ..Badness::default() };
    let (up, down) = (Lossy::start(media, bad, 3), Lossy::start(media, bad, 5));
    let publishers = Crowd::rtc_publish(&whip(host.api, "s{i}", ""), 2, up.address, 16);
    std::thread::sleep(Duration::from_secs(3));
    let players = Crowd::rtc_play(&whep(host.api, "s{i}", ""), 8, 2, down.address, 8).report(END);
    players.assert_none(&["failed", "disconnected", "gaps", "bad"]);
    let (packets, lost) = (players.figure("packets"), players.figure("lost"));
    assert!(players.figure("recovered") > 0.01 * packets, "of {packets} packets few came again");
    // Sound, a third of the packets, is not asked for again, and each network loses three in a hundred of it.
    assert!(lost < 0.04 * packets, "{lost} of {packets} packets were lost for good");
    let publishers = publishers.report(END);
    publishers.assert_none(&["failed", "disconnected"]);
    assert!(publishers.figure("repeated") > 0.0 && publishers.figure("nacked") > 0.0);
    assert!(up.lost() > 100 && down.lost() > 100, "{} and {} were lost", up.lost(), down.lost());
}
