//! The client's side of one connection, as far as tests, load and pulls from other servers need it.
use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use weir_media::Kind;

use super::chunk::{self, Message};
use super::command::{Command, without_format};
use super::handshake::{self, Schema};
use super::link::{Link, SET_BUFFER_LENGTH, STREAM_ID};
use super::{Error, Limits, Output, type_id};
use crate::amf::{self, Value};

const ANSWER: usize = 1 + 2 * handshake::PACKET;
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;
/// Acknowledge each so many bytes.
const WINDOW: u32 = 2_500_000;
/// What a player says it buffers, in milliseconds.
const BUFFER: u32 = 1000;

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Send a stream.
    Publish,
    /// Receive a stream.
    Play,
}

/// Which handshake the client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Without digests.
    Plain,
    /// With digests, the key's block first (schema 0); the server must prove itself.
    KeyFirst,
    /// With digests, the digest's block first (schema 1); the server must prove itself.
    DigestFirst,
}

/// What to ask the server for. The stream may carry a query.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Publish or play.
    pub purpose: Purpose,
    /// The URL up to the application.
    pub tc_url: String,
    /// The application.
    pub app: String,
    /// The stream, with its query.
    pub stream: String,
    /// Which handshake to offer.
    pub handshake: Handshake,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server accepted: media may flow.
    Started,
    /// A message of the stream that is played.
    Media {
        /// What it is.
        kind: Kind,
        /// Milliseconds modulo 2^32.
        timestamp: u32,
        /// FLV tag body.
        body: Bytes,
    },
    /// A status that changes nothing here.
    Status {
        /// For example `NetStream.Play.UnpublishNotify`.
        code: String,
        /// In words.
        description: String,
    },
    /// The server refused, or said goodbye.
    Refused {
        /// For example `NetStream.Publish.BadName`.
        code: String,
        /// In words.
        description: String,
        /// Where to go instead.
        redirect: Option<String>,
    },
}

/// One connection as a client sees it; driven like the [`Server`](super::Server).
#[derive(Clone)]
pub struct Client {
    request: Request,
    limits: Limits,
    random: [u8; 32],
    /// The digest that C1 carried.
    sent: [u8; 32],
    /// S0, S1 and S2, until they are complete.
    answer: Vec<u8>,
    open: bool,
    started: bool,
    deadline: Option<Instant>,
    chunk_size_out: u32,
    link: Link,
    events: VecDeque<Event>,
}

impl Client {
    /// A connection just opened. `chunk_size_out` is 1..=16777215.
    pub fn new(now: Instant, request: Request, limits: Limits, random: [u8; 32], chunk_size_out: u32) -> Self {
        let mut link = Link::new(&limits);
        link.reader.set_max_message(limits.message);
        let sent = handshake::client_hello(&random, request.handshake.schema(), link.out());
        let deadline = Some(now + limits.handshake);
        Self {
            request,
            limits,
            random,
            sent,
            answer: Vec::new(),
            open: false,
            started: false,
            deadline,
            chunk_size_out,
            link,
            events: VecDeque::new(),
        }
    }

    /// Takes what was read from the server, all of it.
    pub fn handle(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Error> {
        self.handle_timeout(now)?;
        self.link.receive(input.len());
        if !self.open {
            let count = input.len().min(ANSWER - self.answer.len());
            let (taken, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
            self.answer.extend_from_slice(taken);
            input = rest;
            let Some(answer) = self.answer.first_chunk::<ANSWER>() else { return Ok(()) };
            let schema = self.request.handshake.schema();
            handshake::client_finish(&self.random, schema, &self.sent, answer, self.link.out())?;
            self.answer = Vec::new();
            self.open = true;
            self.connect();
        }
        while let Some(message) = self.link.read(&mut input)? {
            self.message(&message)?;
        }
        self.link.settle()
    }

    /// Fails if the server has not accepted in time.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if self.deadline.is_some_and(|deadline| now >= deadline) { Err(Error::HandshakeTimeout) } else { Ok(()) }
    }

    /// The next thing to do: bytes to send first, then events in their order.
    pub fn poll(&mut self) -> Output<Event> {
        if let Some(bytes) = self.link.take_out() {
            return Output::Send(bytes);
        }
        self.events.pop_front().map_or(Output::Wait(self.deadline), Output::Event)
    }

    /// Whether media may be sent.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Publishes one message. Data is sent as `@setDataFrame`. Nothing happens before the server accepted.
    pub fn media(&mut self, kind: Kind, timestamp: u32, body: &[u8]) {
        if !self.started || self.request.purpose != Purpose::Publish {
            return;
        }
        let csid = if kind == Kind::Video { chunk::CSID_VIDEO } else { chunk::CSID_AUDIO };
        if kind == Kind::Data {
            let mut framed = Vec::with_capacity(16 + body.len());
            amf::write(&mut framed, &Value::string("@setDataFrame"));
            framed.extend_from_slice(body);
            self.link.write(csid, kind as u8, STREAM_ID, timestamp, &framed);
        } else {
            self.link.write(csid, kind as u8, STREAM_ID, timestamp, body);
        }
    }

    /// Ends the stream in an orderly way.
    pub fn stop(&mut self) {
        if !self.open {
            return;
        }
        if self.request.purpose == Purpose::Publish {
            self.named("FCUnpublish", 6.0);
        }
        let stream = Value::Number(STREAM_ID.into());
        self.link.command(chunk::CSID_COMMAND, 0, "deleteStream", 7.0, &[Value::Null, stream]);
        self.started = false;
    }

    /// A player pauses, or goes on.
    pub fn pause(&mut self, on: bool) {
        let arguments = [Value::Null, Value::Boolean(on), Value::Number(0.0)];
        self.link.command(chunk::CSID_AUDIO, STREAM_ID, "pause", 0.0, &arguments);
    }

    fn connect(&mut self) {
        self.link.set_chunk_size(self.chunk_size_out);
        let object = Value::object([
            ("app", Value::string(&*self.request.app)),
            ("type", Value::string("nonprivate")),
            ("flashVer", Value::string("FMLE/3.0 (compatible; weir)")),
            ("tcUrl", Value::string(&*self.request.tc_url)),
        ]);
        self.link.command(chunk::CSID_COMMAND, 0, "connect", CONNECT, &[object]);
    }

    /// A command whose one argument is the stream's name.
    fn named(&mut self, command: &str, transaction: f64) {
        let name = Value::string(&*self.request.stream);
        self.link.command(chunk::CSID_COMMAND, 0, command, transaction, &[Value::Null, name]);
    }

    fn message(&mut self, message: &Message) -> Result<(), Error> {
        match message.type_id {
            type_id::COMMAND | type_id::COMMAND_AMF3 => {
                self.command(&Command::parse(&message.body, self.limits.amf)?);
            }
            type_id::DATA_AMF3 => {
                let body = message.body.slice_ref(without_format(&message.body));
                self.events.push_back(Event::Media { kind: Kind::Data, timestamp: message.timestamp, body });
            }
            other => {
                if let Some(kind) = Kind::from_type(other) {
                    let (timestamp, body) = (message.timestamp, message.body.clone());
                    self.events.push_back(Event::Media { kind, timestamp, body });
                }
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) {
        match command.name.as_str() {
            "_result" if command.transaction == CONNECT => self.connected(),
            "_result" if command.transaction == CREATE_STREAM => self.ask(),
            "_error" if command.transaction == CONNECT || command.transaction == CREATE_STREAM => self.status(command),
            "onStatus" => self.status(command),
            _ => {}
        }
    }

    fn connected(&mut self) {
        self.link.window_size(WINDOW);
        if self.request.purpose == Purpose::Publish {
            self.named("releaseStream", 2.0);
            self.named("FCPublish", 3.0);
        }
        self.link.command(chunk::CSID_COMMAND, 0, "createStream", CREATE_STREAM, &[Value::Null]);
    }

    fn ask(&mut self) {
        let name = Value::string(&*self.request.stream);
        match self.request.purpose {
            Purpose::Publish => {
                let arguments = [Value::Null, name, Value::string("live")];
                self.link.command(chunk::CSID_AUDIO, STREAM_ID, "publish", 5.0, &arguments);
            }
            Purpose::Play => {
                let arguments = [Value::Null, name, Value::Number(-2000.0)];
                self.link.command(chunk::CSID_AUDIO, STREAM_ID, "play", 5.0, &arguments);
                let ([a, b], [c, d, e, f]) = (SET_BUFFER_LENGTH.to_be_bytes(), STREAM_ID.to_be_bytes());
                let [g, h, i, j] = BUFFER.to_be_bytes();
                let body = [a, b, c, d, e, f, g, h, i, j];
                self.link.write(chunk::CSID_CONTROL, type_id::USER_CONTROL, 0, 0, &body);
            }
        }
    }

    fn status(&mut self, command: &Command) {
        let information = command.argument(0);
        let text = |name: &str| information.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (code, description) = (text("code"), text("description"));
        let event = match code.as_str() {
            "NetStream.Publish.Start" | "NetStream.Play.Start" => {
                self.started = true;
                self.deadline = None;
                Event::Started
            }
            "NetConnection.Connect.Closed" => Event::Refused { code, description, redirect: None },
            _ if text("level") == "error" => {
                let redirect = information.get("ex").and_then(|ex| ex.get("redirect")).and_then(Value::as_str);
                Event::Refused { code, description, redirect: redirect.map(str::to_owned) }
            }
            _ => Event::Status { code, description },
        };
        self.events.push_back(event);
    }
}

impl Handshake {
    fn schema(self) -> Option<Schema> {
        match self {
            Self::Plain => None,
            Self::KeyFirst => Some(Schema::KeyFirst),
            Self::DigestFirst => Some(Schema::DigestFirst),
        }
    }
}
