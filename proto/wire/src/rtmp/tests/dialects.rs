//! How the known clients talk, from `connect` to the end.
use weir_media::Kind;

use super::support::{Peer, command, connect_object, media, message};
use crate::amf::{self, Value};
use crate::rtmp::Limits;
use crate::rtmp::server::Event;

fn name(name: &str) -> [Value; 2] {
    [Value::Null, Value::string(name)]
}

/// The names and transactions of what the server answered.
fn answers(peer: &mut Peer) -> Vec<(String, f64)> {
    let said = peer.said();
    let head = |values: &[Value]| Some((values.first()?.as_str()?.to_owned(), values.get(1)?.as_number()?));
    said.iter().filter_map(|(_, values)| head(values)).collect()
}

fn own(list: &[(&str, f64)]) -> Vec<(String, f64)> {
    list.iter().map(|(name, transaction)| ((*name).to_owned(), *transaction)).collect()
}

fn expect_publish(peer: &mut Peer) {
    let stream = match &peer.events[..] {
        [Event::Publish(request)] => &request.stream,
        other => panic!("{other:?}"),
    };
    assert_eq!(stream, "camera");
    peer.events.clear();
    peer.server.accept_publish().unwrap();
    peer.collect();
}

fn expect_play(peer: &mut Peer) {
    assert!(matches!(&peer.events[..], [Event::Play(request)] if request.stream == "camera"), "{:?}", peer.events);
    peer.events.clear();
    peer.server.accept_play().unwrap();
    peer.collect();
}

#[test]
fn obs_and_librtmp_publish() {
    let mut peer = Peer::connected(Limits::default());
    peer.message(1, &4096u32.to_be_bytes());
    let send = |peer: &mut Peer, name: &str, transaction, arguments: &[Value]| {
        let mut bytes = Vec::new();
        let body = command(name, transaction, arguments);
        crate::rtmp::chunk::write_message(&mut bytes, 3, 20, 0, 0, &body, 4096);
        peer.try_send(&bytes).unwrap();
    };
    send(&mut peer, "releaseStream", 2.0, &name("camera"));
    send(&mut peer, "FCPublish", 3.0, &name("camera"));
    send(&mut peer, "createStream", 4.0, &[Value::Null]);
    send(&mut peer, "_checkbw", 5.0, &[Value::Null]);
    let expected = [("_result", 2.0), ("_result", 3.0), ("_result", 4.0), ("_result", 5.0)];
    let said = peer.said();
    assert_eq!(said[2].1[3], Value::Number(1.0), "the stream is number 1");
    assert_eq!(said[0].1[2..], [Value::Null, Value::Undefined]);
    let heads: Vec<_> = said.iter().map(|(_, values)| values[1].as_number().unwrap()).collect();
    assert_eq!(heads, expected.map(|(_, transaction)| transaction));
    send(&mut peer, "publish", 6.0, &[Value::Null, Value::string("camera"), Value::string("live")]);
    assert_eq!(peer.said(), [], "nothing is promised before the shell agrees");
    expect_publish(&mut peer);
    assert_eq!(answers(&mut peer), own(&[("onFCPublish", 0.0), ("onStatus", 0.0)]));
    send(&mut peer, "FCUnpublish", 7.0, &name("camera"));
    assert_eq!(answers(&mut peer), own(&[("onFCUnpublish", 0.0), ("_result", 7.0), ("onStatus", 0.0)]));
    send(&mut peer, "deleteStream", 8.0, &[Value::Null, Value::Number(1.0)]);
    assert_eq!(answers(&mut peer), own(&[("_result", 8.0)]));
    assert_eq!(peer.events, [Event::Unpublish]);
}

#[test]
fn gstreamer_publishes_and_only_deletes() {
    let mut peer = Peer::connected(Limits::default());
    peer.message(5, &2_500_000u32.to_be_bytes());
    peer.command("releaseStream", 2.0, &name("camera"));
    peer.command("FCPublish", 3.0, &name("camera"));
    peer.command("createStream", 4.0, &[Value::Null]);
    peer.command("publish", 5.0, &[Value::Null, Value::string("camera"), Value::string("live")]);
    peer.messages.clear();
    expect_publish(&mut peer);
    peer.messages.clear();
    peer.command("deleteStream", 0.0, &[Value::Null, Value::Number(1.0)]);
    assert_eq!(peer.codes(), ["NetStream.Unpublish.Success"]);
    assert_eq!(peer.events, [Event::Unpublish]);
}

#[test]
fn haivision_measures_first() {
    let mut peer = Peer::connected(Limits::default());
    peer.command("_checkbw", 2.0, &[Value::Null]);
    peer.command("FCPublish", 3.0, &name("camera"));
    peer.command("createStream", 4.0, &[Value::Null]);
    assert_eq!(answers(&mut peer), own(&[("_result", 2.0), ("_result", 3.0), ("_result", 4.0)]));
    peer.command("publish", 0.0, &name("camera"));
    expect_publish(&mut peer);
    assert_eq!(answers(&mut peer), own(&[("onFCPublish", 0.0), ("onStatus", 0.0)]));
}

#[test]
fn flash_publishes_without_fcpublish_and_in_amf3_messages() {
    let mut peer = Peer::connected(Limits::default());
    let amf3 = |body: &[u8]| [&[0], body].concat();
    peer.message(17, &amf3(&command("createStream", 2.0, &[Value::Null])));
    assert_eq!(answers(&mut peer), own(&[("_result", 2.0)]));
    peer.message(17, &amf3(&command("publish", 0.0, &name("camera"))));
    expect_publish(&mut peer);
    assert_eq!(answers(&mut peer), own(&[("onStatus", 0.0)]));
    // The byte before may be missing.
    peer.message(17, &command("closeStream", 0.0, &[Value::Null]));
    assert_eq!(peer.events, [Event::Unpublish]);
    peer.events.clear();
    peer.command("publish", 0.0, &name("camera"));
    expect_publish(&mut peer);
    peer.command("publish", 0.0, &[Value::Null, Value::Boolean(false)]);
    assert_eq!(peer.events, [Event::Unpublish]);
}

#[test]
fn one_connection_publishes_again() {
    let mut peer = Peer::publisher(Limits::default());
    peer.command("publish", 0.0, &name("second"));
    assert_eq!(peer.codes(), ["NetStream.Publish.BadName"], "one at a time");
    peer.command("play", 0.0, &name("second"));
    assert_eq!(peer.codes(), ["NetStream.Play.Failed"]);
    for _ in 0..3 {
        peer.command("FCUnpublish", 6.0, &name("camera"));
        peer.message(9, b"\x17\x01late");
        assert_eq!(peer.events, [Event::Unpublish]);
        peer.events.clear();
        peer.command("createStream", 7.0, &[Value::Null]);
        peer.command("publish", 8.0, &name("camera"));
        expect_publish(&mut peer);
        peer.message(9, b"\x17\x01");
        assert_eq!(peer.events, [media(Kind::Video, 0, b"\x17\x01")]);
        peer.events.clear();
    }
}

#[test]
fn ffmpeg_and_rtmpdump_play() {
    let mut peer = Peer::connected(Limits::default());
    peer.message(5, &2_500_000u32.to_be_bytes());
    peer.command("createStream", 2.0, &[Value::Null]);
    peer.command("FCSubscribe", 3.0, &name("camera"));
    peer.command("getStreamLength", 4.0, &name("camera"));
    let said = peer.said();
    assert_eq!(said[1].1[1], Value::Number(3.0));
    assert_eq!(said[2].1[0], Value::string("onFCSubscribe"));
    assert_eq!(said[3].1[1..], [Value::Number(4.0), Value::Null, Value::Number(0.0)]);
    peer.command("play", 5.0, &[Value::Null, Value::string("camera"), Value::Number(-2000.0)]);
    peer.message(4, &[0, 3, 0, 0, 0, 1, 0, 0, 3, 232]);
    expect_play(&mut peer);
    peer.messages.clear();
    peer.command("deleteStream", 6.0, &[Value::Null, Value::Number(1.0)]);
    assert_eq!(peer.events, [Event::StopPlay]);
    assert_eq!(answers(&mut peer), own(&[("onStatus", 0.0), ("_result", 6.0)]));
}

#[test]
fn a_flash_player_plays_before_createstream_and_switches() {
    let mut peer = Peer::connected(Limits::default());
    peer.command("play", 0.0, &name("camera"));
    expect_play(&mut peer);
    peer.command("createStream", 2.0, &[Value::Null]);
    peer.command("play", 0.0, &name("other"));
    assert!(matches!(&peer.events[..], [Event::StopPlay, Event::Play(request)] if request.stream == "other"));
    peer.events.clear();
    peer.server.accept_play().unwrap();
    peer.command("play", 0.0, &[Value::Null, Value::Boolean(false)]);
    peer.command("publish", 0.0, &name("camera"));
    assert_eq!(peer.events[0], Event::StopPlay);
    peer.events.remove(0);
    expect_publish(&mut peer);
}

#[test]
fn players_pause_seek_and_choose() {
    let mut peer = Peer::player();
    let pause = |on| [Value::Null, Value::Boolean(on), Value::Number(0.0)];
    peer.command("pause", 0.0, &pause(true));
    assert_eq!(peer.messages[1].body[..], [0, 1, 0, 0, 0, 1], "StreamEOF");
    assert_eq!(peer.codes(), ["NetStream.Pause.Notify"]);
    peer.command("pauseRaw", 0.0, &pause(false));
    assert_eq!(peer.messages[1].body[..], [0, 0, 0, 0, 0, 1], "StreamBegin");
    assert_eq!(peer.codes(), ["NetStream.Unpause.Notify"]);
    peer.command("seek", 0.0, &[Value::Null, Value::Number(1000.0)]);
    assert_eq!(peer.codes(), ["NetStream.Seek.Notify"]);
    peer.command("receiveAudio", 0.0, &[Value::Null, Value::Boolean(false)]);
    peer.command("receiveVideo", 0.0, &[Value::Null, Value::Boolean(true)]);
    let receive = |kind, on| Event::Receive { kind, on };
    assert_eq!(
        peer.events,
        [Event::Pause(true), Event::Pause(false), receive(Kind::Audio, false), receive(Kind::Video, true)]
    );
    // Someone who plays nothing can do none of that.
    let mut peer = Peer::connected(Limits::default());
    for name in ["pause", "seek", "receiveAudio"] {
        peer.command(name, 0.0, &pause(true));
    }
    assert_eq!((peer.events.len(), peer.messages.len()), (0, 0));
}

#[test]
fn unknown_commands_are_answered_if_they_ask() {
    let mut peer = Peer::connected(Limits::default());
    peer.command("getMovLen", 9.0, &[Value::Null]);
    assert_eq!(answers(&mut peer), own(&[("_error", 9.0)]));
    peer.command("getMovLen", 0.0, &[Value::Null]);
    peer.command("_result", 9.0, &[Value::Null]);
    peer.command("connect", 10.0, &[connect_object("live", "rtmp://h/live")]);
    assert_eq!(answers(&mut peer), own(&[("_error", 10.0)]), "connected already");
    assert_eq!(peer.events, []);
}

#[test]
fn metadata_is_unwrapped_byte_by_byte() {
    // Not what our own writer would make of it: a wrong count, and a string in the long form.
    let metadata = b"\x02\x00\x0aonMetaData\x08\x00\x00\x00\xff\x00\x01k\x0c\x00\x00\x00\x01v\x00\x00\x09";
    let mut wrapped = Vec::new();
    amf::write(&mut wrapped, &Value::string("@setDataFrame"));
    wrapped.extend_from_slice(metadata);
    let mut peer = Peer::publisher(Limits::default());
    peer.message(18, &wrapped);
    peer.message(18, metadata);
    peer.message(15, &[&[0], &wrapped[..]].concat());
    peer.message(15, &[&[0], &metadata[..]].concat());
    assert_eq!(peer.events, vec![media(Kind::Data, 0, metadata); 4]);
    peer.events.clear();
    peer.message(18, b"\x02\x00\x0f@clearDataFrame\x02\x00\x0aonMetaData");
    peer.message(18, b"\x02\x00\x0d@setDataFrame");
    assert_eq!(peer.events, [], "nothing is left of these");
    peer.message(18, b"\x02\x00\x0bonTextData!\x05");
    assert_eq!(peer.events, [media(Kind::Data, 0, b"\x02\x00\x0bonTextData!\x05")], "other data as it is");
}

#[test]
fn enhanced_and_unknown_payloads_pass() {
    let mut peer = Peer::publisher(Limits::default());
    for body in [&b"\x90hvc1\x01"[..], b"\x91av01\x00\x00", b"\x96\x01vp09\x00", b"\x80", b"\xff"] {
        peer.message(9, body);
        assert_eq!(peer.events.pop(), Some(media(Kind::Video, 0, body)));
    }
    peer.message(8, b"\x91Opus\x01");
    assert_eq!(peer.events.pop(), Some(media(Kind::Audio, 0, b"\x91Opus\x01")));
    peer.message(9, b"");
    peer.message(19, b"shared object");
    peer.message(77, b"?");
    assert_eq!(peer.events, []);
}

#[test]
fn aggregates_are_taken_apart_and_their_times_moved() {
    let tag = |type_id: u8, time: u32, body: &[u8]| {
        let [t3, t0, t1, t2] = time.to_be_bytes();
        let head = [type_id, 0, 0, body.len() as u8, t0, t1, t2, t3, 0, 0, 0];
        [&head[..], body, &(11 + body.len() as u32).to_be_bytes()].concat()
    };
    let body = [
        tag(8, 0x0100_0000, b"\xaf\x01a"),
        tag(9, 0x0100_0028, b"\x27\x01v"),
        tag(18, 0x0100_0028, b"\x02\x00\x0d@setDataFrame\x02\x00\x01x"),
        tag(22, 0, b"no aggregate inside an aggregate"),
        tag(9, 0x00ff_fff0, b"\x27\x01b"),
    ]
    .concat();
    let mut peer = Peer::publisher(Limits::default());
    peer.try_send(&message(22, 5000, &body)).unwrap();
    assert_eq!(
        peer.events,
        [
            media(Kind::Audio, 5000, b"\xaf\x01a"),
            media(Kind::Video, 5040, b"\x27\x01v"),
            media(Kind::Data, 5040, b"\x02\x00\x01x"),
            media(Kind::Video, 4984, b"\x27\x01b"),
        ]
    );
    // Cut anywhere it gives the tags that are whole, and the last one's size may be missing.
    for cut in 0..body.len() {
        let mut peer = Peer::publisher(Limits::default());
        peer.try_send(&message(22, 5000, &body[..cut])).unwrap();
        assert_eq!(peer.events.is_empty(), cut < 14, "{cut}");
    }
}
