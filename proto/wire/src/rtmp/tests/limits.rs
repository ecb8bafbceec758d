//! Each limit, just kept and just broken.
use std::time::Duration;

use super::support::{CHUNK, Peer, command, connect_object, drain, message, seconds, start};
use crate::amf::{self, Value};
use crate::rtmp::server::Server;
use crate::rtmp::{Error, Limits, Output, PublishRefusal, chunk};

fn deadline(peer: &mut Peer) -> Option<Duration> {
    match peer.server.poll() {
        Output::Wait(deadline) => deadline.map(|deadline| deadline - start()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn handshake_has_a_deadline() {
    let mut server = Server::new(start(), Limits::default(), [0; 32], CHUNK);
    assert_eq!(server.poll(), Output::Wait(Some(seconds(10))));
    assert_eq!(server.handle_timeout(seconds(9)), Ok(()));
    // A byte a second does not put it off.
    for second in 0..10 {
        server.handle(seconds(second), &[3]).unwrap();
    }
    assert_eq!(server.handle(seconds(10), &[3]), Err(Error::HandshakeTimeout));
    assert_eq!(server.handle_timeout(seconds(10)), Err(Error::HandshakeTimeout));

    let mut peer = Peer::new(Limits::default());
    assert_eq!(deadline(&mut peer), Some(Limits::HANDSHAKE), "it lasts until connect");
    assert_eq!(peer.server.handle_timeout(seconds(10)), Err(Error::HandshakeTimeout));
}

#[test]
fn a_connected_client_must_ask_for_something() {
    let mut peer = Peer::connected(Limits::default());
    assert_eq!(deadline(&mut peer), Some(Limits::IDLE_REQUEST));
    peer.server.handle_timeout(seconds(29)).unwrap();
    assert_eq!(peer.server.handle_timeout(seconds(30)), Err(Error::IdleTimeout));

    let mut peer = Peer::publisher(Limits::default());
    assert_eq!(deadline(&mut peer), None, "a publisher's silence is the shell's business");
    peer.server.handle(seconds(100), &message(20, 0, &command("deleteStream", 0.0, &[]))).unwrap();
    drain(&mut peer.server);
    assert_eq!(deadline(&mut peer), Some(Duration::from_secs(130)));

    let mut peer = Peer::connected(Limits::default());
    peer.server
        .handle(seconds(5), &message(20, 0, &command("publish", 0.0, &[Value::Null, Value::string("s")])))
        .unwrap();
    drain(&mut peer.server);
    assert_eq!(deadline(&mut peer), None, "we are the ones to answer");
    peer.server.reject_publish(PublishRefusal::Denied, "no").unwrap();
    drain(&mut peer.server);
    assert_eq!(deadline(&mut peer), Some(Duration::from_secs(35)));
    let mut player = Peer::player();
    assert_eq!(deadline(&mut player), None);
}

#[test]
fn bytes_before_connect_are_bounded() {
    let mut peer = Peer::new(Limits::default());
    let nothing = message(4, 0, &[0, 7, 0, 0, 0, 0]);
    let fits = Limits::BYTES_BEFORE_CONNECT / nothing.len();
    for _ in 0..fits {
        peer.try_send(&nothing).unwrap();
    }
    assert_eq!(peer.try_send(&nothing), Err(Error::BytesBeforeConnect(Limits::BYTES_BEFORE_CONNECT)));
}

#[test]
fn messages_are_short_until_a_publish_is_accepted() {
    let claim = |length: u32| {
        let [_, a, b, c] = length.to_be_bytes();
        [6, 0, 0, 0, a, b, c, 9, 1, 0, 0, 0]
    };
    let before = Limits::MESSAGE_BEFORE_PUBLISH;
    let too_long = |length, limit| Err(Error::MessageTooLong { length, limit });
    assert_eq!(Peer::connected(Limits::default()).try_send(&claim(before)), Ok(()));
    assert_eq!(Peer::connected(Limits::default()).try_send(&claim(before + 1)), too_long(before + 1, before));
    assert_eq!(Peer::player().try_send(&claim(before + 1)), too_long(before + 1, before));

    let mut peer = Peer::connected(Limits::default());
    peer.command("publish", 0.0, &[Value::Null, Value::string("camera")]);
    peer.try_send(&claim(before + 1)).unwrap();
    let answered = peer.server.reject_publish(PublishRefusal::Denied, "no");
    assert_eq!(answered, too_long(before + 1, before), "a refusal does not raise the limit");

    let mut peer = Peer::publisher(Limits::default());
    assert_eq!(peer.try_send(&claim(0xff_ffff)), Ok(()));
    let limits = Limits { message: 1 << 20, ..Limits::default() };
    assert_eq!(Peer::publisher(limits.clone()).try_send(&claim((1 << 20) + 1)), too_long((1 << 20) + 1, 1 << 20));
    let mut peer = Peer::publisher(limits);
    peer.command("deleteStream", 0.0, &[]);
    assert_eq!(peer.try_send(&claim(before + 1)), too_long(before + 1, before), "nor does a publish that is over");
}

#[test]
fn a_long_message_arrives_whole() {
    let mut peer = Peer::publisher(Limits::default());
    let body: Vec<u8> = (0..3_000_000u32).map(|index| index as u8).collect();
    for piece in message(9, 1, &body).chunks(65_536) {
        peer.try_send(piece).unwrap();
    }
    assert_eq!(peer.events, [super::support::media(weir_media::Kind::Video, 1, &body)]);
}

#[test]
fn chunk_streams_and_partial_messages_are_bounded() {
    let limits = Limits { chunk_streams: 4, partial_bytes: 1 << 20, ..Limits::default() };
    let mut peer = Peer::publisher(limits.clone());
    // The peer itself uses chunk stream 3.
    for csid in 4..7 {
        peer.try_send(&[csid, 0, 0, 0, 0, 0, 1, 9, 1, 0, 0, 0, b'x']).unwrap();
    }
    assert_eq!(peer.try_send(&[7, 0, 0, 0, 0, 0, 1, 9, 1, 0, 0, 0, b'x']), Err(Error::ChunkStreams(4)));

    // Each holds a message that never ends.
    let mut peer = Peer::publisher(Limits { chunk_streams: 64, ..limits });
    let mut held = 0;
    let error = loop {
        let bytes = [4 + held, 0, 0, 0, 4, 0, 0, 9, 1, 0, 0, 0, b'x'];
        match peer.try_send(&[&bytes[..], &[b'x'; 127]].concat()) {
            Ok(()) => held += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error, held), (Error::PartialBytes(1 << 20), 4));
}

#[test]
fn commands_are_bounded() {
    let nested = |depth: usize| {
        let mut value = Value::Null;
        for _ in 0..depth {
            value = Value::object([("a", value)]);
        }
        command("call", 0.0, &[value])
    };
    let limits = amf::Limits::default();
    assert_eq!(Peer::connected(Limits::default()).try_message(20, &nested(limits.depth.into())), Ok(()));
    let deeper = nested(usize::from(limits.depth) + 1);
    assert_eq!(
        Peer::connected(Limits::default()).try_message(20, &deeper),
        Err(Error::Amf(amf::Error::Depth(limits.depth)))
    );

    let small = Limits { amf: amf::Limits { string: 100, values: 10, ..limits }, ..Limits::default() };
    let text = |length: usize| command("call", 0.0, &[Value::Null, Value::string("x".repeat(length))]);
    assert_eq!(Peer::connected(small.clone()).try_message(20, &text(100)), Ok(()));
    let error = Error::Amf(amf::Error::String(100));
    assert_eq!(Peer::connected(small.clone()).try_message(20, &text(101)), Err(error));
    let many = |count| command("call", 0.0, &vec![Value::Null; count]);
    assert_eq!(Peer::connected(small.clone()).try_message(20, &many(8)), Ok(()));
    assert_eq!(Peer::connected(small).try_message(20, &many(9)), Err(Error::Amf(amf::Error::Values(10))));
}

#[test]
fn what_waits_for_an_answer_is_bounded() {
    let limits = Limits { held_bytes: 1000, ..Limits::default() };
    let mut peer = Peer::connected(limits);
    peer.command("publish", 0.0, &[Value::Null, Value::string("camera")]);
    peer.try_send(&[0; 1000]).unwrap();
    assert_eq!(peer.try_send(&[0]), Err(Error::HeldBytes(1000)));
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let mut peer = Peer::connected(Limits::default());
    let ping = message(4, 0, &[0, 6, 0, 0, 0, 1]);
    let error = (0..100_000).find_map(|_| peer.server.handle(start(), &ping).err());
    assert_eq!(error, Some(Error::PendingOut(Limits::PENDING_OUT)));
    // Within one call too: many questions, little text.
    let mut peer = Peer::connected(Limits::default());
    let flood = message(20, 0, &command("FCSubscribe", 1.0, &[])).repeat(20_000);
    assert_eq!(peer.server.handle(start(), &flood), Err(Error::PendingOut(Limits::PENDING_OUT)));
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Server>() < 700, "{} bytes", size_of::<Server>());
    assert!(size_of::<crate::rtmp::server::Event>() <= 48);
    // What the reader remembers of the chunk streams that a client really uses.
    let mut peer = Peer::publisher(Limits::default());
    for csid in [2, 4, 6] {
        let mut bytes = Vec::new();
        chunk::write_message(&mut bytes, csid, 8, 1, 0, &[0xaf; 100], 128);
        peer.try_send(&bytes).unwrap();
    }
    assert_eq!(peer.server.partial_bytes(), 0);
    assert!(size_of::<Server>() + peer.server.heap_bytes() < 1536, "{} more", peer.server.heap_bytes());
}

#[test]
fn connect_waits_for_the_shell_without_the_client_losing_time() {
    let mut peer = Peer::new(Limits::default());
    let connect = command("connect", 1.0, &[connect_object("live", "rtmp://h/live")]);
    peer.server.handle(seconds(9), &message(20, 0, &connect)).unwrap();
    drain(&mut peer.server);
    peer.server.handle_timeout(seconds(20)).unwrap();
    peer.server.accept_connect().unwrap();
    assert_eq!(peer.server.handle_timeout(seconds(39)), Err(Error::IdleTimeout));
}
