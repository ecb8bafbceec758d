//! What clients see when processes die, hang and start slowly.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Cluster, accept, children, eventually, is_alive, listeners, signal, socket_inodes};
use nix::sys::signal::Signal;

/// One connection of the load.
#[derive(Debug)]
struct Call {
    at: Instant,
    answered: Instant,
    by: Result<(u64, u64), String>,
}

/// Clients that connect 200 times a second, each on a thread of its own so that a queued one delays no other.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    pacer: thread::JoinHandle<()>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stopped, results) = (stop.clone(), calls.clone());
        let pacer = thread::spawn(move || {
            let mut threads = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let results = results.clone();
                threads.push(thread::spawn(move || {
                    let at = Instant::now();
                    let by = Client::connect(address).map(|client| (client.slot, client.incarnation));
                    let by = by.map_err(|error| error.to_string());
                    results.lock().unwrap().push(Call { at, answered: Instant::now(), by });
                }));
                thread::sleep(Duration::from_millis(5));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { stop, calls, pacer }
    }

    /// Ends it; panics when a call failed.
    fn finish(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        self.pacer.join().unwrap();
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        let failed: Vec<_> = calls.iter().filter(|call| call.by.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} connections failed: {:?}", failed.len(), calls.len(), failed.first());
        calls
    }
}

/// The inode of the slot's own listening socket, as the worker has it.
fn own_listener(cluster: &Cluster, slot: u64) -> Vec<u64> {
    let all = listeners(cluster.rtmp.port());
    socket_inodes(cluster.row("edge", slot).pid).intersection(&all).copied().collect()
}

#[test]
fn a_killed_worker_loses_no_queued_connection_and_comes_back_to_its_socket() {
    let cluster = Cluster::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    let victim = cluster.row("edge", 0);
    let before = own_listener(&cluster, 0);
    assert_eq!(before.len(), 1);
    // Blocked between two tasks, so that nobody is accepted and not greeted when the kill comes: whoever connects
    // now waits in the queue of the slot.
    Client::connect_to(cluster.rtmp, 0).stream.write_all(b"hang").unwrap();
    let load = Load::start(cluster.rtmp);
    thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    signal(victim.pid, Signal::SIGKILL);
    let reborn = eventually("a new worker in the slot", Duration::from_secs(10), || {
        Some(cluster.row("edge", 0))
            .filter(|row| row.state == "ready" && row.pid != victim.pid && row.lent_to.is_none())
    });
    let took = killed.elapsed();
    thread::sleep(Duration::from_millis(300));
    let calls = load.finish();

    let queued = calls.iter().filter(|call| call.at < killed && call.answered > killed).count();
    assert!(queued >= 5, "only {queued} of {} connections waited in the dead worker's queue", calls.len());
    assert!(calls.iter().any(|call| call.by == Ok((0, reborn.incarnation))), "the new worker takes connections");
    assert_eq!(reborn.restarts, 1);
    assert!(took < Duration::from_secs(5), "{took:?}");
    eventually("the new worker has its slot's socket and no other", Duration::from_secs(5), || {
        (own_listener(&cluster, 0) == before).then_some(())
    });
}

#[test]
fn a_slot_whose_worker_starts_slowly_is_lent_and_returned() {
    let mut cluster =
        Cluster::launch(accept(), "edge: { workers: 3 }\norigin: { workers: 1 }\n", &[("ACCEPT_START_MS", "1500")]);
    cluster.wait_ready();
    let before = own_listener(&cluster, 1);
    let victim = cluster.row("edge", 1);
    let load = Load::start(cluster.http);
    signal(victim.pid, Signal::SIGKILL);
    let lender = eventually("the slot is lent", Duration::from_secs(1), || cluster.row("edge", 1).lent_to);
    eventually("the sibling has its socket", Duration::from_secs(1), || {
        own_listener(&cluster, lender).contains(&before[0]).then_some(())
    });
    eventually("its own worker has it back", Duration::from_secs(10), || {
        let row = cluster.row("edge", 1);
        (row.state == "ready" && row.lent_to.is_none()).then_some(())
    });
    eventually("the sibling gave it back", Duration::from_secs(5), || {
        (!own_listener(&cluster, lender).contains(&before[0])).then_some(())
    });
    let calls = load.finish();
    let slowest = calls.iter().map(|call| call.answered - call.at).max().unwrap();
    assert!(slowest < Duration::from_millis(1400), "a connection waited {slowest:?} for the slow worker");
}

#[test]
fn a_hung_worker_is_covered_and_then_replaced() {
    let cluster = Cluster::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    let victim = cluster.row("edge", 0);
    Client::connect_to(cluster.rtmp, 0).stream.write_all(b"hang").unwrap();
    eventually("the silent slot is lent", Duration::from_secs(8), || {
        let row = cluster.row("edge", 0);
        (row.state == "silent" && row.lent_to == Some(1)).then_some(())
    });
    assert!(is_alive(victim.pid));
    assert!((0..20).all(|_| Client::connect(cluster.rtmp).unwrap().slot == 1), "the sibling takes all");
    eventually("it is killed and replaced", Duration::from_secs(20), || {
        let row = cluster.row("edge", 0);
        (row.pid != victim.pid && row.state == "ready" && row.lent_to.is_none()).then_some(())
    });
    assert!(!is_alive(victim.pid));
}

#[test]
fn a_slot_that_always_dies_is_faulted_and_its_sibling_serves() {
    let cluster = Cluster::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    eventually("the slot is faulted", Duration::from_secs(40), || {
        let row = cluster.row("edge", 0);
        if row.state == "ready" {
            signal(row.pid, Signal::SIGKILL);
        }
        (row.state == "faulted").then_some(())
    });
    assert_eq!(cluster.row("edge", 0).restarts, 5);
    eventually("the slot is lent", Duration::from_secs(5), || {
        (cluster.row("edge", 0).lent_to == Some(1)).then_some(())
    });
    eventually("the sibling took it", Duration::from_secs(5), || (own_listener(&cluster, 1).len() == 2).then_some(()));
    assert!((0..20).all(|_| Client::connect(cluster.rtmp).unwrap().slot == 1));
    assert!(cluster.log().contains("faulted"), "{}", cluster.log());
}

#[test]
fn workers_leave_when_their_supervisor_is_killed_and_another_takes_its_place() {
    let yaml = "edge: { workers: 2, drain_timeout: 1s }\norigin: { workers: 1 }\n";
    let mut first = Cluster::start(yaml);
    let workers = children(first.pid());
    assert_eq!(workers.len(), 3);
    let client = Client::connect(first.rtmp).unwrap();
    first.signal(Signal::SIGKILL);
    first.wait_exit(Duration::from_secs(2));
    // On the same port and in the same directory, at once, as the service manager would.
    let rtmp = first.rtmp.to_string();
    let mut second = Cluster::launch_in(first.into_dir(), accept(), yaml, &[("WEIR_EDGE__RTMP__LISTEN", &rtmp)]);
    second.wait_ready();
    eventually("the orphans are gone", Duration::from_secs(8), || {
        workers.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
    drop(client);
    assert!(second.rows().iter().all(|row| row.state == "ready"));
}
