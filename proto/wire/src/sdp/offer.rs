//! What a peer offers.

use std::io::Cursor;

use rtc::sdp::SessionDescription;
use rtc::sdp::description::common::Attribute;
use rtc::sdp::description::media::MediaDescription;

use super::{ENTRIES_MAX, Error, Extension, Fingerprint, Hash, LINES_MAX, OFFER_MAX, SECTIONS_MAX, Setup};
use crate::rtp::{Codec, Media};

/// An offer, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The peer's ICE user name fragment.
    pub ufrag: String,
    /// The peer's ICE password.
    pub pwd: String,
    /// Of the peer's certificate.
    pub fingerprint: Fingerprint,
    /// Which end begins DTLS.
    pub setup: Setup,
    /// One for each section, in order; an answer has as many.
    pub media: Vec<OfferedMedia>,
}

/// A section of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedMedia {
    /// The words of the section's line behind `m=`, for an answer that refuses it.
    pub kind: String,
    /// Its transport.
    pub protocol: String,
    /// Its first payload type or what stands there.
    pub format: String,
    /// `a=mid`.
    pub mid: String,
    /// Sound or picture; none for what is neither, or what the peer itself refuses.
    pub media: Option<Media>,
    /// The peer sends.
    pub sends: bool,
    /// The peer receives.
    pub receives: bool,
    /// Payload formats that are known here, in the peer's order.
    pub codecs: Vec<Offered>,
    /// Header extensions that are known here, with their identifiers.
    pub extensions: Vec<(u8, Extension)>,
    /// Sources of the medium, and of their repair streams.
    pub ssrcs: Vec<(u32, Option<u32>)>,
    /// Names of simulcast layers that the peer sends.
    pub rids: Vec<String>,
}

/// A payload format of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Which.
    pub codec: Codec,
    /// Its payload type.
    pub payload_type: u8,
    /// `a=fmtp`, as offered.
    pub fmtp: String,
    /// Payload type of its repair stream (RFC 4588).
    pub rtx: Option<u8>,
    /// `a=rtcp-fb` lines, as offered.
    pub feedback: Vec<String>,
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// It cannot be answered.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > OFFER_MAX || text.lines().count() > LINES_MAX {
            return Err(Error::TooLarge);
        }
        let session = SessionDescription::unmarshal(&mut Cursor::new(text.as_bytes()))
            .map_err(|error| Error::Malformed(error.to_string().chars().take(200).collect()))?;
        if session.media_descriptions.len() > SECTIONS_MAX {
            return Err(Error::TooLarge);
        }
        let first = session.media_descriptions.first().ok_or(Error::NoMedia)?;
        // Bundled sections share what the first one says; what the session says is said for all (RFC 9143 7).
        let find = |key| value(&first.attributes, key).or_else(|| value(&session.attributes, key));
        let ufrag = find("ice-ufrag").filter(|ufrag| is_ice(ufrag, 4)).ok_or(Error::Missing("ice-ufrag"))?;
        let pwd = find("ice-pwd").filter(|pwd| is_ice(pwd, 22)).ok_or(Error::Missing("ice-pwd"))?;
        let fingerprint = find("fingerprint").and_then(fingerprint).ok_or(Error::Missing("fingerprint"))?;
        let setup = match find("setup") {
            None | Some("actpass") => Setup::ActPass,
            Some("active") => Setup::Active,
            Some("passive") => Setup::Passive,
            Some(_) => return Err(Error::Missing("setup")),
        };
        let media: Vec<OfferedMedia> = session.media_descriptions.iter().map(section).collect();
        let used = media.iter().filter(|media| media.media.is_some()).count();
        let bundle = value(&session.attributes, "group").is_some_and(|group| group.starts_with("BUNDLE"));
        if used > 1 && !bundle {
            return Err(Error::Missing("BUNDLE group"));
        }
        Ok(Self { ufrag: ufrag.to_owned(), pwd: pwd.to_owned(), fingerprint, setup, media })
    }
}

fn value<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key == key).map(|a| a.value.as_deref().unwrap_or_default())
}

fn values<'a>(attributes: &'a [Attribute], key: &'a str) -> impl Iterator<Item = &'a str> {
    let all = attributes.iter().filter(move |attribute| attribute.key == key);
    all.map(|attribute| attribute.value.as_deref().unwrap_or_default()).take(ENTRIES_MAX)
}

/// ICE characters, from `least` to 256 of them (RFC 8839 5.4).
fn is_ice(text: &str, least: usize) -> bool {
    (least..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/-_=".contains(&b))
}

fn fingerprint(text: &str) -> Option<Fingerprint> {
    let (hash, digest) = text.trim().split_once(' ')?;
    let (hash, length) = match hash.to_ascii_lowercase().as_str() {
        "sha-256" => (Hash::Sha256, 32),
        "sha-384" => (Hash::Sha384, 48),
        "sha-512" => (Hash::Sha512, 64),
        _ => return None,
    };
    let bytes = digest.trim().split(':').map(|hex| (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?);
    let digest: Vec<u8> = bytes.collect::<Option<_>>()?;
    (digest.len() == length).then_some(Fingerprint { hash, digest })
}

fn section(section: &MediaDescription) -> OfferedMedia {
    let (name, attributes) = (&section.media_name, &section.attributes);
    let has = |key: &str| value(attributes, key).is_some();
    let protocol = name.protos.join("/");
    let media = match name.media.as_str() {
        "audio" => Some(Media::Audio),
        "video" => Some(Media::Video),
        _ => None,
    };
    // A peer that refuses its own section, or that would send RTCP elsewhere, is not served there (RFC 8843 8.4).
    let usable = (name.port.value != 0 || has("bundle-only")) && has("rtcp-mux") && protocol.contains("RTP/SAVP");
    let mid = value(attributes, "mid").unwrap_or_default();
    let plain = mid.len() <= 64 && mid.bytes().all(|b| b.is_ascii_graphic());
    let codecs = codecs(section);
    OfferedMedia {
        kind: name.media.clone(),
        protocol,
        format: name.formats.first().cloned().unwrap_or_else(|| "0".to_owned()),
        mid: if plain { mid.to_owned() } else { String::new() },
        media: media.filter(|_| usable && plain),
        sends: !has("recvonly") && !has("inactive"),
        receives: !has("sendonly") && !has("inactive"),
        codecs,
        extensions: values(attributes, "extmap").filter_map(extension).collect(),
        ssrcs: ssrcs(attributes),
        rids: rids(attributes),
    }
}

/// `3 uri`, `3/sendonly uri attributes`; identifiers 1 to 14 fit one-byte headers, which is all that is sent.
fn extension(text: &str) -> Option<(u8, Extension)> {
    let mut words = text.split_ascii_whitespace();
    let id: u8 = words.next()?.split('/').next()?.parse().ok()?;
    let extension = Extension::from_uri(words.next()?)?;
    (1..=14).contains(&id).then_some((id, extension))
}

/// A line that begins with a number.
fn numbered<T: std::str::FromStr>(text: &str) -> Option<(T, &str)> {
    let (number, rest) = text.split_once(' ')?;
    Some((number.parse().ok()?, rest.trim()))
}

fn codecs(section: &MediaDescription) -> Vec<Offered> {
    let attributes = &section.attributes;
    let fmtp = |pt: u8| values(attributes, "fmtp").filter_map(numbered::<u8>).find(|(of, _)| *of == pt);
    let maps: Vec<(u8, &str)> = values(attributes, "rtpmap").filter_map(numbered::<u8>).collect();
    let rtx = |pt: u8| {
        let repairs = maps.iter().filter(|(_, map)| map.to_ascii_lowercase().starts_with("rtx/"));
        let mut repairs = repairs.map(|(rtx, _)| *rtx);
        repairs.find(|rtx| fmtp(*rtx).is_some_and(|(_, text)| parameter(text, "apt") == pt.to_string().as_str().into()))
    };
    let mut found: Vec<Offered> = Vec::new();
    for format in section.media_name.formats.iter().take(ENTRIES_MAX) {
        let Ok(payload_type) = format.parse::<u8>() else { continue };
        // Types 64 to 95 would be taken for RTCP (RFC 5761 4).
        if payload_type > 127
            || (64..96).contains(&payload_type)
            || found.iter().any(|f| f.payload_type == payload_type)
        {
            continue;
        }
        let Some(codec) = maps.iter().find(|(pt, _)| *pt == payload_type).and_then(|(_, map)| codec(map)) else {
            continue;
        };
        let fmtp = fmtp(payload_type).map_or("", |(_, text)| text).to_owned();
        // Other modes cannot carry what others send (RFC 6184 6.2).
        if codec == Codec::H264 && parameter(&fmtp, "packetization-mode") != Some("1") {
            continue;
        }
        let feedback = values(attributes, "rtcp-fb").filter_map(|line| {
            let (of, kind) = line.split_once(' ')?;
            (of == "*" || of.parse() == Ok(payload_type)).then(|| kind.trim().to_owned())
        });
        let feedback = feedback.collect();
        found.push(Offered { codec, payload_type, fmtp, rtx: rtx(payload_type), feedback });
    }
    found
}

/// `H264/90000`, `opus/48000/2`.
fn codec(map: &str) -> Option<Codec> {
    let mut parts = map.split('/');
    let (name, clock) = (parts.next()?, parts.next()?.parse::<u32>().ok()?);
    let all = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9, Codec::Opus];
    all.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name) && codec.clock() == clock)
}

/// The value of a parameter in a `fmtp` line.
pub(super) fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    let mut all = fmtp.split(';').filter_map(|part| part.trim().split_once('='));
    all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Sources in the order in which they are named, each with that of its repair stream (RFC 5576).
fn ssrcs(attributes: &[Attribute]) -> Vec<(u32, Option<u32>)> {
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    for group in values(attributes, "ssrc-group") {
        let mut words = group.split_ascii_whitespace();
        if words.next() == Some("FID")
            && let (Some(Ok(a)), Some(Ok(b))) = (words.next().map(str::parse), words.next().map(str::parse))
        {
            pairs.push((a, b));
        }
    }
    let mut found: Vec<(u32, Option<u32>)> = Vec::new();
    for line in values(attributes, "ssrc") {
        let Some(ssrc) = line.split_ascii_whitespace().next().and_then(|word| word.parse::<u32>().ok()) else {
            continue;
        };
        let known = found.iter().any(|(one, rtx)| *one == ssrc || *rtx == Some(ssrc));
        if !known && !pairs.iter().any(|(_, rtx)| *rtx == ssrc) {
            found.push((ssrc, pairs.iter().find(|(one, _)| *one == ssrc).map(|(_, rtx)| *rtx)));
        }
    }
    found
}

/// Layers that the peer sends (RFC 8853): at most three are used.
fn rids(attributes: &[Attribute]) -> Vec<String> {
    if !value(attributes, "simulcast").is_some_and(|simulcast| simulcast.contains("send")) {
        return Vec::new();
    }
    let rids = values(attributes, "rid").filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let id = words.next()?;
        let plain =
            (1..=16).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (plain && words.next() == Some("send")).then(|| id.to_owned())
    });
    rids.take(3).collect()
}
