//! Messages, and the media among them.
use bytes::{Buf, Bytes};
use weir_media::Kind;

use super::{Event, Role, Server};
use crate::rtmp::chunk::Message;
use crate::rtmp::command::{Command, without_format};
use crate::rtmp::{Error, type_id};

/// The AMF0 string that a publisher puts before metadata which the server shall keep.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
/// The one that takes such metadata back.
const CLEAR_DATA_FRAME: &[u8] = b"\x02\x00\x0f@clearDataFrame";
/// An FLV tag header, and the size that follows a tag.
const TAG_HEADER: usize = 11;
const TAG_TRAILER: usize = 4;

impl Server {
    /// One message that is not the link's.
    pub(super) fn message(&mut self, message: &Message) -> Result<(), Error> {
        match message.type_id {
            type_id::COMMAND | type_id::COMMAND_AMF3 => {
                let command = Command::parse(&message.body, self.limits.amf)?;
                return self.command(&command);
            }
            type_id::AUDIO => self.media(Kind::Audio, message.timestamp, message.body.clone()),
            type_id::VIDEO => self.media(Kind::Video, message.timestamp, message.body.clone()),
            type_id::DATA => self.data(message.timestamp, message.body.clone()),
            type_id::DATA_AMF3 => {
                let body = message.body.slice_ref(without_format(&message.body));
                self.data(message.timestamp, body);
            }
            type_id::AGGREGATE => self.aggregate(message),
            // Shared objects and what nobody defined.
            _ => {}
        }
        Ok(())
    }

    fn media(&mut self, kind: Kind, timestamp: u32, body: Bytes) {
        if self.role == Role::Publisher && !body.is_empty() {
            self.events.push_back(Event::Media { kind, timestamp, body });
        }
    }

    fn data(&mut self, timestamp: u32, mut body: Bytes) {
        if body.starts_with(CLEAR_DATA_FRAME) {
            return;
        }
        if body.starts_with(SET_DATA_FRAME) {
            body.advance(SET_DATA_FRAME.len());
        }
        self.media(Kind::Data, timestamp, body);
    }

    /// The FLV tags of an aggregate (7.1.6): their times are moved so that the first has the message's.
    fn aggregate(&mut self, message: &Message) {
        let mut rest = message.body.clone();
        let mut shift = None;
        while let Some(&[type_id, l0, l1, l2, t0, t1, t2, t3, ..]) = rest.first_chunk::<TAG_HEADER>() {
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            let time = u32::from_be_bytes([t3, t0, t1, t2]);
            rest.advance(TAG_HEADER);
            if rest.len() < length {
                return;
            }
            let body = rest.split_to(length);
            rest.advance(TAG_TRAILER.min(rest.len()));
            let shift = *shift.get_or_insert_with(|| message.timestamp.wrapping_sub(time));
            let time = time.wrapping_add(shift);
            match Kind::from_type(type_id) {
                Some(Kind::Data) => self.data(time, body),
                Some(kind) => self.media(kind, time, body),
                None => {}
            }
        }
    }
}
