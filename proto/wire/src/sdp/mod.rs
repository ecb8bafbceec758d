//! Offers of WebRTC peers, and the answers to them (RFC 8829, RFC 8866), as far as one sound and one picture go.
//!
//! The grammar is the webrtc project's; what an offer means here, and what is answered, is decided in this module.

mod answer;
mod offer;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Candidate, Local, Sources, Track};
pub use offer::{Offer, Offered, OfferedMedia};

use crate::rtp::Codec;

/// The longest offer, in bytes. Chrome's with all codecs has 8 KiB.
pub const OFFER_MAX: usize = 64 * 1024;

/// Lines of an offer, sections, and entries of one kind in a section that are looked at.
const LINES_MAX: usize = 2000;
const SECTIONS_MAX: usize = 16;
const ENTRIES_MAX: usize = 128;

/// Why an offer is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`OFFER_MAX`], or more lines or sections than any peer writes.
    #[error("the offer is too large")]
    TooLarge,
    /// Not SDP.
    #[error("the offer is not valid SDP: {0}")]
    Malformed(String),
    /// A line that every peer writes is not there, or says nothing that is known.
    #[error("the offer has no usable {0}")]
    Missing(&'static str),
    /// There is nothing to send or to receive here.
    #[error("the offer has neither sound nor picture in this direction")]
    NoMedia,
    /// No payload format that both know.
    #[error("the offer has no codec in common with this server")]
    NoCodec,
}

/// Which end begins DTLS (RFC 5763 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The sender of the line does.
    Active,
    /// The receiver does.
    Passive,
    /// The answerer says.
    ActPass,
}

/// How a certificate is digested (RFC 8122 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// `sha-256`.
    Sha256,
    /// `sha-384`.
    Sha384,
    /// `sha-512`.
    Sha512,
}

/// The digest of a peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// By which function.
    pub hash: Hash,
    /// As long as that says.
    pub digest: Vec<u8>,
}

/// Header extensions that are used or passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid` (RFC 9143).
    Mid,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id` (RFC 8852).
    StreamId,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id`.
    RepairedStreamId,
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01.
    TransportCc,
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level` (RFC 6464).
    AudioLevel,
    /// `urn:3gpp:video-orientation`.
    Orientation,
}

impl Extension {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Mid, "urn:ietf:params:rtp-hdrext:sdes:mid"),
        (Self::StreamId, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
        (Self::RepairedStreamId, "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"),
        (Self::TransportCc, "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
        (Self::AudioLevel, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
        (Self::Orientation, "urn:3gpp:video-orientation"),
    ];

    fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == uri).map(|(extension, _)| *extension)
    }

    fn uri(self) -> &'static str {
        Self::ALL.iter().find(|(extension, _)| *extension == self).map_or("", |(_, uri)| uri)
    }
}

/// The payload formats of pictures in the order in which they are preferred.
const PICTURES: [Codec; 5] = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1];
