//! The codecs' crates behind two traits.

use bytes::Bytes;
use nanomp3::{Channels, MAX_SAMPLES_PER_FRAME};
use opus_pure::{Application, MAX_PACKET_BYTES, MAX_PACKET_SAMPLES, OpusDecoder, OpusEncoder};
use syom::{Channel, DecodeOptions, EncodeOptions};

use super::{CHANNELS, Error, RATE, Source, Target};

/// Rates that a source may have.
const SOURCE_RATE_MAX: u32 = 96_000;

/// How much the Opus encoder may spend: from 7 on it looks at what kind of sound it is.
const COMPLEXITY: i32 = 7;

/// Left and right by turns.
#[derive(Debug, Default)]
pub(super) struct Pcm {
    /// Samples of a channel a second.
    pub(super) rate: u32,
    /// Pairs.
    pub(super) samples: Vec<f32>,
}

/// Reads frames of one codec.
pub(super) trait Decode: Send {
    /// Replaces `out` with what a frame holds; empty where it gives nothing yet.
    ///
    /// # Errors
    /// It is none; the next one may be.
    fn decode(&mut self, data: &[u8], out: &mut Pcm) -> Result<(), Error>;

    /// Replaces `out` with what may have been in `pairs` samples that are missing; false where it can not tell.
    fn conceal(&mut self, pairs: usize, out: &mut Pcm) -> bool;

    /// Presentation times of its frames are exact to this, in microseconds: by as much and more they differ from the
    /// count of samples only where some are missing, or too many.
    fn tolerance(&self) -> i64;
}

/// Writes frames of one codec.
pub(super) trait Encode: Send {
    /// Pairs of samples in a frame.
    fn frame(&self) -> usize;
    /// By how many pairs what is heard trails what is written.
    fn delay(&self) -> usize;
    /// AudioSpecificConfig, where there is one.
    fn config(&self) -> Bytes;
    /// Writes one frame of as many pairs as [`Encode::frame`] says, within -1 and 1.
    ///
    /// # Errors
    /// The encoder is at its end.
    fn encode(&mut self, pairs: &[f32]) -> Result<Bytes, Error>;
}

/// A decoder for this source.
///
/// # Errors
/// It has none.
pub(super) fn decoder(source: &Source) -> Result<Box<dyn Decode>, Error> {
    Ok(match source {
        Source::Aac(config) => Box::new(Aac::new(config.clone())?),
        Source::Mp3 => Box::new(Mp3 { decoder: nanomp3::Decoder::new(), pcm: vec![0.0; MAX_SAMPLES_PER_FRAME] }),
        Source::Opus => Box::new(Opus::new()?),
    })
}

/// An encoder for this target.
///
/// # Errors
/// Its bits a second are out of its range.
pub(super) fn encoder(target: Target) -> Result<Box<dyn Encode>, Error> {
    Ok(match target {
        Target::Opus(bitrate) => Box::new(OpusOut::new(bitrate)?),
        Target::Aac(bitrate) => Box::new(AacOut::new(bitrate)?),
    })
}

struct Aac {
    decoder: syom::Decoder,
    config: Bytes,
}

impl Aac {
    fn new(config: Bytes) -> Result<Self, Error> {
        let options = DecodeOptions::unbounded().with_max_sample_rate(SOURCE_RATE_MAX);
        let decoder = syom::Decoder::from_asc(&config, options).map_err(Self::error)?;
        Ok(Self { decoder, config })
    }

    fn error(error: syom::AacError) -> Error {
        Error::Decode { codec: "AAC", reason: error.to_string() }
    }
}

impl Decode for Aac {
    fn decode(&mut self, data: &[u8], out: &mut Pcm) -> Result<(), Error> {
        let result = self.decoder.decode_au(data, |frame| {
            out.rate = frame.sample_rate;
            mix(frame.planar, &frame.meta.channels, &mut out.samples);
            Ok(())
        });
        result.map_err(|error| {
            // One bad frame must not end a stream.
            self.decoder.reset();
            let _ = self.decoder.set_asc(&self.config);
            Self::error(error)
        })
    }

    fn conceal(&mut self, _pairs: usize, _out: &mut Pcm) -> bool {
        false
    }

    /// Times in RTMP are whole milliseconds, and some encoders count them frame by frame.
    fn tolerance(&self) -> i64 {
        40_000
    }
}

/// Planes into pairs, more than two mixed by ITU-R BS.775: centre and surround at -3 dB, so that none clips.
fn mix(planes: &[&[f32]], labels: &[Option<Channel>], out: &mut Vec<f32>) {
    const HALF: f32 = core::f32::consts::FRAC_1_SQRT_2;
    match planes {
        [] => {}
        [mono] => out.extend(mono.iter().flat_map(|sample| [*sample; 2])),
        [left, right] => out.extend(left.iter().zip(*right).flat_map(|(left, right)| [*left, *right])),
        _ => {
            let start = out.len();
            let pairs = planes.iter().map(|plane| plane.len()).min().unwrap_or(0);
            out.resize(start + 2 * pairs, 0.0);
            let gain = |label: &Option<Channel>| match label {
                Some(Channel::FrontLeft) => (1.0, 0.0),
                Some(Channel::FrontRight) => (0.0, 1.0),
                Some(Channel::FrontCenter) => (HALF, HALF),
                Some(Channel::BackLeft | Channel::SideLeft) => (HALF, 0.0),
                Some(Channel::BackRight | Channel::SideRight) => (0.0, HALF),
                Some(Channel::BackCenter) => (0.5, 0.5),
                _ => (0.0, 0.0),
            };
            let gains: Vec<(f32, f32)> = labels.iter().take(planes.len()).map(gain).collect();
            let total: f32 = gains.iter().map(|(left, _)| left).sum::<f32>().max(1.0);
            for (plane, (left, right)) in planes.iter().zip(gains) {
                let pairs = out.get_mut(start..).unwrap_or_default().as_chunks_mut().0;
                for ([l, r], sample) in pairs.iter_mut().zip(*plane) {
                    *l += sample * left / total;
                    *r += sample * right / total;
                }
            }
        }
    }
}

struct Mp3 {
    decoder: nanomp3::Decoder,
    pcm: Vec<f32>,
}

impl Decode for Mp3 {
    fn decode(&mut self, data: &[u8], out: &mut Pcm) -> Result<(), Error> {
        let info = match self.decoder.decode(data, &mut self.pcm).1 {
            Ok(info) => info,
            // As the first frames do that refer to others before them.
            Err(nanomp3::DecodeError::ReservoirUnavailable(info)) => info,
            Err(error) => return Err(Error::Decode { codec: "MP3", reason: error.to_string() }),
        };
        out.rate = info.sample_rate;
        let mono = info.channels == Channels::Mono;
        let count = info.samples_produced * if mono { 1 } else { 2 };
        let pcm = self.pcm.get(..count).unwrap_or_default();
        if mono {
            out.samples.extend(pcm.iter().flat_map(|sample| [*sample; 2]));
        } else {
            out.samples.extend_from_slice(pcm);
        }
        Ok(())
    }

    fn conceal(&mut self, _pairs: usize, _out: &mut Pcm) -> bool {
        false
    }

    fn tolerance(&self) -> i64 {
        40_000
    }
}

struct Opus {
    decoder: OpusDecoder,
    pcm: Vec<f32>,
}

impl Opus {
    fn new() -> Result<Self, Error> {
        let decoder = OpusDecoder::new(RATE.cast_signed(), CHANNELS).map_err(Self::error)?;
        Ok(Self { decoder, pcm: vec![0.0; MAX_PACKET_SAMPLES * CHANNELS] })
    }

    fn error(error: opus_pure::Error) -> Error {
        Error::Decode { codec: "Opus", reason: error.to_string() }
    }
}

impl Decode for Opus {
    fn decode(&mut self, data: &[u8], out: &mut Pcm) -> Result<(), Error> {
        let pairs = self.decoder.decode(data, MAX_PACKET_SAMPLES, &mut self.pcm).map_err(Self::error)?;
        out.rate = RATE;
        out.samples.extend_from_slice(self.pcm.get(..pairs * CHANNELS).unwrap_or_default());
        Ok(())
    }

    fn conceal(&mut self, pairs: usize, out: &mut Pcm) -> bool {
        // Multiples of 2.5 ms can be concealed, and no more than a packet may hold.
        let pairs = pairs / 120 * 120;
        if pairs == 0 || pairs > MAX_PACKET_SAMPLES {
            return false;
        }
        let Ok(pairs) = self.decoder.decode(&[], pairs, &mut self.pcm) else { return false };
        out.rate = RATE;
        out.samples.extend_from_slice(self.pcm.get(..pairs * CHANNELS).unwrap_or_default());
        true
    }

    /// RTP timestamps count samples.
    fn tolerance(&self) -> i64 {
        10_000
    }
}

struct OpusOut {
    encoder: Box<OpusEncoder>,
    packet: Vec<u8>,
}

impl OpusOut {
    fn new(bitrate: u32) -> Result<Self, Error> {
        let mut encoder =
            Box::new(OpusEncoder::new(RATE.cast_signed(), CHANNELS, Application::Audio).map_err(Self::error)?);
        encoder.bitrate_bps = i32::try_from(bitrate).unwrap_or(i32::MAX).clamp(6_000, 510_000);
        encoder.complexity = COMPLEXITY;
        Ok(Self { encoder, packet: vec![0; MAX_PACKET_BYTES] })
    }

    fn error(error: opus_pure::Error) -> Error {
        Error::Encode { codec: "Opus", reason: error.to_string() }
    }
}

impl Encode for OpusOut {
    fn frame(&self) -> usize {
        960
    }

    fn delay(&self) -> usize {
        self.encoder.lookahead()
    }

    fn config(&self) -> Bytes {
        Bytes::new()
    }

    fn encode(&mut self, pairs: &[f32]) -> Result<Bytes, Error> {
        let size = self.encoder.encode(pairs, self.frame(), &mut self.packet).map_err(Self::error)?;
        Ok(Bytes::copy_from_slice(self.packet.get(..size).unwrap_or_default()))
    }
}

struct AacOut {
    encoder: syom::Encoder,
    config: Bytes,
    planes: [Vec<f32>; CHANNELS],
}

impl AacOut {
    fn new(bitrate: u32) -> Result<Self, Error> {
        let options = EncodeOptions::raw().with_bitrate_bps(bitrate.clamp(16_000, 320_000));
        let encoder = syom::Encoder::new(RATE, CHANNELS, &options).map_err(Self::error)?;
        let config = Bytes::copy_from_slice(encoder.asc());
        Ok(Self { encoder, config, planes: Default::default() })
    }

    fn error(error: syom::AacError) -> Error {
        Error::Encode { codec: "AAC", reason: error.to_string() }
    }
}

impl Encode for AacOut {
    fn frame(&self) -> usize {
        1024
    }

    /// The overlap of its transform.
    fn delay(&self) -> usize {
        1024
    }

    fn config(&self) -> Bytes {
        self.config.clone()
    }

    fn encode(&mut self, pairs: &[f32]) -> Result<Bytes, Error> {
        let [left, right] = &mut self.planes;
        left.clear();
        right.clear();
        for [l, r] in pairs.as_chunks().0 {
            left.push(*l);
            right.push(*r);
        }
        let mut out = Bytes::new();
        let fed = self.encoder.feed(&[left, right], |frame| {
            out = Bytes::copy_from_slice(frame.payload);
            Ok(())
        });
        fed.map_err(Self::error)?;
        Ok(out)
    }
}
