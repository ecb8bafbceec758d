//! Frames of the hub into RTP payloads for WebRTC players.
//!
//! Pure. Numbers, sources and header extensions are the business of the track that sends the packets; sound in a codec
//! that browsers do not play is handed back for a transcoder.

use bytes::Bytes;
use weir_media::body::{Audio, AudioCodec, Video, VideoCodec};
use weir_media::codec::{Units, av1, avc, hevc};
use weir_media::{Epoch, Frame, Kind};
use weir_wire::rtp::payload::{self, PAYLOAD_MAX};
use weir_wire::rtp::{Codec, Media};

use super::audio::{Chunk, Source};

/// Units of a frame that are looked at; encoders write a few dozen at most.
const UNITS_MAX: usize = 1024;

/// Composition times up to here are believed, in milliseconds: sixteen frames (the deepest reordering of H.264) at
/// three frames a second.
const COMPOSITION_MAX: i32 = 5_000;

/// What a vhost wants of the bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Send B-frames too, with timestamps that go back. Browsers do not play them well.
    pub(crate) keep_bframe: bool,
    /// Bytes of payload in a packet.
    pub(crate) payload_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_bframe: false, payload_max: PAYLOAD_MAX }
    }
}

/// A packet to be sent, without number and source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Sound or picture.
    pub(crate) media: Media,
    /// The payload's format.
    pub(crate) codec: Codec,
    /// Presentation time in ticks of the codec's clock, from the stream's zero.
    pub(crate) timestamp: u32,
    /// The last one of its frame; never set for sound.
    pub(crate) marker: bool,
    /// The first one of a keyframe.
    pub(crate) keyframe: bool,
    /// What stands behind the header.
    pub(crate) payload: Bytes,
}

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// B-frames.
    pub(crate) bframes: u64,
    /// Those of them that other frames may refer to: a pyramid. An encoder whose P-frames refer back to such (x264 with
    /// more than one reference frame) shows broken pictures without them; it has to do without B-frames or pyramid.
    pub(crate) references: u64,
    /// Frames in front of the first keyframe, or without a configuration.
    pub(crate) early: u64,
    /// Frames of codecs that WebRTC has no payload format for, or that are malformed.
    pub(crate) unknown: u64,
}

/// Turns one stream's frames into packets.
#[derive(Debug)]
pub(crate) struct ToRtc {
    options: Options,
    epoch: Option<Epoch>,
    picture: Option<Picture>,
    /// AudioSpecificConfig.
    aac: Option<Bytes>,
    dropped: Dropped,
    payloads: Vec<Bytes>,
}

/// The state of a stream's picture.
#[derive(Debug)]
struct Picture {
    codec: VideoCodec,
    config: Config,
    started: bool,
    /// Presentation time of the newest frame sent, in microseconds, and its timestamp.
    newest: Option<(i64, i64)>,
    /// Frames sent: the picture id of VP8 and VP9.
    count: u16,
}

/// What goes in front of keyframes.
#[derive(Debug)]
enum Config {
    /// Bytes of lengths, and parameter sets in their order.
    Sets(usize, Vec<Bytes>),
    /// A sequence header of AV1 as a unit with a size, or nothing.
    Unit(Vec<u8>),
}

impl Config {
    fn parse(codec: VideoCodec, record: &[u8]) -> Option<Self> {
        Some(match codec {
            VideoCodec::Avc => {
                let config = avc::Config::parse(record)?;
                Self::Sets(config.length, [config.sps, config.pps].concat())
            }
            VideoCodec::Hevc => {
                let config = hevc::Config::parse(record)?;
                Self::Sets(config.length, [config.vps, config.sps, config.pps].concat())
            }
            VideoCodec::Av1 => {
                let mut unit = Vec::new();
                if let Some(payload) = av1::parse_config(record) {
                    av1::write_obu(&mut unit, av1::Obu { head: &[av1::unit::SEQUENCE_HEADER << 3], payload });
                }
                Self::Unit(unit)
            }
            VideoCodec::Vp8 | VideoCodec::Vp9 => Self::Unit(Vec::new()),
        })
    }
}

impl ToRtc {
    /// For one stream.
    pub(crate) fn new(options: Options) -> Self {
        let (epoch, picture, aac) = (None, None, None);
        Self { options, epoch, picture, aac, dropped: Dropped::default(), payloads: Vec::new() }
    }

    /// What was left out so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Turns a frame into packets, appended to `out`. Sound to be transcoded comes back: what the transcoder makes of
    /// it goes to [`ToRtc::opus`].
    pub(crate) fn frame(&mut self, frame: &Frame, out: &mut Vec<Packet>) -> Option<Chunk> {
        if self.epoch.replace(frame.id.epoch) != Some(frame.id.epoch) {
            // Another life of the publication: its frames do not refer to those of the one before.
            if let Some(picture) = &mut self.picture {
                picture.started = false;
            }
        }
        match frame.kind {
            Kind::Video => self.video(frame, out),
            Kind::Audio => return self.audio(frame, out),
            Kind::Data => {}
        }
        None
    }

    /// A packet of Opus with the presentation time of its first sample, in microseconds.
    pub(crate) fn opus(&self, pts_us: i64, payload: Bytes, out: &mut Vec<Packet>) {
        let timestamp = wrap(ticks(pts_us, Codec::Opus));
        let (media, codec) = (Media::Audio, Codec::Opus);
        out.push(Packet { media, codec, timestamp, marker: false, keyframe: false, payload });
    }

    fn audio(&mut self, frame: &Frame, out: &mut Vec<Packet>) -> Option<Chunk> {
        let Some(audio) = Audio::parse(&frame.body) else {
            self.dropped.unknown += 1;
            return None;
        };
        let data = frame.body.slice_ref(audio.data);
        match (audio.codec, audio.config) {
            (AudioCodec::Aac, true) => self.aac = Some(data),
            (AudioCodec::Opus | AudioCodec::Mp3, true) => {}
            _ if data.is_empty() => {}
            (AudioCodec::Opus, false) => self.opus(frame.dts, data, out),
            (AudioCodec::Mp3, false) => return Some(Chunk { source: Source::Mp3, pts_us: frame.dts, data }),
            (AudioCodec::Aac, false) => match &self.aac {
                Some(config) => return Some(Chunk { source: Source::Aac(config.clone()), pts_us: frame.dts, data }),
                None => self.dropped.early += 1,
            },
        }
        None
    }

    fn video(&mut self, frame: &Frame, out: &mut Vec<Packet>) {
        let Some(video) = Video::parse(&frame.body) else {
            self.dropped.unknown += 1;
            return;
        };
        if video.config {
            self.configure(video);
            return;
        }
        // VP8 and VP9 need no configuration.
        if matches!(video.codec, VideoCodec::Vp8 | VideoCodec::Vp9)
            && self.picture.as_ref().is_none_or(|picture| picture.codec != video.codec)
        {
            self.configure(video);
        }
        let picture = match &mut self.picture {
            Some(picture) if picture.codec == video.codec && (picture.started || video.keyframe) => picture,
            _ => {
                self.dropped.early += 1;
                return;
            }
        };
        let composition = video.composition_ms.clamp(-COMPOSITION_MAX, COMPOSITION_MAX);
        let pts = frame.dts.saturating_add(i64::from(composition) * 1000);
        if !self.options.keep_bframe && !video.keyframe {
            let slice = picture.slice(&video);
            if picture.is_b(slice, pts) {
                self.dropped.bframes += 1;
                self.dropped.references += u64::from(slice.is_some_and(|slice| slice.reference));
                return;
            }
        }
        picture.started = true;
        let codec = rtp_codec(video.codec);
        let mut timestamp = ticks(pts, codec);
        if let (Some((_, last)), false) = (picture.newest, self.options.keep_bframe) {
            timestamp = timestamp.max(last + 1);
        }
        picture.newest = Some((pts, timestamp));
        picture.count = picture.count.wrapping_add(1);
        picture.packetise(&video, self.options.payload_max, &mut self.payloads);
        let last = self.payloads.len().saturating_sub(1);
        let timestamp = wrap(timestamp);
        out.extend(self.payloads.drain(..).enumerate().map(|(i, payload)| Packet {
            media: Media::Video,
            codec,
            timestamp,
            marker: i == last,
            keyframe: i == 0 && video.keyframe,
            payload,
        }));
    }

    fn configure(&mut self, video: Video<'_>) {
        let Some(config) = Config::parse(video.codec, video.data) else {
            self.dropped.unknown += 1;
            return;
        };
        match &mut self.picture {
            Some(picture) if picture.codec == video.codec => picture.config = config,
            picture => {
                let newest = picture.as_ref().and_then(|picture| picture.newest);
                *picture = Some(Picture { codec: video.codec, config, started: false, newest, count: 0 });
            }
        }
    }
}

impl Picture {
    /// Whether the frame is one to leave out so that times go forward and what remains decodes: one that is shown
    /// before a frame sent already, which only B-frames are, or a B-frame that none refers to.
    ///
    /// Frames that refer to frames shown later are B-frames, so nothing but B-frames depends on what is left out here,
    /// but where an encoder lets P-frames refer back to B-frames of a pyramid: see [`Dropped::references`].
    fn is_b(&self, slice: Option<avc::Slice>, pts: i64) -> bool {
        self.newest.is_some_and(|(newest, _)| pts <= newest)
            || slice.is_some_and(|slice| slice.bidirectional && !slice.reference)
    }

    /// The header of a frame's first slice, where it is H.264.
    fn slice(&self, video: &Video<'_>) -> Option<avc::Slice> {
        let (VideoCodec::Avc, Config::Sets(length, _)) = (self.codec, &self.config) else { return None };
        Units::new(video.data, *length).take(UNITS_MAX).find_map(avc::Slice::parse)
    }

    fn packetise(&self, video: &Video<'_>, max: usize, out: &mut Vec<Bytes>) {
        match (self.codec, &self.config) {
            (VideoCodec::Avc, Config::Sets(length, sets)) => {
                use avc::unit::{AUD, FILLER, SPS};
                let own = |unit: &&[u8]| unit.len() > 1 && !matches!(avc::kind(unit), AUD..=FILLER);
                let units = gather(video, *length, sets, own, |unit| avc::kind(unit) == SPS);
                payload::h264::packetise(&units, max, out);
            }
            (VideoCodec::Hevc, Config::Sets(length, sets)) => {
                use hevc::unit::{AUD, FILLER, SPS};
                let own = |unit: &&[u8]| unit.len() > 2 && !matches!(hevc::kind(unit), AUD..=FILLER);
                let units = gather(video, *length, sets, own, |unit| hevc::kind(unit) == SPS);
                payload::h265::packetise(&units, max, out);
            }
            (VideoCodec::Av1, Config::Unit(sequence)) => {
                let has = av1::Obus(video.data).any(|obu| obu.kind() == av1::unit::SEQUENCE_HEADER);
                if video.keyframe && !has {
                    let whole = [sequence, video.data].concat();
                    payload::av1::packetise(&whole, true, max, out);
                } else {
                    payload::av1::packetise(video.data, video.keyframe, max, out);
                }
            }
            (VideoCodec::Vp8, _) => payload::vp8::packetise(video.data, self.count, max, out),
            (VideoCodec::Vp9, _) => payload::vp9::packetise(video.data, video.keyframe, self.count, max, out),
            _ => {}
        }
    }
}

/// The units of a frame to be sent, in front of a keyframe's the parameter sets unless it brings its own.
fn gather<'a>(
    video: &Video<'a>,
    length: usize,
    sets: &'a [Bytes],
    wanted: impl Fn(&&'a [u8]) -> bool,
    is_set: impl Fn(&[u8]) -> bool,
) -> Vec<&'a [u8]> {
    let own: Vec<&[u8]> = Units::new(video.data, length).take(UNITS_MAX).filter(wanted).collect();
    if !video.keyframe || own.is_empty() || own.iter().any(|unit| is_set(unit)) {
        return own;
    }
    sets.iter().map(|set| &set[..]).chain(own).collect()
}

fn rtp_codec(codec: VideoCodec) -> Codec {
    match codec {
        VideoCodec::Avc => Codec::H264,
        VideoCodec::Hevc => Codec::H265,
        VideoCodec::Av1 => Codec::Av1,
        VideoCodec::Vp8 => Codec::Vp8,
        VideoCodec::Vp9 => Codec::Vp9,
    }
}

/// Microseconds in ticks of a codec's clock.
fn ticks(us: i64, codec: Codec) -> i64 {
    // Clocks are multiples of 1000 a second, so that this does not overflow where the time itself does not.
    us.div_euclid(1000).saturating_mul(i64::from(codec.clock() / 1000))
        + us.rem_euclid(1000) * i64::from(codec.clock() / 1000) / 1000
}

/// The low 32 bits.
fn wrap(ticks: i64) -> u32 {
    u32::try_from(ticks.rem_euclid(1 << 32)).unwrap_or(0)
}
