//! Real publishers and players for the end-to-end tests: ffmpeg, raw sockets, and a source whose every frame is known.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod callbacks;
pub mod ffmpeg;
pub mod flv;
pub mod http;
pub mod load;
pub mod loadtest;
pub mod lossy;
pub mod peer;
pub mod rtc;
pub mod scrape;
pub mod source;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::common::{Cluster, WEIR, eventually};

/// The longest that anything may take that should happen at once, on a machine that compiles meanwhile.
pub const SOON: Duration = Duration::from_secs(10);

/// Starts the real server and waits until it serves: every worker ready, every origin reached by every edge.
pub fn start(yaml: &str) -> Cluster {
    start_with(yaml, &[])
}

/// The same, with an environment.
pub fn start_with(yaml: &str, env: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::launch(Path::new(WEIR), yaml, env);
    cluster.wait_ready();
    let edges = cluster.rows().iter().filter(|row| row.role == "edge").count();
    eventually("the edges reach the origin", SOON, || {
        (cluster.log().matches("relay link up").count() >= edges).then_some(())
    });
    cluster
}

/// The edge slot that serves the client at `peer`, as the log tells.
pub fn slot_of(cluster: &Cluster, peer: SocketAddr) -> u64 {
    let wanted = format!("peer={peer} ");
    eventually(&format!("the log names {peer}"), SOON, || {
        let log = cluster.log();
        let line = log.lines().find(|line| line.contains(&wanted))?;
        let (_, rest) = line.split_once("edge/")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

/// The slot of the edge worker that has the publisher of `stream` (`app/name`), as the log tells.
pub fn publishers_slot(cluster: &Cluster, stream: &str) -> u64 {
    let wanted = format!("stream={stream}");
    eventually(&format!("the log tells of the publisher of {stream}"), SOON, || {
        let log = cluster.log();
        let line = log.lines().rev().find(|line| line.contains("rtmp publish ") && line.contains(&wanted))?;
        let (_, rest) = line.split_once("edge/")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}
