//! Publishers that are lost, come back, and meet another one.

mod common;
mod e2e;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Cluster, eventually};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::flv::{Tag, assert_monotonic};
use e2e::peer::Peer;
use e2e::source::Source;

/// How long players stay without a publisher, in the test of that; in the others it is long enough for ffmpeg to come
/// back on a machine that has other things to do.
const GRACE: Duration = Duration::from_secs(2);

/// An end comes that late at most.
const SLACK: Duration = Duration::from_secs(2);

/// Messages of some seconds: 25 of video and some 43 of audio each.
const SOME: usize = 200;

fn start(publish: &str) -> Cluster {
    start_with(publish, "")
}

fn start_with(publish: &str, play: &str) -> Cluster {
    e2e::start(&format!(
        "edge: {{ workers: 2, rtmp: {{ request_timeout: 1s }} }}\norigin: {{ workers: 1 }}\nvhosts: {{ __defaultVhost__: {{ publish: {{ {publish} }}, play: {{ {play} }} }} }}\n"
    ))
}

fn publish(cluster: &Cluster, scratch: &Path, query: &str) -> Ffmpeg {
    Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river{query}", cluster.rtmp), scratch)
}

/// Two players of each protocol; the kernel spreads them over the workers.
fn players(cluster: &Cluster) -> Vec<(&'static str, Peer)> {
    let flv = || ("an FLV player", Peer::flv(cluster.http, "/live/river.flv"));
    let rtmp = || ("an RTMP player", Peer::play(cluster.rtmp, "live", "river"));
    vec![flv(), rtmp(), flv(), rtmp()]
}

fn wait_media(players: &[(&'static str, Peer)], more: usize) {
    Peer::wait_media_of(players.iter().map(|(_, player)| player), more, SOON);
}

/// Panics unless all are connected, got frames of the source in order of time, and joined at keyframes only.
fn assert_content(players: &[(&'static str, Peer)]) {
    for (who, player) in players {
        player.assert_connected();
        assert_media(who, &player.look(|notes| notes.media()));
    }
}

fn assert_media(who: &str, media: &[Tag]) {
    assert_monotonic(media, who);
    let source = Source::plain();
    source.assert_joins_at_keyframes(&source.place_tags(media), who);
}

fn configurations(player: &Peer) -> usize {
    player.look(|notes| notes.tags.iter().filter(|(_, tag)| tag.kind == 9 && tag.body.get(1) == Some(&0)).count())
}

#[test]
fn a_publisher_that_comes_back_within_the_grace_is_not_missed() {
    let cluster = start("grace: 10s");
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = publish(&cluster, scratch.path(), "");
    let players = players(&cluster);
    let mut ffmpegs = ["rtmp", "flv"].map(|kind| {
        let url = match kind {
            "rtmp" => format!("rtmp://{}/live/river", cluster.rtmp),
            _ => format!("http://{}/live/river.flv", cluster.http),
        };
        Ffmpeg::play(&url, 300, scratch.path())
    });
    for round in 0..3 {
        wait_media(&players, SOME / 2);
        let before = Instant::now();
        publisher.kill();
        let dark = players[0].1.look(|notes| notes.tags.last().unwrap().1.timestamp);
        publisher = publish(&cluster, scratch.path(), "");
        wait_media(&players, SOME / 2);
        assert_content(&players);
        // The time of the gap is the time that passed, within what the players were behind or ahead of it.
        let later = players[0].1.look(|notes| notes.tags.last().unwrap().1.timestamp) - dark;
        let passed = before.elapsed();
        let apart = Duration::from_millis(u64::from(later)).abs_diff(passed);
        assert!(apart < Duration::from_secs(3), "round {round}: {later} ms in the stream, {passed:?} on the clock");
    }
    for (who, player) in &players {
        assert_eq!(configurations(player), 1, "{who}: the configuration has not changed");
        assert!(!player.look(|notes| notes.said("NetStream.Play.UnpublishNotify")), "{who}");
    }
    for ffmpeg in &mut ffmpegs {
        ffmpeg.assert_running();
        assert_eq!(ffmpeg.errors(), "");
        let received = Source::plain().place_hashes(&ffmpeg.output());
        Source::plain().assert_joins_at_keyframes(&received, "ffmpeg");
        assert!(received.video.len() > 100);
    }
}

#[test]
fn after_the_grace_bodies_end_and_rtmp_players_stay() {
    let cluster = start(&format!("grace: {}s", GRACE.as_secs()));
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = publish(&cluster, scratch.path(), "");
    let (flv, rtmp) = (Peer::flv(cluster.http, "/live/river.flv"), Peer::play(cluster.rtmp, "live", "river"));
    let mut ffmpeg = Ffmpeg::play(&format!("http://{}/live/river.flv", cluster.http), 300, scratch.path());
    Peer::wait_media_of([&flv, &rtmp], SOME, SOON);
    eventually("ffmpeg plays", SOON, || ffmpeg.output().contains("\n0,").then_some(()));

    publisher.kill();
    let lost = Instant::now();
    let end = flv.wait("the end", GRACE + SLACK, |notes| notes.end.clone());
    let took = lost.elapsed();
    assert_eq!(end, "end of body");
    assert!(took + Duration::from_millis(200) > GRACE, "the body ended after {took:?} already");
    ffmpeg.finish_body(SOON);
    rtmp.wait("the notice", SOON, |notes| notes.said("NetStream.Play.UnpublishNotify").then_some(()));

    // As long as it takes, an RTMP player waits.
    std::thread::sleep(GRACE);
    rtmp.assert_connected();
    let _back = publish(&cluster, scratch.path(), "");
    rtmp.wait("the notice", SOON, |notes| notes.said("NetStream.Play.PublishNotify").then_some(()));
    rtmp.wait_media(SOME, SOON);
    rtmp.assert_connected();
    assert_media("the RTMP player", &rtmp.look(|notes| notes.media()));
}

#[test]
fn without_a_grace_the_body_ends_behind_the_last_frame() {
    // The stream ends in the middle of a round.
    let cluster = start_with("grace: 0s", "mw_latency: 4s");
    let scratch = tempfile::tempdir().unwrap();
    let url = format!("rtmp://{}/live/river", cluster.rtmp);
    let mut publisher = Ffmpeg::publish_for(Source::plain(), &url, "6", scratch.path());
    let flv = Peer::flv(cluster.http, "/live/river.flv");
    let mut ffmpeg = Ffmpeg::play(&format!("http://{}/live/river.flv", cluster.http), 300, scratch.path());
    publisher.finish(Duration::from_secs(6) + SOON);
    assert_eq!(flv.wait("the end", SLACK, |notes| notes.end.clone()), "end of body");
    ffmpeg.finish_body(SOON);
    let media = flv.look(|notes| notes.media());
    let source = Source::plain();
    let received = source.place_tags(&media);
    source.assert_whole(&received, "the player");
    assert_eq!(received.video.last(), Some(&149), "the last frame of six seconds came too");
}

#[test]
fn a_second_publisher_is_told_that_the_name_is_taken() {
    let cluster = start("grace: 5s");
    let scratch = tempfile::tempdir().unwrap();
    let mut first = publish(&cluster, scratch.path(), "");
    let players = players(&cluster);
    wait_media(&players, SOME / 4);
    // Enough of them to come to both workers.
    for _ in 0..6 {
        let second = Peer::publish(cluster.rtmp, "live", "river");
        second.wait("the refusal", SOON, |notes| notes.said("NetStream.Publish.BadName").then_some(()));
        // It may ask for another stream, but not take all day over it.
        second.wait("the end", SOON, |notes| notes.end.clone());
        assert!(second.look(|notes| !notes.said("started")));
    }
    let mut second = publish(&cluster, scratch.path(), "");
    assert!(!second.wait(SOON).success());
    first.assert_running();
    wait_media(&players, SOME / 4);
    let source = Source::plain();
    for (who, player) in &players {
        source.assert_whole(&source.place_tags(&player.look(|notes| notes.media())), who);
    }
}

#[test]
fn a_second_publisher_takes_over_where_that_is_the_rule() {
    let cluster = start("grace: 5s, takeover: replace");
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = publish(&cluster, scratch.path(), "");
    let players = players(&cluster);
    wait_media(&players, SOME / 2);
    for _ in 0..3 {
        let mut next = publish(&cluster, scratch.path(), "");
        assert!(!publisher.wait(SOON).success(), "the one before is closed");
        wait_media(&players, SOME / 2);
        next.assert_running();
        publisher = next;
    }
    assert_content(&players);
}

#[test]
fn only_the_same_key_takes_over_where_that_is_the_rule() {
    let cluster = start("grace: 5s, takeover: same_key");
    let scratch = tempfile::tempdir().unwrap();
    let mut first = publish(&cluster, scratch.path(), "?token=right");
    let players = players(&cluster);
    wait_media(&players, SOME / 4);
    for stream in ["river?token=wrong", "river"] {
        let thief = Peer::publish(cluster.rtmp, "live", stream);
        thief.wait("the refusal", SOON, |notes| notes.said("NetStream.Publish.BadName").then_some(()));
    }
    first.assert_running();
    let mut second = publish(&cluster, scratch.path(), "?token=right");
    assert!(!first.wait(SOON).success());
    wait_media(&players, SOME / 2);
    second.assert_running();
    assert_content(&players);
}
