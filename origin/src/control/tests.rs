use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tracing::field::{Field, Visit};
use tracing::span;
use weir_node::cert::make_ca;
use weir_node::tls::ClusterTls;
use weir_proto::origin::control_client::ControlClient;
use weir_wire::relay::Record;

use super::*;
use crate::relay::tests::quic::certificate;
use crate::relay::tests::{Host, SOON, limits, name, run, until};

/// An origin with its control plane on a unix socket.
struct Origin {
    host: Host,
    service: Service,
}

impl Origin {
    fn new(grace: Duration) -> Self {
        let host = Host::new(limits(), grace);
        let identity = Identity {
            host: "h1".to_owned(),
            slot: 3,
            incarnation: 8,
            relay_unix: "/run/weir/origin-3.relay.sock".into(),
            relay_port: 4433,
        };
        let (service, questions) = Service::new(identity, Rooms::start(&weir_node::config::Config::default()).1);
        spawn_local(answer(host.relay.clone(), None, questions));
        let path = host.dir.path().join("control.sock");
        let incoming = Incoming::new("control.unix".to_owned(), UnixListener::bind(path).unwrap());
        spawn_local(serve(service.clone(), None, incoming).unwrap());
        Self { host, service }
    }

    async fn client(&self) -> ControlClient<Channel> {
        let path = self.host.dir.path().join("control.sock");
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
        ControlClient::new(timeout(SOON, endpoint.connect()).await.unwrap().unwrap())
    }
}

fn edge(relay_version: u16) -> RegisterRequest {
    RegisterRequest {
        node: "host-b".to_owned(),
        host: "h2".to_owned(),
        slot: 5,
        version: "0.1.0".to_owned(),
        relay_version: u32::from(relay_version),
    }
}

fn wire(name: &StreamName) -> Name {
    Name { vhost: name.vhost.to_string(), app: name.app.to_string(), stream: name.stream.to_string() }
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    timeout(SOON, stream.message()).await.expect("nothing came").unwrap()
}

/// Collects log lines as `message field=value ...`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn any(&self, words: &[&str]) -> bool {
        self.0.lock().unwrap().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn an_edge_registers_and_learns_where_the_relay_is() {
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let mut client = origin.client().await;
        let reply = client.register(edge(VERSION)).await.unwrap().into_inner();
        assert_eq!((reply.host.as_str(), reply.slot, reply.incarnation), ("h1", 3, 8));
        assert_eq!((reply.relay_unix.as_str(), reply.relay_port), ("/run/weir/origin-3.relay.sock", 4433));
        assert_eq!((reply.relay_version, reply.heartbeat_ms), (u32::from(VERSION), 500));
        let status = client.register(edge(VERSION + 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("relay version 2 is not spoken here"), "{}", status.message());
        let long = RegisterRequest { node: "x".repeat(REQUEST_MAX), ..edge(VERSION) };
        assert_eq!(client.register(long).await.unwrap_err().code(), Code::OutOfRange);
    });
}

#[test]
fn both_ends_beat_and_a_silent_edge_is_lost_by_name() {
    let lines = Lines::default();
    let _logged = tracing::subscriber::set_default(lines.clone());
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let mut publisher = origin.host.edge("edge/0@a").await;
        publisher.claim(1, "a").await;
        let mut client = origin.client().await;
        client.register(edge(VERSION)).await.unwrap();
        let (sender, receiver) = mpsc::channel(4);
        let mut beats = client.heartbeat(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let started = Instant::now();
        let mut spoke = started;
        // Longer than a lost one would live.
        for seq in 1..=6 {
            spoke = Instant::now();
            sender.send(Beat { seq, connections: 1, streams: 1 }).await.unwrap();
            let beat = next(&mut beats).await.unwrap();
            assert_eq!((beat.seq, beat.connections, beat.streams), (seq, 1, 1));
        }
        assert!(started.elapsed() > LOST_AFTER, "{:?}", started.elapsed());
        while next(&mut beats).await.is_some() {}
        let after = spoke.elapsed();
        assert!(after >= LOST_AFTER && after < LOST_AFTER + 2 * HEARTBEAT, "{after:?}");
    });
    assert!(lines.any(&["the heartbeat is lost", "edge/5@host-b"]), "{:?}", lines.0);
}

#[test]
fn an_edge_that_goes_is_logged_by_name_or_by_where_it_came_from() {
    let lines = Lines::default();
    let _logged = tracing::subscriber::set_default(lines.clone());
    run(async {
        let origin = Origin::new(Duration::ZERO);
        for registers in [true, false] {
            let mut client = origin.client().await;
            if registers {
                client.register(edge(VERSION)).await.unwrap();
            }
            let (sender, receiver) = mpsc::channel(4);
            let mut beats = client.heartbeat(ReceiverStream::new(receiver)).await.unwrap().into_inner();
            next(&mut beats).await.unwrap();
            drop((client, sender));
            while next(&mut beats).await.is_some() {}
        }
        until("both are logged", || {
            lines.any(&["the heartbeat", "edge/5@host-b"]) && lines.any(&["the heartbeat", "unregistered at this host"])
        })
        .await;
    });
}

#[test]
fn streams_are_located() {
    run(async {
        let origin = Origin::new(Duration::from_millis(100));
        let mut client = origin.client().await;
        let mut locate = async |stream: &str| {
            let request = LocateRequest { name: Some(wire(&name(stream))) };
            client.locate(request).await.unwrap().into_inner()
        };
        let unknown = locate("a").await;
        assert_eq!((unknown.live, unknown.epoch, unknown.subscribers), (false, 0, 0));
        let mut publisher = origin.host.edge("edge/0@a").await;
        let first = publisher.claim(1, "a").await;
        publisher.subscribe(2, "a").await;
        assert!(matches!(publisher.next().await, Some(Record::Live { .. })));
        let known = locate("a").await;
        assert_eq!(known.name, Some(wire(&name("a"))));
        assert_eq!((known.live, known.epoch, known.subscribers), (true, first.epoch, 1));
        publisher.send(&Record::Close { channel: 1 }).await;
        assert_eq!(publisher.next().await, Some(Record::Idle { channel: 2 }));
        let idle = locate("a").await;
        assert_eq!((idle.live, idle.epoch, idle.subscribers), (false, first.epoch, 1));
        let status = client.locate(LocateRequest { name: None }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn watchers_hear_of_all_and_of_one() {
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let mut publisher = origin.host.edge("edge/0@a").await;
        publisher.claim(1, "a").await;
        let mut client = origin.client().await;
        let mut all = client.watch(WatchRequest { name: None }).await.unwrap().into_inner();
        let one = WatchRequest { name: Some(wire(&name("b"))) };
        let mut one = client.watch(one).await.unwrap().into_inner();
        let stream = |state: &StreamState| state.name.as_ref().unwrap().stream.clone();
        let state = next(&mut all).await.unwrap();
        assert_eq!((stream(&state).as_str(), state.live, state.missed), ("a", true, false));
        let state = next(&mut one).await.unwrap();
        assert_eq!((stream(&state).as_str(), state.live), ("b", false), "what is not there is told, too");
        let first = publisher.claim(2, "b").await;
        for watcher in [&mut all, &mut one] {
            let state = next(watcher).await.unwrap();
            assert_eq!((stream(&state).as_str(), state.live, state.epoch), ("b", true, first.epoch));
        }
        publisher.send(&Record::Close { channel: 1 }).await;
        publisher.send(&Record::Close { channel: 2 }).await;
        assert_eq!(stream(&next(&mut all).await.unwrap()), "a");
        let state = next(&mut one).await.unwrap();
        assert_eq!((stream(&state).as_str(), state.live, state.epoch), ("b", false, 0));
    });
}

#[test]
fn a_slow_watcher_gets_the_newest_state_of_everything() {
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let mut publisher = origin.host.edge("edge/0@a").await;
        let mut client = origin.client().await;
        let mut slow = client.watch(WatchRequest { name: None }).await.unwrap().into_inner();
        // More changes than wait anywhere, of few streams.
        let mut epochs = HashMap::new();
        let mut channel = 0;
        for _ in 0..30 {
            for stream in 0..200 {
                let stream = format!("s{stream}");
                channel += 1;
                let first = publisher.claim(channel, &stream).await;
                epochs.insert(stream, first.epoch);
                publisher.send(&Record::Close { channel }).await;
            }
        }
        for stream in ["s7", "s9"] {
            channel += 1;
            let first = publisher.claim(channel, stream).await;
            epochs.insert(stream.to_owned(), first.epoch);
        }
        let mut live: HashMap<String, u64> = HashMap::new();
        let wanted: HashMap<String, u64> = ["s7", "s9"].map(|s| (s.to_owned(), epochs[s])).into();
        while live != wanted {
            let state = next(&mut slow).await.unwrap();
            let stream = state.name.unwrap().stream;
            match state.live {
                true => drop(live.insert(stream, state.epoch)),
                false => drop(live.remove(&stream)),
            }
        }
    });
}

#[test]
fn a_watcher_that_missed_some_is_told_so_and_then_all_that_there_is() {
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let mut publisher = origin.host.edge("edge/0@a").await;
        publisher.claim(0, "stays").await;
        // Asks the hub's thread itself, as tonic's buffers are large.
        let (sender, mut slow) = mpsc::channel(1);
        origin.service.questions.send(Question::Watch(None, sender)).await.unwrap();
        assert!(timeout(SOON, slow.recv()).await.unwrap().unwrap().unwrap().live);
        for n in 1..6000 {
            publisher.claim(n, &format!("gone{n}")).await;
            publisher.send(&Record::Close { channel: n }).await;
        }
        let mut states = 0;
        loop {
            let state = timeout(SOON, slow.recv()).await.expect("it was never told").unwrap().unwrap();
            states += 1;
            if state.missed {
                break;
            }
        }
        assert!(states < 6000);
        let mut stays = false;
        while !stays {
            let state = timeout(SOON, slow.recv()).await.expect("not all was told").unwrap().unwrap();
            stays = state.live && &*state.name.unwrap().stream == "stays";
        }
    });
}

#[test]
fn other_hosts_come_with_certificates() {
    run(async {
        let origin = Origin::new(Duration::ZERO);
        let dir = origin.host.dir.path();
        make_ca(dir).unwrap();
        let ours = certificate(dir, "origin-1");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = Incoming::new("control.tcp.0".to_owned(), listener);
        spawn_local(serve(origin.service.clone(), Some(ours.grpc_server()), incoming).unwrap());
        let connect = async |tls: &ClusterTls| {
            let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
            endpoint.tls_config(tls.grpc_client("origin-1")).unwrap().connect().await
        };
        let mut client = ControlClient::new(connect(&certificate(dir, "edge-1")).await.unwrap());
        assert_eq!(client.register(edge(VERSION)).await.unwrap().into_inner().slot, 3);
        let (sender, receiver) = mpsc::channel(4);
        let mut beats = client.heartbeat(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        sender.send(Beat::default()).await.unwrap();
        assert_eq!(next(&mut beats).await.unwrap().seq, 1);

        let theirs = tempfile::tempdir().unwrap();
        make_ca(theirs.path()).unwrap();
        let stranger = certificate(theirs.path(), "edge-1");
        assert!(timeout(SOON, connect(&stranger)).await.unwrap().is_err());
        // Without TLS at all.
        let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
        if let Ok(channel) = timeout(SOON, plain.connect()).await.unwrap() {
            let mut client = ControlClient::new(channel);
            assert!(timeout(SOON, client.register(edge(VERSION))).await.unwrap().is_err());
        }
        assert_eq!(client.register(edge(VERSION)).await.unwrap().into_inner().slot, 3, "the first is still served");
    });
}
