//! What a stream is made of, in words: for operators, read when somebody asks.

use crate::body::{Audio, AudioCodec, Video, VideoCodec};
use crate::codec::{Size, aac, av1, avc, hevc, vpx};
use crate::{Frame, Gop, Kind};

/// A picture's codec and size. Strings are empty, and numbers 0, where they are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// `H264`, `HEVC`, `AV1`, `VP8` or `VP9`.
    pub codec: &'static str,
    /// As its standard names it.
    pub profile: String,
    /// As its standard names it: `3.1`.
    pub level: String,
    /// Pixels.
    pub size: Size,
}

/// A sound's codec and shape, as [`Picture`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sound {
    /// `AAC`, `MP3` or `Opus`.
    pub codec: &'static str,
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: u8,
    /// Of AAC: `LC`, `HE`, `HEv2`, `Main`.
    pub profile: &'static str,
}

/// The picture of a stream with this newest group.
pub fn picture(gop: &Gop) -> Option<Picture> {
    let mut found = None;
    for frame in said(gop, Kind::Video) {
        let Some(video) = Video::parse(&frame.body) else { continue };
        let more = if video.config { of_config(&video) } else { of_keyframe(&video) };
        let better = found.as_ref().is_none_or(|found: &Picture| found.size == Size::default());
        if better && (more.size != Size::default() || found.is_none()) {
            found = Some(more);
        }
        if found.as_ref().is_some_and(|found| found.size != Size::default()) {
            break;
        }
    }
    found
}

/// The sound of a stream with this newest group.
pub fn sound(gop: &Gop) -> Option<Sound> {
    said(gop, Kind::Audio).find_map(|frame| {
        let audio = Audio::parse(&frame.body)?;
        Some(match audio.codec {
            AudioCodec::Aac => aac(&audio)?,
            AudioCodec::Opus if audio.config => opus(audio.data),
            AudioCodec::Opus => Sound { codec: "Opus", rate: 48_000, ..Sound::default() },
            AudioCodec::Mp3 => mp3(&frame.body),
        })
    })
}

/// The configuration in force, then a few frames.
fn said(gop: &Gop, kind: Kind) -> impl Iterator<Item = &Frame> {
    const FRAMES: usize = 32;
    let of_kind = move |frame: &&Frame| frame.kind == kind && !frame.is_alternative();
    gop.configs().iter().filter(of_kind).chain(gop.frames().filter(of_kind).take(FRAMES))
}

fn named(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::Avc => "H264",
        VideoCodec::Hevc => "HEVC",
        VideoCodec::Av1 => "AV1",
        VideoCodec::Vp8 => "VP8",
        VideoCodec::Vp9 => "VP9",
    }
}

fn of_config(video: &Video<'_>) -> Picture {
    let read = match video.codec {
        VideoCodec::Avc => avc(video.data),
        VideoCodec::Hevc => hevc(video.data),
        VideoCodec::Av1 => av1(video.data),
        VideoCodec::Vp8 | VideoCodec::Vp9 => None,
    };
    Picture { codec: named(video.codec), ..read.unwrap_or_default() }
}

fn of_keyframe(video: &Video<'_>) -> Picture {
    let read = match video.codec {
        VideoCodec::Vp8 => vpx::vp8_keyframe(video.data).map(|size| Picture { size, ..Picture::default() }),
        VideoCodec::Vp9 => vpx::Vp9::keyframe(video.data).map(|head| Picture {
            profile: head.profile.to_string(),
            size: head.size,
            ..Picture::default()
        }),
        _ => None,
    };
    Picture { codec: named(video.codec), ..read.unwrap_or_default() }
}

/// Profiles of annex A of H.264, and its levels, which are told by ten times their number.
fn avc(record: &[u8]) -> Option<Picture> {
    let sps = avc::Sps::parse(avc::Config::parse(record)?.sps.first()?)?;
    let profile = match sps.profile {
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High10",
        122 => "High422",
        244 => "High444",
        _ => "",
    };
    let (whole, part) = (sps.level / 10, sps.level % 10);
    let level = if part == 0 { whole.to_string() } else { format!("{whole}.{part}") };
    Some(Picture { profile: profile.to_owned(), level, size: sps.size, codec: "" })
}

/// Profiles of annex A of H.265, and its levels, which are told by thirty times their number.
fn hevc(record: &[u8]) -> Option<Picture> {
    let sps = hevc::Sps::parse(hevc::Config::parse(record)?.sps.first()?)?;
    let [first, .., level] = sps.profile;
    let profile = match first & 0x1f {
        1 => "Main",
        2 => "Main10",
        3 => "MainStillPicture",
        4 => "Rext",
        _ => "",
    };
    let (whole, part) = (level / 30, level % 30 / 3);
    let level = if part == 0 { whole.to_string() } else { format!("{whole}.{part}") };
    Some(Picture { profile: profile.to_owned(), level, size: sps.size, codec: "" })
}

/// Profiles and levels of annex A of AV1: the index counts in quarters from 2.0.
fn av1(record: &[u8]) -> Option<Picture> {
    let units = av1::parse_config(record)?;
    let sequence = av1::Obus(units).find(|unit| unit.kind() == av1::unit::SEQUENCE_HEADER)?;
    let sequence = av1::Sequence::parse(sequence.payload)?;
    let profile = ["Main", "High", "Professional"].get(usize::from(sequence.profile)).copied().unwrap_or_default();
    let level = format!("{}.{}", 2 + sequence.level / 4, sequence.level % 4);
    Some(Picture { profile: profile.to_owned(), level, size: sequence.size, codec: "" })
}

fn aac(audio: &Audio<'_>) -> Option<Sound> {
    if !audio.config {
        return None;
    }
    let config = aac::Config::parse(audio.data)?;
    let profile = match config.object {
        1 => "Main",
        2 => "LC",
        3 => "SSR",
        4 => "LTP",
        5 => "HE",
        29 => "HEv2",
        _ => "",
    };
    let channels = if config.channels == 7 { 8 } else { config.channels };
    Some(Sound { codec: "AAC", rate: config.rate, channels, profile })
}

/// OpusHead (RFC 7845 5.1): the rate is always 48 kHz, whatever was encoded.
fn opus(head: &[u8]) -> Sound {
    Sound { codec: "Opus", rate: 48_000, channels: head.get(9).copied().unwrap_or(0), profile: "" }
}

/// What the legacy head says (E.4.2.1 of the FLV specification).
fn mp3(body: &[u8]) -> Sound {
    let head = body.first().copied().unwrap_or(0);
    let rate = match (head >> 4, head >> 2 & 3) {
        (14, _) => 8_000,
        (2, 0) => 5_512,
        (2, 1) => 11_025,
        (2, 2) => 22_050,
        (2, _) => 44_100,
        _ => return Sound { codec: "MP3", ..Sound::default() },
    };
    Sound { codec: "MP3", rate, channels: 1 + (head & 1), profile: "" }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::body::{aac_head, opus_config, opus_head, video_config_head, video_head};
    use crate::{FrameId, GopLimits};

    fn gop(bodies: &[(Kind, Vec<u8>)]) -> Gop {
        let mut gop = Gop::new(GopLimits { bytes: 100_000, frames: 100, duration: 10_000_000 });
        for (seq, (kind, body)) in (0..).zip(bodies) {
            gop.push(&Frame::new(FrameId { epoch: 1, seq }, *kind, 0, Bytes::from(body.clone())));
        }
        gop
    }

    /// x264's of a picture of 320x240 at level 1.3, constrained baseline.
    const SPS: &[u8] = &[
        0x67, 0x42, 0xc0, 0x0d, 0xd9, 0x01, 0x41, 0xfb, 0x01, 0x10, 0, 0, 3, 0, 0x10, 0, 0, 3, 3, 0x20, 0xf1, 0x42,
        0x99, 0x20,
    ];

    #[test]
    fn what_encoders_say() {
        let config = avc::Config {
            length: 4,
            sps: vec![Bytes::from_static(SPS)],
            pps: vec![Bytes::from_static(&[0x68, 0xcb, 0x83, 0xcb, 0x20])],
        };
        let video = [video_config_head(VideoCodec::Avc), config.write().unwrap()].concat();
        let audio = [&aac_head(true)[..], &[0x12, 0x10]].concat();
        let both = gop(&[(Kind::Video, video), (Kind::Audio, audio)]);
        let size = Size { width: 320, height: 240 };
        let expected = Picture { codec: "H264", profile: "Baseline".into(), level: "1.3".into(), size };
        assert_eq!(picture(&both), Some(expected));
        assert_eq!(sound(&both), Some(Sound { codec: "AAC", rate: 44_100, channels: 2, profile: "LC" }));
    }

    #[test]
    fn sizes_of_keyframes() {
        let vp8 = b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00";
        let frame = [&video_head(VideoCodec::Vp8, true, 0)[..], vp8].concat();
        let found = picture(&gop(&[(Kind::Video, frame)])).unwrap();
        assert_eq!((found.codec, found.size), ("VP8", Size { width: 320, height: 240 }));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        assert_eq!((picture(&gop(&[])), sound(&gop(&[]))), (None, None));
        let broken = [video_config_head(VideoCodec::Hevc), vec![1, 2, 3]].concat();
        let found = picture(&gop(&[(Kind::Video, broken)])).unwrap();
        assert_eq!((found.codec, found.size), ("HEVC", Size::default()));
        let head = [&opus_head(true)[..], &opus_config(2)].concat();
        assert_eq!(sound(&gop(&[(Kind::Audio, head)])).map(|s| (s.codec, s.channels)), Some(("Opus", 2)));
        let mut alternative = Gop::new(GopLimits { bytes: 100_000, frames: 100, duration: 10_000_000 });
        let frame = Frame::new(FrameId::default(), Kind::Audio, 0, Bytes::from(opus_head(false).to_vec()));
        alternative.push(&frame.as_alternative());
        assert_eq!(sound(&alternative), None);
    }
}
