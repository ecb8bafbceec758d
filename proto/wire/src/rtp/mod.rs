//! RTP and what goes with it (RFC 3550): headers, protection, feedback and payload formats. Pure.

pub mod estimate;
mod header;
pub mod layers;
pub mod nack;
pub mod ntp;
pub mod payload;
pub mod receiver;
pub mod rtcp;
pub mod sender;
pub mod seq;
pub mod twcc;

pub use header::{Error, Extensions, Header};

/// Sound or picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Media {
    /// Sound.
    Audio,
    /// Picture.
    Video,
}

/// A payload format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// RFC 6184, packetization-mode 1.
    H264,
    /// RFC 7798.
    H265,
    /// The AV1 RTP payload format of the Alliance for Open Media, version 1.0.
    Av1,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 7587.
    Opus,
}

impl Codec {
    /// Sound or picture.
    pub fn media(self) -> Media {
        match self {
            Self::Opus => Media::Audio,
            _ => Media::Video,
        }
    }

    /// Ticks of its RTP timestamps in a second.
    pub fn clock(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            _ => 90_000,
        }
    }

    /// Its name in `a=rtpmap` (RFC 8866 6.6); compared without regard to case.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Opus => "opus",
        }
    }
}
