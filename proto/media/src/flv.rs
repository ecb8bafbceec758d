//! FLV tag bodies as the canonical frame: what the first bytes of a legacy or enhanced body say, and the file framing.
//!
//! Sources: Adobe FLV specification 10.1 (E.2 to E.4), Enhanced RTMP v2 (ExVideoTagHeader, ExAudioTagHeader).

use crate::{Frame, Kind};

/// `FLV`, version 1, audio and video flags, header size 9, and the first PreviousTagSize (E.2, E.3).
///
/// Both flags are set, until [`promise`] knows better.
pub const FILE_HEADER: [u8; 13] = [b'F', b'L', b'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0];

/// Bytes that a tag adds to its body: header and PreviousTagSize.
pub const TAG_OVERHEAD: usize = 11 + 4;

/// The largest body a tag can hold: its size field has 24 bits.
pub const BODY_MAX: usize = 0xff_ffff;

/// Where the flags stand in the header, and what they say (E.2).
const FLAGS_AT: usize = 4;
const HAS_AUDIO: u8 = 4;
const HAS_VIDEO: u8 = 1;

/// Takes back what the file header at the end of `head` promises and the stream has not: players such as flv.js and
/// mpegts.js wait for all of it. `tags` is the configuration that goes behind. Only metadata that names one codec alone
/// says that there is no other track; sound without a configuration, such as MP3, would not be in there.
pub fn promise(head: &mut [u8], tags: &[u8]) {
    let Some(header) = head.last_chunk_mut().filter(|header: &&mut [u8; 13]| **header == FILE_HEADER) else { return };
    let (mut known, mut named) = (0, 0);
    let mut rest = tags;
    while let Some((&[kind, a, b, c, ..], tag)) = rest.split_first_chunk::<11>() {
        let Some((body, next)) = tag.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize) else { break };
        known |= match kind {
            8 => HAS_AUDIO,
            9 => HAS_VIDEO,
            _ => 0,
        };
        if body.starts_with(ON_METADATA) {
            let names = |codec: &[u8]| body.windows(codec.len()).any(|part| part == codec);
            named |= if names(b"audiocodecid") { HAS_AUDIO } else { 0 };
            named |= if names(b"videocodecid") { HAS_VIDEO } else { 0 };
        }
        rest = next.get(4..).unwrap_or_default();
    }
    if named != 0 {
        header[FLAGS_AT] = known | named;
    }
}

/// What the first bytes of a tag body say. Anything not understood is an ordinary frame, never an error: payloads
/// pass through byte for byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagInfo {
    /// Video key frame that a decoder can start at.
    pub keyframe: bool,
    /// Codec configuration (sequence header), metadata: what every player needs before its first frame.
    pub config: bool,
    /// Which configuration a newer one of the same kind and slot replaces: the track id, plus [`SLOT_METADATA`] for
    /// enhanced metadata.
    pub slot: u16,
    /// What the payload is encoded in.
    pub codec: Codec,
}

/// Added to a slot for enhanced metadata (HDR, channel layout), which stands beside its track's sequence header.
pub const SLOT_METADATA: u16 = 0x100;

/// Added to a slot for sound in another codec that stands in for the same sound in the usual one: a server's own, which
/// goes to players that said that they understand it, in place of the other. No body says so.
pub const SLOT_ALTERNATIVE: u16 = 0x200;

/// A codec as FLV names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Data, or a body too short to tell.
    #[default]
    None,
    /// CodecID or SoundFormat of the legacy header.
    Legacy(u8),
    /// FourCC of the enhanced header.
    FourCc([u8; 4]),
}

impl TagInfo {
    /// Reads the head of a body.
    pub fn parse(kind: Kind, body: &[u8]) -> Self {
        match kind {
            Kind::Video => video(body),
            Kind::Audio => audio(body),
            Kind::Data => Self { config: body.starts_with(ON_METADATA), ..Self::default() },
        }
    }
}

/// AMF0 string marker, length 10, `onMetaData`.
const ON_METADATA: &[u8] = b"\x02\x00\x0aonMetaData";

pub(crate) const FRAME_KEY: u8 = 1;
pub(crate) const AVC: u8 = 7;
pub(crate) const HEVC: u8 = 12; // not in Adobe's table, but what encoders in the field write
pub(crate) const AAC: u8 = 10;
pub(crate) const EX_AUDIO: u8 = 9;

pub(crate) mod video_packet {
    pub(crate) const SEQUENCE_START: u8 = 0;
    pub(crate) const CODED_FRAMES: u8 = 1;
    pub(crate) const CODED_FRAMES_X: u8 = 3;
    pub(crate) const METADATA: u8 = 4;
    pub(crate) const MPEG2TS_SEQUENCE_START: u8 = 5;
    pub(crate) const MULTITRACK: u8 = 6;
}

pub(crate) mod audio_packet {
    pub(crate) const SEQUENCE_START: u8 = 0;
    pub(crate) const CODED_FRAMES: u8 = 1;
    pub(crate) const MULTICHANNEL_CONFIG: u8 = 4;
    pub(crate) const MULTITRACK: u8 = 5;
}

/// ModEx, the same value for audio and video: a prefix that modifies the packet behind it.
const MOD_EX: u8 = 7;

fn video(body: &[u8]) -> TagInfo {
    let Some(&head) = body.first() else { return TagInfo::default() };
    if head & 0x80 == 0 {
        let (frame, codec) = (head >> 4, head & 0x0f);
        let packet = body.get(1).copied();
        let config = matches!(codec, AVC | HEVC) && packet == Some(0);
        let coded = !matches!(codec, AVC | HEVC) || packet == Some(1);
        return TagInfo { keyframe: frame == FRAME_KEY && coded, config, slot: 0, codec: Codec::Legacy(codec) };
    }
    let key = (head >> 4) & 7 == FRAME_KEY;
    let Some(ex) = enhanced(head & 0x0f, body, video_packet::MULTITRACK) else { return TagInfo::default() };
    let metadata = ex.packet == video_packet::METADATA;
    TagInfo {
        keyframe: key && matches!(ex.packet, video_packet::CODED_FRAMES | video_packet::CODED_FRAMES_X),
        config: metadata || matches!(ex.packet, video_packet::SEQUENCE_START | video_packet::MPEG2TS_SEQUENCE_START),
        slot: u16::from(ex.track) + if metadata { SLOT_METADATA } else { 0 },
        codec: Codec::FourCc(ex.four_cc),
    }
}

fn audio(body: &[u8]) -> TagInfo {
    let Some(&head) = body.first() else { return TagInfo::default() };
    let format = head >> 4;
    if format != EX_AUDIO {
        let config = format == AAC && body.get(1) == Some(&0);
        return TagInfo { keyframe: false, config, slot: 0, codec: Codec::Legacy(format) };
    }
    let Some(ex) = enhanced(head & 0x0f, body, audio_packet::MULTITRACK) else { return TagInfo::default() };
    let layout = ex.packet == audio_packet::MULTICHANNEL_CONFIG;
    TagInfo {
        keyframe: false,
        config: layout || ex.packet == audio_packet::SEQUENCE_START,
        slot: u16::from(ex.track) + if layout { SLOT_METADATA } else { 0 },
        codec: Codec::FourCc(ex.four_cc),
    }
}

pub(crate) struct Enhanced<'a> {
    pub(crate) packet: u8,
    pub(crate) track: u8,
    pub(crate) four_cc: [u8; 4],
    /// What is behind: of the first track where there are more.
    pub(crate) data: &'a [u8],
}

/// Walks ModEx prefixes and the multitrack header to the packet type, FourCC and (first) track id.
pub(crate) fn enhanced(mut packet: u8, body: &[u8], multitrack: u8) -> Option<Enhanced<'_>> {
    let mut rest = body.get(1..)?;
    while packet == MOD_EX {
        let (&size, tail) = rest.split_first()?;
        let (size, tail) = match size {
            255 => {
                let (wide, tail) = tail.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*wide)) + 1, tail)
            }
            n => (usize::from(n) + 1, tail),
        };
        let (&next, tail) = tail.get(size..)?.split_first()?;
        packet = next & 0x0f;
        rest = tail;
    }
    if packet != multitrack {
        let (four_cc, data) = rest.split_first_chunk::<4>()?;
        return Some(Enhanced { packet, track: 0, four_cc: *four_cc, data });
    }
    // AvMultitrackType in the high nibble; every form has one FourCC before the first track id.
    let (&kinds, tail) = rest.split_first()?;
    let (four_cc, tail) = tail.split_first_chunk::<4>()?;
    let (&track, data) = tail.split_first()?;
    // Only a single track goes without a size of its data.
    let data = match data.split_first_chunk::<3>() {
        Some((&[a, b, c], sized)) if kinds >> 4 != 0 => {
            let size = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0);
            sized.get(..size).unwrap_or_default()
        }
        _ => data,
    };
    Some(Enhanced { packet: kinds & 0x0f, track, four_cc: *four_cc, data })
}

/// Appends a frame as an FLV tag with its PreviousTagSize (E.4.1).
pub fn write_tag(out: &mut Vec<u8>, frame: &Frame) {
    let size = u32::try_from(frame.body.len().min(BODY_MAX)).unwrap_or(0);
    let [_, s @ ..] = size.to_be_bytes();
    let [extended, t @ ..] = frame.timestamp_ms().to_be_bytes();
    out.push(frame.kind as u8);
    out.extend_from_slice(&s);
    out.extend_from_slice(&t);
    out.extend_from_slice(&[extended, 0, 0, 0]);
    out.extend_from_slice(frame.body.get(..BODY_MAX).unwrap_or(&frame.body));
    out.extend_from_slice(&(size + 11).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameId;
    use bytes::Bytes;

    fn info(kind: Kind, body: &[u8]) -> (bool, bool, u16) {
        let i = TagInfo::parse(kind, body);
        (i.keyframe, i.config, i.slot)
    }

    #[test]
    fn legacy_bodies() {
        assert_eq!(info(Kind::Video, &[0x17, 0, 0, 0, 0]), (false, true, 0), "AVC sequence header");
        assert_eq!(info(Kind::Video, &[0x17, 1, 0, 0, 0]), (true, false, 0), "AVC key");
        assert_eq!(info(Kind::Video, &[0x27, 1, 0, 0, 0]), (false, false, 0), "AVC inter");
        assert_eq!(info(Kind::Video, &[0x17, 2, 0, 0, 0]), (false, false, 0), "AVC end of sequence");
        assert_eq!(info(Kind::Video, &[0x1c, 0]), (false, true, 0), "HEVC sequence header");
        assert_eq!(info(Kind::Video, &[0x12, 9]), (true, false, 0), "H.263 key has no packet type");
        assert_eq!(info(Kind::Audio, &[0xaf, 0, 0x12, 0x10]), (false, true, 0));
        assert_eq!(info(Kind::Audio, &[0xaf, 1]), (false, false, 0));
        assert_eq!(info(Kind::Audio, &[0x2f, 0]), (false, false, 0), "MP3 has no header");
        assert_eq!(info(Kind::Data, b"\x02\x00\x0aonMetaData\x08"), (false, true, 0));
        assert_eq!(info(Kind::Data, b"\x02\x00\x09onTextData"), (false, false, 0));
    }

    #[test]
    fn enhanced_bodies() {
        assert_eq!(info(Kind::Video, b"\x90hvc1"), (false, true, 0));
        assert_eq!(info(Kind::Video, b"\x91hvc1\0\0\0x"), (true, false, 0));
        assert_eq!(info(Kind::Video, b"\x93av01x"), (true, false, 0));
        assert_eq!(info(Kind::Video, b"\xa3av01x"), (false, false, 0));
        assert_eq!(info(Kind::Video, b"\x94hvc1x"), (false, true, SLOT_METADATA));
        assert_eq!(info(Kind::Video, b"\x96\x00vp09\x05x"), (false, true, 5), "one track, sequence start");
        assert_eq!(info(Kind::Video, b"\x96\x01vp09\x05x"), (true, false, 5), "one track, coded frames");
        assert_eq!(info(Kind::Audio, b"\x90Opus"), (false, true, 0));
        assert_eq!(info(Kind::Audio, b"\x91Opus"), (false, false, 0));
        assert_eq!(
            info(Kind::Video, b"\x97\x02abc\x01hvc1"),
            (true, false, 0),
            "ModEx of three bytes, then coded frames"
        );
        assert_eq!(info(Kind::Video, b"\x97\xff\x00\x00a\x03hvc1"), (true, false, 0), "ModEx with a wide size");
        assert_eq!(TagInfo::parse(Kind::Video, b"\x90hvc1").codec, Codec::FourCc(*b"hvc1"));
    }

    #[test]
    fn truncated_bodies_are_ordinary() {
        for body in [&b""[..], b"\x90", b"\x90hv", b"\x96", b"\x96\x00vp09", b"\x97\xff\xff\xff", b"\x97\x05a"] {
            assert_eq!(info(Kind::Video, body), (false, false, 0), "{body:?}");
        }
    }

    #[test]
    fn tag_bytes() {
        let frame = Frame::new(FrameId::default(), Kind::Audio, 0x0102_0304_i64 * 1000, Bytes::from_static(&[0xaf, 1]));
        let mut out = Vec::new();
        write_tag(&mut out, &frame);
        assert_eq!(out, [8, 0, 0, 2, 2, 3, 4, 1, 0, 0, 0, 0xaf, 1, 0, 0, 0, 13]);
        assert_eq!(out.len(), frame.body.len() + TAG_OVERHEAD);
    }

    #[test]
    fn the_header_promises_what_there_is() {
        let tag = |kind, body: &[u8]| {
            let mut out = Vec::new();
            write_tag(&mut out, &Frame::new(FrameId::default(), kind, 0, Bytes::copy_from_slice(body)));
            out
        };
        let data = |names: &str| tag(Kind::Data, &[ON_METADATA, names.as_bytes()].concat());
        let (avc, aac) = (tag(Kind::Video, &[0x17, 0]), tag(Kind::Audio, &[0xaf, 0]));
        let flags = |tags: &[&[u8]]| {
            let mut head = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &FILE_HEADER].concat();
            promise(&mut head, &tags.concat());
            head[head.len() - 9]
        };
        let (both, picture, sound) = (data("videocodecid audiocodecid"), data("videocodecid"), data("audiocodecid"));
        assert_eq!(flags(&[]), 5);
        assert_eq!(flags(&[&avc]), 5, "MP3 has no configuration");
        assert_eq!(flags(&[&data("width"), &avc]), 5);
        assert_eq!(flags(&[&both, &avc]), 5);
        assert_eq!(flags(&[&picture, &avc]), 1);
        assert_eq!(flags(&[&sound, &aac]), 4);
        assert_eq!(flags(&[&picture, &avc, &aac]), 5, "what is there is there");
        assert_eq!(flags(&[&picture[..20]]), 5, "cut off");
        let mut other = b"nothing of FLV at all".to_vec();
        promise(&mut other, &picture);
        assert_eq!(other, b"nothing of FLV at all");
    }

    #[test]
    fn fuzz_info() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|body: &[u8]| {
            for kind in [Kind::Audio, Kind::Video, Kind::Data] {
                let _ = TagInfo::parse(kind, body);
            }
            promise(&mut FILE_HEADER.to_vec(), body);
        });
    }
}
