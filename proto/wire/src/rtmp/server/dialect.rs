//! Commands, as the many clients say them.
use super::answer::fc_status;
use super::{Event, Role, Server};
use crate::amf::Value;
use crate::rtmp::command::Command;
use crate::rtmp::link::{STREAM_BEGIN, STREAM_EOF, STREAM_ID};
use crate::rtmp::{Error, chunk};
use weir_media::Kind;

impl Server {
    /// One command after the handshake.
    pub(super) fn command(&mut self, command: &Command) -> Result<(), Error> {
        if self.base.is_none() {
            if command.name != "connect" {
                return Err(Error::NotConnected);
            }
            self.connect(command);
            return Ok(());
        }
        match command.name.as_str() {
            "createStream" => self.result(command, Value::Number(STREAM_ID.into())),
            "releaseStream" => self.result(command, Value::Undefined),
            "FCPublish" => {
                self.fc_publish = true;
                self.result(command, Value::Undefined);
            }
            "publish" => self.publish(command),
            "FCUnpublish" => self.fc_unpublish(command),
            "play" => self.play(command),
            "FCSubscribe" => self.fc_subscribe(command),
            "FCUnsubscribe" => self.result(command, Value::Undefined),
            // Live streams have no length.
            "getStreamLength" => self.result(command, Value::Number(0.0)),
            "pause" | "pauseRaw" => self.pause(command),
            "seek" => self.seek(),
            "receiveAudio" => self.receive(Kind::Audio, command),
            "receiveVideo" => self.receive(Kind::Video, command),
            "deleteStream" | "closeStream" => {
                self.stop_with_status();
                self.result(command, Value::Null);
            }
            // Haivision and librtmp measure nothing with it: they only want to hear something.
            "_checkbw" | "checkBandwidth" => self.result(command, Value::Null),
            "_result" | "_error" | "onStatus" => {}
            name => self.unknown(name, command),
        }
        Ok(())
    }

    /// Answers a command that wants an answer.
    fn result(&mut self, command: &Command, value: Value) {
        if command.transaction != 0.0 {
            self.link.command(chunk::CSID_COMMAND, 0, "_result", command.transaction, &[Value::Null, value]);
        }
    }

    fn unknown(&mut self, name: &str, command: &Command) {
        if command.transaction == 0.0 {
            return;
        }
        let name: String = name.chars().take(64).collect();
        let description = format!("There is no command {name}.");
        let information = super::answer::status("error", "NetConnection.Call.Failed", &description);
        let arguments = [Value::Null, Value::Object(information)];
        self.link.command(chunk::CSID_COMMAND, 0, "_error", command.transaction, &arguments);
    }

    fn fc_unpublish(&mut self, command: &Command) {
        if self.role == Role::Publisher {
            let information = fc_status("NetStream.Unpublish.Success", "Stop publishing stream.");
            self.link.command(chunk::CSID_STATUS, STREAM_ID, "onFCUnpublish", 0.0, &[Value::Null, information]);
        }
        self.result(command, Value::Undefined);
        if self.role == Role::Publisher {
            self.stop_with_status();
        }
    }

    fn fc_subscribe(&mut self, command: &Command) {
        self.result(command, Value::Undefined);
        let information = fc_status("NetStream.Play.Start", "Started playing stream.");
        self.link.command(chunk::CSID_COMMAND, 0, "onFCSubscribe", 0.0, &[Value::Null, information]);
    }

    pub(super) fn stop_with_status(&mut self) {
        match self.stop() {
            Role::Publisher => self.notify("NetStream.Unpublish.Success", "Stream is now unpublished"),
            Role::Player => self.notify("NetStream.Play.Stop", "Stopped playing stream."),
            Role::None => {}
        }
    }

    fn pause(&mut self, command: &Command) {
        if self.role != Role::Player {
            return;
        }
        let on = command.argument(0).as_bool().unwrap_or(true);
        if on {
            self.notify("NetStream.Pause.Notify", "Paused stream.");
            self.link.user_control(STREAM_EOF, STREAM_ID);
        } else {
            self.notify("NetStream.Unpause.Notify", "Unpaused stream.");
            self.link.user_control(STREAM_BEGIN, STREAM_ID);
        }
        self.events.push_back(Event::Pause(on));
    }

    /// A live stream cannot seek. Saying so ends ffmpeg, which takes every error for the end, and saying nothing makes
    /// it wait for ever: the stream goes on where it is.
    fn seek(&mut self) {
        if self.role == Role::Player {
            self.notify("NetStream.Seek.Notify", "Live streams stay at their newest picture.");
        }
    }

    fn receive(&mut self, kind: Kind, command: &Command) {
        if let (Role::Player, Some(on)) = (self.role, command.argument(0).as_bool()) {
            self.events.push_back(Event::Receive { kind, on });
        }
    }
}
