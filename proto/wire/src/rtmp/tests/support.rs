//! Two machines, and the bytes between them.
use std::time::{Duration, Instant};

use weir_media::Kind;

use crate::amf::{Reader, Value};
use crate::rtmp::chunk::{self, Bounds, Message};
use crate::rtmp::client::{self, Handshake, Purpose, Request};
use crate::rtmp::server::{Event, Server};
use crate::rtmp::{Client, Error, Limits, Output};

pub(super) const CHUNK: u32 = 60_000;

/// Any instant: the machines only compare and add.
pub(super) fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
    *START.get_or_init(Instant::now)
}

pub(super) fn server() -> Server {
    Server::new(start(), Limits::default(), [7; 32], CHUNK)
}

/// All that a server wants.
pub(super) fn drain(server: &mut Server) -> (Vec<u8>, Vec<Event>) {
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    loop {
        match server.poll() {
            Output::Send(more) => bytes.extend_from_slice(&more),
            Output::Event(event) => events.push(event),
            Output::Wait(_) => return (bytes, events),
        }
    }
}

pub(super) fn drain_client(client: &mut Client) -> (Vec<u8>, Vec<client::Event>) {
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    loop {
        match client.poll() {
            Output::Send(more) => bytes.extend_from_slice(&more),
            Output::Event(event) => events.push(event),
            Output::Wait(_) => return (bytes, events),
        }
    }
}

pub(super) fn request(purpose: Purpose) -> Request {
    Request {
        purpose,
        tc_url: "rtmp://example.org/live".to_owned(),
        app: "live".to_owned(),
        stream: "camera?token=secret".to_owned(),
        handshake: Handshake::Plain,
    }
}

/// Carries bytes to and fro until both are silent; the server accepts everything.
pub(super) fn converse(server: &mut Server, client: &mut Client) -> (Vec<Event>, Vec<client::Event>) {
    let (mut seen, mut heard) = (Vec::new(), Vec::new());
    loop {
        let (to_server, events) = drain_client(client);
        heard.extend(events);
        server.handle(start(), &to_server).unwrap();
        let (mut to_client, mut events) = drain(server);
        while server.awaits_answer() {
            server.accept_connect().unwrap();
            server.accept_publish().unwrap();
            server.accept_play().unwrap();
            let (more, later) = drain(server);
            to_client.extend(more);
            events.extend(later);
        }
        seen.extend(events);
        client.handle(start(), &to_client).unwrap();
        if to_server.is_empty() && to_client.is_empty() {
            return (seen, heard);
        }
    }
}

/// A peer made of bytes: it writes any message and reads the server's answers.
pub(super) struct Peer {
    pub(super) server: Server,
    answers: chunk::Reader,
    pub(super) events: Vec<Event>,
    pub(super) messages: Vec<Message>,
}

impl Peer {
    /// A client that has finished a plain handshake.
    pub(super) fn new(limits: Limits) -> Self {
        let mut server = Server::new(start(), limits, [7; 32], CHUNK);
        let mut hello = vec![3];
        hello.resize(1 + 2 * 1536, 0);
        server.handle(start(), &hello).unwrap();
        assert_eq!(drain(&mut server).0.len(), 1 + 2 * 1536);
        let bounds = Bounds { message: 1 << 20, chunk_streams: 64, partial_bytes: 1 << 24 };
        Self { server, answers: chunk::Reader::new(bounds), events: Vec::new(), messages: Vec::new() }
    }

    /// A client whose `connect` was accepted.
    pub(super) fn connected(limits: Limits) -> Self {
        let mut peer = Self::new(limits);
        peer.command("connect", 1.0, &[connect_object("live", "rtmp://example.org/live")]);
        peer.server.accept_connect().unwrap();
        peer.collect();
        peer.events.clear();
        peer.messages.clear();
        peer
    }

    /// A publisher that was accepted.
    pub(super) fn publisher(limits: Limits) -> Self {
        let mut peer = Self::connected(limits);
        peer.command("publish", 5.0, &[Value::Null, Value::string("camera"), Value::string("live")]);
        peer.server.accept_publish().unwrap();
        peer.collect();
        peer.events.clear();
        peer.messages.clear();
        peer
    }

    /// A player that was accepted.
    pub(super) fn player() -> Self {
        let mut peer = Self::connected(Limits::default());
        peer.command("play", 5.0, &[Value::Null, Value::string("camera")]);
        peer.server.accept_play().unwrap();
        peer.collect();
        peer.events.clear();
        peer.messages.clear();
        peer
    }

    pub(super) fn try_send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.server.handle(start(), bytes)?;
        self.collect();
        Ok(())
    }

    pub(super) fn try_message(&mut self, type_id: u8, body: &[u8]) -> Result<(), Error> {
        self.try_send(&message(type_id, 0, body))
    }

    pub(super) fn message(&mut self, type_id: u8, body: &[u8]) {
        self.try_message(type_id, body).unwrap();
    }

    pub(super) fn command(&mut self, name: &str, transaction: f64, arguments: &[Value]) {
        self.message(20, &command(name, transaction, arguments));
    }

    /// Reads what the server wants.
    pub(super) fn collect(&mut self) {
        let (bytes, events) = drain(&mut self.server);
        self.events.extend(events);
        let mut input = &bytes[..];
        while let Some(message) = self.answers.read(&mut input).unwrap() {
            if message.type_id == 1 {
                self.answers.set_chunk_size(u32::from_be_bytes(message.body[..4].try_into().unwrap())).unwrap();
            }
            self.messages.push(message);
        }
    }

    /// The answers since the last call, as type and values.
    pub(super) fn said(&mut self) -> Vec<(u8, Vec<Value>)> {
        self.messages.drain(..).map(|message| (message.type_id, values(&message.body, message.type_id))).collect()
    }

    /// The codes of the status messages since the last call.
    pub(super) fn codes(&mut self) -> Vec<String> {
        let said = self.said();
        let code = |values: &Vec<Value>| Some(values.get(3)?.get("code")?.as_str()?.to_owned());
        said.iter().filter_map(|(_, values)| code(values)).collect()
    }
}

fn values(body: &[u8], type_id: u8) -> Vec<Value> {
    let mut values = Vec::new();
    if matches!(type_id, 18 | 20) {
        let mut reader = Reader::new(body, crate::amf::Limits::default());
        while !reader.is_empty() {
            values.push(reader.read().unwrap());
        }
    }
    values
}

/// One message in chunks of the default size.
pub(super) fn message(type_id: u8, timestamp: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    chunk::write_message(&mut bytes, 3, type_id, 1, timestamp, body, chunk::DEFAULT_CHUNK_SIZE);
    bytes
}

pub(super) fn command(name: &str, transaction: f64, arguments: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for value in [Value::string(name), Value::Number(transaction)].iter().chain(arguments) {
        crate::amf::write(&mut body, value);
    }
    body
}

pub(super) fn connect_object(app: &str, tc_url: &str) -> Value {
    Value::object([("app", Value::string(app)), ("tcUrl", Value::string(tc_url))])
}

pub(super) fn media(kind: Kind, timestamp: u32, body: &[u8]) -> Event {
    Event::Media { kind, timestamp, body: body.to_vec().into() }
}

pub(super) fn seconds(seconds: u64) -> Instant {
    start() + Duration::from_secs(seconds)
}
