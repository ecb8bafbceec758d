//! What is answered.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::offer::{Offer, Offered, OfferedMedia, parameter};
use super::{Error, Extension, PICTURES, Setup};
use crate::rtp::{Codec, Media};

/// An address at which this end is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// An address, or a name that the peer looks up.
    pub host: String,
    /// UDP, or TCP as well.
    pub port: u16,
    /// `tcptype passive` (RFC 6544).
    pub tcp: bool,
}

impl From<SocketAddr> for Candidate {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), tcp: false }
    }
}

/// What this end says of itself.
#[derive(Clone, Debug)]
pub struct Local<'a> {
    /// ICE user name fragment: names the session.
    pub ufrag: &'a str,
    /// ICE password.
    pub pwd: &'a str,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Addresses.
    pub candidates: &'a [Candidate],
    /// Any number; below 2^63.
    pub session: u64,
    /// `app/stream`.
    pub stream: &'a str,
}

/// Sources that this end sends.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// Of sound.
    pub audio: u32,
    /// Of the picture, and of its repair stream.
    pub video: (u32, u32),
}

/// One medium that was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Sound or picture.
    pub media: Media,
    /// Names the section.
    pub mid: String,
    /// What may be sent, the preferred first. A publisher's has one.
    pub codecs: Vec<Offered>,
    /// Header extensions that may be sent.
    pub extensions: Vec<(u8, Extension)>,
    /// Sources that the peer names.
    pub ssrcs: Vec<(u32, Option<u32>)>,
    /// Simulcast layers of a publisher.
    pub rids: Vec<String>,
}

impl Track {
    /// The identifier of an extension.
    pub fn extension(&self, wanted: Extension) -> Option<u8> {
        self.extensions.iter().find(|(_, extension)| *extension == wanted).map(|(id, _)| *id)
    }

    /// Whether the first codec has a kind of feedback.
    pub fn feedback(&self, kind: &str) -> bool {
        self.codecs.first().is_some_and(|codec| codec.feedback.iter().any(|known| known == kind))
    }
}

/// An answer, and what follows from it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub sdp: String,
    /// The media that were agreed on, at most one of sound and one of picture.
    pub tracks: Vec<Track>,
    /// This end begins DTLS.
    pub active: bool,
}

/// Feedback that is answered where it is offered. Of bandwidth estimates, only the sender's own is used.
const FEEDBACK: [&str; 4] = ["transport-cc", "nack", "nack pli", "ccm fir"];

impl Answer {
    /// Answers a publisher: of sound and picture one format each, the wished one if it is offered.
    ///
    /// # Errors
    /// [`Error::NoMedia`], [`Error::NoCodec`].
    pub fn publish(offer: &Offer, local: &Local<'_>, wish: Option<Codec>) -> Result<Self, Error> {
        Self::make(offer, local, None, |media| {
            if !media.sends {
                return None;
            }
            let codec = best(&media.codecs, wish)?.clone();
            let extensions = media.extensions.clone();
            Some((vec![codec], extensions, media.rids.clone()))
        })
    }

    /// Answers a player: every format that both know, what the stream has first, so that a publisher may come later, or
    /// another one with another format.
    ///
    /// # Errors
    /// [`Error::NoMedia`], [`Error::NoCodec`].
    pub fn play(offer: &Offer, local: &Local<'_>, sources: Sources, has: &[Codec]) -> Result<Self, Error> {
        Self::make(offer, local, Some(sources), |media| {
            if !media.receives {
                return None;
            }
            let mut codecs: Vec<Offered> = Vec::new();
            for codec in has.iter().copied().chain([Codec::Opus]).chain(PICTURES) {
                if let Some(offered) = best(&of_codec(&media.codecs, codec), None)
                    && !codecs.iter().any(|known| known.codec == codec)
                {
                    codecs.push(offered.clone());
                }
            }
            // Arrival times are asked for only of what is repaired apart: a repetition cannot carry another number.
            let repaired = codecs.iter().all(|codec| codec.rtx.is_some());
            let passed_on = |(_, extension): &(u8, Extension)| match extension {
                Extension::AudioLevel | Extension::Orientation => true,
                Extension::TransportCc => repaired,
                _ => false,
            };
            let extensions = media.extensions.iter().filter(|e| passed_on(e)).copied().collect();
            (!codecs.is_empty()).then_some((codecs, extensions, Vec::new()))
        })
    }

    fn make(
        offer: &Offer,
        local: &Local<'_>,
        sources: Option<Sources>,
        choose: impl Fn(&OfferedMedia) -> Option<(Vec<Offered>, Vec<(u8, Extension)>, Vec<String>)>,
    ) -> Result<Self, Error> {
        // One word (RFC 8830 2): browsers refuse an answer in which the name of a stream has a space.
        let stream = local.stream.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
        let local = &Local { stream: &stream, ..*local };
        let mut tracks: Vec<(usize, Track)> = Vec::new();
        for (at, section) in offer.media.iter().enumerate() {
            let Some(media) = section.media else { continue };
            if tracks.iter().any(|(_, track)| track.media == media) {
                continue;
            }
            let Some((codecs, extensions, rids)) = choose(section) else { continue };
            let (mid, ssrcs) = (section.mid.clone(), section.ssrcs.clone());
            tracks.push((at, Track { media, mid, codecs, extensions, ssrcs, rids }));
        }
        if tracks.is_empty() {
            let publishes = sources.is_none();
            let wanted = |m: &&OfferedMedia| m.media.is_some() && if publishes { m.sends } else { m.receives };
            return Err(if offer.media.iter().any(|m| wanted(&m)) { Error::NoCodec } else { Error::NoMedia });
        }
        let active = offer.setup == Setup::Passive;
        let mids: Vec<&str> = tracks.iter().map(|(_, track)| track.mid.as_str()).collect();
        let name = if sources.is_some() { "WeirPlaySession" } else { "WeirPublishSession" };
        let mut sdp = format!(
            "v=0\r\no=weir {} 2 IN IP4 0.0.0.0\r\ns={name}\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE {}\r\n\
             a=msid-semantic: WMS {}\r\n",
            local.session,
            mids.join(" "),
            local.stream
        );
        for (at, section) in offer.media.iter().enumerate() {
            match tracks.iter().find(|(of, _)| *of == at) {
                Some((_, track)) => write_section(&mut sdp, section, track, local, sources, active),
                None => refuse_section(&mut sdp, section),
            }
        }
        Ok(Self { sdp, tracks: tracks.into_iter().map(|(_, track)| track).collect(), active })
    }
}

fn of_codec(codecs: &[Offered], codec: Codec) -> Vec<Offered> {
    codecs.iter().filter(|offered| offered.codec == codec).cloned().collect()
}

/// The format that serves most: the wished one, else by the list's order, and of H.264 the plainest profile.
fn best(codecs: &[Offered], wish: Option<Codec>) -> Option<&Offered> {
    let order = |codec: Codec| match wish {
        Some(wish) if wish == codec => 0,
        _ => 1 + PICTURES.iter().position(|known| *known == codec).unwrap_or(0),
    };
    codecs.iter().min_by_key(|offered| (order(offered.codec), profile_rank(offered)))
}

/// Constrained baseline is decoded everywhere; others only where they must be.
fn profile_rank(offered: &Offered) -> u8 {
    if offered.codec != Codec::H264 {
        return 0;
    }
    let profile = parameter(&offered.fmtp, "profile-level-id").unwrap_or_default().to_ascii_lowercase();
    match profile.get(..4) {
        Some("42e0") => 0,
        Some("42c0" | "4200") => 1,
        _ => 2,
    }
}

/// A section that is not used (RFC 8829 5.3.1).
fn refuse_section(sdp: &mut String, section: &OfferedMedia) {
    write!(sdp, "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n", section.kind, section.protocol, section.format)
        .ok();
    if !section.mid.is_empty() {
        write!(sdp, "a=mid:{}\r\n", section.mid).ok();
    }
}

fn write_section(
    sdp: &mut String,
    section: &OfferedMedia,
    track: &Track,
    local: &Local<'_>,
    sources: Option<Sources>,
    active: bool,
) {
    let types = track.codecs.iter().flat_map(|codec| [Some(codec.payload_type), codec.rtx]).flatten();
    let types: Vec<String> = types.map(|pt| pt.to_string()).collect();
    let digest: Vec<String> = local.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut line = |text: std::fmt::Arguments<'_>| {
        sdp.write_fmt(text).ok();
        sdp.push_str("\r\n");
    };
    line(format_args!("m={} 9 {} {}", section.kind, section.protocol, types.join(" ")));
    line(format_args!("c=IN IP4 0.0.0.0"));
    line(format_args!("a=ice-ufrag:{}", local.ufrag));
    line(format_args!("a=ice-pwd:{}", local.pwd));
    line(format_args!("a=fingerprint:sha-256 {}", digest.join(":")));
    line(format_args!("a=setup:{}", if active { "active" } else { "passive" }));
    line(format_args!("a=mid:{}", track.mid));
    for (id, extension) in &track.extensions {
        line(format_args!("a=extmap:{id} {}", extension.uri()));
    }
    line(format_args!("a={}", if sources.is_some() { "sendonly" } else { "recvonly" }));
    line(format_args!("a=rtcp-mux"));
    line(format_args!("a=rtcp-rsize"));
    for codec in &track.codecs {
        let (pt, kind) = (codec.payload_type, codec.codec);
        let channels = if kind == Codec::Opus { "/2" } else { "" };
        line(format_args!("a=rtpmap:{pt} {}/{}{channels}", kind.name(), kind.clock()));
        for feedback in codec.feedback.iter().filter(|kind| FEEDBACK.contains(&kind.as_str())) {
            if sources.is_none() || feedback != "transport-cc" || track.extension(Extension::TransportCc).is_some() {
                line(format_args!("a=rtcp-fb:{pt} {feedback}"));
            }
        }
        if !codec.fmtp.is_empty() {
            line(format_args!("a=fmtp:{pt} {}", codec.fmtp));
        }
        if let Some(rtx) = codec.rtx {
            line(format_args!("a=rtpmap:{rtx} rtx/{}", kind.clock()));
            line(format_args!("a=fmtp:{rtx} apt={pt}"));
        }
    }
    if !track.rids.is_empty() {
        track.rids.iter().for_each(|rid| line(format_args!("a=rid:{rid} recv")));
        line(format_args!("a=simulcast:recv {}", track.rids.join(";")));
    }
    if let Some(sources) = sources {
        let (ssrc, rtx) = match track.media {
            Media::Audio => (sources.audio, None),
            Media::Video => (sources.video.0, track.codecs.iter().any(|c| c.rtx.is_some()).then_some(sources.video.1)),
        };
        let label = if track.media == Media::Audio { "audio" } else { "video" };
        line(format_args!("a=msid:{} {label}", local.stream));
        if let Some(rtx) = rtx {
            line(format_args!("a=ssrc-group:FID {ssrc} {rtx}"));
        }
        for ssrc in [Some(ssrc), rtx].into_iter().flatten() {
            line(format_args!("a=ssrc:{ssrc} cname:{}", local.ufrag));
            line(format_args!("a=ssrc:{ssrc} msid:{} {label}", local.stream));
        }
    }
    for (number, candidate) in local.candidates.iter().enumerate() {
        let (host, port) = (&candidate.host, candidate.port);
        let (protocol, kind) = if candidate.tcp { ("tcp", " tcptype passive") } else { ("udp", "") };
        // Of equal kind: the first is preferred, UDP before TCP (RFC 8445 5.1.2.1).
        let preference = 65_535u32.saturating_sub(number.min(255) as u32) - if candidate.tcp { 4096 } else { 0 };
        let priority = 126u32 << 24 | preference << 8 | 255;
        line(format_args!("a=candidate:{number} 1 {protocol} {priority} {host} {port} typ host{kind} generation 0"));
    }
    line(format_args!("a=end-of-candidates"));
}
