//! One codec's packets into tag bodies.

use std::time::Instant;

use bytes::Bytes;
use weir_media::body::{self, VideoCodec};
use weir_media::codec::{Size, Units, av1, avc, hevc, vpx};
use weir_wire::rtp::Codec;
use weir_wire::rtp::payload::{self, Error};

/// The state of a publisher's picture.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) codec: Codec,
    /// When its first packet came.
    pub(super) since: Instant,
    /// The parameter sets of the last keyframe that had some: VPS, SPS and PPS.
    vps: Vec<Bytes>,
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
    /// The record that was announced.
    record: Option<Vec<u8>>,
    size: Size,
    scratch: Vec<u8>,
}

/// What became of a frame's packets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// A tag body with a new configuration, in front of the frame.
    pub(super) config: Option<Vec<u8>>,
    /// Whether it is a keyframe, and its tag body; none of what holds no picture.
    pub(super) frame: Option<(bool, Vec<u8>)>,
}

impl Made {
    const NOTHING: Self = Self { config: None, frame: None };
}

impl Picture {
    pub(super) fn new(codec: Codec, since: Instant) -> Self {
        let (vps, sps, pps) = Default::default();
        Self { codec, since, vps, sps, pps, record: None, size: Size::default(), scratch: Vec::new() }
    }

    /// A configuration was announced.
    pub(super) fn announced(&self) -> bool {
        self.record.is_some()
    }

    /// The size of its frames.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// `videocodecid`: the legacy number, or the FourCC as a number (Enhanced RTMP).
    pub(super) fn codec_id(&self) -> u32 {
        match self.body_codec() {
            VideoCodec::Avc => 7,
            codec => u32::from_be_bytes(codec.four_cc()),
        }
    }

    fn body_codec(&self) -> VideoCodec {
        match self.codec {
            Codec::H265 => VideoCodec::Hevc,
            Codec::Av1 => VideoCodec::Av1,
            Codec::Vp8 => VideoCodec::Vp8,
            Codec::Vp9 => VideoCodec::Vp9,
            Codec::H264 | Codec::Opus => VideoCodec::Avc,
        }
    }

    /// Makes a frame of all its packets' payloads. The first frame has to be a keyframe.
    ///
    /// # Errors
    /// They make none, or nothing says how to decode it.
    pub(super) fn frame<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> Result<Made, Error> {
        let mut data = core::mem::take(&mut self.scratch);
        data.clear();
        let made = payload::assemble(self.codec, payloads, &mut data).and_then(|()| match self.codec {
            Codec::H264 => self.h264(&data),
            Codec::H265 => self.h265(&data),
            Codec::Av1 => self.av1(&data),
            Codec::Vp8 => self.vp8(&data),
            Codec::Vp9 => self.vp9(&data),
            Codec::Opus => Ok(Made::NOTHING),
        });
        self.scratch = data;
        made
    }

    fn h264(&mut self, data: &[u8]) -> Result<Made, Error> {
        use avc::unit::{IDR, PPS, SEI, SLICE, SPS};
        let kinds = || Units::new(data, 4).map(avc::kind);
        collect(&mut self.sps, data, |unit| avc::kind(unit) == SPS);
        collect(&mut self.pps, data, |unit| avc::kind(unit) == PPS);
        if !kinds().any(|kind| (SLICE..=IDR).contains(&kind)) {
            return Ok(Made::NOTHING);
        }
        let record = avc::Config { length: 4, sps: self.sps.clone(), pps: self.pps.clone() }.write();
        let size = self.sps.first().and_then(|sps| avc::Sps::parse(sps)).map(|sps| sps.size);
        // What begins with parameter sets can be decoded from here on, whether by an IDR picture or by a refresh.
        let keyframe = kinds().any(|kind| matches!(kind, IDR | SPS));
        self.units(keyframe, record, size, data, |unit| (SLICE..=SEI).contains(&avc::kind(unit)))
    }

    fn h265(&mut self, data: &[u8]) -> Result<Made, Error> {
        use hevc::unit::{PPS, SEI_PREFIX, SEI_SUFFIX, SPS, VPS};
        let kinds = || Units::new(data, 4).map(hevc::kind);
        collect(&mut self.vps, data, |unit| hevc::kind(unit) == VPS);
        collect(&mut self.sps, data, |unit| hevc::kind(unit) == SPS);
        collect(&mut self.pps, data, |unit| hevc::kind(unit) == PPS);
        if !kinds().any(|kind| kind < VPS) {
            return Ok(Made::NOTHING);
        }
        let (vps, sps, pps) = (self.vps.clone(), self.sps.clone(), self.pps.clone());
        let record = hevc::Config { length: 4, vps, sps, pps }.write();
        let size = self.sps.first().and_then(|sps| hevc::Sps::parse(sps)).map(|sps| sps.size);
        let keyframe = kinds().any(hevc::is_irap);
        self.units(keyframe, record, size, data, |unit| matches!(hevc::kind(unit), 0..VPS | SEI_PREFIX | SEI_SUFFIX))
    }

    /// The body of a frame of units, without those that the record has and those that mean nothing in a file.
    fn units(
        &mut self,
        keyframe: bool,
        record: Option<Vec<u8>>,
        size: Option<Size>,
        data: &[u8],
        keep: impl Fn(&[u8]) -> bool,
    ) -> Result<Made, Error> {
        let config = self.announce(keyframe, record, size)?;
        let mut frame = body::video_head(self.body_codec(), keyframe, 0);
        frame.reserve(data.len());
        for unit in Units::new(data, 4).filter(|unit| keep(unit)) {
            frame.extend_from_slice(&u32::try_from(unit.len()).unwrap_or(0).to_be_bytes());
            frame.extend_from_slice(unit);
        }
        Ok(Made { config, frame: Some((keyframe, frame)) })
    }

    fn av1(&mut self, data: &[u8]) -> Result<Made, Error> {
        let sequence = av1::Obus(data).find(|obu| obu.kind() == av1::unit::SEQUENCE_HEADER).map(|obu| obu.payload);
        let size = sequence.and_then(av1::Sequence::parse).map(|sequence| sequence.size);
        let record = sequence.and_then(av1::write_config);
        self.plain(sequence.is_some(), record, size, data)
    }

    fn vp8(&mut self, data: &[u8]) -> Result<Made, Error> {
        let size = vpx::vp8_keyframe(data);
        self.plain(size.is_some(), size.map(|_| vpx::vp8_config()), size, data)
    }

    fn vp9(&mut self, data: &[u8]) -> Result<Made, Error> {
        let key = vpx::Vp9::keyframe(data);
        self.plain(key.is_some(), key.map(|key| key.config()), key.map(|key| key.size), data)
    }

    fn plain(
        &mut self,
        keyframe: bool,
        record: Option<Vec<u8>>,
        size: Option<Size>,
        data: &[u8],
    ) -> Result<Made, Error> {
        if data.is_empty() {
            return Ok(Made::NOTHING);
        }
        let config = self.announce(keyframe, record, size)?;
        let mut frame = body::video_head(self.body_codec(), keyframe, 0);
        frame.extend_from_slice(data);
        Ok(Made { config, frame: Some((keyframe, frame)) })
    }

    /// The body that announces a new configuration; one that was announced is not repeated, but where the size is new:
    /// VP8 has nothing else that tells.
    fn announce(
        &mut self,
        keyframe: bool,
        record: Option<Vec<u8>>,
        size: Option<Size>,
    ) -> Result<Option<Vec<u8>>, Error> {
        match record {
            Some(record) if keyframe => {
                let size = size.unwrap_or(self.size);
                if self.record.as_ref() == Some(&record) && self.size == size {
                    return Ok(None);
                }
                let mut body = body::video_config_head(self.body_codec());
                body.extend_from_slice(&record);
                (self.record, self.size) = (Some(record), size);
                Ok(Some(body))
            }
            _ if self.record.is_some() && !keyframe => Ok(None),
            _ => Err(Error::Short),
        }
    }
}

/// Takes over the parameter sets of a frame, if it has some of that kind; each once.
fn collect(sets: &mut Vec<Bytes>, data: &[u8], wanted: impl Fn(&[u8]) -> bool) {
    let found = || Units::new(data, 4).filter(|unit| wanted(unit)).take(weir_media::codec::PARAMETER_SETS_MAX);
    if found().next().is_none() || found().eq(sets.iter().map(|set| &set[..])) {
        return;
    }
    sets.clear();
    for set in found() {
        if !sets.iter().any(|have| have == set) {
            sets.push(Bytes::copy_from_slice(set));
        }
    }
}
