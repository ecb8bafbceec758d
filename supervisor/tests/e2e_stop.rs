//! How a host says goodbye.

mod common;
mod e2e;

use std::time::{Duration, Instant};

use common::{Cluster, listeners};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::source::Source;
use nix::sys::signal::Signal;

/// What clients are given that do not leave by themselves.
const DRAIN: Duration = Duration::from_secs(3);

const YAML: &str = "edge: { workers: 2, drain_timeout: 3s }\norigin: { workers: 1 }\n";

fn streaming(cluster: &Cluster) -> (Ffmpeg, [Peer; 2], tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    let players = [Peer::flv(cluster.http, "/live/river.flv"), Peer::play(cluster.rtmp, "live", "river")];
    Peer::wait_media_of(&players, 50, SOON);
    (publisher, players, scratch)
}

/// The body ends behind a whole message, and the player is told that the server goes.
fn assert_told([flv, rtmp]: &[Peer; 2]) {
    let end = |peer: &Peer| peer.wait("the end", SOON, |notes| notes.end.clone());
    assert_eq!(end(flv), "end of body");
    assert_eq!(end(rtmp), "closed by the server");
    let goodbye = ("NetConnection.Connect.Closed".to_owned(), "the server is going away".to_owned());
    assert_eq!(rtmp.look(|notes| notes.statuses.last().cloned()), Some(goodbye));
    for peer in [flv, rtmp] {
        let received = Source::plain().place_tags(&peer.look(|notes| notes.media()));
        assert_eq!(Source::plain().video_gaps(&received), []);
    }
}

#[test]
fn a_stop_tells_every_client() {
    let mut cluster = e2e::start(YAML);
    let (_publisher, players, _scratch) = streaming(&cluster);
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(Duration::from_secs(5)).code(), Some(0));
    assert_told(&players);
}

#[test]
fn a_graceful_stop_lets_clients_finish_and_then_tells_them() {
    let mut cluster = e2e::start(YAML);
    let (_publisher, players, _scratch) = streaming(&cluster);
    let began = Instant::now();
    cluster.signal(Signal::SIGQUIT);
    common::eventually("nobody listens", SOON, || listeners(cluster.rtmp.port()).is_empty().then_some(()));
    Peer::wait_media_of(&players, 50, SOON);
    players.iter().for_each(Peer::assert_connected);
    assert_eq!(cluster.wait_exit(DRAIN + SOON).code(), Some(0));
    assert!(began.elapsed() >= DRAIN, "they had {:?} of {DRAIN:?}", began.elapsed());
    assert_told(&players);
}
