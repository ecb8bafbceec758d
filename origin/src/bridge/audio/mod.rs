//! Sound from one codec into another: AAC and MP3 to Opus for WebRTC players, Opus to AAC for those over RTMP.
//!
//! [`Pipeline`] is a machine: the same chunks make the same frames. [`Pool`] is the shell around it: a few threads,
//! because a second of sound takes about 6 ms of a core to transcode.
//!
//! Latency, besides the frames that are waited for: one frame of the codec that is written (20 ms of Opus, 21.3 ms of
//! AAC) fills up first. What the codecs delay (6.5 ms Opus, 21.3 ms AAC, 3.3 ms for another rate) is taken off the
//! times, so that sound and picture stay together.

mod codec;
mod pipeline;
mod pool;
mod resample;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub(crate) use pipeline::Pipeline;
#[cfg_attr(not(test), expect(unused_imports, reason = "plugged in by the WebRTC sessions"))]
pub(crate) use pool::{Pool, Transcoder};

/// Samples of a channel a second, of all that is written.
const RATE: u32 = 48_000;

/// Channels of all that is written: browsers offer `opus/48000/2`.
const CHANNELS: usize = 2;

/// A coded frame that is read, in bytes: eight channels of AAC at their most.
const CHUNK_MAX: usize = 8 * 6144 / 8 + 1024;

/// What is read, and what a decoder has to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Raw frames, with their AudioSpecificConfig.
    Aac(Bytes),
    /// Whole frames.
    Mp3,
    /// Packets of one or two channels.
    Opus,
}

/// What is written, and its bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Frames of 20 ms.
    Opus(u32),
    /// Frames of LC, 1024 samples.
    Aac(u32),
}

/// A coded frame to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// What it is.
    pub(crate) source: Source,
    /// Presentation time of its first sample in microseconds.
    pub(crate) pts_us: i64,
    /// The frame.
    pub(crate) data: Bytes,
}

/// A coded frame that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coded {
    /// Presentation time of its first sample in microseconds; may lie before the first one read, by what codecs delay.
    pub(crate) pts_us: i64,
    /// AudioSpecificConfig; empty for Opus.
    pub(crate) config: Bytes,
    /// The frame.
    pub(crate) data: Bytes,
}

/// Why sound is not transcoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A frame of more than [`CHUNK_MAX`] bytes.
    #[error("a frame of {0} bytes")]
    Long(usize),
    /// A frame that is none of its codec, or of a kind that is not read.
    #[error("{codec}: {reason}")]
    Decode {
        /// Its name.
        codec: &'static str,
        /// What its decoder says.
        reason: String,
    },
    /// Samples that could not be written, or an encoder or resampler that could not be made.
    #[error("{codec}: {reason}")]
    Encode {
        /// Its name.
        codec: &'static str,
        /// What it says.
        reason: String,
    },
}
