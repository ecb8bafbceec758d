//! Overload: new clients are refused, sent on or passed on, and nobody who is there notices.

mod common;
mod e2e;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Cluster, WEIR, eventually, free_port, signal, socket_inodes};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::http;
use e2e::peer::Peer;
use e2e::scrape::Scrape;
use e2e::source::Source;
use nix::sys::signal::Signal;
use serde_json::Value;

/// What players never wait longer for.
const GAP: Duration = Duration::from_millis(500);

/// Nothing counts but what a test switches on: the machine may compile meanwhile.
const NOTHING: &str = "enter: 1s, leave: 1s, worker_cpu: { warn: off, refuse: off }, host_cpu: { warn: off, refuse: off }, \
    nic: { warn: off, refuse: off }, udp_drops: { warn: off }, disk: { warn: off }, loop_lag: { warn: off, refuse: off }, \
    connections: { warn: off }";

fn yaml(workers: usize, overload: &str) -> String {
    format!("edge: {{ workers: {workers} }}\norigin: {{ workers: 1 }}\noverload: {{ {NOTHING}, {overload} }}\n")
}

/// No host has less than one per cent of its memory in use.
const FORCED: &str = "memory: { warn: off, refuse: 1 }";
const WELL: &str = "memory: { warn: off, refuse: off }";

fn start(yaml: &str) -> Cluster {
    e2e::start_with(yaml, &[("WEIR_OVERLOAD__ENABLED", "on")])
}

fn reload(cluster: &Cluster, yaml: &str) {
    cluster.rewrite(yaml);
    let output = cluster.ctl(&["reload"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until `/readyz` of every edge says this.
fn all_say(cluster: &Cluster, status: u16, text: &str) {
    eventually(&format!("/readyz says {status} {text:?}"), SOON, || {
        let answers = |_| {
            let answer = http::get(cluster.api, "/readyz");
            answer.status == status && answer.text().contains(text)
        };
        // Any of the workers may answer.
        (0..8).all(answers).then_some(())
    });
}

/// How a new RTMP client is refused.
fn refusal(peer: &Peer) -> (String, Option<String>) {
    peer.wait("the refusal", SOON, |notes| {
        let (_, description) = notes.statuses.iter().find(|(code, _)| code == "NetConnection.Connect.Rejected")?;
        notes.end.as_ref()?;
        Some((description.clone(), notes.redirect.clone()))
    })
}

/// Players of both protocols, with media.
fn players(cluster: &Cluster, stream: &str) -> Vec<Peer> {
    let flv = (0..3).map(|_| Peer::flv(cluster.http, &format!("/live/{stream}.flv")));
    let rtmp = (0..3).map(|_| Peer::play(cluster.rtmp, "live", stream));
    let players: Vec<Peer> = flv.chain(rtmp).collect();
    Peer::wait_media_of(&players, 50, SOON);
    players
}

/// Nobody was closed or waited long, since a time.
fn assert_served(players: &[Peer], since: Instant) {
    for player in players {
        player.assert_connected();
        let pause = player.look(|notes| {
            let times: Vec<_> = notes.tags.iter().map(|(at, _)| *at).filter(|at| *at >= since).collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).max()
        });
        let pause = pause.unwrap_or_else(|| panic!("{} got nothing", player.local()));
        assert!(pause <= GAP, "{} waited {pause:?}", player.local());
    }
}

fn overload(cluster: &Cluster, slot: usize) -> Value {
    cluster.try_status().unwrap()["workers"][slot]["overload"].clone()
}

#[test]
fn an_overloaded_host_refuses_new_clients_and_keeps_its_own() {
    let cluster = start(&yaml(2, WELL));
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher =
        Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    let players = players(&cluster, "river");
    let begin = Instant::now();

    reload(&cluster, &yaml(2, FORCED));
    all_say(&cluster, 503, "overloaded: memory ");
    for _ in 0..4 {
        let refused = http::get(cluster.http, "/live/river.flv");
        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
        assert!(refused.text().contains("overloaded"));
        for client in [Peer::play(cluster.rtmp, "live", "river"), Peer::publish(cluster.rtmp, "live", "other")] {
            assert_eq!(refusal(&client), ("the server is overloaded, try again later".to_owned(), None));
        }
    }
    // The operator is never refused.
    for path in ["/healthz", "/api/v1/versions", "/metrics"] {
        assert_eq!(http::get(cluster.api, path).status, 200, "{path}");
    }
    // The workers refuse at once; the supervisor hears of it with their next report.
    eventually("the supervisor says so, too", SOON, || {
        let status = cluster.try_status()?;
        let (load, worker) = (&status["load"], &status["workers"][0]);
        let said = (load["state"].as_str()?, load["reasons"][0]["criterion"].as_str()?);
        (said == ("refuse", "memory")
            && worker["overload"]["state"].as_str()? == "refuse"
            && worker["state"].as_str()? == "ready")
            .then_some(())
    });
    let table = String::from_utf8(cluster.ctl(&["status"]).stdout).unwrap();
    assert!(table.contains("\nthis host is overloaded: memory "), "{table}");
    eventually("12 refusals are counted", SOON, || {
        let scrape = Scrape::get(cluster.metrics);
        let counted = scrape.sum("weir_overload_refused_total", &[]);
        let holds = scrape.sum("weir_overload_reason", &["criterion=\"memory\"", "role=\"edge\""]);
        (counted == 12.0 && holds == 2.0 && scrape.sum("weir_refusals_total", &["reason=\"overload\""]) == 12.0)
            .then_some(())
    });

    reload(&cluster, &yaml(2, &format!("{FORCED}, redirect: {{ rtmp: edge-2, http: 'edge-2:81' }}")));
    sent_on(&cluster);

    Peer::wait_media_of(&players, 25, SOON);
    assert_served(&players, begin);
    publisher.assert_running();
    reload(&cluster, &yaml(2, WELL));
    all_say(&cluster, 200, "ready\n");
    Peer::flv(cluster.http, "/live/river.flv").wait_media(10, SOON);
    Peer::play(cluster.rtmp, "live", "river").wait_media(10, SOON);
    assert_served(&players, begin);
    let log = cluster.log();
    assert!(log.contains("this host is overloaded, its edges refuse new clients: memory "), "{log}");
    assert!(log.contains("this host is well again"), "{log}");
    publisher.kill();
}

/// Each protocol has its own way to send a client on.
fn sent_on(cluster: &Cluster) {
    let to = |method: &str, path: &str| {
        let answer = http::request(cluster.http, method, path, "");
        (answer.status, answer.field("location").map(str::to_owned))
    };
    let there = |url: &str| Some(url.to_owned());
    eventually("the configuration is in force", SOON, || {
        (0..8).all(|_| to("GET", "/live/river.flv").0 == 302).then_some(())
    });
    assert_eq!(to("HEAD", "/live/a%20b.flv?k=v"), (302, there("http://edge-2:81/live/a%20b.flv?k=v&redirected=1")));
    assert_eq!(to("POST", "/live/river.flv"), (307, there("http://edge-2:81/live/river.flv?redirected=1")));
    assert_eq!(to("GET", "/live/river.flv?redirected=1"), (503, None), "nobody is sent on twice");
    let player = Peer::play(cluster.rtmp, "live", "river");
    assert_eq!(refusal(&player), ("RTMP 302 Redirect".to_owned(), there("rtmp://edge-2/live?redirected=1")));
    let again = Peer::play(cluster.rtmp, "live?redirected=1", "river");
    assert_eq!(refusal(&again), ("the server is overloaded, try again later".to_owned(), None));
}

/// Programs that ask the API as fast as they can: those are not refused, so the load lasts.
struct Load {
    stop: Arc<AtomicBool>,
    askers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(api: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asker = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(http::get(api, "/healthz").status, 200);
                }
            })
        };
        let askers = (0..3).map(asker).collect();
        Self { stop, askers }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.askers.into_iter().for_each(|asker| asker.join().unwrap());
    }
}

#[test]
fn a_busy_worker_refuses_until_the_load_ends() {
    let cluster =
        start(&yaml(1, "worker_cpu: { warn: 15, refuse: 20 }").replace("worker_cpu: { warn: off, refuse: off }, ", ""));
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/calm", cluster.rtmp), scratch.path());
    let players = players(&cluster, "calm");
    let begin = Instant::now();
    let load = Load::start(cluster.api);
    all_say(&cluster, 503, "overloaded: worker_cpu ");
    assert_eq!(http::get(cluster.http, "/live/calm.flv").status, 503);
    assert!(refusal(&Peer::play(cluster.rtmp, "live", "calm")).0.contains("overloaded"));
    let table = eventually("ctl tells of it", SOON, || {
        let table = String::from_utf8(cluster.ctl(&["status"]).stdout).unwrap();
        table.contains("overloaded: worker_cpu ").then_some(table)
    });
    assert!(!table.contains("this host is"), "the host is well: {table}");
    Peer::wait_media_of(&players, 50, SOON);
    assert_served(&players, begin);

    load.end();
    all_say(&cluster, 200, "ready\n");
    Peer::play(cluster.rtmp, "live", "calm").wait_media(10, SOON);
    Peer::wait_media_of(&players, 25, SOON);
    assert_served(&players, begin);
    publisher.assert_running();
    publisher.kill();
}

/// The slot whose worker has the other end of each of these connections to `port`, as the kernel says.
fn owners(cluster: &Cluster, port: u16) -> BTreeMap<SocketAddr, u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let edges: Vec<_> = cluster.rows().into_iter().filter(|row| row.role == "edge").collect();
    let inodes: Vec<_> = edges.iter().map(|row| (row.slot, socket_inodes(row.pid))).collect();
    let port_of = |text: &str| u16::from_str_radix(text.rsplit_once(':')?.1, 16).ok();
    let owner = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (local, remote, inode) = (port_of(fields[1])?, port_of(fields[2])?, fields[9].parse().unwrap());
        let (slot, _) = inodes.iter().find(|(_, inodes)| local == port && inodes.contains(&inode))?;
        Some((SocketAddr::from(([127, 0, 0, 1], remote)), *slot))
    };
    table.lines().skip(1).filter_map(owner).collect()
}

#[test]
fn a_full_worker_passes_clients_to_its_sibling() {
    const LIMIT: usize = 10;
    let config = yaml(2, WELL).replace("workers: 2 }", &format!("workers: 2, connections: {LIMIT} }}"));
    let cluster = start(&config);
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher =
        Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    let of_publisher = e2e::publishers_slot(&cluster, "live/river");
    // Its worker is filled up with idle clients; the kernel chooses the worker by the client's port.
    let mut held: Vec<TcpStream> = Vec::new();
    while held.len() < LIMIT - 1 {
        let client = TcpStream::connect(cluster.rtmp).unwrap();
        let local = client.local_addr().unwrap();
        let slot = eventually("it is accepted", SOON, || owners(&cluster, cluster.rtmp.port()).get(&local).copied());
        if slot == of_publisher {
            held.push(client);
        }
    }
    eventually("the supervisor knows", SOON, || {
        let count = |slot| cluster.row("edge", slot).connections;
        (count(of_publisher) == LIMIT as u64 && count(1 - of_publisher) == 0).then_some(())
    });
    let slot = usize::try_from(of_publisher).unwrap();
    eventually("some clients are passed on", SOON, || {
        let player = Peer::play(cluster.rtmp, "live", "river");
        // Never refused, by whichever worker.
        player.wait_media(10, SOON);
        assert_eq!(owners(&cluster, cluster.rtmp.port()).get(&player.local()), Some(&(1 - of_publisher)));
        Peer::flv(cluster.http, "/live/river.flv").wait_media(10, SOON);
        (overload(&cluster, slot)["passed"].as_u64().unwrap() >= 4).then_some(())
    });
    assert_eq!(overload(&cluster, slot)["refused"], 0);
    assert!(Scrape::get(cluster.metrics).sum("weir_overload_passed_total", &[]) >= 4.0);
    publisher.assert_running();
    publisher.kill();
}

/// A stopped process goes on however the test ends.
struct Stopped(u32);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::SIGCONT);
    }
}

#[test]
fn datagrams_that_nobody_reads_in_time_are_told_of() {
    let tls = tempfile::tempdir().unwrap();
    for arguments in [&["ca"][..], &["node", "host-1", "127.0.0.1"]] {
        let (what, names) = arguments.split_first().unwrap();
        let made = Command::new(WEIR).args(["cert", what, "--dir"]).arg(tls.path()).args(names).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let (control, relay) = (free_port(), free_port());
    drop((TcpListener::bind(("127.0.0.1", control)).unwrap(), UdpSocket::bind(("127.0.0.1", relay)).unwrap()));
    let file = |name: &str| tls.path().join(name).display().to_string();
    let config = format!(
        "{}cluster: {{ relay: {{ listen: '127.0.0.1:{relay}' }}, control: {{ listen: '127.0.0.1:{control}' }}, \
         tls: {{ ca: '{}', cert: '{}', key: '{}' }} }}\n",
        yaml(1, "loss_log: 1s").replace("udp_drops: { warn: off }", "udp_drops: { warn: 1 }"),
        file("ca.pem"),
        file("host-1.pem"),
        file("host-1.key")
    );
    let cluster = start(&config);
    eventually("a line without loss", SOON, || cluster.log().contains("loss=(r:0,s:0) in 1 s").then_some(()));

    let origin = cluster.row("origin", 0).pid;
    signal(origin, Signal::SIGSTOP);
    let stopped = Stopped(origin);
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..20_000 {
        noise.send_to(&[0; 1200], ("127.0.0.1", relay)).unwrap();
    }
    drop(stopped);
    let scrape = eventually("the loss is counted", SOON, || {
        let scrape = Scrape::get(cluster.metrics);
        (scrape.sum("weir_udp_receive_drops_total", &["role=\"origin\"", "socket=\"relay.quic"]) > 1000.0)
            .then_some(scrape)
    });
    let drops = scrape.sum("weir_udp_receive_drops_total", &[]);
    eventually("the line tells of it", SOON, || {
        let lost = |line: &str| line.split_once("loss=(r:")?.1.split_once(",s:")?.0.parse::<f64>().ok();
        let told: f64 = cluster.log().lines().filter_map(lost).sum();
        assert!(told <= drops + 0.5, "{told} of {drops}");
        (told == drops).then_some(())
    });
    assert_eq!(scrape.sum("weir_udp_receive_drops_total", &["role=\"edge\""]), 0.0);
}
