//! Signaling: rooms of clients on different workers, and clients that mean no good.

mod common;
mod e2e;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Cluster, eventually};
use e2e::scrape::Scrape;
use e2e::{SOON, http};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

const YAML: &str = "{ edge: { workers: 2 }, origin: { workers: 2 } }";

/// The seed's path, as its pages ask for it.
const PATH: &str = "/sig/v1/rtc?room=live&display=x";

struct Peer {
    socket: WebSocket<TcpStream>,
    display: String,
}

impl Peer {
    fn connect(address: SocketAddr, display: &str) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), display)
    }

    fn over(stream: TcpStream, display: &str) -> Self {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (socket, _) = client(format!("ws://{}{PATH}", stream.peer_addr().unwrap()), stream).unwrap();
        Self { socket, display: display.to_owned() }
    }

    /// A client whose kernel takes little of what it does not read.
    fn narrow(address: SocketAddr, display: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into(), display)
    }

    /// Connects and joins.
    fn join(address: SocketAddr, room: &str, display: &str) -> Self {
        let mut peer = Self::connect(address, display);
        let joined = peer.ask(json!({"action": "join", "room": room, "display": display}));
        assert_eq!(joined["self"]["display"], display, "{joined}");
        peer
    }

    /// The same on the worker of a slot.
    fn join_on(cluster: &Cluster, slot: u64, room: &str, display: &str) -> Self {
        eventually("a connection to the slot", SOON, || {
            let peer = Self::connect(cluster.http, display);
            (e2e::slot_of(cluster, peer.local()) == slot).then_some(peer)
        })
        .joined(room)
    }

    fn joined(mut self, room: &str) -> Self {
        let reply = self.ask(json!({"action": "join", "room": room, "display": self.display.clone()}));
        assert!(reply.get("error").is_none(), "{reply}");
        self
    }

    fn local(&self) -> SocketAddr {
        self.socket.get_ref().local_addr().unwrap()
    }

    fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).unwrap();
    }

    fn read(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{} got {other:?}", self.display),
            }
        }
    }

    /// Asks for something, and returns the answer's `msg`. Nothing else may come before.
    fn ask(&mut self, msg: Value) -> Value {
        self.say(json!({"tid": "1a2b3c4", "msg": msg}).to_string());
        let reply = self.read();
        assert_eq!(reply["tid"], "1a2b3c4", "{reply}");
        reply["msg"].clone()
    }

    /// The next notification's event, who it is about, and the names of who is there.
    fn notified(&mut self) -> (String, String, Vec<String>) {
        let message = self.read();
        let msg = &message["msg"];
        assert!(message.get("tid").is_none() && msg["action"] == "notify", "{message}");
        assert_eq!(msg["self"]["display"], self.display.as_str(), "{message}");
        let names = msg["participants"].as_array().unwrap().iter().map(|one| one["display"].as_str().unwrap().into());
        (msg["event"].as_str().unwrap().into(), msg["peer"]["display"].as_str().unwrap().into(), names.collect())
    }

    /// Reads until the server closes: the code, and why.
    fn closed(&mut self) -> (u16, String) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => return (frame.code.into(), frame.reason.as_str().to_owned()),
                Ok(Message::Text(_) | Message::Ping(_)) => {}
                other => panic!("{} was not closed but got {other:?}", self.display),
            }
        }
    }

    fn leave(mut self) {
        self.socket.close(None).unwrap();
        while self.socket.read().is_ok() {}
    }
}

/// The keys of an object, in the order of the alphabet.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn members_on_different_workers_and_ports_meet_in_a_room() {
    let cluster = e2e::start(YAML);
    assert_eq!(http::get(cluster.signal, "/sig/v1/versions").text(), "1.0");
    // Rooms of both origins.
    for room in ["live", "a", "b", "c", "会议室"] {
        let mut alice = Peer::join_on(&cluster, 0, room, "alice");
        let mut bob = Peer::join_on(&cluster, 1, room, "bob <b>&\"");
        assert_eq!(alice.notified(), ("join".into(), bob.display.clone(), vec!["alice".into(), bob.display.clone()]));
        assert_eq!(alice.ask(json!({"action": "publish", "room": room, "display": "alice"})), Value::Null);
        let told = bob.read();
        assert_eq!(keys(&told), ["msg"]);
        assert_eq!(keys(&told["msg"]), ["action", "event", "participants", "peer", "room", "self"]);
        assert_eq!(told["msg"]["peer"], json!({"display": "alice", "publishing": true}));
        let third = Peer::join(cluster.signal, room, "carol");
        assert_eq!((alice.notified().0, bob.notified().2.len()), ("join".into(), 3));
        let control = json!({"action": "control", "room": room, "display": bob.display, "call": "alert", "data": "hi"});
        assert_eq!(bob.ask(control), Value::Null);
        let told = alice.read();
        assert_eq!((&told["msg"]["param"], &told["msg"]["data"]), (&json!("alert"), &json!("hi")));
        third.leave();
        assert_eq!(alice.notified(), ("leave".into(), "carol".into(), vec!["alice".into(), bob.display.clone()]));
        // One that does not even say that it goes.
        drop(alice);
        eventually("bob alone", SOON, || (bob.notified().2 == [bob.display.clone()]).then_some(()));
    }
    eventually("empty rooms are freed", SOON, || {
        let scrape = Scrape::get(cluster.metrics);
        let counted = scrape.sum("weir_signal_messages_total", &["direction=\"in\""]) >= 25.0;
        let empty = ["weir_rooms", "weir_room_members", "weir_signal_sockets"].map(|name| scrape.sum(name, &[]));
        (counted && empty == [0.0; 3]).then_some(())
    });
}

#[test]
fn everybody_is_told_of_everything_in_the_same_order() {
    let cluster = e2e::start(YAML);
    let mut watchers = [0, 1].map(|slot| Peer::join_on(&cluster, slot, "busy", &format!("watcher{slot}")));
    watchers[0].notified();
    let mut peers: Vec<Peer> = (0..10).map(|i| Peer::join(cluster.http, "busy", &format!("p{i}"))).collect();
    for peer in &mut peers {
        peer.say(r#"{"tid":"p","msg":{"action":"publish"}}"#);
    }
    drop(peers);
    let [first, second] = watchers.each_mut().map(|watcher| {
        let mut told = Vec::new();
        while told.last().is_none_or(|(event, _, left): &(String, _, Vec<String>)| event != "leave" || left.len() > 2) {
            told.push(watcher.notified());
        }
        told
    });
    assert_eq!(first, second);
    assert_eq!(first.iter().filter(|(event, ..)| event == "leave").count(), 10);
}

#[test]
fn what_cannot_be_done_is_answered_and_the_connection_lives() {
    let cluster = e2e::start("{ edge: { workers: 1 }, origin: { workers: 1, rooms: 2, room_members: 2 } }");
    let _alice = Peer::join(cluster.http, "live", "alice");
    let mut peer = Peer::connect(cluster.http, "bob");
    let code = |reply: Value| reply["error"]["code"].as_str().unwrap().to_owned();
    let join = |room: &str, display: &str| json!({"action": "join", "room": room, "display": display});
    // Each of these ended the connection, or the whole process, of SRS's signaling server.
    for (msg, why) in [
        (json!({"action": "publish", "room": "live", "display": "bob"}), "not_joined"),
        (json!({"action": "control", "room": "live", "display": "bob", "call": "refresh"}), "not_joined"),
        (join("live", "alice"), "display_taken"),
        (json!({"action": "dance"}), "unknown_action"),
        (json!({"action": "join", "room": "live"}), "bad_field"),
        (join("live", "a/b"), "bad_name"),
        (join("x/../y", "bob"), "bad_name"),
    ] {
        let reply = peer.ask(msg.clone());
        assert_eq!(reply["action"], msg["action"]);
        assert_eq!(code(reply), why, "{msg}");
    }
    peer.ask(join("live", "bob"));
    assert_eq!(code(peer.ask(join("live", "bob"))), "already_joined");
    assert_eq!(code(peer.ask(json!({"action": "publish", "display": "alice"}))), "not_yours");
    let mut third = Peer::connect(cluster.http, "carol");
    assert_eq!(code(third.ask(join("live", "carol"))), "room_full");
    let _other = Peer::join(cluster.http, "other", "x");
    assert_eq!(code(third.ask(join("third", "carol"))), "too_many_rooms");
    eventually("refusals are counted", SOON, || {
        let count = Scrape::get(cluster.metrics).sum("weir_signal_refusals_total", &["reason=\"not_joined\""]);
        (count == 2.0).then_some(())
    });
}

#[test]
fn hostile_clients_are_closed_with_a_reason_and_nobody_else_notices() {
    let cluster = e2e::start("{ edge: { workers: 1, signal: { ping: 2s } }, origin: { workers: 1 } }");
    let mut alice = Peer::join(cluster.http, "live", "alice");
    let text = |bytes: &[u8]| {
        // A masked text frame, whatever is in it (RFC 6455, 5.2); the mask is of zeros.
        let mut frame = vec![0x81, 0x80 | u8::try_from(bytes.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(bytes);
        frame
    };
    for (what, bytes, code) in [
        ("no JSON", text(b"hello"), 1007),
        ("bad UTF-8", text(b"\xff\xfe"), 1007),
        ("binary", vec![0x82, 0x81, 0, 0, 0, 0, 7], 1003),
        ("a frame of 2^62 bytes", vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("no mask", vec![0x81, 0x01, b'x'], 1002),
        ("an unknown kind of frame", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
    ] {
        let mut peer = Peer::connect(cluster.http, what);
        peer.socket.get_mut().write_all(&bytes).unwrap();
        let (told, reason) = peer.closed();
        assert_eq!(told, code, "{what}: {reason}");
        assert!(!reason.is_empty());
    }
    let mut long = Peer::connect(cluster.http, "long");
    let pieces = "x".repeat(10_000);
    long.socket.get_mut().write_all(&[&[0x01, 0xfe, 0x27, 0x10, 0, 0, 0, 0], pieces.as_bytes()].concat()).unwrap();
    long.socket.get_mut().write_all(&[&[0x80, 0xfe, 0x27, 0x10, 0, 0, 0, 0], pieces.as_bytes()].concat()).unwrap();
    assert_eq!(long.closed().0, 1009);
    let mut flood = Peer::join(cluster.http, "live", "flood");
    assert_eq!(alice.notified().1, "flood");
    let control =
        json!({"tid": "t", "msg": {"action": "control", "call": "x", "data": "y".repeat(10_000)}}).to_string();
    // It may be closed while it writes.
    while flood.socket.send(Message::text(control.clone())).is_ok() {}
    eventually("the flood is over", SOON, || (alice.notified().0 == "leave").then_some(()));
    // Gone without a word, as behind a cable that was pulled: it reads nothing, so it answers no ping.
    let silent = Peer::join(cluster.http, "live", "silent");
    assert_eq!(alice.notified().1, "silent");
    assert_eq!(alice.notified().0, "leave");
    drop(silent);
    let malformed = eventually("closings are counted", SOON, || {
        let scrape = Scrape::get(cluster.metrics);
        let count = |why: &str| scrape.sum("weir_signal_closed_total", &[&format!("reason=\"{why}\"")]);
        (count("flood") == 1.0 && count("silent") >= 1.0).then_some(count("malformed"))
    });
    assert_eq!(malformed, 2.0);
    assert_eq!(alice.ask(json!({"action": "publish"})), Value::Null);
}

#[test]
fn a_ping_is_answered_in_a_room_and_out_of_it() {
    let cluster = e2e::start(YAML);
    let mut peer = Peer::connect(cluster.http, "alice");
    assert_eq!(peer.ask(json!({"action": "ping"})), Value::Null);
    let mut peer = peer.joined("live");
    assert_eq!(peer.ask(json!({"action": "ping"})), Value::Null);
}

#[test]
fn an_address_has_its_share_of_connections() {
    let cluster = e2e::start("{ edge: { workers: 1, signal: { connections_per_ip: 2 } }, origin: { workers: 1 } }");
    let _peers = [Peer::connect(cluster.http, "a"), Peer::connect(cluster.signal, "b")];
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(http::request(cluster.http, "GET", "/sig/v1/rtc", fields).status, 429);
}

#[test]
fn a_member_that_does_not_read_is_closed_and_the_others_go_on() {
    let cluster = e2e::start("{ edge: { workers: 1 }, origin: { workers: 1 } }");
    let mut alice = Peer::join(cluster.http, "live", "alice");
    let _stuck = Peer::narrow(cluster.http, "stuck").joined("live");
    let mut bob = Peer::join(cluster.http, "live", "bob");
    assert_eq!((alice.notified().1, alice.notified().1), ("stuck".into(), "bob".into()));
    let data = "y".repeat(15_000);
    let deadline = Instant::now() + 3 * SOON;
    let mut gone = false;
    while !gone {
        assert!(Instant::now() < deadline, "it is there still");
        bob.say(json!({"tid": "t", "msg": {"action": "control", "call": "x", "data": data}}).to_string());
        // Below the pace at which a client is closed.
        std::thread::sleep(Duration::from_millis(55));
        gone = alice.notified() == ("leave".into(), "stuck".into(), vec!["alice".into(), "bob".into()]);
        while bob.read().get("tid").is_none() {}
    }
    eventually("it is counted", SOON, || {
        let count = Scrape::get(cluster.metrics).sum("weir_signal_closed_total", &["reason=\"slow\""]);
        (count == 1.0).then_some(())
    });
}

#[test]
fn who_joins_no_room_is_closed() {
    let cluster = e2e::start("{ edge: { workers: 1, signal: { ping: 2s } }, origin: { workers: 1 } }");
    let mut idle = Peer::connect(cluster.http, "idle");
    assert_eq!(idle.ask(json!({"action": "join", "room": "live", "display": "a/b"}))["error"]["code"], "bad_name");
    // It answers pings, so it is not silent.
    assert_eq!(idle.closed(), (1008, "join a room".to_owned()));
}

#[test]
fn requests_that_are_no_websocket_are_answered() {
    let cluster = e2e::start("{ edge: { workers: 1, signal: { cross_origin: off } }, origin: { workers: 1 } }");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let status = |method: &str, path: &str, fields: &str| http::request(cluster.http, method, path, fields).status;
    assert_eq!(status("GET", "/sig/v1/rtc", ""), 426);
    assert_eq!(status("POST", "/sig/v1/rtc", "Content-Length: 0\r\n"), 405);
    assert_eq!(status("GET", "/sig/v1/rtc", upgrade), 400);
    assert_eq!(status("GET", "/sig/v1/other", ""), 404);
    let from = |origin: &str| status("GET", "/sig/v1/rtc", &format!("{upgrade}{key}Origin: {origin}\r\n"));
    assert_eq!(from("https://evil.example"), 403);
    assert_eq!((from("http://127.0.0.1:80"), status("GET", "/sig/v1/rtc", &format!("{upgrade}{key}"))), (101, 101));
    let answer = http::request(cluster.signal, "GET", "/sig/v1/rtc", &format!("{upgrade}{key}"));
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    let off = e2e::start("{ edge: { workers: 1, signal: { enabled: off } }, origin: { workers: 1 } }");
    assert_eq!(http::request(off.http, "GET", "/sig/v1/rtc", &format!("{upgrade}{key}")).status, 404);
    assert!(TcpStream::connect(off.signal).is_err());
}

#[test]
fn members_of_a_killed_origin_are_closed_and_meet_again_in_the_next_one() {
    let cluster = e2e::start("{ edge: { workers: 2 }, origin: { workers: 1 } }");
    let mut peers = [0, 1].map(|slot| Peer::join_on(&cluster, slot, "live", &format!("p{slot}")));
    common::signal(cluster.row("origin", 0).pid, Signal::SIGKILL);
    for peer in &mut peers {
        let (code, reason) = peer.closed();
        assert_eq!(code, 1012, "{reason}");
    }
    let mut first = eventually("a member joins the next origin", SOON, || {
        let mut peer = Peer::connect(cluster.http, "p0");
        let reply = peer.ask(json!({"action": "join", "room": "live", "display": "p0"}));
        reply.get("error").is_none().then_some(peer)
    });
    let _second = Peer::join(cluster.http, "live", "p1");
    assert_eq!(first.notified().1, "p1");
}

#[test]
fn members_of_a_worker_that_goes_are_told_to_come_again() {
    let mut cluster = e2e::start("{ edge: { workers: 1 }, origin: { workers: 1 } }");
    let mut peer = Peer::join(cluster.http, "live", "alice");
    cluster.signal(Signal::SIGTERM);
    assert_eq!(peer.closed().0, 1012);
    let mut rest = Vec::new();
    peer.socket.get_mut().read_to_end(&mut rest).unwrap();
    cluster.wait_exit(SOON);
}

#[test]
fn a_client_that_changes_networks_takes_its_place_again() {
    let cluster = e2e::start(YAML);
    let mut bob = Peer::join(cluster.http, "live", "bob");
    let join = |key: &str| json!({"action": "join", "room": "live", "display": "alice", "key": key});
    let mut old = Peer::connect(cluster.http, "alice");
    old.ask(join("secret"));
    assert_eq!(bob.notified().0, "join");
    let mut new = Peer::connect(cluster.http, "alice");
    assert_eq!(new.ask(join("guess"))["error"]["code"], "display_taken");
    assert_eq!(new.ask(join("secret"))["participants"].as_array().unwrap().len(), 2);
    assert_eq!(old.closed().0, 4000);
    assert!(matches!(old.socket.read(), Err(Error::ConnectionClosed)));
    new.ask(json!({"action": "publish"}));
    // Nothing before: for bob it never was away.
    assert_eq!(bob.notified().0, "publish");
}
