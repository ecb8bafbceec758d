//! Connections that go on in another process.
use proptest::prelude::*;
use prost::Message as _;
use weir_media::Kind;

use super::support::{Peer, media, message, seconds, start};
use crate::amf::Value;
use crate::rtmp::server::{Event, Saved, Server};
use crate::rtmp::{Error, Limits};

fn travel(server: &Server) -> Option<Server> {
    let bytes = server.save(start())?.encode_to_vec();
    Server::restore(Saved::decode(&*bytes).unwrap(), start(), Limits::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_publisher_travels_anywhere_in_its_bytes(
        sizes in prop::collection::vec(1usize..3000, 1..6), cuts in prop::collection::vec(1usize..900, 1..12),
    ) {
        let mut bytes = message(5, 0, &[0, 0, 4, 0]);
        let mut sent = Vec::new();
        for (i, size) in (0..).zip(sizes) {
            let body = vec![i as u8; size];
            bytes.extend(message(9, i * 40, &body));
            sent.push(media(Kind::Video, i * 40, &body));
        }
        let mut peer = Peer::publisher(Limits::default());
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            peer.try_send(piece).unwrap();
            peer.server = travel(&peer.server).unwrap();
            rest = after;
        }
        prop_assert_eq!(&peer.events, &sent);
        // It acknowledges as if it had always been there (5.4.3), and ends like any other.
        prop_assert!(peer.messages.iter().any(|m| m.type_id == 3));
        peer.command("FCUnpublish", 0.0, &[Value::Null, Value::string("camera")]);
        peer.command("deleteStream", 0.0, &[Value::Null, Value::Number(1.0)]);
        prop_assert_eq!(peer.events.last(), Some(&Event::Unpublish));
    }
}

#[test]
fn a_player_travels_and_is_still_answered() {
    let mut peer = Peer::player();
    peer.server = travel(&peer.server).unwrap();
    peer.command("pause", 0.0, &[Value::Null, Value::Boolean(true), Value::Number(0.0)]);
    assert_eq!(peer.events, [Event::Pause(true)]);
    assert_eq!(peer.codes(), ["NetStream.Pause.Notify"]);
    peer.server.notify_unpublish();
    peer.collect();
    assert!(peer.codes().contains(&"NetStream.Play.UnpublishNotify".to_owned()));
}

#[test]
fn a_deadline_travels() {
    let peer = Peer::connected(Limits::default());
    let mut server = Server::restore(peer.server.save(seconds(20)).unwrap(), seconds(100), Limits::default()).unwrap();
    assert_eq!(server.handle_timeout(seconds(109)), Ok(()));
    assert_eq!(server.handle_timeout(seconds(110)), Err(Error::IdleTimeout));
}

#[test]
fn what_is_unfinished_stays() {
    let hello = Server::new(start(), Limits::default(), [7; 32], 4096);
    assert!(hello.save(start()).is_none(), "in the handshake");
    let mut peer = Peer::connected(Limits::default());
    peer.command("publish", 5.0, &[Value::Null, Value::string("camera"), Value::string("live")]);
    assert!(peer.server.save(start()).is_none(), "to be answered");
    peer.server.accept_publish().unwrap();
    assert!(peer.server.save(start()).is_none(), "to be sent");
    peer.collect();
    assert!(peer.server.save(start()).is_some());
    assert!(Server::restore(Saved::default(), start(), Limits::default()).is_none());
}
