use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, Endpoint, ReadError, RecvStream};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use weir_node::cert::{make_ca, make_node};
use weir_node::config::Tls;
use weir_node::quic;
use weir_node::tls::ClusterTls;
use weir_wire::relay::{Assembler, Group};

use super::*;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn certificate(dir: &Path, name: &str) -> ClusterTls {
    let made = make_node(dir, &[name.to_owned()]).unwrap();
    let text = |path: &Path| path.display().to_string();
    ClusterTls::load(&Tls { ca: text(&dir.join("ca.pem")), cert: text(&made.cert), key: text(&made.key) }).unwrap()
}

/// An origin that is reached over QUIC, and a client of its cluster.
struct Cluster {
    host: Host,
    address: SocketAddr,
    edge: ClusterTls,
}

impl Cluster {
    fn new(limits: Limits) -> Self {
        let host = Host::new(limits, GRACE);
        make_ca(host.dir.path()).unwrap();
        let origin = certificate(host.dir.path(), "origin-1");
        let edge = certificate(host.dir.path(), "edge-1");
        let endpoint = Endpoint::server(quic::server_config(&origin).unwrap(), ANY).unwrap();
        let address = endpoint.local_addr().unwrap();
        spawn_local(listen_quic(host.relay.clone(), endpoint));
        Self { host, address, edge }
    }

    async fn connection(&self) -> Connection {
        self.connection_with(quic::client_config(&self.edge).unwrap()).await.unwrap()
    }

    async fn connection_with(&self, config: ClientConfig) -> Result<Connection, quinn::ConnectionError> {
        let mut endpoint = Endpoint::client(ANY).unwrap();
        endpoint.set_default_client_config(config);
        timeout(SOON, endpoint.connect(self.address, "origin-1").unwrap()).await.unwrap()
    }

    async fn edge(&self, name: &str) -> (Edge, Connection) {
        Self::greet(name, self.connection().await).await
    }

    /// An edge to which no more than a datagram each `pace` comes.
    async fn slow_edge(&mut self, name: &str, pace: Duration) -> (Edge, Connection) {
        let slow = slow_link(self.address, pace).await;
        let origin = std::mem::replace(&mut self.address, slow);
        let connection = self.connection().await;
        self.address = origin;
        Self::greet(name, connection).await
    }

    async fn greet(name: &str, connection: Connection) -> (Edge, Connection) {
        let (writer, reader) = connection.open_bi().await.unwrap();
        (Edge::greet(name, reader, writer).await, connection)
    }
}

/// Passes datagrams on, those of the origin one each `pace`; of more than 64 that wait the rest is lost.
async fn slow_link(origin: SocketAddr, pace: Duration) -> SocketAddr {
    let (near, far) = (UdpSocket::bind(ANY).await.unwrap(), UdpSocket::bind(ANY).await.unwrap());
    let address = near.local_addr().unwrap();
    spawn_local(async move {
        let (mut edge, mut waiting) = (None, VecDeque::new());
        let (mut up, mut down) = ([0; 2048], [0; 2048]);
        let mut turn = tokio::time::interval(pace);
        loop {
            tokio::select! {
                Ok((len, from)) = near.recv_from(&mut up) => {
                    edge = Some(from);
                    far.send_to(&up[..len], origin).await.ok();
                }
                Ok((len, _)) = far.recv_from(&mut down) => {
                    if waiting.len() < 64 {
                        waiting.push_back(down[..len].to_vec());
                    }
                }
                _ = turn.tick() => if let (Some(to), Some(datagram)) = (edge, waiting.pop_front()) {
                    near.send_to(&datagram, to).await.ok();
                }
            }
        }
    });
    address
}

/// What happens on the streams of a subscription.
#[derive(Debug)]
enum Heard {
    Begin(u64, bool),
    Frame(u64, Frame),
    /// `true`: whole.
    End(u64, bool),
}

/// Reads one group to its end.
async fn hear(mut stream: RecvStream, heard: mpsc::UnboundedSender<Heard>) {
    let mut decoder = Decoder::new();
    let mut input = BytesMut::new();
    let mut index = None;
    loop {
        while let Some(record) = decoder.decode(&mut input).unwrap() {
            let what = match (record, index) {
                (Record::Group { index: i, joinable, .. }, None) => {
                    index = Some(i);
                    Heard::Begin(i, joinable)
                }
                (Record::Frame { frame, .. }, Some(i)) => Heard::Frame(i, frame),
                (other, _) => panic!("{other:?} in a group"),
            };
            heard.send(what).ok();
        }
        match stream.read_chunk(64 * KIB, true).await {
            Ok(Some(chunk)) => input.extend_from_slice(&chunk.bytes),
            Ok(None) => return drop(heard.send(Heard::End(index.unwrap(), true))),
            Err(ReadError::Reset(_)) => return drop(index.map(|i| heard.send(Heard::End(i, false)))),
            Err(_) => return,
        }
    }
}

/// Reads all groups of a connection with one subscription.
fn hear_all(connection: &Connection) -> mpsc::UnboundedReceiver<Heard> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let connection = connection.clone();
    spawn_local(async move {
        while let Ok(stream) = connection.accept_uni().await {
            spawn_local(hear(stream, sender.clone()));
        }
    });
    receiver
}

async fn next(heard: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    timeout(SOON, heard.recv()).await.expect("nothing came").expect("the connection ended")
}

/// The groups until one is heard whole that holds `last`: joinable, and its frames.
async fn groups(heard: &mut mpsc::UnboundedReceiver<Heard>, last: &Frame) -> Vec<(bool, Vec<Frame>)> {
    let mut groups: Vec<Option<(bool, Vec<Frame>)>> = Vec::new();
    loop {
        match next(heard).await {
            Heard::Begin(i, joinable) => {
                groups.resize(groups.len().max(i as usize + 1), None);
                groups[i as usize] = Some((joinable, Vec::new()));
            }
            Heard::Frame(i, frame) => groups[i as usize].as_mut().unwrap().1.push(frame),
            Heard::End(i, whole) => assert!(whole, "group {i} broke off"),
        }
        if groups.iter().flatten().any(|(_, frames)| frames.contains(last)) {
            return groups.into_iter().map(|g| g.expect("a group is missing")).collect();
        }
    }
}

#[test]
fn frames_arrive_in_groups_that_make_the_same_stream() {
    run(async {
        let cluster = Cluster::new(Limits { queue: 8192 * KIB, ..limits() });
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        assert_eq!(player.next().await, Some(Record::Live { channel: 9, epoch: first.epoch }));
        let mut sent = vec![config(first, 0, 0, 3)];
        for n in 1..100 {
            let size = if n % 20 == 1 { 200_000 } else { 1000 };
            sent.push(video(first, n, n as i64 * 40, n % 20 == 1, size));
        }
        for frame in &sent {
            publisher.publish(1, frame).await;
        }
        let mut assembler = Assembler::new(SOON, 8192 * KIB);
        let mut seen: Vec<Frame> = Vec::new();
        while seen.len() < sent.len() {
            let now = Instant::now();
            match next(&mut heard).await {
                Heard::Begin(i, joinable) => assembler.begin(now, i, joinable),
                Heard::Frame(i, frame) => assembler.frame(now, i, frame),
                Heard::End(i, whole) => {
                    assert!(whole);
                    assembler.finish(now, i, whole);
                }
            }
            while let Group::Frame(frame) = assembler.poll() {
                // A group begins with the configuration, which is known already.
                if seen.last().is_none_or(|last| last.id < frame.id) {
                    seen.push(frame);
                }
            }
        }
        assert!(seen == sent);
    });
}

#[test]
fn each_group_that_can_be_joined_begins_with_the_configuration() {
    run(async {
        let cluster = Cluster::new(limits());
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        let sent = [
            config(first, 0, 0, 3),
            video(first, 1, 0, true, 50),
            video(first, 2, 40, false, 50),
            // Changed just before the key frame that needs it, in what may be skipped.
            config(first, 3, 400, 4),
            video(first, 4, 400, true, 50),
            video(first, 5, 440, false, 50),
        ];
        for frame in &sent[..3] {
            publisher.publish(1, frame).await;
        }
        until("they are there", || cluster.host.relay.hub().borrow().state(&name("a")).unwrap().epoch == first.epoch)
            .await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        for frame in &sent[3..] {
            publisher.publish(1, frame).await;
        }
        let groups = groups(&mut heard, &sent[5]).await;
        let [(true, zero), (true, one)] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!(zero[..], sent[..4], "group 0 begins with the configuration, too");
        assert_eq!(one[..], sent[3..]);
    });
}

#[test]
fn long_groups_are_split_and_short_ones_are_not() {
    run(async {
        let cluster = Cluster::new(limits());
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        // A group of ten seconds, then a second of key frames alone.
        let long = (0..100).map(|n| video(first, n, n as i64 * 100, n == 0, 50));
        let sent: Vec<Frame> =
            long.chain((100..150).map(|n| video(first, n, 8000 + n as i64 * 20, true, 50))).collect();
        for frame in &sent {
            publisher.publish(1, frame).await;
        }
        let groups = groups(&mut heard, &sent[149]).await;
        let shape: Vec<(bool, i64, usize)> =
            groups.iter().map(|(joinable, f)| (*joinable, f[0].dts / 1000, f.len())).collect();
        assert_eq!(shape[..3], [(true, 0, 41), (false, 4100, 41), (false, 8200, 18)]);
        assert_eq!(shape.len(), 3 + 4, "{shape:?}");
        assert!(shape[3..].iter().all(|(joinable, ..)| *joinable));
        let all: Vec<Frame> = groups.into_iter().flat_map(|(_, frames)| frames).collect();
        assert!(all == sent);
    });
}

/// Bytes that wait in the origin for all subscriptions of all peers.
fn waiting(relay: &Relay) -> usize {
    let of = |peer: &Rc<Peer>| match &peer.carrier {
        Carrier::Queue => 0,
        Carrier::Groups(_, subscriptions) => subscriptions.borrow().values().map(Subscription::waiting).sum(),
    };
    relay.peers.borrow().values().map(of).sum()
}

#[test]
fn a_group_that_is_not_read_is_let_go_with_its_parts_and_the_next_one_is_whole() {
    run(async {
        let cluster = Cluster::new(limits());
        let relay = cluster.host.relay.clone();
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        // A group in two parts, neither of which is read: together they soon wait for more than the bound.
        let skipped = || relay.peers.borrow().values().map(|peer| peer.skips()).sum::<u64>();
        let (mut most, mut unread, mut n) = (0, Vec::new(), 0);
        while skipped() == 0 {
            assert!(n < 400, "nothing was let go");
            // The second part does not grow old enough for a third.
            let dts = if n < 82 { n as i64 * 50 } else { 4100 + n as i64 };
            publisher.publish(1, &video(first, n, dts, n == 0, 53 * KIB)).await;
            if n == 0 || n == 81 {
                unread.push(timeout(SOON, connection.accept_uni()).await.unwrap().unwrap());
            }
            sleep(Duration::from_millis(1)).await;
            most = most.max(waiting(&relay));
            n += 1;
        }
        let mut heard = hear_all(&connection);
        let key = n + 38;
        for n in n..key + 20 {
            publisher.publish(1, &video(first, n, 4100 + n as i64, n == key, 10 * KIB)).await;
            sleep(Duration::from_millis(1)).await;
            most = most.max(waiting(&relay));
        }
        assert!(most > 128 * KIB, "only {most} bytes waited");
        assert!(most <= (256 + 54) * KIB, "{most} bytes waited");
        let mut seen = Vec::new();
        while seen.last() != Some(&(key + 19)) {
            match next(&mut heard).await {
                Heard::Begin(_, joinable) => assert!(joinable, "a part that cannot be read without the one before"),
                Heard::Frame(_, frame) => seen.push(frame.id.seq - first.seq),
                Heard::End(..) => {}
            }
        }
        assert_eq!(seen, (key..key + 20).collect::<Vec<_>>());
        for mut stream in unread {
            let broken = timeout(SOON, async {
                loop {
                    match stream.read_chunk(64 * KIB, true).await {
                        Ok(Some(_)) => {}
                        other => break other,
                    }
                }
            });
            let broken = broken.await.unwrap();
            assert!(matches!(broken, Err(ReadError::Reset(_))), "{broken:?}");
        }
        let skips: u64 = relay.peers.borrow().values().map(|peer| peer.skips()).sum();
        assert_eq!(skips, 1);
    });
}

#[test]
fn on_a_congested_link_a_newer_group_overtakes_after_the_hold() {
    run(async {
        let mut cluster = Cluster::new(Limits { queue: 8192 * KIB, ..limits() });
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.slow_edge("edge/1@b", Duration::from_millis(2)).await;
        let first = publisher.claim(1, "a").await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        // At 600 kB/s the first group takes five seconds.
        for n in 0..30 {
            publisher.publish(1, &video(first, n, n as i64 * 40, n == 0, 100 * KIB)).await;
        }
        assert!(matches!(next(&mut heard).await, Heard::Begin(0, true)));
        // Groups of one age share the link; this one is to be older.
        sleep(Duration::from_millis(400)).await;
        let began = Instant::now();
        for n in 30..100 {
            publisher.publish(1, &video(first, n, n as i64 * 40, n == 30, 500)).await;
            sleep(Duration::from_millis(20)).await;
        }
        let mut older = 0;
        loop {
            match next(&mut heard).await {
                Heard::Frame(0, _) => older += 1,
                Heard::Frame(1, _) => break,
                _ => {}
            }
        }
        assert!(older < 29, "the newer group waited for all of the older");
        assert!(began.elapsed() >= Duration::from_millis(250), "the older one is first until then");
    });
}

#[test]
fn what_the_edge_stops_is_not_sent_on() {
    run(async {
        let cluster = Cluster::new(limits());
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        publisher.publish(1, &video(first, 0, 0, true, 1000)).await;
        let mut stream = timeout(SOON, connection.accept_uni()).await.unwrap().unwrap();
        stream.stop(quinn::VarInt::from_u32(1)).unwrap();
        let mut heard = hear_all(&connection);
        for n in 1..100 {
            publisher.publish(1, &video(first, n, n as i64 * 10, false, 1000)).await;
            sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(waiting(&cluster.host.relay), 0, "kept for a stream that is closed");
        publisher.publish(1, &video(first, 100, 5000, true, 1000)).await;
        assert!(matches!(next(&mut heard).await, Heard::Begin(1, true)));
        assert!(matches!(next(&mut heard).await, Heard::Frame(1, frame) if frame.id.seq == first.seq + 100));
    });
}

#[test]
fn a_closed_subscription_and_a_lost_edge_leave_nothing() {
    run(async {
        let cluster = Cluster::new(limits());
        let relay = cluster.host.relay.clone();
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.edge("edge/1@b").await;
        let first = publisher.claim(1, "a").await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        publisher.publish(1, &video(first, 0, 0, true, 1000)).await;
        assert!(matches!(next(&mut heard).await, Heard::Begin(0, true)));
        player.send(&Record::Close { channel: 9 }).await;
        loop {
            if let Heard::End(0, whole) = next(&mut heard).await {
                assert!(!whole);
                break;
            }
        }
        assert_eq!(relay.hub().borrow().subscription_count(), 0);
        player.subscribe(10, "a").await;
        until("it subscribes", || relay.hub().borrow().subscription_count() == 1).await;
        connection.close(quinn::VarInt::from_u32(0), b"");
        until("it is gone", || relay.peer_count() == 1).await;
        assert_eq!(relay.hub().borrow().subscription_count(), 0);
        assert_eq!(Rc::strong_count(&relay.entered), 2);
    });
}

#[test]
fn an_edge_that_breaks_the_protocol_is_told_why() {
    run(async {
        let cluster = Cluster::new(limits());
        let (mut edge, connection) = cluster.edge("edge/0@b").await;
        edge.send(&Record::Idle { channel: 1 }).await;
        let why = timeout(SOON, connection.closed()).await.unwrap().to_string();
        assert!(why.contains("only origins send"), "{why}");
        until("it is gone", || cluster.host.relay.peer_count() == 0).await;
    });
}

#[test]
fn only_the_cluster_is_let_in() {
    run(async {
        let cluster = Cluster::new(limits());
        let theirs = tempfile::tempdir().unwrap();
        make_ca(theirs.path()).unwrap();
        let stranger = certificate(theirs.path(), "edge-1");
        let foreign = quic::client_config(&stranger).unwrap();
        assert!(cluster.connection_with(foreign).await.is_err());

        // Who shows nothing learns it only after its own end of the handshake.
        let ca = std::fs::read(cluster.host.dir.path().join("ca.pem")).unwrap();
        let mut roots = quinn::rustls::RootCertStore::empty();
        for cert in quinn::rustls::pki_types::pem::PemObject::pem_slice_iter(&ca) {
            roots.add(Result::<quinn::rustls::pki_types::CertificateDer<'_>, _>::unwrap(cert)).unwrap();
        }
        let mut none = quinn::rustls::ClientConfig::builder_with_provider(weir_node::tls::provider())
            .with_protocol_versions(&[&quinn::rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        none.alpn_protocols = vec![quic::ALPN.to_vec()];
        let none = quinn::crypto::rustls::QuicClientConfig::try_from(none).unwrap();
        match cluster.connection_with(ClientConfig::new(Arc::new(none))).await {
            Err(_) => {}
            Ok(connection) => {
                let why = timeout(SOON, connection.closed()).await.unwrap().to_string();
                assert!(why.contains("certificate"), "{why}");
            }
        }
        let (mut edge, _keep) = cluster.edge("edge/0@b").await;
        edge.subscribe(1, "a").await;
        assert_eq!(edge.next().await, Some(Record::Idle { channel: 1 }), "and its own is served");
        assert_eq!(cluster.host.relay.peer_count(), 1);
    });
}

/// Bodies' bytes that come on each channel.
fn shares(connection: &Connection) -> Rc<RefCell<FxHashMap<u32, usize>>> {
    let shares: Rc<RefCell<FxHashMap<u32, usize>>> = Rc::default();
    let (all, connection) = (shares.clone(), connection.clone());
    spawn_local(async move {
        while let Ok(mut stream) = connection.accept_uni().await {
            let shares = all.clone();
            spawn_local(async move {
                let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
                while let Ok(Some(chunk)) = stream.read_chunk(64 * KIB, true).await {
                    input.extend_from_slice(&chunk.bytes);
                    while let Some(record) = decoder.decode(&mut input).unwrap() {
                        if let Record::Frame { channel, frame } = record {
                            *shares.borrow_mut().entry(channel).or_default() += frame.body.len();
                        }
                    }
                }
            });
        }
    });
    shares
}

#[test]
fn on_a_congested_link_a_subscription_is_not_starved_by_one_that_began_later() {
    run(async {
        let mut cluster = Cluster::new(Limits { queue: 8192 * KIB, ..limits() });
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.slow_edge("edge/1@b", Duration::from_millis(2)).await;
        let older = publisher.claim(1, "older").await;
        let newer = publisher.claim(2, "newer").await;
        let shares = shares(&connection);
        player.subscribe(1, "older").await;
        sleep(Duration::from_secs(3)).await;
        player.subscribe(2, "newer").await;
        until("both subscribe", || cluster.host.relay.hub().borrow().subscription_count() == 2).await;
        for n in 0..150 {
            for (channel, first) in [(1, older), (2, newer)] {
                publisher.publish(channel, &video(first, n, n as i64 * 20, n % 50 == 0, 20_000)).await;
            }
            sleep(Duration::from_millis(18)).await;
        }
        let shares = shares.borrow();
        let of = |channel| shares.get(&channel).copied().unwrap_or(0);
        assert!(of(1) * 3 > of(2) && of(2) * 3 > of(1), "{} bytes of one and {} of the other", of(1), of(2));
    });
}

#[test]
fn on_a_congested_link_groups_shorter_than_the_hold_are_overtaken_too() {
    run(async {
        let hold = Duration::from_secs(1);
        let mut cluster = Cluster::new(Limits { queue: 8192 * KIB, hold, ..limits() });
        let (mut publisher, _keep) = cluster.edge("edge/0@b").await;
        let (mut player, connection) = cluster.slow_edge("edge/1@b", Duration::from_millis(2)).await;
        let first = publisher.claim(1, "a").await;
        let mut heard = hear_all(&connection);
        player.subscribe(9, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        // Twice what the link carries, in groups of half a second.
        for n in 0..300 {
            publisher.publish(1, &video(first, n, n as i64 * 20, n % 25 == 0, 26_000)).await;
            sleep(Duration::from_millis(18)).await;
        }
        let mut newest = 0;
        while let Ok(what) = heard.try_recv() {
            if let Heard::Frame(_, frame) = what {
                newest = newest.max(frame.dts / 1000);
            }
        }
        assert!(newest > 6000 - 2000, "it lags {} ms behind", 6000 - newest);
    });
}
