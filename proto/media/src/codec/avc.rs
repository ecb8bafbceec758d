//! H.264: the configuration record (5.3.3.1 of ISO/IEC 14496-15), parameter sets and slice headers.

use bytes::Bytes;

use super::{Bits, PARAMETER_SET_BYTES_MAX, PARAMETER_SETS_MAX, Size, put_set, take_sets, unescape};

/// Values of nal_unit_type (table 7-1 of H.264).
pub mod unit {
    /// Coded slice of a non-IDR picture.
    pub const SLICE: u8 = 1;
    /// Coded slice of an IDR picture.
    pub const IDR: u8 = 5;
    /// Supplemental enhancement information.
    pub const SEI: u8 = 6;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const AUD: u8 = 9;
    /// End of stream.
    pub const END_OF_STREAM: u8 = 11;
    /// Filler data.
    pub const FILLER: u8 = 12;
}

/// nal_unit_type of a unit; 0 (unspecified) of an empty one.
pub fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |head| head & 0x1f)
}

/// Profiles whose sequence parameter sets tell their chroma format (7.3.2.1.1 of H.264).
const HIGH: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// A configuration record: AVCDecoderConfigurationRecord.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the lengths in front of a frame's units: 1, 2 or 4.
    pub length: usize,
    /// Sequence parameter sets, not empty.
    pub sps: Vec<Bytes>,
    /// Picture parameter sets, not empty.
    pub pps: Vec<Bytes>,
}

impl Config {
    /// Reads a record; none where it is malformed or has no sequence parameter set.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let (&[version, _, _, _, length, sets], mut rest) = record.split_first_chunk()?;
        let sps = take_sets(&mut rest, usize::from(sets & 0x1f))?;
        let (&sets, tail) = rest.split_first()?;
        rest = tail;
        let pps = take_sets(&mut rest, usize::from(sets))?;
        (version == 1 && !sps.is_empty()).then_some(Self { length: usize::from(length & 3) + 1, sps, pps })
    }

    /// Writes a record for units with lengths of four bytes; none without both kinds of parameter sets, or where they
    /// are too many or too long.
    pub fn write(&self) -> Option<Vec<u8>> {
        let sound = |sets: &[Bytes]| {
            (1..=PARAMETER_SETS_MAX).contains(&sets.len())
                && sets.iter().all(|set| set.len() <= PARAMETER_SET_BYTES_MAX)
        };
        let first = self.sps.first()?;
        let &[_, profile, compatibility, level] = first.first_chunk()?;
        if !sound(&self.sps) || !sound(&self.pps) {
            return None;
        }
        let mut out = vec![1, profile, compatibility, level, 0xff, 0xe0 | u8::try_from(self.sps.len()).ok()?];
        self.sps.iter().for_each(|set| put_set(&mut out, set));
        out.push(u8::try_from(self.pps.len()).ok()?);
        self.pps.iter().for_each(|set| put_set(&mut out, set));
        if HIGH.contains(&profile) && profile != 44 {
            let sps = Sps::parse(first)?;
            let depth = |depth: u8| 0xf8 | depth.saturating_sub(8) & 7;
            out.extend([0xfc | sps.chroma & 3, depth(sps.depth_luma), depth(sps.depth_chroma), 0]);
        }
        Some(out)
    }
}

/// What is read of a sequence parameter set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sps {
    /// profile_idc.
    pub profile: u8,
    /// level_idc.
    pub level: u8,
    /// chroma_format_idc.
    pub chroma: u8,
    /// Bits of a sample.
    pub depth_luma: u8,
    /// Bits of a sample.
    pub depth_chroma: u8,
    /// Cropped.
    pub size: Size,
}

impl Sps {
    /// Reads a sequence parameter set with its unit's header (7.3.2.1.1 of H.264); none where it is malformed.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        let data = unescape(unit.get(1..)?, PARAMETER_SET_BYTES_MAX);
        let mut bits = Bits::new(&data);
        let profile = bits.small(8)?;
        bits.skip(8)?;
        let level = bits.small(8)?;
        bits.ue()?;
        let mut this = Self { profile, level, chroma: 1, depth_luma: 8, depth_chroma: 8, size: Size::default() };
        let mut separate = false;
        if HIGH.contains(&profile) {
            this.chroma = u8::try_from(bits.ue()?).ok().filter(|chroma| *chroma <= 3)?;
            separate = this.chroma == 3 && bits.flag()?;
            this.depth_luma = u8::try_from(bits.ue()?).ok()?.checked_add(8)?;
            this.depth_chroma = u8::try_from(bits.ue()?).ok()?.checked_add(8)?;
            bits.flag()?;
            if bits.flag()? {
                skip_scaling(&mut bits, if this.chroma == 3 { 12 } else { 8 })?;
            }
        }
        bits.ue()?;
        skip_order(&mut bits)?;
        bits.ue()?;
        bits.flag()?;
        let columns = bits.ue()?.checked_add(1)?;
        let rows = bits.ue()?.checked_add(1)?;
        let frames_only = bits.flag()?;
        if !frames_only {
            bits.flag()?;
        }
        bits.flag()?;
        let fields = if frames_only { 1 } else { 2 };
        let (mut width, mut height) = (columns.checked_mul(16)?, rows.checked_mul(16 * fields)?);
        if bits.flag()? {
            // Units of cropping are samples of chroma (7.4.2.1.1).
            let (across, down) = match this.chroma {
                1 if !separate => (2, 2),
                2 if !separate => (2, 1),
                _ => (1, 1),
            };
            let (left, right, top, bottom) = (bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?);
            width = width.checked_sub(left.checked_add(right)?.checked_mul(across)?)?;
            height = height.checked_sub(top.checked_add(bottom)?.checked_mul(down * fields)?)?;
        }
        this.size = Size { width, height };
        Some(this)
    }
}

/// scaling_list (7.3.2.1.1.1).
fn skip_scaling(bits: &mut Bits<'_>, lists: u32) -> Option<()> {
    for list in 0..lists {
        if !bits.flag()? {
            continue;
        }
        let (mut last, mut next) = (8_i32, 8_i32);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = last.checked_add(bits.se()?)? & 0xff;
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

/// What says how the picture order count is coded.
fn skip_order(bits: &mut Bits<'_>) -> Option<()> {
    match bits.ue()? {
        0 => bits.ue().map(|_| ()),
        1 => {
            bits.flag()?;
            bits.se()?;
            bits.se()?;
            let cycle = bits.ue().filter(|cycle| *cycle <= 255)?;
            (0..cycle).try_for_each(|_| bits.se().map(|_| ()))
        }
        _ => Some(()),
    }
}

/// What is read of a slice's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// It is the first one of its picture.
    pub first: bool,
    /// A B slice.
    pub bidirectional: bool,
    /// nal_ref_idc is not 0: other pictures may refer to it.
    pub reference: bool,
}

impl Slice {
    /// Reads the header of a slice (7.3.3 of H.264); none of a unit that is no slice.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        if !matches!(kind(unit), unit::SLICE..=unit::IDR) {
            return None;
        }
        let head = *unit.first()?;
        // Two codes of at most 32 bits and one more byte.
        let data = unescape(unit.get(1..)?, 12);
        let mut bits = Bits::new(&data);
        let first = bits.ue()? == 0;
        let slice = bits.ue()?;
        Some(Self { first, bidirectional: slice % 5 == 1, reference: head & 0x60 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What x264 writes for 640x360, high profile.
    const SPS: &[u8] = &[
        0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x61, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00,
        0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96,
    ];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];

    #[test]
    fn a_sequence_parameter_set() {
        let sps = Sps::parse(SPS).unwrap();
        assert_eq!((sps.profile, sps.level, sps.chroma), (100, 30, 1));
        assert_eq!(sps.size, Size { width: 640, height: 360 });
        for end in 0..10 {
            assert_eq!(Sps::parse(&SPS[..end]), None);
        }
    }

    #[test]
    fn records_both_ways() {
        let config = Config {
            length: 4,
            sps: vec![Bytes::from_static(SPS)],
            pps: vec![Bytes::from_static(PPS), Bytes::from_static(PPS)],
        };
        let record = config.write().unwrap();
        assert_eq!(record[..6], [1, 0x64, 0, 0x1e, 0xff, 0xe1]);
        assert_eq!(record[record.len() - 4..], [0xfd, 0xf8, 0xf8, 0], "the end of a high profile's record");
        assert_eq!(Config::parse(&record), Some(config));
        for end in 0..record.len() - 4 {
            assert_eq!(Config::parse(&record[..end]), None, "cut at {end}");
        }
        assert_eq!(Config::default().write(), None);
    }

    #[test]
    fn slices() {
        let slice = |unit: &[u8]| Slice::parse(unit).unwrap();
        assert_eq!(slice(&[0x01, 0x9e]), Slice { first: true, bidirectional: true, reference: false });
        assert_eq!(slice(&[0x41, 0x9a]), Slice { first: true, bidirectional: false, reference: true });
        assert_eq!(slice(&[0x65, 0x88, 0x80]), Slice { first: true, bidirectional: false, reference: true });
        assert!(!slice(&[0x41, 0x04, 0x66]).first);
        assert_eq!(Slice::parse(SPS), None);
    }

    #[test]
    fn fuzz_avc() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|data: &[u8]| {
            let _ = (Sps::parse(data), Slice::parse(data));
            if let Some(config) = Config::parse(data) {
                let _ = config.write();
            }
        });
    }
}
