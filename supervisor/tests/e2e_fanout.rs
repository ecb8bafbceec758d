//! Many players on all workers, joining one after the other, and every frame of every one of them.

mod common;
mod e2e;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::source::{GOP, Received, Source};

/// How long is published.
const PUBLISH: u64 = 60;

/// Players of each protocol.
const PLAYERS: u32 = 40;

/// The time in which they join, after the first keyframes.
const JOINING: Duration = Duration::from_secs(38);

/// How long a player plays at least; the first ones play as long as there is something.
const PLAY: u64 = 12;

/// One player in so many also decodes.
const DECODES: u32 = 8;

/// Players that each worker must have had at least: of 80 over two, chance gives one less than that in 10^13 runs.
const SHARE: u64 = 10;

struct Joined {
    url: String,
    seconds: u64,
    player: Ffmpeg,
}

#[test]
fn forty_rtmp_and_forty_flv_players_over_two_workers_get_every_frame() {
    let cluster = e2e::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    let scratch = tempfile::tempdir().unwrap();
    let source = Source::b_frames();
    let urls = [format!("rtmp://{}/live/river", cluster.rtmp), format!("http://{}/live/river.flv", cluster.http)];
    let mut publisher = Ffmpeg::publish_for(source, &urls[0], &PUBLISH.to_string(), scratch.path());
    e2e::publishers_slot(&cluster, "live/river");

    let begun = Instant::now();
    let mut joined = Vec::new();
    let mut most = BTreeMap::new();
    for number in 0..PLAYERS {
        let due = begun + Duration::from_secs(2) + JOINING * number / PLAYERS;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let left = PUBLISH.saturating_sub(begun.elapsed().as_secs() + 6);
        for (half, url) in urls.iter().enumerate() {
            // Every other one leaves early, so that players come and go all the time.
            let seconds = if number % 2 == half as u32 { left } else { left.min(PLAY) };
            let start = if number % DECODES == 0 { Ffmpeg::decode } else { Ffmpeg::play };
            joined.push(Joined { url: url.clone(), seconds, player: start(url, seconds, scratch.path()) });
        }
        let status = cluster.try_status().unwrap();
        for worker in status["workers"].as_array().unwrap().iter().filter(|worker| worker["role"] == "edge") {
            let most = most.entry(worker["slot"].as_u64().unwrap()).or_insert(0);
            *most = worker["players"].as_u64().unwrap().max(*most);
        }
    }
    publisher.finish(Duration::from_secs(PUBLISH) + SOON);
    assert_eq!(most.len(), 2, "{most:?}");
    assert!(most.values().all(|players| *players >= SHARE), "players of the workers: {most:?}");
    for Joined { url, seconds, mut player } in joined {
        player.finish(SOON);
        let received = source.place_hashes(&player.output());
        source.assert_whole(&received, &url);
        source.assert_lasts(&received, seconds, &url);
    }
}

#[test]
fn the_checks_see_what_is_wrong() {
    let source = Source::b_frames();
    let at = |video: Vec<usize>| Received { video, audio: vec![7, 8, 9] };
    let fails = |check: &dyn Fn()| catch_unwind(AssertUnwindSafe(check)).is_err();
    source.assert_whole(&at((GOP..5 * GOP).chain(0..GOP).collect()), "all, around the end of the source");
    assert!(fails(&|| source.assert_whole(&at((1..GOP).collect()), "begins without a keyframe")));
    assert!(fails(&|| source.assert_whole(&at(vec![0, 1, 3]), "misses a frame")));
    assert!(fails(&|| source.assert_whole(&at(vec![0, 1, 1, 2]), "has one twice")));
    assert!(fails(&|| source.assert_whole(&at(vec![]), "has none")));
    assert!(fails(&|| source.assert_joins_at_keyframes(&at(vec![0, 1, GOP + 1]), "goes on within a group")));
    source.assert_joins_at_keyframes(&at(vec![0, 1, GOP, GOP + 1]), "goes on at a keyframe");
    assert!(fails(&|| _ = source.place_hashes("0, 0, 0, 40, 3192, 00000000000000000000000000000000")));
    assert!(fails(&|| source.assert_lasts(&at((0..GOP).collect()), 3, "ends early")));
}
