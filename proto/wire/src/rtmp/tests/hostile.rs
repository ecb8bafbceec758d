//! Inputs that broke other servers.
use super::support::{Peer, command, message, start};
use crate::amf::{self, Value};
use crate::rtmp::server::Event;
use crate::rtmp::{Error, Limits, chunk};

#[test]
fn chunk_sizes() {
    for (size, legal) in
        [(0u32, false), (1, true), (1 << 24, true), (0x7fff_ffff, true), (0x8000_0000, false), (u32::MAX, false)]
    {
        let mut peer = Peer::publisher(Limits::default());
        let sent = peer.try_message(1, &size.to_be_bytes());
        assert_eq!(sent, if legal { Ok(()) } else { Err(Error::ChunkSize(size)) });
        if legal {
            let mut bytes = Vec::new();
            chunk::write_message(&mut bytes, 6, 9, 1, 5, &[7; 300], size);
            peer.try_send(&bytes).unwrap();
            assert_eq!(peer.events, [super::support::media(weir_media::Kind::Video, 5, &[7; 300])]);
        }
    }
}

#[test]
fn every_chunk_stream_id() {
    for csid in [2, 3, 63, 64, 65, 255, 256, 318, 319, 320, 4096, 65_598, 65_599] {
        let mut peer = Peer::publisher(Limits::default());
        let mut bytes = Vec::new();
        chunk::write_message(&mut bytes, csid, 9, 1, 5, &[7; 300], 128);
        peer.try_send(&bytes).unwrap();
        assert_eq!(peer.events.len(), 1, "{csid}");
    }
}

#[test]
fn short_control_messages() {
    for type_id in 1..=6 {
        for length in 0..4 {
            let sent = Peer::connected(Limits::default()).try_message(type_id, &vec![0; length]);
            // A user control event of two bytes is known by what it is.
            let fine = type_id == 4 && length >= 2;
            assert_eq!(sent, if fine { Ok(()) } else { Err(Error::Control(type_id)) });
        }
    }
    let ping = Peer::connected(Limits::default()).try_message(4, &[0, 6, 0, 0, 0]);
    assert_eq!(ping, Err(Error::Control(4)));
}

#[test]
fn long_names_are_refused_with_a_status() {
    for length in [201, 256, 257, 4096, 60_000] {
        let mut peer = Peer::connected(Limits::default());
        peer.command("publish", 0.0, &[Value::Null, Value::string("n".repeat(length))]);
        peer.command("play", 0.0, &[Value::Null, Value::string("n".repeat(length))]);
        assert_eq!(peer.codes(), ["NetStream.Publish.BadName", "NetStream.Play.StreamNotFound"]);
        assert_eq!(peer.events, []);
    }
}

#[test]
fn names_that_are_not_strings() {
    let number = Value::Number(f64::NAN);
    for value in [number, Value::Undefined, Value::object([]), Value::StrictArray(vec![]), Value::Boolean(true)] {
        let mut peer = Peer::connected(Limits::default());
        peer.command("publish", 0.0, &[Value::Null, value.clone()]);
        peer.command("play", 0.0, &[Value::Null, value]);
        assert_eq!(peer.codes(), ["NetStream.Publish.BadName", "NetStream.Play.StreamNotFound"]);
    }
    let mut peer = Peer::connected(Limits::default());
    peer.command("publish", 0.0, &[]);
    peer.command("play", 0.0, &[]);
    peer.command("pause", 0.0, &[]);
    assert_eq!(peer.events, []);
}

#[test]
fn malformed_commands() {
    let send = |type_id, body: &[u8]| Peer::connected(Limits::default()).try_message(type_id, body);
    assert_eq!(send(20, b""), Err(Error::Amf(amf::Error::Truncated)));
    assert_eq!(send(17, b"\x00"), Err(Error::Amf(amf::Error::Truncated)));
    assert_eq!(send(20, b"\x05"), Err(Error::CommandName));
    assert_eq!(send(20, b"\x02\xff\xffplay"), Err(Error::Amf(amf::Error::Truncated)));
    assert_eq!(send(20, b"\x02\x00\x04play\x00\x00"), Err(Error::Amf(amf::Error::Truncated)));
    // rtmpdump's: strings and properties of AMF3 that end behind the message.
    assert_eq!(send(17, b"\x00\x02\x00\x04play\x11\x06\xbf\xff"), Err(Error::Amf(amf::Error::Truncated)));
    assert_eq!(send(17, b"\x00\x02\x00\x04play\x11\x0a\x0b\x01\x7f"), Err(Error::Amf(amf::Error::Truncated)));
    assert_eq!(send(20, b"\x02\x00\x04play\x03\x00\x05app"), Err(Error::Amf(amf::Error::Truncated)));
    // A command of a name alone is one.
    assert_eq!(send(20, b"\x02\x00\x04play"), Ok(()));
    let deep = [&b"\x02\x00\x04call"[..], &b"\x03\x00\x01a".repeat(15_000)].concat();
    assert_eq!(send(20, &deep), Err(Error::Amf(amf::Error::Depth(amf::Limits::DEPTH))));
}

#[test]
fn nothing_but_connect_comes_first() {
    for name in ["publish", "play", "createStream", "call", ""] {
        let mut peer = Peer::new(Limits::default());
        assert_eq!(peer.try_message(20, &command(name, 1.0, &[])), Err(Error::NotConnected));
    }
    let mut peer = Peer::new(Limits::default());
    for type_id in [8, 9, 15, 18, 22] {
        peer.message(type_id, b"\x17\x01media before connect");
    }
    assert_eq!((peer.events.len(), peer.messages.len()), (0, 0));
}

#[test]
fn media_without_a_publish_goes_nowhere() {
    for mut peer in [Peer::connected(Limits::default()), Peer::player()] {
        for type_id in [8, 9, 15, 18, 22] {
            peer.message(type_id, b"\x09\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00x");
        }
        assert_eq!(peer.events, []);
    }
}

#[test]
fn connect_without_an_object() {
    for arguments in [vec![], vec![Value::Null], vec![Value::string("live")]] {
        let mut peer = Peer::new(Limits::default());
        peer.command("connect", 1.0, &arguments);
        let [Event::Connect(connect)] = &peer.events[..] else { panic!("{:?}", peer.events) };
        assert_eq!((connect.app.as_str(), connect.vhost.as_str()), ("", ""));
        peer.server.accept_connect().unwrap();
        peer.command("publish", 0.0, &[Value::Null, Value::string("s")]);
        assert!(matches!(&peer.events[1], Event::Publish(request) if request.app == "__defaultApp__"));
    }
}

#[test]
fn interleaved_partial_messages() {
    let mut peer = Peer::publisher(Limits::default());
    let (mut audio, mut video) = (Vec::new(), Vec::new());
    chunk::write_message(&mut audio, 4, 8, 1, 0xffff_ffff, &[1; 300], 128);
    chunk::write_message(&mut video, 6, 9, 1, 0x00ff_ffff, &[2; 300], 128);
    // A full header of 12 or 16 bytes, then continuations of 1 or 5.
    let cut = |bytes: &[u8]| [bytes[..144].to_vec(), bytes[144..277].to_vec(), bytes[277..].to_vec()];
    for (audio, video) in cut(&audio).iter().zip(&cut(&video)) {
        peer.try_send(audio).unwrap();
        peer.try_send(video).unwrap();
    }
    assert_eq!(
        peer.events,
        [
            super::support::media(weir_media::Kind::Audio, 0xffff_ffff, &[1; 300]),
            super::support::media(weir_media::Kind::Video, 0x00ff_ffff, &[2; 300]),
        ]
    );
}

#[test]
fn abort_during_a_message() {
    let mut peer = Peer::publisher(Limits::default());
    let mut video = Vec::new();
    chunk::write_message(&mut video, 6, 9, 1, 0, &[2; 300], 128);
    peer.try_send(&video[..140]).unwrap();
    peer.message(2, &6u32.to_be_bytes());
    assert_eq!(peer.server.partial_bytes(), 0);
    peer.try_send(&video).unwrap();
    assert_eq!(peer.events.len(), 1);
}

#[test]
fn a_flood_of_the_smallest_messages_is_linear_and_forgotten() {
    let mut peer = Peer::publisher(Limits::default());
    let mut bytes = message(8, 0, b"a");
    bytes.extend(b"\xc3a".repeat(32_000));
    peer.server.handle(start(), &bytes).unwrap();
    peer.collect();
    assert_eq!(peer.events.len(), 32_001);
    assert!(peer.server.heap_bytes() < 2048, "{}", peer.server.heap_bytes());
}
