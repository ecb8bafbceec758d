use super::*;

const GRACE: Duration = Duration::from_secs(5);

#[test]
fn frames_arrive_as_they_were_sent() {
    run(async {
        let host = Host::new(Limits { queue: 4096 * KIB, ..limits() }, GRACE);
        let mut publisher = host.edge("edge/0@a").await;
        let mut player = host.edge("edge/1@a").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(7, "a").await;
        assert_eq!(player.next().await, Some(Record::Live { channel: 7, epoch: first.epoch }));
        let mut sent = vec![config(first, 0, 0, 3)];
        // Below, at and above what one record holds.
        for (n, size) in [300_000, 6, 64 * KIB - 29, 64 * KIB - 28, 64 * KIB, 128 * KIB + 1, 70].into_iter().enumerate()
        {
            sent.push(video(first, n as u64 + 1, n as i64 * 40, n == 0, size));
        }
        for frame in &sent {
            publisher.publish(1, frame).await;
        }
        for frame in &sent {
            assert_eq!(player.frame().await, *frame);
        }
        let mut late = host.edge("edge/2@a").await;
        late.subscribe(1, "a").await;
        for frame in &sent {
            assert_eq!(late.frame().await, *frame, "and to one who comes later");
        }
    });
}

#[test]
fn a_stuck_subscriber_delays_nobody_and_goes_on_at_a_group() {
    run(async {
        let host = Host::new(limits(), GRACE);
        let mut publisher = host.edge("edge/0@a").await;
        let mut player = host.edge("edge/1@a").await;
        let mut stuck = host.edge("edge/2@a").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(1, "a").await;
        stuck.subscribe(1, "a").await;
        until("both subscribe", || host.relay.hub().borrow().subscription_count() == 2).await;
        let all: Vec<Frame> = (0..300).map(|n| video(first, n, n as i64 * 40, n % 10 == 0, 20 * KIB)).collect();
        for frame in &all {
            publisher.publish(1, frame).await;
            let seen = timeout(Duration::from_secs(5), player.frame()).await.expect("delayed");
            assert_eq!(seen, *frame);
        }
        let skips: u64 = host.relay.peers.borrow().values().map(|peer| peer.skips()).sum();
        assert!(skips > 0, "6 MB fitted into 256 KiB");
        let waiting: usize = host.relay.peers.borrow().values().map(|p| p.out.borrow().bytes()).sum();
        assert!(waiting <= 256 * KIB + 20 * KIB, "{waiting} bytes wait");
        // It reads again, and frames go on.
        let (mut gaps, mut last) = (0, None);
        for n in 300.. {
            publisher.publish(1, &video(first, n, n as i64 * 40, n % 10 == 0, 20 * KIB)).await;
            player.frame().await;
            let frame = stuck.frame().await;
            if last.is_some_and(|last| frame.id.seq != last + 1) {
                gaps += 1;
                assert!(frame.info.keyframe, "went on in mid-group at {}", frame.id.seq);
            }
            last = Some(frame.id.seq);
            if frame.id.seq > first.seq + 300 {
                break;
            }
        }
        assert!(gaps > 0);
    });
}

/// What a stranger sends, whether the origin is to close, and how the test is called.
fn abuses() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |records: &[Record]| {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| encode(&mut bytes, record));
        bytes.to_vec()
    };
    let hello = || Record::Hello { version: VERSION, name: "edge/9@x".to_owned() };
    let claim = |channel| Record::Claim { channel, name: name("x"), key: 0, resume: None };
    let subscribe = |channel| Record::Subscribe { channel, name: name("x"), have: None };
    let garbage = b"GET / HTTP/1.1\r\nHost: weir\r\n\r\n".to_vec();
    let mut late_garbage = bytes(&[hello()]);
    late_garbage.extend_from_slice(&[0, 0, 1, 99, 0, 0, 0, 0, 0]);
    let mut long = bytes(&[hello()]);
    long.extend_from_slice(&[1, 0, 1, 9, 0, 0, 0, 0]);
    let mut stray = bytes(&[hello()]);
    stray.extend_from_slice(&[0, 0, 1, 10, 0, 0, 0, 3, 1]);
    vec![
        ("garbage", garbage),
        ("silence", Vec::new()),
        ("half a hello", bytes(&[hello()])[..9].to_vec()),
        ("another version", bytes(&[Record::Hello { version: VERSION + 1, name: String::new() }])),
        ("a claim before the hello", bytes(&[claim(1)])),
        ("an unknown type", late_garbage),
        ("a record that is too long", long),
        ("a continuation of nothing", stray),
        ("a second hello", bytes(&[hello(), hello()])),
        ("an origin's word", bytes(&[hello(), Record::Idle { channel: 1 }])),
        ("a group outside of QUIC", bytes(&[hello(), Record::Group { channel: 1, index: 0, joinable: true }])),
        ("a channel claimed twice", bytes(&[hello(), claim(1), claim(1)])),
        ("a channel subscribed twice", bytes(&[hello(), subscribe(1), subscribe(1)])),
        ("a channel of both kinds", bytes(&[hello(), subscribe(1), claim(1)])),
    ]
}

#[test]
fn who_does_not_speak_the_protocol_is_closed_and_nobody_else_notices() {
    run(async {
        let host = Host::new(limits(), GRACE);
        let mut publisher = host.edge("edge/0@a").await;
        let mut player = host.edge("edge/1@a").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(1, "a").await;
        for (n, (abuse, bytes)) in abuses().into_iter().enumerate() {
            let mut socket = host.socket().await;
            socket.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let closed = timeout(SOON, socket.read_to_end(&mut answer)).await;
            // Bytes that it did not read make the end a reset.
            closed.unwrap_or_else(|_| panic!("{abuse} was not closed")).ok();
            let frame = video(first, n as u64, n as i64 * 40, n == 0, 100);
            publisher.publish(1, &frame).await;
            assert_eq!(player.frame().await, frame, "after {abuse}");
            until("its peer is gone", || host.relay.peer_count() == 2).await;
        }
        let hub = host.relay.hub().borrow();
        assert_eq!((hub.publication_count(), hub.subscription_count()), (1, 1));
    });
}

#[test]
fn words_on_channels_that_are_not_open_are_passed_over() {
    run(async {
        let host = Host::new(limits(), GRACE);
        let mut edge = host.edge("edge/0@a").await;
        let stranger = FrameId { epoch: 1, seq: 1 };
        for n in 0..100 {
            edge.publish(n, &video(stranger, 0, 0, true, 100)).await;
            edge.send(&Record::Close { channel: n }).await;
        }
        edge.subscribe(5, "a").await;
        assert_eq!(edge.next().await, Some(Record::Idle { channel: 5 }));
    });
}

#[test]
fn an_edge_that_dies_in_mid_frame_leaves_a_publication_in_its_grace() {
    run(async {
        let host = Host::new(limits(), Duration::from_millis(200));
        let mut publisher = host.edge("edge/0@a").await;
        let mut player = host.edge("edge/1@a").await;
        let first = publisher.claim(1, "a").await;
        player.subscribe(1, "a").await;
        assert!(matches!(player.next().await, Some(Record::Live { .. })));
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &Record::Frame { channel: 1, frame: video(first, 0, 0, true, 200_000) });
        publisher.writer.write_all(&bytes[..100_000]).await.unwrap();
        drop(publisher);
        assert_eq!(player.next().await, Some(Record::Idle { channel: 1 }), "after the grace");
        drop(player);
        until("nothing is left", || host.relay.hub().borrow().stream_count() == 0 && host.relay.peer_count() == 0)
            .await;
    });
}

#[test]
fn an_edge_that_takes_nothing_is_given_up() {
    run(async {
        let host = Host::new(Limits { stuck_after: Duration::from_millis(300), ..limits() }, GRACE);
        let mut publisher = host.edge("edge/0@a").await;
        let mut stuck = host.edge("edge/1@a").await;
        let first = publisher.claim(1, "a").await;
        stuck.subscribe(1, "a").await;
        until("it subscribes", || host.relay.hub().borrow().subscription_count() == 1).await;
        for n in 0..100 {
            publisher.publish(1, &video(first, n, n as i64 * 40, n % 10 == 0, 20 * KIB)).await;
        }
        until("it is given up", || host.relay.peer_count() == 1).await;
        assert_eq!(host.relay.hub().borrow().subscription_count(), 0);
        // The publisher, which has nothing to read, stays.
        publisher.send(&Record::Close { channel: 1 }).await;
        until("it is heard", || host.relay.hub().borrow().publication_count() == 0).await;
    });
}

#[test]
fn answers_that_are_not_read_are_bounded() {
    run(async {
        let host = Host::new(limits(), GRACE);
        let mut edge = host.edge("edge/0@a").await;
        let mut closed = false;
        for round in 0..2_000 {
            let mut bytes = BytesMut::new();
            for n in 0..500 {
                let channel = round * 500 + n;
                encode(&mut bytes, &Record::Subscribe { channel, name: name("a"), have: None });
                encode(&mut bytes, &Record::Close { channel });
            }
            if edge.writer.write_all(&bytes).await.is_err() {
                closed = true;
                break;
            }
        }
        assert!(closed, "a million answers were kept");
        until("it is forgotten", || host.relay.peer_count() == 0).await;
        assert_eq!(host.relay.hub().borrow().stream_count(), 0);
    });
}
