//! The API of Janus over HTTP, as a player of its streaming plugin: there the server offers. All requests go over one
//! connection.

use serde_json::{Value, json};

use super::Error;
use super::signal::ANSWER_MAX;
use crate::conn::{self, Body, ResponseHead};
use crate::net::{Reason, Wire};
use crate::target::Target;

/// Events that come before the offer.
const EVENTS_MAX: u32 = 8;

/// What was asked for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Attach,
    Watch,
    /// The offer comes as an event.
    Event,
    Done,
}

/// The exchange.
pub(super) struct Janus {
    authority: String,
    mountpoint: u64,
    step: Step,
    session: u64,
    handle: u64,
    events: u32,
    head: ResponseHead,
    body: Option<Body>,
    text: Vec<u8>,
}

impl Janus {
    /// Begins to ask for the mountpoint that the path names.
    ///
    /// # Errors
    /// The path names none, or the connection broke.
    pub(super) fn start(target: &Target, number: usize, wire: &mut Wire) -> Result<Self, Reason> {
        let mountpoint = target.path(number).trim_matches('/').parse().map_err(|_| Error::Answer("mountpoint"))?;
        let janus = Self {
            authority: target.authority.clone(),
            mountpoint,
            step: Step::Create,
            session: 0,
            handle: 0,
            events: 0,
            head: ResponseHead::default(),
            body: None,
            text: Vec::new(),
        };
        janus.post(wire, "/janus", json!({"janus": "create", "transaction": "t"}))?;
        Ok(janus)
    }

    fn post(&self, wire: &mut Wire, path: &str, body: Value) -> Result<(), Reason> {
        let (host, body) = (&self.authority, body.to_string());
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        wire.send(request.as_bytes())
    }

    fn poll(&self, wire: &mut Wire) -> Result<(), Reason> {
        let (host, session) = (&self.authority, self.session);
        wire.send(format!("GET /janus/{session}?maxev=1 HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
    }

    fn message(&self, wire: &mut Wire, mut message: Value) -> Result<(), Reason> {
        if let Some(fields) = message.as_object_mut() {
            fields.insert("janus".to_owned(), "message".into());
            fields.insert("transaction".to_owned(), "t".into());
        }
        self.post(wire, &format!("/janus/{}/{}", self.session, self.handle), message)
    }

    /// Takes what came and asks on; returns the offer once it is there.
    ///
    /// # Errors
    /// The server refused, or this is no answer.
    pub(super) fn received(&mut self, wire: &mut Wire, mut bytes: &[u8]) -> Result<Option<String>, Reason> {
        if self.body.is_none() {
            self.body = self.head.read(&mut bytes).map_err(Reason::from)?;
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            match body.read(&mut bytes) {
                Ok(Some(part)) if self.text.len() + part.len() > ANSWER_MAX => return Err(Error::AnswerTooLong.into()),
                Ok(Some(part)) => self.text.extend_from_slice(part),
                Ok(None) => return Ok(None),
                Err(conn::Error::Ended) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let said = serde_json::from_slice(&self.text).map_err(|_| Error::Answer("JSON"))?;
        (self.head, self.body, self.text) = (ResponseHead::default(), None, Vec::new());
        self.next(wire, &said)
    }

    fn next(&mut self, wire: &mut Wire, said: &Value) -> Result<Option<String>, Reason> {
        let failed = said.pointer("/error/reason").or_else(|| said.pointer("/plugindata/data/error"));
        if let Some(reason) = failed.and_then(Value::as_str) {
            let code = said.pointer("/error/code").and_then(Value::as_i64).unwrap_or(-1);
            return Err(Error::Refused { code, reason: reason.to_owned() }.into());
        }
        let id = || said.pointer("/data/id").and_then(Value::as_u64).ok_or(Error::Answer("id"));
        match self.step {
            Step::Create => {
                (self.session, self.step) = (id()?, Step::Attach);
                let plugin = "janus.plugin.streaming";
                let path = format!("/janus/{}", self.session);
                self.post(wire, &path, json!({"janus": "attach", "plugin": plugin, "transaction": "t"}))?;
            }
            Step::Attach => {
                (self.handle, self.step) = (id()?, Step::Watch);
                self.message(wire, json!({"body": {"request": "watch", "id": self.mountpoint}}))?;
            }
            Step::Watch => {
                self.step = Step::Event;
                self.poll(wire)?;
            }
            Step::Event => {
                if let Some(offer) = said.pointer("/jsep/sdp").and_then(Value::as_str) {
                    self.step = Step::Done;
                    return Ok(Some(offer.to_owned()));
                }
                self.events += 1;
                if self.events > EVENTS_MAX {
                    return Err(Error::Answer("offer").into());
                }
                self.poll(wire)?;
            }
            Step::Done => {}
        }
        Ok(None)
    }

    /// Sends the answer to the offer.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn answer(&self, sdp: &str, wire: &mut Wire) -> Result<(), Reason> {
        self.message(wire, json!({"body": {"request": "start"}, "jsep": {"type": "answer", "sdp": sdp}}))
    }
}
