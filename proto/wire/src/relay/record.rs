use bytes::{Buf, BufMut, Bytes, BytesMut};
use weir_media::{Epoch, Frame, FrameId, Kind, StreamName};

/// Version of the framing and of the records' meaning; both ends must name the same.
pub const VERSION: u16 = 1;

/// The largest payload of a record, in bytes.
pub const RECORD_MAX: usize = 64 * 1024;

/// The largest frame body, in bytes.
pub const FRAME_MAX: usize = 16 * 1024 * 1024;

/// The largest name or reason, in bytes.
const TEXT_MAX: usize = 1024;

/// Bit of a frame's kind: it stands in for others ([`Frame::is_alternative`]).
const ALTERNATIVE: u8 = 0x80;

pub(super) const HEADER: usize = 8;
pub(super) const FRAME_HEAD: usize = 8 + 8 + 8 + 1 + 4;

/// What one end says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// First record of both ends.
    Hello {
        /// [`VERSION`] of the sender.
        version: u16,
        /// Who speaks, for logs: `edge/0@host`.
        name: String,
    },
    /// Edge: a client wants to publish.
    Claim {
        /// Stands for the publication from now on.
        channel: u32,
        /// The stream.
        name: StreamName,
        /// Digest of the publisher's query string, for the takeover rule `same_key`.
        key: u64,
        /// Set when the edge publishes again after it lost the origin: what the claim was granted as, and the next
        /// sequence number.
        resume: Option<FrameId>,
    },
    /// Origin: granted. Frames are to be numbered from `first` and timed from `base` on.
    Claimed {
        /// The claim's.
        channel: u32,
        /// Epoch, and number of the first frame.
        first: FrameId,
        /// Time of the first frame, in microseconds.
        base: i64,
    },
    /// Origin: not granted, or taken away; the channel is closed.
    Refused {
        /// The claim's or subscription's.
        channel: u32,
        /// Why, for programs.
        refusal: Refusal,
        /// Why, for people.
        reason: String,
    },
    /// Edge: somebody wants to play.
    Subscribe {
        /// Stands for the subscription from now on.
        channel: u32,
        /// The stream.
        name: StreamName,
        /// The newest frame that the edge has, and its time; earlier ones are not sent again.
        have: Option<(FrameId, i64)>,
    },
    /// Origin: the stream has a publisher.
    Live {
        /// The subscription's.
        channel: u32,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Origin: the stream has no publisher, and none came back within the grace.
    Idle {
        /// The subscription's.
        channel: u32,
    },
    /// Either: the publication or subscription ends; the channel number may be used again by the edge.
    Close {
        /// Which.
        channel: u32,
    },
    /// A frame.
    Frame {
        /// The publication's or subscription's.
        channel: u32,
        /// The frame.
        frame: Frame,
    },
    /// QUIC only, origin: first record of a unidirectional stream, which carries one group of frames.
    Group {
        /// The subscription's.
        channel: u32,
        /// Counts up by one a group within the subscription.
        index: u64,
        /// False for the later parts of a group that was split.
        joinable: bool,
    },
}

/// Why a claim or a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Somebody else publishes this stream.
    Busy = 1,
    /// Somebody else took this publication over.
    TakenOver = 2,
    /// A newer publication is known.
    Stale = 3,
    /// The origin holds as many streams as it may.
    Full = 4,
    /// This origin does not serve the stream.
    NotHere = 5,
    /// The origin is going away.
    Closing = 6,
}

impl Refusal {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Busy,
            2 => Self::TakenOver,
            3 => Self::Stale,
            4 => Self::Full,
            5 => Self::NotHere,
            6 => Self::Closing,
            _ => return None,
        })
    }
}

/// What a peer may not send. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A record above [`RECORD_MAX`].
    #[error("relay record of {0} bytes is above the limit of {RECORD_MAX}")]
    RecordTooLong(usize),
    /// A frame above [`FRAME_MAX`].
    #[error("relay frame of {0} bytes is above the limit of {FRAME_MAX}")]
    FrameTooLong(usize),
    /// A type that this version does not know.
    #[error("unknown relay record type {0}")]
    UnknownType(u8),
    /// A payload that ends early or late, or holds an unknown code.
    #[error("malformed relay record of type {0}")]
    Malformed(u8),
    /// A continuation without a frame to continue, or past its end.
    #[error("relay frame continued on channel {0}, where none is open")]
    StrayPart(u32),
    /// More frames begun and not ended than [`super::Decoder`] holds.
    #[error("too many unfinished relay frames")]
    TooManyParts,
}

pub(super) mod kind {
    pub(in super::super) const HELLO: u8 = 1;
    pub(in super::super) const CLAIM: u8 = 2;
    pub(in super::super) const CLAIMED: u8 = 3;
    pub(in super::super) const REFUSED: u8 = 4;
    pub(in super::super) const SUBSCRIBE: u8 = 5;
    pub(in super::super) const LIVE: u8 = 6;
    pub(in super::super) const IDLE: u8 = 7;
    pub(in super::super) const CLOSE: u8 = 8;
    pub(in super::super) const FRAME: u8 = 9;
    pub(in super::super) const MORE: u8 = 10;
    pub(in super::super) const GROUP: u8 = 11;
}

fn header(out: &mut BytesMut, length: usize, kind: u8, channel: u32) {
    debug_assert!(length <= RECORD_MAX);
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u32(channel);
}

/// Appends a record. Frames longer than one record are written whole, part after part.
pub fn encode(out: &mut BytesMut, record: &Record) {
    match record {
        Record::Frame { channel, frame } => {
            let mut sent = encode_frame_head(out, *channel, frame);
            while sent < frame.body.len() {
                sent += encode_frame_part(out, *channel, frame, sent);
            }
        }
        other => encode_small(out, other),
    }
}

/// Appends the first record of a frame. Returns how many bytes of the body it holds.
pub(super) fn encode_frame_head(out: &mut BytesMut, channel: u32, frame: &Frame) -> usize {
    let body = frame.body.get(..FRAME_MAX).unwrap_or(&frame.body);
    let part = body.get(..RECORD_MAX - FRAME_HEAD).unwrap_or(body);
    header(out, FRAME_HEAD + part.len(), kind::FRAME, channel);
    put_id(out, frame.id);
    out.put_i64(frame.dts);
    out.put_u8(frame.kind as u8 | if frame.is_alternative() { ALTERNATIVE } else { 0 });
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_slice(part);
    part.len()
}

/// Appends the next record of a frame of which `sent` bytes are written. Returns how many bytes it holds.
pub(super) fn encode_frame_part(out: &mut BytesMut, channel: u32, frame: &Frame, sent: usize) -> usize {
    let rest = frame.body.get(sent..).unwrap_or(&[]);
    let part = rest.get(..RECORD_MAX).unwrap_or(rest);
    header(out, part.len(), kind::MORE, channel);
    out.put_slice(part);
    part.len()
}

fn encode_small(out: &mut BytesMut, record: &Record) {
    let at = out.len();
    let (kind, channel) = kind_and_channel(record);
    header(out, 0, kind, channel);
    match record {
        Record::Hello { version, name } => {
            out.put_u16(*version);
            put_text(out, name);
        }
        Record::Claim { name, key, resume, .. } => {
            put_name(out, name);
            out.put_u64(*key);
            out.put_u8(u8::from(resume.is_some()));
            put_id(out, resume.unwrap_or_default());
        }
        Record::Claimed { first, base, .. } => {
            put_id(out, *first);
            out.put_i64(*base);
        }
        Record::Refused { refusal, reason, .. } => {
            out.put_u8(*refusal as u8);
            put_text(out, reason);
        }
        Record::Subscribe { name, have, .. } => {
            put_name(out, name);
            out.put_u8(u8::from(have.is_some()));
            let (id, dts) = have.unwrap_or_default();
            put_id(out, id);
            out.put_i64(dts);
        }
        Record::Live { epoch, .. } => out.put_u64(*epoch),
        Record::Group { index, joinable, .. } => {
            out.put_u64(*index);
            out.put_u8(u8::from(*joinable));
        }
        Record::Idle { .. } | Record::Close { .. } | Record::Frame { .. } => {}
    }
    let length = (out.len() - at - HEADER) as u64;
    if let Some(field) = out.get_mut(at..at + 3) {
        let mut field = field;
        field.put_uint(length, 3);
    }
}

fn kind_and_channel(record: &Record) -> (u8, u32) {
    match record {
        Record::Hello { .. } => (kind::HELLO, 0),
        Record::Claim { channel, .. } => (kind::CLAIM, *channel),
        Record::Claimed { channel, .. } => (kind::CLAIMED, *channel),
        Record::Refused { channel, .. } => (kind::REFUSED, *channel),
        Record::Subscribe { channel, .. } => (kind::SUBSCRIBE, *channel),
        Record::Live { channel, .. } => (kind::LIVE, *channel),
        Record::Idle { channel } => (kind::IDLE, *channel),
        Record::Close { channel } => (kind::CLOSE, *channel),
        Record::Frame { channel, .. } => (kind::FRAME, *channel),
        Record::Group { channel, .. } => (kind::GROUP, *channel),
    }
}

/// Reads a record other than a frame or its continuation.
pub(super) fn decode_small(kind: u8, channel: u32, mut payload: Bytes) -> Result<Record, Error> {
    let b = &mut payload;
    let record = match kind {
        kind::HELLO => get_u16(b).and_then(|version| Some(Record::Hello { version, name: get_text(b)? })),
        kind::CLAIM => get_claim(b, channel),
        kind::CLAIMED => get_id(b).and_then(|first| Some(Record::Claimed { channel, first, base: get_i64(b)? })),
        kind::REFUSED => get_u8(b)
            .and_then(Refusal::from_code)
            .and_then(|refusal| Some(Record::Refused { channel, refusal, reason: get_text(b)? })),
        kind::SUBSCRIBE => get_subscribe(b, channel),
        kind::LIVE => get_u64(b).map(|epoch| Record::Live { channel, epoch }),
        kind::IDLE => Some(Record::Idle { channel }),
        kind::CLOSE => Some(Record::Close { channel }),
        kind::GROUP => get_u64(b).and_then(|index| Some(Record::Group { channel, index, joinable: get_bool(b)? })),
        other => return Err(Error::UnknownType(other)),
    };
    match record {
        Some(record) if payload.is_empty() => Ok(record),
        _ => Err(Error::Malformed(kind)),
    }
}

fn get_claim(b: &mut Bytes, channel: u32) -> Option<Record> {
    let name = get_name(b)?;
    let key = get_u64(b)?;
    let resumes = get_bool(b)?;
    let id = get_id(b)?;
    Some(Record::Claim { channel, name, key, resume: resumes.then_some(id) })
}

fn get_subscribe(b: &mut Bytes, channel: u32) -> Option<Record> {
    let name = get_name(b)?;
    let some = get_bool(b)?;
    let have = (get_id(b)?, get_i64(b)?);
    Some(Record::Subscribe { channel, name, have: some.then_some(have) })
}

/// Fields of a frame's first record.
pub(super) struct FrameHead {
    pub(super) id: FrameId,
    pub(super) dts: i64,
    pub(super) kind: Kind,
    pub(super) alternative: bool,
    pub(super) total: usize,
}

pub(super) fn get_frame_head(b: &mut Bytes) -> Option<FrameHead> {
    let id = get_id(b)?;
    let dts = get_i64(b)?;
    let kind = get_u8(b)?;
    let alternative = kind & ALTERNATIVE != 0;
    let kind = Kind::from_type(kind & !ALTERNATIVE)?;
    let total = usize::try_from(b.try_get_u32().ok()?).ok()?;
    Some(FrameHead { id, dts, kind, alternative, total })
}

fn put_text(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or("");
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

fn put_name(out: &mut BytesMut, name: &StreamName) {
    for part in [&name.vhost, &name.app, &name.stream] {
        put_text(out, part);
    }
}

fn put_id(out: &mut BytesMut, id: FrameId) {
    out.put_u64(id.epoch);
    out.put_u64(id.seq);
}

fn get_text(b: &mut Bytes) -> Option<String> {
    let length = usize::from(get_u16(b)?);
    if length > TEXT_MAX || length > b.len() {
        return None;
    }
    String::from_utf8(b.split_to(length).into()).ok()
}

fn get_name(b: &mut Bytes) -> Option<StreamName> {
    Some(StreamName { vhost: get_text(b)?.into(), app: get_text(b)?.into(), stream: get_text(b)?.into() })
}

fn get_id(b: &mut Bytes) -> Option<FrameId> {
    Some(FrameId { epoch: get_u64(b)?, seq: get_u64(b)? })
}

fn get_bool(b: &mut Bytes) -> Option<bool> {
    match get_u8(b)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn get_u8(b: &mut Bytes) -> Option<u8> {
    b.try_get_u8().ok()
}

fn get_u16(b: &mut Bytes) -> Option<u16> {
    b.try_get_u16().ok()
}

fn get_u64(b: &mut Bytes) -> Option<u64> {
    b.try_get_u64().ok()
}

fn get_i64(b: &mut Bytes) -> Option<i64> {
    b.try_get_i64().ok()
}
