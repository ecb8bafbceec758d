//! The file that is published.

use std::path::Path;

use bytes::Bytes;
use weir_media::Kind;
use weir_media::flv::TagInfo;

use crate::clock::MILLISECOND;
use crate::conn::TagHead;

/// Bytes of a file, which is held in memory.
const FILE_MAX: u64 = 1 << 30;
/// From one frame to the next where a file has less than two of them.
const PERIOD_MS: u64 = 40;
/// Longer pauses between two frames say nothing about their rate.
const PERIOD_MAX_MS: u64 = 1000;

/// Why a file cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than [`FILE_MAX`].
    #[error("it has {0} bytes; {FILE_MAX} is the most")]
    TooLong(u64),
    /// Without the signature.
    #[error("it is no FLV file")]
    Signature,
    /// A tag that no FLV file has.
    #[error("the tag at byte {0} is malformed")]
    Tag(usize),
    /// Nothing to send.
    #[error("it holds no audio or video frames")]
    Empty,
}

/// One message, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// What it is.
    pub(crate) kind: Kind,
    /// Milliseconds since the first frame.
    pub(crate) time: u64,
    /// The FLV tag body.
    pub(crate) body: Bytes,
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct FlvFile {
    /// The first of each kind of sequence header and metadata, in their order.
    pub(crate) configs: Vec<Tag>,
    /// All else, never earlier than what is before it; not empty.
    pub(crate) frames: Vec<Tag>,
    /// From the first frame to where the first frame follows again, milliseconds.
    pub(crate) length: u64,
    /// The usual time between two frames of video, or of audio if there is none, milliseconds.
    pub(crate) period: u64,
    /// Bytes of a NAL unit's length in H.264 frames, 1 to 4.
    pub(crate) nal_length_size: usize,
}

impl FlvFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is not there, too long, or not an FLV file with frames.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let length = std::fs::metadata(path)?.len();
        if length > FILE_MAX {
            return Err(Error::TooLong(length));
        }
        Self::parse(&Bytes::from(std::fs::read(path)?))
    }

    /// Takes a file apart. A last tag that is not complete is left out.
    ///
    /// # Errors
    /// It is not an FLV file with frames.
    pub(crate) fn parse(file: &Bytes) -> Result<Self, Error> {
        let offset = match file.get(..9) {
            Some(&[b'F', b'L', b'V', _, _, a, b, c, d]) => u32::from_be_bytes([a, b, c, d]) as usize,
            _ => return Err(Error::Signature),
        };
        // The size of a tag before the first one comes first.
        let mut at = offset.saturating_add(4);
        let (mut configs, mut frames) = (Vec::<(TagInfo, Tag)>::new(), Vec::<Tag>::new());
        let (mut first, mut last) = (None, 0);
        while let Some(bytes) = file.get(at..).and_then(|rest| rest.first_chunk()) {
            let head = TagHead::parse(bytes);
            let begin = at + bytes.len();
            let end = begin + head.length;
            if head.encrypted {
                return Err(Error::Tag(at));
            }
            if end > file.len() {
                break;
            }
            let kind = Kind::from_type(head.type_id).ok_or(Error::Tag(at))?;
            at = end + 4;
            let body = file.slice(begin..end);
            let info = TagInfo::parse(kind, &body);
            if info.config {
                let same = |(known, tag): &(TagInfo, Tag)| tag.kind == kind && known.slot == info.slot;
                if !configs.iter().any(same) {
                    configs.push((info, Tag { kind, time: 0, body }));
                }
            } else if kind != Kind::Data && !body.is_empty() {
                let first = *first.get_or_insert(head.timestamp);
                last = last.max(u64::from(head.timestamp.saturating_sub(first)));
                frames.push(Tag { kind, time: last, body });
            }
        }
        if frames.is_empty() {
            return Err(Error::Empty);
        }
        let configs: Vec<Tag> = configs.into_iter().map(|(_, tag)| tag).collect();
        let period = period(&frames, Kind::Video).or_else(|| period(&frames, Kind::Audio)).unwrap_or(PERIOD_MS);
        let nal_length_size = nal_length_size(&configs);
        Ok(Self { configs, frames, length: last + period, period, nal_length_size })
    }

    /// The same in nanoseconds.
    pub(crate) fn period_ns(&self) -> u64 {
        self.period * MILLISECOND
    }
}

/// The median time between two frames of a kind.
fn period(frames: &[Tag], kind: Kind) -> Option<u64> {
    let times: Vec<u64> = frames.iter().filter(|tag| tag.kind == kind).map(|tag| tag.time).collect();
    let steps = times.iter().zip(times.iter().skip(1)).map(|(one, next)| next - one);
    let mut steps: Vec<u64> = steps.filter(|step| (1..=PERIOD_MAX_MS).contains(step)).collect();
    steps.sort_unstable();
    steps.get(steps.len() / 2).copied()
}

/// What the AVCDecoderConfigurationRecord says (ISO/IEC 14496-15, 5.3.3.1); it follows the five bytes of the tag.
fn nal_length_size(configs: &[Tag]) -> usize {
    let avc = configs.iter().find(|tag| tag.kind == Kind::Video && tag.body.first() == Some(&0x17));
    avc.and_then(|tag| tag.body.get(9)).map_or(4, |byte| usize::from(byte & 3) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_media::flv::{FILE_HEADER, write_tag};
    use weir_media::{Frame, FrameId};

    fn file(tags: &[(Kind, i64, &'static [u8])]) -> Vec<u8> {
        let mut out = FILE_HEADER.to_vec();
        for (kind, ms, body) in tags {
            write_tag(&mut out, &Frame::new(FrameId::default(), *kind, ms * 1000, Bytes::from_static(body)));
        }
        out
    }

    const AVC_CONFIG: &[u8] = &[0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xfd, 0xe1];
    const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 0, 2, 0x65, 1];
    const INTER: &[u8] = &[0x27, 1, 0, 0, 0, 0, 2, 0x41, 1];

    fn sample() -> Vec<u8> {
        file(&[
            (Kind::Data, 0, b"\x02\x00\x0aonMetaData\x08"),
            (Kind::Video, 0, AVC_CONFIG),
            (Kind::Audio, 0, &[0xaf, 0, 0x12, 0x10]),
            (Kind::Video, 100, KEY),
            (Kind::Audio, 110, &[0xaf, 1, 9]),
            (Kind::Video, 140, INTER),
            (Kind::Video, 0, AVC_CONFIG),
            (Kind::Video, 180, INTER),
            (Kind::Data, 180, b"\x02\x00\x02hi"),
        ])
    }

    #[test]
    fn a_file() {
        let flv = FlvFile::parse(&sample().into()).unwrap();
        assert_eq!(flv.configs.iter().map(|tag| tag.kind).collect::<Vec<_>>(), [Kind::Data, Kind::Video, Kind::Audio]);
        let frames: Vec<_> = flv.frames.iter().map(|tag| (tag.kind, tag.time)).collect();
        assert_eq!(frames, [(Kind::Video, 0), (Kind::Audio, 10), (Kind::Video, 40), (Kind::Video, 80)]);
        assert_eq!((flv.length, flv.period, flv.nal_length_size), (120, 40, 2));
        assert_eq!(flv.frames[0].body, KEY);
    }

    #[test]
    fn a_file_that_is_cut_off_has_what_is_complete() {
        let whole = sample();
        let cut = whole.len() - 30;
        let flv = FlvFile::parse(&Bytes::copy_from_slice(&whole[..cut])).unwrap();
        assert_eq!(flv.frames.len(), 3);
        for end in 0..whole.len() {
            let _ = FlvFile::parse(&Bytes::copy_from_slice(&whole[..end]));
        }
    }

    #[test]
    fn no_such_file() {
        let parse = |bytes: &[u8]| FlvFile::parse(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert!(matches!(parse(b"RIFF....AVI "), Error::Signature));
        assert!(matches!(parse(&FILE_HEADER), Error::Empty));
        assert!(matches!(parse(&file(&[(Kind::Video, 0, AVC_CONFIG)])), Error::Empty));
        let mut odd = sample();
        odd[13] = 77;
        assert!(matches!(parse(&odd), Error::Tag(13)));
    }

    #[test]
    fn audio_alone_has_its_own_period() {
        let flv = FlvFile::parse(&file(&[(Kind::Audio, 0, &[0xaf, 1]), (Kind::Audio, 23, &[0xaf, 1])]).into()).unwrap();
        assert_eq!((flv.period, flv.length), (23, 46));
    }
}
