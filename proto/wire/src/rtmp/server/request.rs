//! The three commands that the shell decides.
use super::answer::{REJECTED, status};
use super::{Asked, ConnectRequest, Enhanced, Event, PlayRefusal, PublishRefusal, Role, Server, StreamRequest};
use crate::amf::Value;
use crate::rtmp::command::Command;
use crate::rtmp::name::{Base, Target};

impl Server {
    pub(super) fn connect(&mut self, command: &Command) {
        let text = |name: &str| command.object.get(name).and_then(Value::as_str).unwrap_or_default();
        let base = match Base::new(text("app"), text("tcUrl"), &self.limits) {
            Ok(base) => base,
            Err(error) => {
                let reason = error.to_string();
                return self.refuse_connect(command.transaction, status("error", REJECTED, &reason), &reason);
            }
        };
        let enhanced = Enhanced::read(&command.object);
        let encoding = command.object.get("objectEncoding").and_then(Value::as_number);
        let request = ConnectRequest {
            vhost: base.vhost.clone().into(),
            app: base.app.clone().into(),
            query: base.query.clone().into(),
            tc_url: text("tcUrl").to_owned(),
            flash_ver: text("flashVer").to_owned(),
            page_url: text("pageUrl").to_owned(),
            swf_url: text("swfUrl").to_owned(),
            object_encoding: if encoding == Some(3.0) { 3 } else { 0 },
            enhanced: enhanced.clone(),
            client: self.client.take(),
        };
        self.base = Some(Box::new(base));
        self.idle();
        self.asked = Asked::Connect { transaction: command.transaction, enhanced: Box::new(enhanced) };
        self.events.push_back(Event::Connect(Box::new(request)));
    }

    pub(super) fn publish(&mut self, command: &Command) {
        match command.argument(0) {
            // NetStream.publish(false) ends a publication.
            Value::Boolean(false) | Value::Null => self.stop_with_status(),
            Value::String(name) if self.role == Role::None => match self.target(name) {
                Ok(request) => {
                    self.ask(Asked::Publish, Event::Publish(request));
                }
                Err(reason) => self.refuse(PublishRefusal::BadName.code(), &reason),
            },
            Value::String(_) => {
                self.refuse(PublishRefusal::BadName.code(), "This connection already publishes or plays.");
            }
            _ => self.refuse(PublishRefusal::BadName.code(), "The stream has no name."),
        }
    }

    pub(super) fn play(&mut self, command: &Command) {
        match command.argument(0) {
            Value::Boolean(false) => self.stop_with_status(),
            Value::String(_) if self.role == Role::Publisher => {
                self.refuse(PlayRefusal::Failed.code(), "This connection already publishes.");
            }
            Value::String(name) => {
                // A player may go on to another stream without closing the first.
                self.stop();
                match self.target(name) {
                    Ok(request) => {
                        let asked = Asked::Play(request.stream.as_str().into());
                        self.ask(asked, Event::Play(request));
                    }
                    Err(reason) => self.refuse(PlayRefusal::StreamNotFound.code(), &reason),
                }
            }
            _ => self.refuse(PlayRefusal::StreamNotFound.code(), "The stream has no name."),
        }
    }

    /// Hands a request to the shell, which has its own deadlines.
    fn ask(&mut self, asked: Asked, event: Event) {
        self.asked = asked;
        self.deadline = None;
        self.events.push_back(event);
    }

    fn target(&self, name: &str) -> Result<Box<StreamRequest>, String> {
        let base = self.base.as_ref().ok_or("not connected")?;
        let Target { vhost, app, stream, query } =
            base.resolve(name, &self.limits).map_err(|error| error.to_string())?;
        Ok(Box::new(StreamRequest { vhost, app, stream, query }))
    }
}

impl Enhanced {
    fn read(object: &Value) -> Self {
        let map = |name: &str| {
            let map = object.get(name)?.properties().iter();
            Some(map.map(|(codec, bits)| (codec.clone(), to_bits(bits))).collect())
        };
        Self {
            four_cc_list: match object.get("fourCcList") {
                Some(Value::StrictArray(list)) => {
                    Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                }
                _ => None,
            },
            video: map("videoFourCcInfoMap"),
            audio: map("audioFourCcInfoMap"),
            caps_ex: object.get("capsEx").map(to_bits),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floats saturate")]
fn to_bits(value: &Value) -> u32 {
    value.as_number().unwrap_or_default() as u32
}
