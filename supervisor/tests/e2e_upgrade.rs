//! A host that is changed in every way while hundreds of clients stream: none of them notices.

mod common;
mod e2e;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use common::{Cluster, Row, WEIR, eventually, free_port, is_alive, listeners, signal, socket_inodes};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::loadtest::Crowd;
use e2e::peer::Peer;
use e2e::source::Source;
use nix::sys::signal::Signal;

const YAML: &str = "edge: { workers: 2 }\norigin: { workers: 1 }\n";

const PUBLISHERS: usize = 20;

/// By each protocol.
const PLAYERS: usize = 150;

const CONNECTS_PER_SECOND: usize = 500;

/// The same program under another name, and not byte by byte.
fn another_build(dir: &Path) -> PathBuf {
    let path = dir.join("weir-next");
    fs::copy(WEIR, &path).unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"another build").unwrap();
    path
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn edges(cluster: &Cluster) -> Vec<Row> {
    cluster.rows().into_iter().filter(|row| row.role == "edge").collect()
}

/// Waits until so many edges serve and nobody leaves any more.
fn settled(cluster: &Cluster, workers: usize) {
    eventually("the workers settle", Duration::from_secs(40), || {
        let edges = edges(cluster);
        (edges.len() == workers && edges.iter().all(|row| row.state == "ready")).then_some(())
    });
}

fn upgrade(cluster: &Cluster, binary: &Path) {
    let before: BTreeSet<u32> = cluster.rows().iter().map(|row| row.pid).collect();
    told(&cluster.ctl(&["upgrade", "--binary", binary.to_str().unwrap()]));
    let now = fs::read_link(format!("/proc/{}/exe", cluster.pid())).unwrap();
    assert_eq!(now, fs::canonicalize(binary).unwrap(), "the supervisor's own image");
    for row in cluster.rows() {
        assert!(!before.contains(&row.pid), "{row:?} was not replaced");
        assert_eq!(fs::read_link(format!("/proc/{}/exe", row.pid)).unwrap(), now);
    }
}

#[test]
fn reload_scale_and_upgrade_lose_nobody_and_refuse_nobody() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let next = another_build(scratch.path());
    let seconds = 30;
    let publishers = Crowd::publish(cluster.rtmp, PUBLISHERS, &Source::plain().path, seconds + 6);
    eventually("the publishers are there", SOON, || {
        let publishing = cluster.log().matches("rtmp publish ").count();
        (publishing >= PUBLISHERS).then_some(())
    });
    let players = [format!("rtmp://{}/live/s{{i}}", cluster.rtmp), format!("http://{}/live/s{{i}}.flv", cluster.http)]
        .map(|url| Crowd::play(&url, PLAYERS, PUBLISHERS, seconds));
    let storms = [format!("rtmp://{}/live/none", cluster.rtmp), format!("http://{}/healthz", cluster.api)]
        .map(|url| Crowd::storm(&url, CONNECTS_PER_SECOND / 2, seconds));
    eventually("the players are there", SOON, || {
        let connections: u64 = edges(&cluster).iter().map(|row| row.connections).sum();
        (connections >= (PUBLISHERS + 2 * PLAYERS) as u64).then_some(())
    });
    let pid = cluster.pid();

    // The file that it was started with, with other latencies and another level of the log.
    let changed =
        format!("{YAML}vhosts: {{ __defaultVhost__: {{ play: {{ queue_length: 8s }} }} }}\nlog: {{ level: debug }}\n");
    cluster.rewrite(&changed);
    assert!(told(&cluster.ctl(&["reload"])).contains("queue_length: 10s -> 8s"));
    eventually("the workers log more", SOON, || cluster.log().contains(" DEBUG edge/0 ").then_some(()));
    for workers in [4_usize, 1, 2] {
        told(&cluster.ctl(&["scale", "edge", &workers.to_string()]));
        settled(&cluster, workers);
    }
    upgrade(&cluster, &next);
    upgrade(&cluster, Path::new(WEIR));
    assert_eq!(cluster.pid(), pid);
    assert!(is_alive(pid));

    let patience = Duration::from_secs(seconds + 30);
    for crowd in players {
        let report = crowd.report(patience);
        assert_eq!(report.figure("ok"), PLAYERS as f64);
        report.assert_none(&["failed", "disconnected", "gaps", "skips"]);
    }
    for crowd in storms {
        let report = crowd.report(patience);
        report.assert_none(&["failed", "refused"]);
        assert!(report.figure("ok") > 0.0);
    }
    let report = publishers.report(patience);
    report.assert_none(&["failed", "disconnected", "late"]);
    settled(&cluster, 2);
}

#[test]
fn a_killed_worker_costs_its_own_clients_and_no_others() {
    let cluster = e2e::start(YAML);
    let publishers = Crowd::publish(cluster.rtmp, 4, &Source::plain().path, 20);
    eventually("the publishers are there", SOON, || {
        (cluster.log().matches("rtmp publish ").count() >= 4).then_some(())
    });
    // Of a stream whose publisher is not on the worker that is killed.
    let victim = 1 - e2e::publishers_slot(&cluster, "live/s0");
    let players = [format!("rtmp://{}/live/s0", cluster.rtmp), format!("http://{}/live/s0.flv", cluster.http)]
        .map(|url| Crowd::play(&url, PLAYERS, 1, 8));
    let storm = Crowd::storm(&format!("rtmp://{}/live/none", cluster.rtmp), CONNECTS_PER_SECOND, 8);
    let all = (2 * PLAYERS + 4) as u64;
    let players_of = |slot| {
        let status = cluster.try_status().unwrap();
        let rows = status["workers"].as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["role"] == "edge" && row["slot"] == slot).unwrap();
        row["players"].as_u64().unwrap()
    };
    eventually("the players are there", SOON, || {
        let connections: u64 = edges(&cluster).iter().map(|row| row.connections).sum();
        (connections >= all && players_of(0) + players_of(1) == 2 * PLAYERS as u64).then_some(())
    });
    let (its_own, row) = (players_of(victim), cluster.row("edge", victim));
    assert!(its_own > 0 && its_own < 2 * PLAYERS as u64, "{its_own} on one worker");
    signal(row.pid, Signal::SIGKILL);
    let mut lost = 0.0;
    for crowd in players {
        let report = crowd.report(Duration::from_secs(40));
        report.assert_none(&["failed", "gaps"]);
        lost += report.figure("disconnected");
    }
    assert_eq!(lost, its_own as f64, "those of the victim, and nobody else");
    let report = storm.report(Duration::from_secs(40));
    report.assert_none(&["refused"]);
    // Greeted by the victim, or about to be.
    assert!(report.figure("failed") < 50.0, "{} of the newcomers", report.figure("failed"));
    drop(publishers);
    eventually("the slot is back", SOON, || {
        let back = cluster.row("edge", victim);
        (back.pid != row.pid && back.state == "ready" && back.restarts == 1).then_some(())
    });
}

/// The sockets of a peer's connection on the server's side: the kernel's names for them, which no other socket ever gets.
fn server_inode(cluster: &Cluster, peer: &Peer) -> u64 {
    let (ours, server) = (peer.local().port(), [cluster.rtmp.port(), cluster.http.port()]);
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |field: &str| u16::from_str_radix(field.rsplit_once(':').unwrap().1, 16).unwrap();
    let found = table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        (server.contains(&port(fields[1])) && port(fields[2]) == ours).then(|| fields[9].parse().unwrap())
    });
    found.unwrap()
}

#[test]
fn the_very_sockets_go_to_the_successor_and_every_frame_arrives() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let next = another_build(scratch.path());
    let mut publisher =
        Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    e2e::publishers_slot(&cluster, "live/river");
    let peers: Vec<_> = (0..8)
        .map(|i| match i % 2 {
            0 => Peer::flv(cluster.http, "/live/river.flv"),
            _ => Peer::play(cluster.rtmp, "live", "river"),
        })
        .collect();
    Peer::wait_media_of(&peers, 50, SOON);
    let inodes: BTreeSet<u64> = peers.iter().map(|peer| server_inode(&cluster, peer)).collect();
    let held_by = |rows: &[Row]| -> BTreeSet<u64> {
        rows.iter().flat_map(|row| socket_inodes(row.pid)).filter(|inode| inodes.contains(inode)).collect()
    };
    let before = edges(&cluster);
    assert_eq!(held_by(&before), inodes);
    upgrade(&cluster, &next);
    let after = edges(&cluster);
    assert!(after.iter().all(|row| before.iter().all(|old| old.pid != row.pid)));
    assert_eq!(held_by(&after), inodes, "the same sockets in other processes");
    Peer::wait_media_of(&peers, 200, SOON);
    publisher.assert_running();
    for peer in &peers {
        peer.assert_connected();
        let received = Source::plain().place_tags(&peer.look(e2e::peer::Notes::media));
        assert_eq!(Source::plain().video_gaps(&received), [], "frames lost or seen twice");
    }
}

#[test]
fn a_program_that_cannot_go_on_changes_nothing() {
    let cluster = e2e::start(YAML);
    let before: Vec<u32> = cluster.rows().iter().map(|row| row.pid).collect();
    let image = fs::read_link(format!("/proc/{}/exe", cluster.pid())).unwrap();
    let reason = refused(&cluster.ctl(&["upgrade", "--binary", "/bin/true"]));
    assert!(reason.contains("/bin/true: it is no weir"), "{reason}");
    let reason = refused(&cluster.ctl(&["upgrade", "--binary", "/nowhere/weir"]));
    assert!(reason.contains("/nowhere/weir") && reason.contains("No such file"), "{reason}");
    assert_eq!(before, cluster.rows().iter().map(|row| row.pid).collect::<Vec<_>>());
    assert_eq!(image, fs::read_link(format!("/proc/{}/exe", cluster.pid())).unwrap());
    assert_eq!(cluster.try_status().unwrap()["state"], "ready");
}

#[test]
fn a_file_that_is_wrong_or_needs_a_restart_is_refused_by_name() {
    let cluster = e2e::start(YAML);
    cluster.rewrite("edge: { workers: 2, rtmp: { chunksize: 1 } }\n");
    let reason = refused(&cluster.ctl(&["reload"]));
    assert!(reason.contains("chunksize") && reason.contains("weir.yaml"), "{reason}");
    cluster.rewrite("edge: { workers: 3, rtmp: { chunk_size: 4096 } }\norigin: { workers: 2 }\n");
    let reason = refused(&cluster.ctl(&["reload"]));
    assert!(reason.contains("edge.rtmp.chunk_size: 60000 -> 4096 needs a restart"), "{reason}");
    assert!(reason.contains("origin.workers: 1 -> 2 needs a restart: it decides where streams live"), "{reason}");
    assert_eq!(edges(&cluster).len(), 2, "nothing of it was taken over");
    let status = cluster.try_status().unwrap();
    assert_eq!((status["generation"].as_u64(), status["state"].as_str()), (Some(1), Some("ready")));
    let reason = refused(&cluster.ctl(&["scale", "origin", "2"]));
    assert!(reason.contains("restart"), "{reason}");
    // The signal does the same, and says in the log what came of it.
    cluster.rewrite(YAML);
    signal(cluster.pid(), Signal::SIGHUP);
    eventually("the signal is heard", SOON, || cluster.log().contains("nothing has changed").then_some(()));
}

#[test]
fn listeners_come_and_go_with_a_reload_and_clients_stay() {
    let [old, new, taken] = [0; 3].map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let yaml =
        |listen: &str| format!("edge: {{ workers: 2, http: {{ listen: {listen} }} }}\norigin: {{ workers: 1 }}\n");
    let first = yaml(&format!("\"{old}\""));
    let mut cluster = Cluster::launch(Path::new(WEIR), &first, &[("WEIR_EDGE__HTTP__LISTEN", "")]);
    cluster.wait_ready();
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    // On the publisher's worker, which is not the one that is killed.
    let slot = e2e::publishers_slot(&cluster, "live/river");
    let player = eventually("a player on the publisher's worker", SOON, || {
        let player = Peer::flv(old, "/live/river.flv");
        player.wait_media(1, SOON);
        (e2e::slot_of(&cluster, player.local()) == slot).then_some(player)
    });
    player.wait_media(20, SOON);
    let before = listeners(old.port());
    assert_eq!(before.len(), 2);

    // An address that another program has: nothing changes.
    let _other = TcpListener::bind(taken).unwrap();
    cluster.rewrite(&yaml(&format!("[\"{old}\", \"{taken}\"]")));
    let reason = refused(&cluster.ctl(&["reload"]));
    assert!(reason.contains(&format!("http.1 {taken}: another program listens there")), "{reason}");
    // One more, in front; the sockets that there were stay.
    cluster.rewrite(&yaml(&format!("[\"{new}\", \"{old}\"]")));
    told(&cluster.ctl(&["reload"]));
    assert_eq!(listeners(old.port()), before);
    let players = [Peer::flv(new, "/live/river.flv"), Peer::flv(old, "/live/river.flv")];
    Peer::wait_media_of(&players, 20, SOON);
    // The old one goes; who came by it stays. A worker that is just being started has the sockets of before.
    let victim = cluster.row("edge", 1 - slot);
    let lost = players.iter().map(Peer::local).filter(|local| e2e::slot_of(&cluster, *local) == victim.slot);
    let lost: Vec<_> = lost.collect();
    signal(victim.pid, Signal::SIGKILL);
    cluster.rewrite(&yaml(&format!("\"{new}\"")));
    told(&cluster.ctl(&["reload"]));
    eventually("nobody listens there", SOON, || listeners(old.port()).is_empty().then_some(()));
    assert!(TcpStream::connect(old).is_err());
    for slot in [0, 1] {
        // Each worker accepts on the new one: one that did not would leave newcomers waiting in its queue.
        let mut served = BTreeSet::new();
        eventually("both workers serve newcomers", SOON, || {
            let peer = Peer::flv(new, "/live/river.flv");
            peer.wait_media(1, SOON);
            served.insert(e2e::slot_of(&cluster, peer.local()));
            served.contains(&slot).then_some(())
        });
    }
    Peer::wait_media_of(players.iter().filter(|peer| !lost.contains(&peer.local())).chain([&player]), 20, SOON);
}
