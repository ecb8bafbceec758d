use core::fmt;

use bytes::Bytes;

use crate::flv::{SLOT_ALTERNATIVE, TagInfo};

/// One life of a stream's publication. The origin grants it: greater than every earlier one of that stream, and at
/// least the wall clock in microseconds, so that an origin which lost its memory still grants a greater one.
pub type Epoch = u64;

/// Names a frame in every log of every process. Ordered: a frame of a later epoch follows all of an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// The publication that the frame belongs to.
    pub epoch: Epoch,
    /// Counts up by one a frame within an epoch.
    pub seq: u64,
}

/// What a frame carries. The values are FLV tag types and RTMP message type ids (E.4.1 of the FLV specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Audio, legacy or enhanced.
    Audio = 8,
    /// Video, legacy or enhanced.
    Video = 9,
    /// AMF0 data, in practice `onMetaData`.
    Data = 18,
}

impl Kind {
    /// The kind for an FLV tag type or RTMP message type id.
    pub fn from_type(id: u8) -> Option<Self> {
        match id {
            8 => Some(Self::Audio),
            9 => Some(Self::Video),
            18 => Some(Self::Data),
            _ => None,
        }
    }
}

/// One media message: what a publisher sent, with its name and its repaired time. Cloning shares the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name.
    pub id: FrameId,
    /// What the body is.
    pub kind: Kind,
    /// What the body's first bytes say about it.
    pub info: TagInfo,
    /// Decoding time in microseconds on the stream's own time line.
    pub dts: i64,
    /// FLV tag body.
    pub body: Bytes,
}

impl Frame {
    /// A frame whose `info` is read from its body.
    pub fn new(id: FrameId, kind: Kind, dts: i64, body: Bytes) -> Self {
        Self { id, kind, info: TagInfo::parse(kind, &body), dts, body }
    }

    /// The same frame as one that stands in for others ([`SLOT_ALTERNATIVE`]).
    pub fn as_alternative(mut self) -> Self {
        self.info.slot |= SLOT_ALTERNATIVE;
        self
    }

    /// Whether it stands in for others.
    pub fn is_alternative(&self) -> bool {
        self.info.slot & SLOT_ALTERNATIVE != 0
    }

    /// The time as FLV and RTMP write it: milliseconds modulo 2^32.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the wire format wraps at 32 bits")]
    pub fn timestamp_ms(&self) -> u32 {
        self.dts.div_euclid(1000) as u32
    }
}

/// Identifies a stream in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    /// Virtual host, already resolved (`__defaultVhost__` when the requested one is not configured).
    pub vhost: Box<str>,
    /// Application; may hold slashes.
    pub app: Box<str>,
    /// Stream, without its query string.
    pub stream: Box<str>,
}

impl fmt::Display for StreamName {
    /// `app/stream`, with the vhost in front unless it is the default one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.vhost != "__defaultVhost__" {
            write!(f, "{}/", self.vhost)?;
        }
        write!(f, "{}/{}", self.app, self.stream)
    }
}
