use bytes::{Buf, Bytes, BytesMut};
use rustc_hash::FxHashMap;
use weir_media::Frame;

use super::record::{Error, FRAME_MAX, FrameHead, HEADER, RECORD_MAX, Record, decode_small, get_frame_head, kind};

/// Frames that may be begun and not ended on one connection: a sender interleaves at most its busy channels.
const PARTS_MAX: usize = 4096;

/// Memory of all unfinished frames of one connection, in bytes.
const PARTS_MEMORY: usize = 64 * 1024 * 1024;

/// Turns a connection's bytes into records. Bodies that arrive in one piece are slices of the input, not copies.
#[derive(Debug, Default)]
pub struct Decoder {
    parts: FxHashMap<u32, Part>,
    memory: usize,
}

#[derive(Debug)]
struct Part {
    head: FrameHead,
    body: BytesMut,
}

impl core::fmt::Debug for FrameHead {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} {} bytes", self.id, self.total)
    }
}

impl Decoder {
    /// A fresh one, for a fresh connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next whole record off `input`'s front; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What the peer sent is not the protocol; the connection is of no more use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Record>, Error> {
        loop {
            let Some((&[l0, l1, l2, kind, channel @ ..], _)) = input.split_first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            if length > RECORD_MAX {
                return Err(Error::RecordTooLong(length));
            }
            if input.len() < HEADER + length {
                input.reserve(HEADER + length - input.len());
                return Ok(None);
            }
            input.advance(HEADER);
            let payload = input.split_to(length).freeze();
            let channel = u32::from_be_bytes(channel);
            let record = match kind {
                kind::FRAME => self.begin(channel, payload)?,
                kind::MORE => self.go_on(channel, &payload)?,
                kind => Some(decode_small(kind, channel, payload)?),
            };
            if record.is_some() {
                return Ok(record);
            }
        }
    }

    /// Whether a frame has begun whose end did not come yet.
    pub fn in_frame(&self) -> bool {
        !self.parts.is_empty()
    }

    fn begin(&mut self, channel: u32, mut payload: Bytes) -> Result<Option<Record>, Error> {
        let head = get_frame_head(&mut payload).ok_or(Error::Malformed(kind::FRAME))?;
        if head.total > FRAME_MAX {
            return Err(Error::FrameTooLong(head.total));
        }
        if payload.len() > head.total || self.parts.contains_key(&channel) {
            return Err(Error::Malformed(kind::FRAME));
        }
        if payload.len() == head.total {
            return Ok(Some(finish(channel, &head, payload)));
        }
        self.memory += head.total;
        if self.parts.len() >= PARTS_MAX || self.memory > PARTS_MEMORY {
            return Err(Error::TooManyParts);
        }
        let mut body = BytesMut::with_capacity(head.total);
        body.extend_from_slice(&payload);
        self.parts.insert(channel, Part { head, body });
        Ok(None)
    }

    fn go_on(&mut self, channel: u32, payload: &[u8]) -> Result<Option<Record>, Error> {
        let part = self.parts.get_mut(&channel).ok_or(Error::StrayPart(channel))?;
        if payload.is_empty() || part.body.len() + payload.len() > part.head.total {
            return Err(Error::StrayPart(channel));
        }
        part.body.extend_from_slice(payload);
        if part.body.len() < part.head.total {
            return Ok(None);
        }
        let Some(Part { head, body }) = self.parts.remove(&channel) else { return Ok(None) };
        self.memory -= head.total;
        Ok(Some(finish(channel, &head, body.freeze())))
    }
}

fn finish(channel: u32, head: &FrameHead, body: Bytes) -> Record {
    let frame = Frame::new(head.id, head.kind, head.dts, body);
    Record::Frame { channel, frame: if head.alternative { frame.as_alternative() } else { frame } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_media::{FrameId, Kind, StreamName};

    use super::*;
    use crate::relay::{Refusal, encode};

    fn text() -> impl Strategy<Value = String> + Clone {
        "[a-z/é]{0,40}"
    }

    fn record() -> impl Strategy<Value = Record> {
        let name = (text(), text(), text()).prop_map(|(v, a, s)| StreamName {
            vhost: v.into(),
            app: a.into(),
            stream: s.into(),
        });
        let id = (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| FrameId { epoch, seq });
        let kind = prop_oneof![Just(Kind::Audio), Just(Kind::Video), Just(Kind::Data)];
        let channel = 0u32..5;
        prop_oneof![
            (any::<u16>(), text()).prop_map(|(version, name)| Record::Hello { version, name }),
            (channel.clone(), name.clone(), any::<u64>(), prop::option::of(id.clone()))
                .prop_map(|(channel, name, key, resume)| Record::Claim { channel, name, key, resume }),
            (channel.clone(), id.clone(), any::<i64>()).prop_map(|(channel, first, base)| Record::Claimed {
                channel,
                first,
                base
            }),
            (channel.clone(), text()).prop_map(|(channel, reason)| Record::Refused {
                channel,
                refusal: Refusal::Busy,
                reason
            }),
            (channel.clone(), name, prop::option::of((id.clone(), any::<i64>())))
                .prop_map(|(channel, name, have)| Record::Subscribe { channel, name, have }),
            (channel.clone(), any::<u64>()).prop_map(|(channel, epoch)| Record::Live { channel, epoch }),
            channel.clone().prop_map(|channel| Record::Idle { channel }),
            channel.clone().prop_map(|channel| Record::Close { channel }),
            (channel.clone(), any::<u64>(), any::<bool>()).prop_map(|(channel, index, joinable)| Record::Group {
                channel,
                index,
                joinable
            }),
            (channel, id, any::<i64>(), kind, prop_oneof![0usize..100, 60_000usize..200_000], any::<bool>()).prop_map(
                |(channel, id, dts, kind, size, alternative)| {
                    let frame = Frame::new(id, kind, dts, Bytes::from(vec![7; size]));
                    Record::Frame { channel, frame: if alternative { frame.as_alternative() } else { frame } }
                }
            ),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn records_survive_any_split(records in prop::collection::vec(record(), 1..8), cut in 1usize..70_000) {
            let mut bytes = BytesMut::new();
            for record in &records {
                encode(&mut bytes, record);
            }
            let mut decoder = Decoder::new();
            let mut input = BytesMut::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(record) = decoder.decode(&mut input).unwrap() {
                    seen.push(record);
                }
            }
            prop_assert!(seen == records);
            prop_assert!(input.is_empty());
            prop_assert_eq!(decoder.memory, 0);
        }
    }

    fn one(bytes: &[u8]) -> Result<Option<Record>, Error> {
        Decoder::new().decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn limits_and_nonsense_are_named() {
        assert_eq!(one(&[2, 0, 0, 9, 0, 0, 0, 0]), Err(Error::RecordTooLong(0x2_0000)));
        assert_eq!(one(&[0, 0, 0, 99, 0, 0, 0, 0]), Err(Error::UnknownType(99)));
        assert_eq!(one(&[0, 0, 1, 10, 0, 0, 0, 3, 1]), Err(Error::StrayPart(3)));
        assert_eq!(one(&[0, 0, 1, kind::CLOSE, 0, 0, 0, 3, 1]), Err(Error::Malformed(kind::CLOSE)));
        let mut frame = BytesMut::new();
        encode(
            &mut frame,
            &Record::Frame {
                channel: 1,
                frame: Frame::new(FrameId::default(), Kind::Audio, 0, Bytes::from_static(b"x")),
            },
        );
        frame[HEADER + 25] = 0xff;
        assert!(matches!(one(&frame), Err(Error::FrameTooLong(_))));
    }

    #[test]
    fn unfinished_frames_are_bounded() {
        let mut decoder = Decoder::new();
        let mut error = None;
        for channel in 0..100 {
            let mut bytes = BytesMut::new();
            let body = Bytes::from(vec![0; FRAME_MAX]);
            let frame = Frame::new(FrameId::default(), Kind::Video, 0, body);
            super::super::record::encode_frame_head(&mut bytes, channel, &frame);
            if let Err(e) = decoder.decode(&mut bytes) {
                error = Some((channel, e));
                break;
            }
        }
        assert_eq!(error, Some((4, Error::TooManyParts)));
    }

    #[test]
    fn fuzz_decoder() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(2)).for_each(|bytes: &[u8]| {
            let mut decoder = Decoder::new();
            let mut input = BytesMut::from(bytes);
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
        });
    }
}
