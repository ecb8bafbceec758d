//! Clients that want to harm: the host sends them away, recovers by itself, and its players see no gap.

mod common;
mod e2e;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, eventually};
use e2e::SOON;
use e2e::loadtest::Crowd;
use e2e::source::Source;

/// Short deadlines, so that the test is.
const IMPATIENT: &str = "edge: { workers: 1, connections: 200, \
    rtmp: { handshake_timeout: 2s, request_timeout: 2s }, http: { header_timeout: 2s } }\norigin: { workers: 1 }\n";

/// Deadlines are kept this much later, on a machine that compiles meanwhile.
const LATE: Duration = Duration::from_secs(4);

/// A publisher and players that must not notice anything.
struct Bystanders {
    publisher: Crowd,
    players: [Crowd; 2],
}

impl Bystanders {
    fn new(cluster: &Cluster, seconds: u64) -> Self {
        let publisher = Crowd::publish(cluster.rtmp, 1, &Source::plain().path, seconds + 4);
        eventually("the publisher is there", SOON, || cluster.log().contains("rtmp publish ").then_some(()));
        let urls = [format!("rtmp://{}/live/s0", cluster.rtmp), format!("http://{}/live/s0.flv", cluster.http)];
        let players = urls.map(|url| Crowd::play(&url, 10, 1, seconds));
        eventually("the players are there", SOON, || (cluster.row("edge", 0).connections >= 21).then_some(()));
        Self { publisher, players }
    }

    fn assert_undisturbed(self) {
        for crowd in self.players {
            crowd.report(Duration::from_secs(60)).assert_none(&["failed", "disconnected", "gaps", "skips"]);
        }
        self.publisher.report(Duration::from_secs(60)).assert_none(&["failed", "disconnected", "late"]);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

/// Drips bytes until the server closes; how long that took.
fn drip(address: SocketAddr, bytes: &[u8]) -> Duration {
    let (mut stream, began) = (connect(address), Instant::now());
    let mut bytes = bytes.iter().cycle();
    loop {
        assert!(began.elapsed() < SOON, "{address} listens to a drip for ever");
        let sent = stream.write_all(&[*bytes.next().unwrap()]);
        let mut answer = [0; 4096];
        match (sent, stream.read(&mut answer)) {
            (Err(_), _) | (_, Ok(0)) => return began.elapsed(),
            (_, Err(error)) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return began.elapsed();
            }
            _ => {}
        }
    }
}

#[test]
fn drips_are_cut_off_at_every_listener() {
    let cluster = e2e::start(IMPATIENT);
    let bystanders = Bystanders::new(&cluster, 8);
    let (rtmp, http, api, metrics) = (cluster.rtmp, cluster.http, cluster.api, cluster.metrics);
    let head = b"GET /live/s0.flv HTTP/1.1\r\nX: ".as_slice();
    let drips = [(rtmp, [&[3], &[7; 3000][..]].concat()), (http, head.to_vec()), (api, head.to_vec())];
    let threads: Vec<_> = drips
        .into_iter()
        .chain([(metrics, head.to_vec())])
        .flat_map(|(address, bytes)| (0..20).map(move |_| (address, bytes.clone())))
        .map(|(address, bytes)| std::thread::spawn(move || (address, drip(address, &bytes))))
        .collect();
    for thread in threads {
        let (address, took) = thread.join().unwrap();
        // The supervisor's own listener has a deadline of its own.
        let limit = Duration::from_secs(if address == metrics { 6 } else { 2 });
        assert!(took < limit + LATE, "{address} took {took:?}");
    }
    bystanders.assert_undisturbed();
}

#[test]
fn a_flood_above_the_limit_is_refused_and_forgotten() {
    let cluster = e2e::start(IMPATIENT);
    let bystanders = Bystanders::new(&cluster, 8);
    let flood: Vec<_> = (0..600).map(|_| connect(cluster.rtmp)).collect();
    eventually("the limit is reached", SOON, || (cluster.row("edge", 0).connections >= 200).then_some(()));
    let mut answer = String::new();
    let mut one_more = connect(cluster.http);
    one_more.set_read_timeout(Some(SOON)).unwrap();
    one_more.write_all(b"GET /live/s0.flv HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // One that is refused at once may be reset before its answer is read; then it is told by that.
    if one_more.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After:"), "{answer}");
    }
    drop(flood);
    eventually("newcomers are served again", SOON, || {
        let mut stream = connect(cluster.api);
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    });
    bystanders.assert_undisturbed();
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn limit_files(pid: u32, most: usize) {
    let limit = format!("--nofile={most}:");
    assert!(Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap().success());
}

#[test]
fn a_worker_without_descriptors_serves_those_it_has_and_recovers() {
    let cluster = e2e::start(IMPATIENT);
    let bystanders = Bystanders::new(&cluster, 8);
    let edge = cluster.row("edge", 0).pid;
    limit_files(edge, open_files(edge) + 4);
    let crowd: Vec<_> = (0..40).map(|_| connect(cluster.rtmp)).collect();
    eventually("it says so", SOON, || cluster.log().contains("accepting failed; trying on").then_some(()));
    assert!(cluster.log().matches("accepting failed").count() < 20, "and not again and again");
    drop(crowd);
    limit_files(edge, 10_000);
    let storm = Crowd::storm(&format!("rtmp://{}/live/none", cluster.rtmp), 50, 2);
    storm.report(Duration::from_secs(30)).assert_none(&["failed", "refused"]);
    assert_eq!(cluster.row("edge", 0).pid, edge, "the same worker");
    bystanders.assert_undisturbed();
}
