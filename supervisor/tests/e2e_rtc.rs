//! WebRTC with clients that are not ours: Chromium, aiortc, werift and ffmpeg's WHIP muxer publish and play, over a good network
//! and over a bad one.

mod common;
mod e2e;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use e2e::lossy::{Badness, Lossy};
use e2e::rtc::{self, Client, assert_watchable, figure, whep, whip};
use serde_json::{Value, json};

/// One edge and one origin.
const YAML: &str = "{ edge: { workers: 1 }, origin: { workers: 1 } }";

/// No two pictures are further apart where nothing is lost.
const FREEZE: Duration = Duration::from_secs(1);

/// A network on which a call is still a call.
const BAD: Badness = Badness {
    loss: 50,
    delay: Duration::from_millis(20),
    reordered: 20,
    jitter: Duration::from_millis(30),
    doubled: 10,
    rate: 0,
};

/// The answers to each page's DELETE: all of them are a success.
fn assert_left(ends: &[(u64, Value)], pages: usize) {
    assert_eq!(ends.len(), pages, "{ends:?}");
    assert!(ends.iter().all(|(_, status)| status == 200), "{ends:?}");
}

#[test]
fn chromium_publishes_and_chromium_and_aiortc_play() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let (publish, play) = (whip(host.api, "cam", ""), whep(host.api, "cam", ""));
    let wishes = [json!({"kind": "publish", "url": publish, "codec": "H264"}), json!({"kind": "play", "url": play})];
    let mut browser = Client::chromium(&wishes, scratch.path());
    browser.wait_frames(1, 10);
    let mut aiortc = Client::aiortc_plays(&play, scratch.path());
    assert_watchable(&aiortc.wait_frames(0, 60), FREEZE);
    let line = browser.wait_frames(1, 100);
    assert_watchable(&line, FREEZE);
    // Nothing is missing. (Its count of freezes tells how busy the machine is: the publisher's encoder runs here too.)
    for field in ["packetsLost", "nackCount"] {
        assert_eq!(figure(&line, "inbound-rtp", "video", field), 0.0, "{field}: {line}");
    }
    // Sound and picture come with reports, so that they are played together.
    assert!(rtc::report(&line, "remote-outbound-rtp", "video").is_some(), "no sender report: {line}");
    let publisher = browser.newest(0).unwrap();
    assert!(figure(&publisher, "remote-inbound-rtp", "video", "roundTripTimeMeasurements") > 0.0, "{publisher}");
    assert_left(&aiortc.leave(), 1);
    assert_left(&browser.leave(), 2);
}

#[test]
fn ffmpeg_publishes_by_whip() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = rtc::ffmpeg_publishes(&whip(host.api, "enc", ""), scratch.path());
    let mut browser = Client::chromium_plays(&whep(host.api, "enc", ""), scratch.path());
    let mut werift = Client::werift_plays(&whep(host.api, "enc", ""), scratch.path());
    // Its sound is a steady tone, and its picture moves.
    assert_watchable(&browser.wait_frames(0, 100), FREEZE);
    werift.wait(0, "sound and picture, from a key frame on", |line| {
        let count = |field: &str| line[field].as_u64().unwrap_or(0);
        (count("audio") > 100 && count("video") > 100 && count("keyframes") > 2).then_some(())
    });
    publisher.assert_running();
    assert_left(&werift.leave(), 1);
    assert_left(&browser.leave(), 1);
}

#[test]
fn a_player_may_come_before_its_publisher() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut player = Client::chromium_plays(&whep(host.api, "late", ""), scratch.path());
    player.wait(0, "the player is connected", |line| (line["state"] == "connected").then_some(()));
    let mut publisher = Client::chromium_publishes(&whip(host.api, "late", ""), "H264", scratch.path());
    assert_watchable(&player.wait_frames(0, 60), FREEZE);
    // The next publisher of the stream reaches the same player.
    assert_left(&publisher.leave(), 1);
    let before = rtc::decoded(&player.newest(0).unwrap());
    let _next = Client::chromium_publishes(&whip(host.api, "late", ""), "H264", scratch.path());
    player.wait_frames(0, before + 60);
}

#[test]
fn every_codec_of_the_browser_passes() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    for codec in ["VP8", "VP9", "AV1"] {
        let (publish, play) = (whip(host.api, codec, &format!("&codec={codec}")), whep(host.api, codec, ""));
        let wishes = [
            json!({"kind": "publish", "url": publish, "codec": codec, "width": 320, "height": 240, "fps": 15}),
            json!({"kind": "play", "url": play}),
        ];
        let mut browser = Client::chromium(&wishes, scratch.path());
        let line = browser.wait_frames(1, 30);
        assert_watchable(&line, FREEZE);
        assert_eq!(rtc::report(&line, "inbound-rtp", "video").unwrap()["codec"], format!("video/{codec}"));
        assert_left(&browser.leave(), 2);
    }
}

#[test]
fn a_bad_network_to_the_player_is_borne() {
    let (host, media) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Lossy::start(media, BAD, 7);
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "bad", ""), "codec": "H264"}),
        json!({"kind": "play", "url": whep(host.api, "bad", ""), "candidate": proxy.address.to_string()}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    let line = browser.wait_frames(1, 150);
    assert_watchable(&line, 2 * FREEZE);
    assert!(proxy.lost() > 20 && proxy.passed() > 400, "{} of {} were lost", proxy.lost(), proxy.passed());
    let video = |field: &str| figure(&line, "inbound-rtp", "video", field);
    assert!(video("nackCount") > 0.0 && video("retransmittedPacketsReceived") > 0.0, "{line}");
    // What is lost in the end is far less than the network loses. Browsers count what came again apart.
    let missed = video("packetsLost") - video("retransmittedPacketsReceived");
    assert!(missed < video("packetsReceived") / 50.0, "{line}");
}

#[test]
fn a_bad_network_from_the_publisher_is_borne() {
    let (host, media) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Lossy::start(media, BAD, 11);
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "bad", ""), "codec": "H264", "candidate": proxy.address.to_string()}),
        json!({"kind": "play", "url": whep(host.api, "bad", "")}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    assert_watchable(&browser.wait_frames(1, 150), 2 * FREEZE);
    let publisher = browser.newest(0).unwrap();
    assert!(figure(&publisher, "outbound-rtp", "video", "nackCount") > 0.0, "{publisher}");
    assert!(figure(&publisher, "outbound-rtp", "video", "retransmittedPacketsSent") > 0.0, "{publisher}");
}

#[test]
fn on_a_very_bad_network_the_picture_goes_on() {
    let (host, media) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Lossy::start(media, Badness { loss: 200, ..BAD }, 17);
    let through = proxy.address.to_string();
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "bad", ""), "codec": "H264"}),
        json!({"kind": "play", "url": whep(host.api, "bad", ""), "candidate": through}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    browser.wait_frames(1, 100);
    // And it is soon as good as the network is again.
    proxy.change(Badness::default());
    let before = rtc::decoded(&browser.newest(1).unwrap());
    let line = browser.wait_frames(1, before + 100);
    assert!(line["shown"]["sinceLastMs"].as_f64().unwrap() < 1000.0, "{line}");
}

#[test]
fn a_player_gets_the_size_of_the_picture_that_its_network_carries() {
    let (host, media) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let narrow =
        Lossy::start(media, Badness { delay: Duration::from_millis(10), rate: 350_000, ..Badness::default() }, 19);
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "sizes", ""), "codec": "VP8", "simulcast": true,
               "width": 960, "height": 540, "fps": 15}),
        json!({"kind": "play", "url": whep(host.api, "sizes", "")}),
        json!({"kind": "play", "url": whep(host.api, "sizes", ""), "candidate": narrow.address.to_string()}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    let width = |line: &Value| figure(line, "inbound-rtp", "video", "frameWidth");
    // The sizes are 240, 480 and 960 wide, and a busy browser does not always send the last.
    browser.wait(1, "a large picture", |line| (width(line) >= 480.0).then_some(()));
    browser.wait(2, "a small picture", |line| (width(line) == 240.0).then_some(()));
    // Both go on. (How large a size is changes with what the machine lets the publisher's encoder do.)
    let before = [1, 2].map(|page| browser.newest(page).unwrap());
    browser.wait_frames(1, rtc::decoded(&before[0]) + 60);
    let line = browser.wait_frames(2, rtc::decoded(&before[1]) + 90);
    // What was lost until the path was known is past; what is lost by trying more now and then is little.
    let since = |field: &str| {
        let count = |line| figure(line, "inbound-rtp", "video", field);
        count(&line) - count(&before[1])
    };
    let (lost, came) = (since("packetsLost"), since("packetsReceived"));
    assert!(lost < came / 10.0, "its network is flooded: {lost} lost of {came}, {line}");
    assert_left(&browser.leave(), 3);
}

#[test]
fn where_no_udp_passes_tcp_does() {
    let (host, media) = rtc::start("{ edge: { workers: 1 }, origin: { workers: 1 }, rtc: { tcp: on } }");
    let scratch = tempfile::tempdir().unwrap();
    // Others at the same port, who say nothing, too much, or nonsense.
    let mut others: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(media).unwrap()).collect();
    for (number, other) in others.iter_mut().enumerate() {
        match number % 3 {
            0 => {}
            1 => drop(other.write_all(&[0xff; 5000])),
            _ => drop(other.write_all(b"GET / HTTP/1.1\r\n\r\n")),
        }
    }
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "tcp", ""), "codec": "H264", "tcp": true}),
        json!({"kind": "play", "url": whep(host.api, "tcp", ""), "tcp": true}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    assert_watchable(&browser.wait_frames(1, 100), FREEZE);
    assert_left(&browser.leave(), 2);
    for mut other in others {
        other.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let closed = match other.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(closed, "a stranger's connection stays");
    }
}

#[test]
fn a_network_that_is_gone_for_a_while_is_borne() {
    let (host, media) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let good = Badness::default();
    let proxy = Lossy::start(media, good, 13);
    let wishes = [
        json!({"kind": "publish", "url": whip(host.api, "gone", ""), "codec": "H264"}),
        json!({"kind": "play", "url": whep(host.api, "gone", ""), "candidate": proxy.address.to_string()}),
    ];
    let mut browser = Client::chromium(&wishes, scratch.path());
    browser.wait_frames(1, 30);
    proxy.change(Badness { loss: 1000, ..good });
    browser.wait(1, "the picture stands", |line| (line["shown"]["sinceLastMs"].as_f64()? > 2000.0).then_some(()));
    proxy.change(good);
    let before = rtc::decoded(&browser.newest(1).unwrap());
    browser.wait_frames(1, before + 60);
}
