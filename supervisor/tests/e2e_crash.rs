//! What clients see when a worker is killed while they stream.

mod common;
mod e2e;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Cluster, Row, eventually, is_alive, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::flv::assert_monotonic;
use e2e::load::Load;
use e2e::peer::Peer;
use e2e::source::Source;
use nix::sys::signal::Signal;

const YAML: &str = "edge: { workers: 2 }\norigin: { workers: 1 }\n";

/// 200 connects a second.
const EVERY: Duration = Duration::from_millis(5);

/// A killed worker is back within this.
const BACK: Duration = Duration::from_secs(1);

/// Play goes on so soon after an origin's return.
const RESUMED: Duration = Duration::from_secs(2);

/// The longest pause in the arrival of frames that counts as none, on a machine with other things to do.
const PAUSE: Duration = Duration::from_millis(900);

/// Messages of a second or so.
const SOME: usize = 100;

fn publish(cluster: &Cluster, stream: &str, scratch: &Path) -> (Ffmpeg, u64) {
    let publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/{stream}", cluster.rtmp), scratch);
    let slot = e2e::publishers_slot(cluster, stream);
    (publisher, slot)
}

/// Players of the stream that a slot serves: so many FLV and RTMP players each.
fn players_at(cluster: &Cluster, slot: u64, each: usize) -> Vec<Peer> {
    let mut found = Vec::new();
    for open in [|c: &Cluster| Peer::flv(c.http, "/live/river.flv"), |c: &Cluster| Peer::play(c.rtmp, "live", "river")]
    {
        let wanted = found.len() + each;
        let deadline = Instant::now() + SOON;
        while found.len() < wanted {
            assert!(Instant::now() < deadline, "no {each} players came to slot {slot}");
            let player = open(cluster);
            player.wait_media(1, SOON);
            if e2e::slot_of(cluster, player.local()) == slot {
                found.push(player);
            }
        }
    }
    found
}

/// Kills a worker; returns when it was told and when it was dead.
fn kill(row: &Row) -> (Instant, Instant) {
    let told = Instant::now();
    signal(row.pid, Signal::SIGKILL);
    eventually("its death", SOON, || (!is_alive(row.pid)).then_some(()));
    (told, Instant::now())
}

/// Waits until another process is ready in the slot, and serves its own sockets; returns when that was seen.
fn wait_back(cluster: &Cluster, dead: &Row) -> Instant {
    eventually("a new worker", SOON, || {
        let row = cluster.row(&dead.role, dead.slot);
        (row.pid != dead.pid && row.state == "ready" && row.lent_to.is_none()).then_some(())
    });
    Instant::now()
}

#[test]
fn a_killed_edge_worker_refuses_nobody_and_its_sibling_does_not_notice() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let (mut publisher, safe) = publish(&cluster, "live/river", scratch.path());
    let victim = cluster.row("edge", 1 - safe);
    let survivors = players_at(&cluster, safe, 3);
    let lost = players_at(&cluster, victim.slot, 1);
    let load = Load::rtmp(cluster.rtmp, EVERY);
    Peer::wait_media_of(&survivors, SOME, SOON);

    let (told, dead) = kill(&victim);
    let back = wait_back(&cluster, &victim) - told;
    assert!(back <= BACK, "the worker was back after {back:?}");
    Peer::wait_media_of(&survivors, SOME, SOON);
    let calls = load.finish();

    assert!(calls.iter().filter(|call| call.at > dead).count() > 100, "{} calls", calls.len());
    let refused: Vec<_> = calls.iter().filter(|call| call.connect.is_some()).collect();
    assert!(refused.is_empty(), "{} of {} connects failed: {:?}", refused.len(), calls.len(), refused.first());
    // Those that the dead worker had accepted are lost with it, nobody else.
    let broken: Vec<_> = calls.iter().filter(|call| call.handshake.is_some() && call.at > dead).collect();
    assert!(broken.is_empty(), "{} handshakes broke: {:?}", broken.len(), broken.first());
    for player in lost {
        player.wait("its end", SOON, |notes| notes.end.clone());
    }
    publisher.assert_running();
    let source = Source::plain();
    for player in &survivors {
        player.assert_connected();
        source.assert_whole(&source.place_tags(&player.look(|notes| notes.media())), "a survivor");
        let pause = player.look(|notes| notes.longest_pause());
        assert!(pause < PAUSE, "a survivor saw nothing for {pause:?}");
    }
    // The new worker serves like the old one.
    Peer::wait_media_of(&players_at(&cluster, victim.slot, 1), SOME, SOON);
}

#[test]
fn publishers_and_players_outlive_their_origin() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let (mut publisher, slot) = publish(&cluster, "live/river", scratch.path());
    let (mut other, _) = publish(&cluster, "live/brook", scratch.path());
    let players: Vec<Peer> = [slot, 1 - slot].into_iter().flat_map(|slot| players_at(&cluster, slot, 2)).collect();
    let mut ffmpegs: Vec<Ffmpeg> =
        [format!("rtmp://{}/live/river", cluster.rtmp), format!("http://{}/live/brook.flv", cluster.http)]
            .iter()
            .map(|url| Ffmpeg::play(url, 300, scratch.path()))
            .collect();
    for _ in 0..2 {
        Peer::wait_media_of(&players, SOME, SOON);
        let origin = cluster.row("origin", 0);
        kill(&origin);
        let back = wait_back(&cluster, &origin);
        // Late frames of the old origin may still have come when it was dead already, not after a new one was ready.
        for player in &players {
            player.wait("frames again", RESUMED, |notes| {
                notes.tags.last().is_some_and(|(at, _)| *at >= back).then_some(())
            });
            player.assert_connected();
        }
        publisher.assert_running();
        other.assert_running();
    }
    Peer::wait_media_of(&players, SOME, SOON);
    let source = Source::plain();
    for player in &players {
        player.assert_connected();
        let media = player.look(|notes| notes.media());
        assert_monotonic(&media, "a player");
        source.assert_joins_at_keyframes(&source.place_tags(&media), "a player");
        assert!(!player.look(|notes| notes.said("NetStream.Play.UnpublishNotify")));
    }
    for ffmpeg in &mut ffmpegs {
        ffmpeg.assert_running();
        assert_eq!(ffmpeg.errors(), "");
        source.assert_joins_at_keyframes(&source.place_hashes(&ffmpeg.output()), "ffmpeg");
    }
    // Whoever comes later is served by the new origin.
    for slot in [0, 1] {
        for player in players_at(&cluster, slot, 1) {
            player.wait_media(SOME, SOON);
            source.assert_whole(&source.place_tags(&player.look(|notes| notes.media())), "a new player");
        }
    }
}
