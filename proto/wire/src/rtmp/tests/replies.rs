//! The shell's answers, message by message.
use weir_media::Kind;

use super::support::{Peer, connect_object, drain, media, message, seconds};
use crate::amf::Value;
use crate::rtmp::server::Event;
use crate::rtmp::{Limits, Output, PlayRefusal, PublishRefusal};

fn text(text: &str) -> Value {
    Value::string(text)
}

#[test]
fn connect_is_answered_as_fms_does() {
    let mut peer = Peer::new(Limits::default());
    peer.command("connect", 1.0, &[connect_object("live", "rtmp://example.org/live")]);
    assert!(peer.server.awaits_answer());
    assert!(peer.messages.is_empty());
    peer.server.accept_connect().unwrap();
    assert!(!peer.server.awaits_answer());
    let Output::Send(bytes) = peer.server.poll() else { panic!("nothing to send") };
    let control = b"\x02\0\0\0\0\0\x04\x05\0\0\0\0\x00\x26\x25\xa0\
        \x02\0\0\0\0\0\x05\x06\0\0\0\0\x00\x26\x25\xa0\x02\
        \x02\0\0\0\0\0\x04\x01\0\0\0\0\x00\x00\xea\x60\x03";
    assert_eq!(bytes[..control.len()], control[..]);
    let mut peer = Peer::new(Limits::default());
    peer.command("connect", 1.0, &[connect_object("live", "rtmp://example.org/live")]);
    peer.server.accept_connect().unwrap();
    peer.collect();
    let said = peer.said();
    let [(5, _), (6, _), (1, _), (20, result), (20, done)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(result[..2], [text("_result"), Value::Number(1.0)]);
    assert_eq!(result[2].get("fmsVer"), Some(&text("FMS/3,5,3,888")));
    assert_eq!(result[3].get("code"), Some(&text("NetConnection.Connect.Success")));
    assert_eq!(result[3].get("objectEncoding"), Some(&Value::Number(0.0)));
    let server = result[3].get("data").unwrap().get("server").unwrap().as_str().unwrap();
    assert!(server.starts_with("weir/"));
    assert_eq!(result[3].get("capsEx"), None, "the client did not speak of it");
    assert_eq!(done[..], [text("onBWDone"), Value::Number(0.0), Value::Null]);
}

#[test]
fn enhanced_properties_are_read_and_answered() {
    let mut peer = Peer::new(Limits::default());
    let number = Value::Number;
    let object = Value::object([
        ("app", text("live")),
        ("tcUrl", text("rtmp://h/live")),
        ("objectEncoding", number(3.0)),
        ("fourCcList", Value::StrictArray(vec![text("av01"), text("hvc1")])),
        ("videoFourCcInfoMap", Value::object([("*", number(7.0)), ("vp09", number(1.0))])),
        ("audioFourCcInfoMap", Value::EcmaArray(vec![("Opus".to_owned(), number(2.0))])),
        ("capsEx", number(255.0)),
    ]);
    peer.command("connect", 1.0, &[object]);
    let [Event::Connect(connect)] = &peer.events[..] else { panic!("{:?}", peer.events) };
    assert_eq!(connect.object_encoding, 3);
    assert_eq!(connect.enhanced.four_cc_list.as_deref(), Some(&["av01".to_owned(), "hvc1".to_owned()][..]));
    assert_eq!(connect.enhanced.video, Some(vec![("*".to_owned(), 7), ("vp09".to_owned(), 1)]));
    assert_eq!(connect.enhanced.audio, Some(vec![("Opus".to_owned(), 2)]));
    assert_eq!(connect.enhanced.caps_ex, Some(255));
    peer.server.accept_connect().unwrap();
    peer.collect();
    let said = peer.said();
    let information = &said[3].1[3];
    assert_eq!(information.get("fourCcList"), Some(&Value::StrictArray(vec![text("av01"), text("hvc1")])));
    let video = Value::object([("*", number(4.0)), ("vp09", number(4.0))]);
    assert_eq!(information.get("videoFourCcInfoMap"), Some(&video));
    assert_eq!(information.get("audioFourCcInfoMap"), Some(&Value::object([("Opus", number(4.0))])));
    assert_eq!(information.get("capsEx"), Some(&number(15.0)));

    assert!(peer.server.request_reconnect(Some("rtmp://other/live"), "moving"));
    peer.collect();
    let said = peer.said();
    assert_eq!(said[0].1[3].get("code"), Some(&text("NetConnection.Connect.ReconnectRequest")));
    assert_eq!(said[0].1[3].get("tcUrl"), Some(&text("rtmp://other/live")));
    assert!(!Peer::connected(Limits::default()).server.request_reconnect(None, "moving"));
}

#[test]
fn a_refused_connect_says_why_and_closes() {
    let mut peer = Peer::new(Limits::default());
    peer.command("connect", 1.0, &[connect_object("live", "rtmp://h/live")]);
    peer.events.clear();
    peer.server.reject_connect("not you");
    peer.collect();
    let said = peer.said();
    assert_eq!(said[0].1[..3], [text("_error"), Value::Number(1.0), Value::Null]);
    assert_eq!(said[0].1[3].get("code"), Some(&text("NetConnection.Connect.Rejected")));
    assert_eq!(said[0].1[3].get("description"), Some(&text("not you")));
    assert_eq!(peer.events, [Event::Close("not you".to_owned())]);
    // What comes afterwards is of no interest.
    peer.try_send(&[0xff; 100]).unwrap();
    assert_eq!(peer.events.len(), 1);
}

#[test]
fn a_bad_app_is_refused_without_asking() {
    let mut peer = Peer::new(Limits::default());
    peer.command("connect", 1.0, &[connect_object("../live", "rtmp://h/../live")]);
    assert_eq!(peer.codes(), ["NetConnection.Connect.Rejected"]);
    assert_eq!(peer.events, [Event::Close("the name holds a . or .. segment".to_owned())]);
}

#[test]
fn redirects_carry_302() {
    let redirected = |peer: &mut Peer, answer: &str| {
        peer.server.redirect("rtmp://b/live", Some("rtmp://b/live/camera"));
        peer.collect();
        let said = peer.said();
        assert_eq!(said[0].1[0], text(answer));
        assert_eq!(said[0].1[3].get("code"), Some(&text("NetConnection.Connect.Rejected")));
        let ex = said[0].1[3].get("ex").unwrap();
        assert_eq!(ex.get("code"), Some(&Value::Number(302.0)));
        assert_eq!(ex.get("redirect"), Some(&text("rtmp://b/live")));
        assert_eq!(ex.get("redirect2"), Some(&text("rtmp://b/live/camera")));
        assert_eq!(peer.events.last(), Some(&Event::Close("RTMP 302 Redirect".to_owned())));
    };
    let mut peer = Peer::new(Limits::default());
    peer.command("connect", 1.0, &[connect_object("live", "rtmp://h/live")]);
    redirected(&mut peer, "_error");
    for name in ["publish", "play"] {
        let mut peer = Peer::connected(Limits::default());
        peer.command(name, 0.0, &[Value::Null, text("camera")]);
        redirected(&mut peer, "onStatus");
    }
}

#[test]
fn a_refused_publish_may_try_another_stream() {
    let mut peer = Peer::connected(Limits::default());
    for (refusal, code) in [
        (PublishRefusal::BadName, "NetStream.Publish.BadName"),
        (PublishRefusal::Denied, "NetStream.Publish.Denied"),
        (PublishRefusal::Failed, "NetStream.Publish.Failed"),
    ] {
        peer.command("publish", 0.0, &[Value::Null, text("camera")]);
        peer.server.reject_publish(refusal, "busy").unwrap();
        peer.collect();
        let said = peer.said();
        assert_eq!(said[0].1[3].get("level"), Some(&text("error")));
        assert_eq!(said[0].1[3].get("code"), Some(&text(code)));
        assert_eq!(said[0].1[3].get("description"), Some(&text("busy")));
    }
    // Media of a refused publisher goes nowhere.
    peer.events.clear();
    peer.message(9, b"\x17\x01");
    assert_eq!(peer.events, []);
    peer.command("publish", 0.0, &[Value::Null, text("other")]);
    assert!(matches!(&peer.events[..], [Event::Publish(request)] if request.stream == "other"));
}

#[test]
fn a_refused_play_says_why() {
    let mut peer = Peer::connected(Limits::default());
    for (refusal, code) in
        [(PlayRefusal::StreamNotFound, "NetStream.Play.StreamNotFound"), (PlayRefusal::Failed, "NetStream.Play.Failed")]
    {
        peer.command("play", 0.0, &[Value::Null, text("camera")]);
        peer.server.reject_play(refusal, "no").unwrap();
        peer.collect();
        assert_eq!(peer.codes(), [code]);
    }
}

#[test]
fn an_accepted_player_hears_it_in_the_captured_order() {
    let mut peer = Peer::connected(Limits::default());
    peer.command("play", 5.0, &[Value::Null, text("camera?k=v")]);
    peer.server.accept_play().unwrap();
    peer.collect();
    let heads: Vec<_> =
        peer.messages.iter().map(|message| (message.csid, message.type_id, message.stream_id)).collect();
    assert_eq!(heads, [(2, 4, 0), (5, 20, 1), (5, 20, 1), (5, 18, 1)]);
    assert_eq!(peer.messages[0].body[..], [0, 0, 0, 0, 0, 1]);
    let said = peer.said();
    assert_eq!(said[1].1[3].get("code"), Some(&text("NetStream.Play.Reset")));
    assert_eq!(said[2].1[3].get("code"), Some(&text("NetStream.Play.Start")));
    assert_eq!(said[2].1[3].get("details"), Some(&text("camera")));
    assert_eq!(said[3].1, [text("|RtmpSampleAccess"), Value::Boolean(true), Value::Boolean(true)]);
}

#[test]
fn a_player_hears_of_its_publisher() {
    let mut peer = Peer::player();
    peer.server.notify_unpublish();
    peer.server.notify_publish();
    peer.collect();
    let events: Vec<_> = peer.messages.iter().filter(|message| message.type_id == 4).collect();
    assert_eq!(events[0].body[..], [0, 1, 0, 0, 0, 1], "StreamEOF");
    assert_eq!(events[1].body[..], [0, 0, 0, 0, 0, 1], "StreamBegin");
    assert_eq!(peer.codes(), ["NetStream.Play.UnpublishNotify", "NetStream.Play.PublishNotify"]);
    let mut publisher = Peer::publisher(Limits::default());
    publisher.server.notify_unpublish();
    publisher.collect();
    assert_eq!(publisher.messages, []);
}

#[test]
fn shutdown_says_goodbye_once() {
    for mut peer in [Peer::publisher(Limits::default()), Peer::player(), Peer::connected(Limits::default())] {
        peer.server.shutdown("restarting");
        peer.server.shutdown("again");
        peer.collect();
        assert_eq!(peer.codes(), ["NetConnection.Connect.Closed"]);
        assert_eq!(peer.events, [Event::Close("restarting".to_owned())]);
    }
    let mut peer = Peer::new(Limits::default());
    peer.server.shutdown("restarting");
    peer.collect();
    assert!(peer.messages.is_empty());
    assert_eq!(peer.events, [Event::Close("restarting".to_owned())]);
}

#[test]
fn pings_go_both_ways() {
    let mut peer = Peer::connected(Limits::default());
    peer.server.ping(seconds(2));
    peer.collect();
    assert_eq!(peer.messages.remove(0).body[..], [0, 6, 0, 0, 7, 208]);
    peer.message(4, &[0, 7, 0, 0, 7, 208]);
    peer.message(4, &[0, 6, 1, 2, 3, 4]);
    assert_eq!(peer.messages.remove(0).body[..], [0, 7, 1, 2, 3, 4]);
    // Buffer length, stream is recorded, and events that nobody defined.
    peer.message(4, &[0, 3, 0, 0, 0, 1, 0, 0, 3, 232]);
    peer.message(4, &[0, 99]);
    assert_eq!(peer.messages, []);
}

#[test]
fn windows_are_acknowledged() {
    let mut peer = Peer::publisher(Limits::default());
    peer.message(8, &[0xaf; 5000]);
    assert_eq!(peer.messages, [], "the client set no window");
    peer.message(5, &1000u32.to_be_bytes());
    let first = peer.messages.remove(0);
    assert_eq!((first.csid, first.type_id, first.stream_id), (2, 3, 0));
    assert_eq!(first.body[..], (peer.server.received() as u32).to_be_bytes());
    peer.message(8, &[0xaf; 500]);
    assert_eq!(peer.messages, []);
    peer.message(8, &[0xaf; 500]);
    assert_eq!(peer.messages.remove(0).body[..], (peer.server.received() as u32).to_be_bytes());
    // A tiny window does not make us talk more than we are spoken to.
    peer.message(5, &1u32.to_be_bytes());
    peer.messages.clear();
    peer.try_send(&[message(8, 0, b"\xaf\x01"), message(8, 0, b"\xaf\x01")].concat()).unwrap();
    assert_eq!(peer.messages.len(), 1);
    // A peer bandwidth other than our window is answered with a window, once.
    peer.message(6, &[0, 0, 16, 0, 2]);
    peer.message(6, &[0, 0, 16, 0, 2]);
    let windows: Vec<_> = peer.messages.iter().filter(|message| message.type_id == 5).collect();
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].body[..], [0, 0, 16, 0]);
}

#[test]
fn what_comes_behind_a_request_waits_for_the_answer() {
    let mut peer = Peer::new(Limits::default());
    let connect = super::support::command("connect", 1.0, &[connect_object("live", "rtmp://h/live")]);
    let create = super::support::command("createStream", 2.0, &[Value::Null]);
    let publish = super::support::command("publish", 3.0, &[Value::Null, text("camera")]);
    let all = [message(20, 0, &connect), message(20, 0, &create), message(20, 0, &publish), message(9, 7, b"\x17\x00")];
    peer.try_send(&all.concat()).unwrap();
    assert!(matches!(&peer.events[..], [Event::Connect(_)]));
    peer.server.accept_connect().unwrap();
    peer.collect();
    assert!(matches!(&peer.events[1..], [Event::Publish(_)]));
    peer.try_send(&message(8, 8, b"\xaf\x00")).unwrap();
    assert_eq!(peer.events.len(), 2);
    peer.server.accept_publish().unwrap();
    peer.collect();
    assert_eq!(peer.events[2..], [media(Kind::Video, 7, b"\x17\x00"), media(Kind::Audio, 8, b"\xaf\x00")]);
}

#[test]
fn answers_that_fit_no_request_do_nothing() {
    let mut peer = Peer::connected(Limits::default());
    peer.command("play", 0.0, &[Value::Null, text("camera")]);
    peer.events.clear();
    peer.server.accept_connect().unwrap();
    peer.server.reject_connect("no");
    peer.server.accept_publish().unwrap();
    peer.server.reject_publish(PublishRefusal::Failed, "no").unwrap();
    assert_eq!(drain(&mut peer.server), (vec![], vec![]));
    assert!(peer.server.awaits_answer());
    peer.server.reject_play(PlayRefusal::Failed, "no").unwrap();
    peer.collect();
    assert_eq!(peer.codes(), ["NetStream.Play.Failed"]);
}

#[test]
fn debug_output_keeps_secrets() {
    let mut peer = Peer::new(Limits::default());
    let object = Value::object([
        ("app", text("live?token=hunter2")),
        ("tcUrl", text("rtmp://h/live?token=hunter2")),
        ("pageUrl", text("https://h/?session=hunter2")),
        ("swfUrl", text("https://h/p.swf#hunter2")),
    ]);
    peer.command("connect", 1.0, &[object]);
    peer.server.accept_connect().unwrap();
    peer.command("publish", 0.0, &[Value::Null, text("camera?key=hunter2")]);
    peer.collect();
    assert!(matches!(&peer.events[1], Event::Publish(request) if request.query == "token=hunter2&key=hunter2"));
    let shown = format!("{:?}", peer.events);
    assert!(shown.contains("camera") && !shown.contains("hunter2"), "{shown}");
}
