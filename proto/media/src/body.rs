//! Tag bodies of the codecs that a bridge reads and writes: what is behind the head, and heads for what is made here.

use crate::flv::{self, AAC, AVC, EX_AUDIO, FRAME_KEY, HEVC, audio_packet, video_packet};

/// A codec of pictures, however its head is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// H.264: legacy id 7, `avc1`.
    Avc,
    /// H.265: legacy id 12, `hvc1`.
    Hevc,
    /// `av01`.
    Av1,
    /// `vp08`.
    Vp8,
    /// `vp09`.
    Vp9,
}

impl VideoCodec {
    /// Its FourCC in enhanced heads.
    pub fn four_cc(self) -> [u8; 4] {
        match self {
            Self::Avc => *b"avc1",
            Self::Hevc => *b"hvc1",
            Self::Av1 => *b"av01",
            Self::Vp8 => *b"vp08",
            Self::Vp9 => *b"vp09",
        }
    }

    fn from_four_cc(four_cc: [u8; 4]) -> Option<Self> {
        [Self::Avc, Self::Hevc, Self::Av1, Self::Vp8, Self::Vp9].into_iter().find(|codec| codec.four_cc() == four_cc)
    }

    /// A composition time stands between head and data of coded frames (ExVideoTagBody).
    fn composed(self) -> bool {
        matches!(self, Self::Avc | Self::Hevc)
    }
}

/// A codec of sound, however its head is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioCodec {
    /// AAC: legacy format 10, `mp4a`.
    Aac,
    /// MP3: legacy formats 2 and 14, `.mp3`.
    Mp3,
    /// `Opus`.
    Opus,
}

/// A video body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video<'a> {
    /// Its codec.
    pub codec: VideoCodec,
    /// It is the configuration record; else coded data of a frame.
    pub config: bool,
    /// A decoder can begin here.
    pub keyframe: bool,
    /// Presentation time less decoding time, in milliseconds.
    pub composition_ms: i32,
    /// The record or the frame.
    pub data: &'a [u8],
}

impl<'a> Video<'a> {
    /// Reads a body; none of a codec not known here, of what is neither configuration nor frame, of another track than
    /// the first, and where it is cut short.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (&head, rest) = body.split_first()?;
        let keyframe = head >> 4 & 7 == FRAME_KEY;
        if head & 0x80 == 0 {
            let codec = match head & 0x0f {
                AVC => VideoCodec::Avc,
                HEVC => VideoCodec::Hevc,
                _ => return None,
            };
            let (&packet, rest) = rest.split_first()?;
            let (composition_ms, data) = signed24(rest)?;
            let config = packet == 0;
            return (packet <= 1).then_some(Self {
                codec,
                config,
                keyframe: keyframe && !config,
                composition_ms,
                data,
            });
        }
        let found = flv::enhanced(head & 0x0f, body, video_packet::MULTITRACK).filter(|found| found.track == 0)?;
        let codec = VideoCodec::from_four_cc(found.four_cc)?;
        let (mut composition_ms, mut data) = (0, found.data);
        let config = match found.packet {
            video_packet::SEQUENCE_START => true,
            video_packet::CODED_FRAMES => {
                if codec.composed() {
                    (composition_ms, data) = signed24(data)?;
                }
                false
            }
            video_packet::CODED_FRAMES_X => false,
            _ => return None,
        };
        Some(Self { codec, config, keyframe: keyframe && !config, composition_ms, data })
    }
}

/// SI24: composition times of either form.
fn signed24(rest: &[u8]) -> Option<(i32, &[u8])> {
    let (&[a, b, c], rest) = rest.split_first_chunk()?;
    Some((i32::from_be_bytes([a, b, c, 0]) >> 8, rest))
}

/// An audio body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audio<'a> {
    /// Its codec.
    pub codec: AudioCodec,
    /// It is the configuration (AudioSpecificConfig, OpusHead); else a coded frame.
    pub config: bool,
    /// The configuration or the frame.
    pub data: &'a [u8],
}

impl<'a> Audio<'a> {
    /// Reads a body; none where [`Video::parse`] would give none.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (&head, rest) = body.split_first()?;
        match head >> 4 {
            AAC => {
                let (&packet, data) = rest.split_first()?;
                return (packet <= 1).then_some(Self { codec: AudioCodec::Aac, config: packet == 0, data });
            }
            2 | 14 => return Some(Self { codec: AudioCodec::Mp3, config: false, data: rest }),
            EX_AUDIO => {}
            _ => return None,
        }
        let found = flv::enhanced(head & 0x0f, body, audio_packet::MULTITRACK).filter(|found| found.track == 0)?;
        let codec = match &found.four_cc {
            b"mp4a" => AudioCodec::Aac,
            b".mp3" => AudioCodec::Mp3,
            b"Opus" => AudioCodec::Opus,
            _ => return None,
        };
        let config = found.packet == audio_packet::SEQUENCE_START;
        (found.packet <= audio_packet::CODED_FRAMES).then_some(Self { codec, config, data: found.data })
    }
}

/// The head of a body with a configuration record: H.264 in the legacy form, which every player reads; others enhanced.
pub fn video_config_head(codec: VideoCodec) -> Vec<u8> {
    match codec {
        VideoCodec::Avc => vec![FRAME_KEY << 4 | AVC, 0, 0, 0, 0],
        _ => enhanced_head(codec, true, video_packet::SEQUENCE_START),
    }
}

/// The head of a body with a coded frame, in the form of [`video_config_head`]; `composition_ms` is clamped to its 24
/// bits, and left out where the codec has none.
pub fn video_head(codec: VideoCodec, keyframe: bool, composition_ms: i32) -> Vec<u8> {
    let [_, composition @ ..] = composition_ms.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
    let mut head = match codec {
        VideoCodec::Avc => vec![if keyframe { FRAME_KEY } else { FRAME_KEY + 1 } << 4 | AVC, 1],
        _ => enhanced_head(codec, keyframe, video_packet::CODED_FRAMES),
    };
    if codec.composed() {
        head.extend(composition);
    }
    head
}

fn enhanced_head(codec: VideoCodec, keyframe: bool, packet: u8) -> Vec<u8> {
    let frame = if keyframe { FRAME_KEY } else { FRAME_KEY + 1 };
    let mut head = vec![0x80 | frame << 4 | packet];
    head.extend(codec.four_cc());
    head
}

/// The head of an AAC body: what the legacy one says of rate and channels is fixed (E.4.2.1 of the FLV specification).
pub fn aac_head(config: bool) -> [u8; 2] {
    [AAC << 4 | 0x0f, u8::from(!config)]
}

/// The configuration of Opus with so many channels at 48 kHz (OpusHead, RFC 7845 5.1), as a stream without a start has it.
pub fn opus_config(channels: u8) -> [u8; 19] {
    let mut head = *b"OpusHead\x01\0\0\0\0\0\0\0\0\0\0";
    head[9] = channels;
    head[12..16].copy_from_slice(&48_000_u32.to_le_bytes());
    head
}

/// The head of an Opus body.
pub fn opus_head(config: bool) -> [u8; 5] {
    let packet = if config { audio_packet::SEQUENCE_START } else { audio_packet::CODED_FRAMES };
    [EX_AUDIO << 4 | packet, b'O', b'p', b'u', b's']
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_both_ways() {
        let all = [VideoCodec::Avc, VideoCodec::Hevc, VideoCodec::Av1, VideoCodec::Vp8, VideoCodec::Vp9];
        for codec in all {
            let mut body = video_config_head(codec);
            body.push(7);
            let config = Video { codec, config: true, keyframe: false, composition_ms: 0, data: &[7] };
            assert_eq!(Video::parse(&body), Some(config));
            for (keyframe, time) in [(true, 0), (false, 80), (false, -40)] {
                let mut body = video_head(codec, keyframe, time);
                body.push(9);
                let composition_ms = if codec.composed() { time } else { 0 };
                assert_eq!(
                    Video::parse(&body),
                    Some(Video { codec, config: false, keyframe, composition_ms, data: &[9] })
                );
            }
        }
    }

    #[test]
    fn video_of_others() {
        let parse = |body: &[u8]| Video::parse(body).map(|video| (video.codec, video.keyframe, video.data.to_vec()));
        assert_eq!(parse(b"\x1c\x01\0\0\0x"), Some((VideoCodec::Hevc, true, b"x".to_vec())), "legacy HEVC");
        assert_eq!(parse(b"\x93avc1x"), Some((VideoCodec::Avc, true, b"x".to_vec())), "CodedFramesX");
        assert_eq!(parse(b"\x96\x01vp09\0x"), Some((VideoCodec::Vp9, true, b"x".to_vec())), "one track");
        assert_eq!(parse(b"\x96\x11vp09\0\0\0\x01x\x01\0\0\x01y"), Some((VideoCodec::Vp9, true, b"x".to_vec())), "two");
        assert_eq!(parse(b"\x96\x01vp09\x02x"), None, "another track");
        assert_eq!((parse(b"\x17\x02\0\0\0"), parse(b"\x12x"), parse(b"\x17\x01\0")), (None, None, None));
    }

    #[test]
    fn audio() {
        let parse = |body: &[u8]| Audio::parse(body).map(|audio| (audio.codec, audio.config, audio.data.to_vec()));
        assert_eq!(parse(b"\xaf\0\x12\x10"), Some((AudioCodec::Aac, true, vec![0x12, 0x10])));
        assert_eq!(parse(b"\xaf\x01x"), Some((AudioCodec::Aac, false, b"x".to_vec())));
        assert_eq!(parse(b"\x2fx"), Some((AudioCodec::Mp3, false, b"x".to_vec())));
        assert_eq!(parse(b"\x90OpusOpusHead"), Some((AudioCodec::Opus, true, b"OpusHead".to_vec())));
        assert_eq!(parse(b"\x91Opusx"), Some((AudioCodec::Opus, false, b"x".to_vec())));
        assert_eq!((parse(b"\x3fx"), parse(b"\x91ac-3x"), parse(b"\xaf")), (None, None, None));
        assert_eq!((&aac_head(true), &aac_head(false)), (b"\xaf\0", b"\xaf\x01"));
        assert_eq!(&opus_head(false), b"\x91Opus");
        assert_eq!(&opus_config(2), b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0");
    }

    #[test]
    fn fuzz_bodies() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|body: &[u8]| {
            let _ = (Video::parse(body), Audio::parse(body));
        });
    }
}
