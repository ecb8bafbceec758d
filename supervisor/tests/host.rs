//! A host from start to stop, with real processes.

mod common;

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Client, Cluster, WEIR, accept, children, eventually, is_alive, listeners, signal, socket_inodes};
use nix::sys::signal::Signal;

const TWO: &str = "edge: { workers: 2 }\norigin: { workers: 1 }\n";

#[test]
fn status_names_every_worker() {
    let cluster = Cluster::start(TWO);
    let status = cluster.try_status().unwrap();
    assert_eq!(status["pid"], cluster.pid());
    let names: Vec<_> = status["listeners"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rtmp.0", "http.0", "api.0", "signal.0", "metrics.0"]);
    let rows = cluster.rows();
    let shown: Vec<_> = rows.iter().map(|row| (row.role.as_str(), row.slot, row.state.as_str())).collect();
    assert_eq!(shown, [("edge", 0, "ready"), ("edge", 1, "ready"), ("origin", 0, "ready")]);
    let mut pids: Vec<_> = rows.iter().map(|row| row.pid).collect();
    let mut processes = children(cluster.pid());
    pids.sort_unstable();
    processes.sort_unstable();
    assert_eq!(pids, processes);
    // Heartbeats carry the gauges, and the supervisor measures the processes.
    let client = Client::connect_to(cluster.rtmp, 1);
    eventually("the connection is counted", Duration::from_secs(5), || {
        (cluster.row("edge", 1).connections == 1).then_some(())
    });
    let status = cluster.try_status().unwrap();
    assert!(status["workers"][0]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{status}");
    drop(client);
    let table = String::from_utf8(cluster.ctl(&["status"]).stdout).unwrap();
    assert!(table.lines().any(|line| line.starts_with("origin") && line.contains("ready")), "{table}");
}

#[test]
fn each_worker_has_the_sockets_of_its_slot_and_nothing_else() {
    let cluster = Cluster::start(TWO);
    let supervisor = socket_inodes(cluster.pid());
    for address in [cluster.rtmp, cluster.http, cluster.api] {
        let all = listeners(address.port());
        assert_eq!(all.len(), 2, "a socket a slot");
        assert!(all.is_subset(&supervisor), "the supervisor holds them all");
        let [first, second] = [0, 1].map(|slot| {
            let inodes = socket_inodes(cluster.row("edge", slot).pid);
            inodes.intersection(&all).copied().collect::<Vec<_>>()
        });
        assert_eq!((first.len(), second.len()), (1, 1), "{first:?} {second:?}");
        assert_ne!(first, second);
        assert!(socket_inodes(cluster.row("origin", 0).pid).is_disjoint(&all), "an origin has an edge's sockets");
    }
}

#[test]
fn sigterm_stops_everything_and_leaves_nothing() {
    let mut cluster = Cluster::start(TWO);
    let workers = children(cluster.pid());
    assert_eq!(workers.len(), 3);
    let mut client = Client::connect(cluster.http).unwrap();
    cluster.signal(Signal::SIGTERM);
    assert_eq!(client.stream.read(&mut [0; 8]).unwrap(), 0, "the client is told");
    assert_eq!(cluster.wait_exit(Duration::from_secs(5)).code(), Some(0));
    assert!(workers.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(cluster.socket_files(), [] as [&Path; 0]);
    assert!(Client::connect(cluster.http).is_err());
}

#[test]
fn a_graceful_stop_waits_for_the_clients() {
    let mut cluster = Cluster::start(TWO);
    let mut client = Client::connect(cluster.rtmp).unwrap();
    cluster.signal(Signal::SIGQUIT);
    eventually("nobody listens any more", Duration::from_secs(5), || {
        listeners(cluster.rtmp.port()).is_empty().then_some(())
    });
    assert_eq!(cluster.row("edge", client.slot).state, "draining");
    assert_eq!(cluster.row("origin", 0).state, "ready", "origins stay while an edge has clients");
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.stream.read(&mut [0; 8]).is_err(), "the client is still served");
    drop(client);
    assert_eq!(cluster.wait_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn a_second_order_to_stop_is_a_hurry() {
    let mut cluster = Cluster::start(TWO);
    let client = Client::connect(cluster.rtmp).unwrap();
    cluster.signal(Signal::SIGQUIT);
    eventually("it drains", Duration::from_secs(5), || {
        (cluster.row("edge", client.slot).state == "draining").then_some(())
    });
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn ctl_stop_returns_when_it_is_gone() {
    let mut cluster = Cluster::start(TWO);
    let output = cluster.ctl(&["stop"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cluster.wait_exit(Duration::from_secs(2)).code(), Some(0));
    let output = cluster.ctl(&["status"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no weir answers"), "{error}");
}

#[test]
fn a_second_weir_in_the_same_run_directory_is_refused() {
    let first = Cluster::start(TWO);
    let run_dir = first.run_dir();
    let mut second = Cluster::launch(accept(), TWO, &[("WEIR_NODE__RUN_DIR", run_dir.to_str().unwrap())]);
    assert_eq!(second.wait_exit(Duration::from_secs(5)).code(), Some(1));
    let wanted = format!("another weir (process {}) runs here", first.pid());
    assert!(second.log().contains(&wanted), "{}", second.log());
    assert!(first.rows().iter().all(|row| row.state == "ready"), "the first one is not disturbed");
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let first = Cluster::start(TWO);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    // The first one's sockets have SO_REUSEPORT, which would let the second one join them.
    let plain = plain.local_addr().unwrap();
    for (key, name, address) in [
        ("WEIR_EDGE__RTMP__LISTEN", "rtmp.0", first.rtmp),
        ("WEIR_EDGE__RTMP__LISTEN", "rtmp.0", plain),
        ("WEIR_METRICS__LISTEN", "metrics.0", first.metrics),
    ] {
        let mut second = Cluster::launch(accept(), TWO, &[(key, &address.to_string())]);
        assert_eq!(second.wait_exit(Duration::from_secs(10)).code(), Some(1));
        let wanted = format!("{name} {address}: another program listens there");
        assert!(second.log().contains(&wanted), "{}", second.log());
        assert_eq!(second.socket_files().len(), 0);
    }
}

#[test]
fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut cluster = Cluster::launch(accept(), TWO, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let heard = |within: Duration| {
        manager.set_read_timeout(Some(within)).unwrap();
        let mut text = [0; 256];
        let length = manager.recv(&mut text).unwrap_or_else(|error| panic!("nothing was said: {error}"));
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    assert_eq!(heard(common::START).trim(), "READY=1");
    assert!(cluster.rows().iter().all(|row| row.state == "ready"));
    cluster.signal(Signal::SIGINT);
    assert_eq!(heard(Duration::from_secs(5)).trim(), "STOPPING=1");
    assert_eq!(cluster.wait_exit(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn workers_are_started_by_a_supervisor_alone() {
    let output = Command::new(accept()).args(["edge", "--slot", "0", "--incarnation", "1"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("workers are started by `weir run`"), "{error}");
}

#[test]
fn a_worker_that_stands_still_is_killed_by_the_stop() {
    let mut cluster = Cluster::start(TWO);
    // A process that stands still answers no order; the stop goes on without it.
    let victim = cluster.row("edge", 0).pid;
    signal(victim, Signal::SIGSTOP);
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(Duration::from_secs(15)).code(), Some(0));
    assert!(!is_alive(victim));
    assert!(cluster.log().contains("did not leave in time; killing it"), "{}", cluster.log());
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.yaml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Command::new(WEIR).args(["check", "-c"]).arg(&file).output().unwrap()
    };
    let good = check("edge: { workers: 3 }\n");
    assert_eq!(String::from_utf8(good.stdout).unwrap(), format!("{}: ok\n", file.display()));
    let bad = check("edge: { wrokers: 3 }\n");
    assert_eq!(bad.status.code(), Some(1));
    let error = String::from_utf8(bad.stderr).unwrap();
    assert!(error.contains("weir.yaml:1") && error.contains("workers"), "{error}");
    // What `weir config` prints is a configuration.
    let printed = Command::new(WEIR).arg("config").output().unwrap();
    assert!(check(&String::from_utf8(printed.stdout).unwrap()).status.success());
    let version = Command::new(WEIR).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with(concat!("weir ", env!("CARGO_PKG_VERSION"))));
}

/// `accept` under another name.
fn another(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("accept-next");
    std::fs::copy(accept(), &path).unwrap();
    path
}

fn image(pid: u32) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn an_upgrade_whose_workers_do_not_start_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let next = another(dir.path());
    // Two edges and an origin; the first that is started later fails.
    let mut cluster = Cluster::launch(accept(), TWO, &[("ACCEPT_FAIL_AFTER", "3")]);
    cluster.wait_ready();
    let clients: Vec<_> = (0..4).map(|_| Client::connect(cluster.rtmp).unwrap()).collect();
    let (pid, before) = (cluster.pid(), cluster.rows());
    let output = cluster.ctl(&["upgrade", "--binary", next.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("the new worker of edge 0 did not get ready"), "{error}");
    assert!(cluster.log().contains("going back to the image before"), "{}", cluster.log());
    assert_eq!(image(pid), accept().canonicalize().unwrap());
    let same = |rows: Vec<common::Row>| rows.into_iter().map(|row| (row.pid, row.state)).collect::<Vec<_>>();
    assert_eq!(same(cluster.rows()), same(before), "nobody was touched");
    for mut client in clients {
        client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let error = client.stream.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "still served");
    }
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(cluster.socket_files(), [] as [&Path; 0]);
}

#[test]
fn the_supervisor_becomes_another_image_and_still_knows_its_workers() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let next = another(dir.path());
    let notify = dir.path().join("notify");
    let mut cluster = Cluster::launch(accept(), TWO, &[("NOTIFY_SOCKET", notify.to_str().unwrap())]);
    cluster.wait_ready();
    let pid = cluster.pid();
    let inodes = [cluster.rtmp, cluster.http, cluster.api].map(|address| listeners(address.port()));
    let output = cluster.ctl(&["upgrade", "--binary", next.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((cluster.pid(), image(pid)), (pid, next.canonicalize().unwrap()));
    let status = cluster.try_status().unwrap();
    assert_eq!((status["state"].as_str(), status["generation"].as_u64()), (Some("ready"), Some(1)));
    let after = [cluster.rtmp, cluster.http, cluster.api].map(|address| listeners(address.port()));
    assert_eq!(inodes, after, "the very same listening sockets");
    let mut workers = children(pid);
    let mut rows: Vec<_> = cluster.rows().into_iter().map(|row| row.pid).collect();
    workers.sort_unstable();
    rows.sort_unstable();
    assert_eq!(workers, rows, "every child is known, and every known one is a child");
    let mut text = [0; 256];
    let heard: Vec<String> = std::iter::from_fn(|| {
        let length = manager.recv(&mut text).ok()?;
        Some(String::from_utf8(text[..length].to_vec()).unwrap())
    })
    .collect();
    let reloading = heard.iter().position(|text| text.contains("RELOADING=1") && text.contains("MONOTONIC_USEC="));
    let ready = heard.iter().rposition(|text| text.contains("READY=1"));
    assert!(reloading.is_some() && reloading < ready, "{heard:?}");
    // A worker's death is seen by the new image, and its signals are its own.
    let victim = cluster.row("edge", 1);
    signal(victim.pid, Signal::SIGKILL);
    eventually("another worker", Duration::from_secs(10), || {
        let row = cluster.row("edge", 1);
        (row.state == "ready" && row.pid != victim.pid).then_some(())
    });
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(cluster.socket_files(), [] as [&Path; 0]);
}

#[test]
fn a_drained_worker_keeps_its_clients_and_its_slot_gets_another() {
    let cluster = Cluster::start(TWO);
    let mut client = Client::connect_to(cluster.rtmp, 1);
    let output = cluster.ctl(&["drain", "edge/1"]);
    assert!(output.status.success(), "{output:?}");
    eventually("another worker beside it", Duration::from_secs(10), || {
        let rows = cluster.rows();
        let states = |incarnation| {
            let of = |row: &&common::Row| {
                row.role == "edge" && row.slot == 1 && (row.incarnation == client.incarnation) == incarnation
            };
            rows.iter().find(of).map(|row| row.state.clone())
        };
        (states(true).as_deref() == Some("draining") && states(false).as_deref() == Some("ready")).then_some(())
    });
    assert!(Client::connect_to(cluster.rtmp, 1).incarnation > client.incarnation);
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(client.stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(client);
    eventually("the old one leaves", Duration::from_secs(10), || (cluster.rows().len() == 3).then_some(()));
    for (what, why) in
        [("edge/9", "has no worker that serves"), ("edge", "named as in edge/3"), ("brook/1", "is no role")]
    {
        let error = String::from_utf8(cluster.ctl(&["drain", what]).stderr).unwrap();
        assert!(error.contains(why), "{error}");
    }
}
