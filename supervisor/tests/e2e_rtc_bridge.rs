//! Between WebRTC and RTMP: what comes by one is played by the other.

mod common;
mod e2e;

use std::process::Command;
use std::time::Duration;

use common::eventually;
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::rtc::{self, Client, assert_watchable, whep, whip};
use e2e::source::Source;

/// One edge and one origin, and both bridges.
const YAML: &str = "{ edge: { workers: 1 }, origin: { workers: 1 } }";

/// Seconds of a stream that are played.
const SECONDS: u64 = 4;

/// H.264 and AAC by RTMP are H.264 and Opus in the browser.
#[test]
fn rtmp_is_played_in_the_browser() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/cam", host.rtmp), scratch.path());
    let mut browser = Client::chromium_plays(&whep(host.api, "cam", ""), scratch.path());
    assert_watchable(&browser.wait_frames(0, 80), Duration::from_secs(1));
    let mut aiortc = Client::aiortc_plays(&whep(host.api, "cam", ""), scratch.path());
    assert_watchable(&aiortc.wait_frames(0, 60), Duration::from_secs(1));
}

/// H.264 and Opus of the browser are H.264 and AAC by RTMP and HTTP-FLV.
#[test]
fn the_browser_is_played_by_rtmp() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut browser = Client::chromium_publishes(&whip(host.api, "cam", ""), "H264", scratch.path());
    browser.wait(0, "the browser sends", |line| {
        (rtc::figure(line, "outbound-rtp", "video", "framesEncoded") > 10.0).then_some(())
    });
    for url in [format!("rtmp://{}/live/cam", host.rtmp), format!("http://{}/live/cam.flv", host.http)] {
        let mut player = Ffmpeg::decode(&url, SECONDS, scratch.path());
        let status = player.wait(Duration::from_secs(SECONDS) + 2 * SOON);
        assert!(status.success(), "{url}: {status}: {}", player.errors());
        let frames = player.output();
        let count = |stream: &str| frames.lines().filter(|line| line.trim_start().starts_with(stream)).count();
        // Fake cameras are slow on busy machines; 21.3 or 23.2 ms of sound in each frame of AAC.
        assert!(count("0,") > 20, "{url}: few pictures:\n{frames}");
        assert!(count("1,") > 150, "{url}: little sound:\n{frames}");
    }
}

/// Who came first is not forgotten.
#[test]
fn players_that_wait_for_a_webrtc_publisher_are_served() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let waiting = Peer::play(host.rtmp, "live", "late");
    eventually("it waits", SOON, || host.log().contains("rtmp play").then_some(()));
    let _publisher = rtc::ffmpeg_publishes_beats(&whip(host.api, "late", ""), scratch.path());
    waiting.wait_media(50, 2 * SOON);
}

/// Players that say that they take Opus get it as it was sent; others get AAC.
#[test]
fn opus_passes_untranscoded_where_it_is_taken() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = rtc::ffmpeg_publishes_beats(&whip(host.api, "both", ""), scratch.path());
    let url = format!("rtmp://{}/live/both", host.rtmp);
    for (announced, codec) in [(&["-rtmp_enhanced_codecs", "Opus"][..], "opus"), (&[], "aac")] {
        let mut command = rtc::new_ffmpeg();
        command.args(["-v", "info"]).args(announced).args(["-i", &url, "-t", "4"]);
        command.args(["-af", "silencedetect=noise=-30dB:d=0.2", "-f", "null", "-"]);
        let mut player = Ffmpeg::spawn(command, format!("player of {codec}"), scratch.path());
        let status = player.wait(Duration::from_secs(4) + 2 * SOON);
        let log = player.errors();
        assert!(status.success() && log.contains(&format!("Audio: {codec}")), "{status}: {log}");
        assert!(log.matches("silence_end").count() >= 3, "{codec}: the tone is not heard: {log}");
        assert!(!log.contains("Error") && !log.contains("corrupt"), "{log}");
    }
}

/// Sound is decoded, encoded again and carried by another clock on its way; it stays with its picture.
#[test]
fn sound_and_picture_stay_together() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = rtc::ffmpeg_publishes_beats(&whip(host.api, "beats", ""), scratch.path());
    for url in [format!("rtmp://{}/live/beats", host.rtmp), format!("http://{}/live/beats.flv", host.http)] {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-v", "info", "-i", &url, "-t", "8"]);
        command.args([
            "-vf",
            "blackdetect=d=0.1:pix_th=0.3",
            "-af",
            "silencedetect=noise=-30dB:d=0.2",
            "-f",
            "null",
            "-",
        ]);
        let mut player = Ffmpeg::spawn(command, format!("player of {url}"), scratch.path());
        let status = player.wait(Duration::from_secs(8) + 2 * SOON);
        let log = player.errors();
        assert!(status.success(), "{status}: {log}");
        let times = |name: &str| -> Vec<f64> {
            let found = log.match_indices(name).map(|(at, _)| log[at + name.len()..].trim_start());
            found.filter_map(|text| text.split([' ', '\n', '|']).next()?.parse().ok()).collect()
        };
        let (white, tone) = (times("black_end:"), times("silence_end:"));
        assert!(tone.len() >= 5 && white.len() >= 5, "{url}: {log}");
        // The first may have begun before the player came.
        for at in &tone[1..tone.len() - 1] {
            let apart = white.iter().map(|white| at - white).min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            assert!(apart.abs() <= 0.080, "{url}: the sound is {apart:.3} s after its picture: {white:?} {tone:?}");
        }
    }
    publisher.assert_running();
}
