//! The shell's answers and announcements, as the messages that clients expect.
use super::{Asked, Enhanced, Event, PlayRefusal, PublishRefusal, Role, Server};
use crate::amf::{self, Value};
use crate::rtmp::link::{PING_REQUEST, STREAM_BEGIN, STREAM_EOF, STREAM_ID};
use crate::rtmp::{Error, chunk, type_id};

/// How we call ourselves in answers.
const SERVER_NAME: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
/// The version of Flash Media Server whose manners these are; clients look at it.
const FMS_VERSION: &str = "3,5,3,888";
/// Acknowledge each so many bytes.
const WINDOW: u32 = 2_500_000;
const CLIENT_ID: &str = "weir";
/// The `capsEx` bits that need nothing of a server that passes bodies on: reconnect, multitrack, ModEx, nanoseconds.
const CAPS_EX: u32 = 0x0f;
/// In a codec's info map: this side forwards it.
const CAN_FORWARD: u32 = 4;

impl Server {
    /// Accepts `connect`. Calls that fit no pending request do nothing, here and below.
    ///
    /// Fails if what came behind the request is bad, like [`handle`](Self::handle).
    pub fn accept_connect(&mut self) -> Result<(), Error> {
        let Some(Asked::Connect { transaction, enhanced }) =
            self.answered(|asked| matches!(asked, Asked::Connect { .. }))
        else {
            return Ok(());
        };
        self.reconnects = enhanced.caps_ex.is_some_and(|caps| caps & 1 != 0);
        self.link.window_size(WINDOW);
        self.link.peer_bandwidth(WINDOW);
        self.link.set_chunk_size(self.chunk_size_out);
        let properties = Value::object([
            ("fmsVer", Value::string(format!("FMS/{FMS_VERSION}"))),
            ("capabilities", Value::Number(127.0)),
            ("mode", Value::Number(1.0)),
        ]);
        let mut information = status("status", "NetConnection.Connect.Success", "Connection succeeded");
        information.push(("objectEncoding".to_owned(), Value::Number(0.0)));
        let data = [("version", Value::string(FMS_VERSION)), ("server", Value::string(SERVER_NAME))];
        let data = data.map(|(name, value)| (name.to_owned(), value));
        information.push(("data".to_owned(), Value::EcmaArray(data.into())));
        echo(&enhanced, &mut information);
        self.link.command(chunk::CSID_COMMAND, 0, "_result", transaction, &[properties, Value::Object(information)]);
        self.link.command(chunk::CSID_COMMAND, 0, "onBWDone", 0.0, &[Value::Null]);
        self.resume()
    }

    /// Refuses `connect`, with a reason that the client shows, and closes.
    pub fn reject_connect(&mut self, description: &str) {
        if let Asked::Connect { transaction, .. } = self.asked {
            self.refuse_connect(transaction, status("error", REJECTED, description), description);
        }
    }

    pub(super) fn refuse_connect(&mut self, transaction: f64, information: Vec<(String, Value)>, reason: &str) {
        let arguments = [Value::Null, Value::Object(information)];
        self.link.command(chunk::CSID_COMMAND, 0, "_error", transaction, &arguments);
        self.close(reason.to_owned());
    }

    /// Answers a pending request of any kind by sending the client elsewhere (302), and closes. `redirect` is a URL
    /// with the application, `redirect2` one with the stream too.
    pub fn redirect(&mut self, redirect: &str, redirect2: Option<&str>) {
        let description = "RTMP 302 Redirect";
        let mut information = status("error", REJECTED, description);
        let mut ex = vec![("code".to_owned(), Value::Number(302.0)), ("redirect".to_owned(), Value::string(redirect))];
        ex.extend(redirect2.map(|url| ("redirect2".to_owned(), Value::string(url))));
        information.push(("ex".to_owned(), Value::Object(ex)));
        match self.asked {
            Asked::Nothing => {}
            Asked::Connect { transaction, .. } => self.refuse_connect(transaction, information, description),
            Asked::Publish | Asked::Play(_) => {
                self.status(0, information);
                self.close(description.to_owned());
            }
        }
    }

    /// Accepts a publish: media follows as events, and messages may be long from here on.
    pub fn accept_publish(&mut self) -> Result<(), Error> {
        if self.answered(|asked| matches!(asked, Asked::Publish)).is_none() {
            return Ok(());
        }
        self.role = Role::Publisher;
        self.link.reader.set_max_message(self.limits.message);
        let (code, description) = ("NetStream.Publish.Start", "Started publishing stream.");
        if self.fc_publish {
            let information = fc_status(code, description);
            self.link.command(chunk::CSID_STATUS, STREAM_ID, "onFCPublish", 0.0, &[Value::Null, information]);
        }
        self.status(STREAM_ID, with_client(status("status", code, description)));
        self.resume()
    }

    /// Refuses a publish. The connection stays: the client may ask for another stream.
    pub fn reject_publish(&mut self, refusal: PublishRefusal, description: &str) -> Result<(), Error> {
        if self.answered(|asked| matches!(asked, Asked::Publish)).is_none() {
            return Ok(());
        }
        self.refuse(refusal.code(), description);
        self.idle();
        self.resume()
    }

    /// Accepts a play. The shell may send media once what `poll` gives is sent.
    pub fn accept_play(&mut self) -> Result<(), Error> {
        let Some(Asked::Play(name)) = self.answered(|asked| matches!(asked, Asked::Play(_))) else { return Ok(()) };
        self.role = Role::Player;
        self.link.user_control(STREAM_BEGIN, STREAM_ID);
        for (code, description) in [
            ("NetStream.Play.Reset", "Playing and resetting stream."),
            ("NetStream.Play.Start", "Started playing stream."),
        ] {
            let mut information = status("status", code, description);
            information.push(("details".to_owned(), Value::string(&*name)));
            self.status(STREAM_ID, with_client(information));
        }
        // Flash lets a player look at samples only where this says so.
        let mut body = Vec::with_capacity(32);
        for value in [Value::string("|RtmpSampleAccess"), Value::Boolean(true), Value::Boolean(true)] {
            amf::write(&mut body, &value);
        }
        self.link.write(chunk::CSID_STATUS, type_id::DATA, STREAM_ID, 0, &body);
        self.resume()
    }

    /// Refuses a play. The connection stays: the client may ask for another stream.
    pub fn reject_play(&mut self, refusal: PlayRefusal, description: &str) -> Result<(), Error> {
        if self.answered(|asked| matches!(asked, Asked::Play(_))).is_none() {
            return Ok(());
        }
        self.refuse(refusal.code(), description);
        self.idle();
        self.resume()
    }

    /// Tells a player that the stream has ended; it stays and waits.
    pub fn notify_unpublish(&mut self) {
        if self.role == Role::Player {
            self.link.user_control(STREAM_EOF, STREAM_ID);
            self.notify("NetStream.Play.UnpublishNotify", "stream is now unpublished.");
        }
    }

    /// Tells a player that the stream is back.
    pub fn notify_publish(&mut self) {
        if self.role == Role::Player {
            self.link.user_control(STREAM_BEGIN, STREAM_ID);
            self.notify("NetStream.Play.PublishNotify", "stream is now published.");
        }
    }

    /// Says goodbye, with a reason that the client may show, and closes. Before `connect` was answered there is no one
    /// to say it to.
    pub fn shutdown(&mut self, description: &str) {
        if matches!(self.asked, Asked::Connect { .. }) {
            return self.reject_connect(description);
        }
        if self.closed() {
            return;
        }
        if self.base.is_some() {
            self.status(0, status("status", "NetConnection.Connect.Closed", description));
        }
        self.close(description.to_owned());
    }

    /// Asks an Enhanced RTMP client to connect anew, to `tc_url` or to where it is, while this connection goes on until
    /// it does. False if the client did not say that it can.
    pub fn request_reconnect(&mut self, tc_url: Option<&str>, description: &str) -> bool {
        if self.reconnects && !self.closed() {
            let mut information = status("status", "NetConnection.Connect.ReconnectRequest", description);
            information.extend(tc_url.map(|url| ("tcUrl".to_owned(), Value::string(url))));
            self.status(0, information);
        }
        self.reconnects
    }

    /// Asks the client for a sign of life; any byte it sends is one.
    pub fn ping(&mut self, now: std::time::Instant) {
        let milliseconds = now.saturating_duration_since(self.started).as_millis();
        if self.base.is_some() && !self.closed() {
            // The field is 32 bits wide, and only comes back.
            #[expect(clippy::cast_possible_truncation, reason = "the wire format wraps at 32 bits")]
            self.link.user_control(PING_REQUEST, milliseconds as u32);
        }
    }

    /// Takes the pending request if it is the kind that is being answered.
    fn answered(&mut self, kind: impl FnOnce(&Asked) -> bool) -> Option<Asked> {
        kind(&self.asked).then(|| std::mem::replace(&mut self.asked, Asked::Nothing))
    }

    fn closed(&self) -> bool {
        matches!(self.phase, super::Phase::Closed)
    }

    /// A status message of the stream, or for stream 0 of the connection.
    pub(super) fn status(&mut self, stream_id: u32, information: Vec<(String, Value)>) {
        let csid = if stream_id == 0 { chunk::CSID_COMMAND } else { chunk::CSID_STATUS };
        self.link.command(csid, stream_id, "onStatus", 0.0, &[Value::Null, Value::Object(information)]);
    }

    pub(super) fn refuse(&mut self, code: &str, description: &str) {
        self.status(STREAM_ID, with_client(status("error", code, description)));
    }

    pub(super) fn notify(&mut self, code: &str, description: &str) {
        self.status(STREAM_ID, with_client(status("status", code, description)));
    }

    /// Ends the publication or the play, if there is one, and says which.
    pub(super) fn stop(&mut self) -> Role {
        let role = std::mem::replace(&mut self.role, Role::None);
        self.events.push_back(match role {
            Role::None => return role,
            Role::Publisher => Event::Unpublish,
            Role::Player => Event::StopPlay,
        });
        self.fc_publish = false;
        self.link.reader.set_max_message(self.limits.message_before_publish);
        self.idle();
        role
    }
}

pub(super) const REJECTED: &str = "NetConnection.Connect.Rejected";

pub(super) fn status(level: &str, code: &str, description: &str) -> Vec<(String, Value)> {
    [("level", level), ("code", code), ("description", description)]
        .map(|(name, text)| (name.to_owned(), Value::string(text)))
        .into()
}

/// The shorter form that `onFCPublish` and `onFCUnpublish` have.
pub(super) fn fc_status(code: &str, description: &str) -> Value {
    Value::object([("code", Value::string(code)), ("description", Value::string(description))])
}

fn with_client(mut information: Vec<(String, Value)>) -> Vec<(String, Value)> {
    information.push(("clientid".to_owned(), Value::string(CLIENT_ID)));
    information
}

/// Answers each Enhanced RTMP property that the client sent: every codec it named is forwarded.
fn echo(enhanced: &Enhanced, information: &mut Vec<(String, Value)>) {
    if let Some(list) = &enhanced.four_cc_list {
        let list = list.iter().map(Value::string).collect();
        information.push(("fourCcList".to_owned(), Value::StrictArray(list)));
    }
    for (name, map) in [("videoFourCcInfoMap", &enhanced.video), ("audioFourCcInfoMap", &enhanced.audio)] {
        if let Some(map) = map {
            let map = map.iter().map(|(codec, _)| (codec.clone(), Value::Number(CAN_FORWARD.into()))).collect();
            information.push((name.to_owned(), Value::Object(map)));
        }
    }
    if let Some(caps) = enhanced.caps_ex {
        information.push(("capsEx".to_owned(), Value::Number((caps & CAPS_EX).into())));
    }
}
