//! What happens when data comes faster than it goes on: publishers are held, nothing grows without bound.

mod common;
mod e2e;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, eventually, is_alive, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::source::Source;
use nix::sys::signal::Signal;

/// What may wait for the origin.
const QUEUE: u64 = 1 << 20;

/// Bytes that a stuck way may swallow: the queue, a batch, and the kernel's buffers of both sockets.
const SWALLOWED: u64 = QUEUE + (16 << 20);

/// The origin does not answer for so long; with twice that it would be taken for lost.
const STUCK: Duration = Duration::from_secs(1);

fn bytes_in(cluster: &Cluster) -> u64 {
    let status = cluster.try_status().unwrap_or_default();
    let workers = status["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().filter(|row| row["role"] == "edge").filter_map(|row| row["bytes_in"].as_u64()).sum()
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap()
}

/// A stopped process goes on however the test ends, or nobody could end it in an orderly way.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if is_alive(self.0) {
            signal(self.0, Signal::SIGCONT);
        }
    }
}

#[test]
fn a_fast_publisher_is_held_while_its_origin_is_stuck() {
    let cluster = e2e::start("edge: { workers: 1 }\norigin: { workers: 1 }\ncluster: { relay: { queue: 1MiB } }\n");
    let scratch = tempfile::tempdir().unwrap();
    let source = Source::plain();
    // As fast as it is taken.
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-stream_loop", "-1", "-i"]).arg(&source.path);
    ffmpeg.args(["-c", "copy", "-f", "flv", "-flvflags", "no_duration_filesize"]);
    ffmpeg.arg(format!("rtmp://{}/live/river", cluster.rtmp));
    let mut publisher = Ffmpeg::spawn(ffmpeg, "a fast publisher".to_owned(), scratch.path());
    let (edge, origin) = (cluster.row("edge", 0).pid, cluster.row("origin", 0).pid);
    let begin = Instant::now();
    let taken =
        eventually("much to be taken", SOON, || Some(bytes_in(&cluster)).filter(|bytes| *bytes > 4 * SWALLOWED));
    let would_be = taken as f64 / begin.elapsed().as_secs_f64() * STUCK.as_secs_f64();
    assert!(would_be > 2.0 * SWALLOWED as f64, "it is too slow to show anything: {would_be} bytes");

    let before = peak(edge);
    let stopped = Stopped::new(origin);
    std::thread::sleep(STUCK);
    let grown = peak(edge) - before;
    drop(stopped);
    assert!(grown < SWALLOWED, "{grown} bytes were kept for the origin");
    publisher.assert_running();
    let then = bytes_in(&cluster);
    eventually("the publisher to go on", SOON, || (bytes_in(&cluster) > then + 2 * SWALLOWED).then_some(()));
    // Whoever comes now gets the stream.
    Peer::flv(cluster.http, "/live/river.flv").wait_media(100, SOON);
    assert!(!cluster.log().contains("relay link lost"), "{}", cluster.log());
    publisher.assert_running();
    publisher.kill();
}
