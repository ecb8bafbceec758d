//! H.265: the configuration record (8.3.3.1 of ISO/IEC 14496-15) and parameter sets.

use bytes::Bytes;

use super::{Bits, PARAMETER_SET_BYTES_MAX, PARAMETER_SETS_MAX, Size, put_set, take_sets, unescape};

/// Values of nal_unit_type (table 7-1 of H.265).
pub mod unit {
    /// Video parameter set.
    pub const VPS: u8 = 32;
    /// Sequence parameter set.
    pub const SPS: u8 = 33;
    /// Picture parameter set.
    pub const PPS: u8 = 34;
    /// Access unit delimiter.
    pub const AUD: u8 = 35;
    /// Filler data.
    pub const FILLER: u8 = 38;
    /// Supplemental enhancement information in front of a picture.
    pub const SEI_PREFIX: u8 = 39;
    /// Supplemental enhancement information behind a picture.
    pub const SEI_SUFFIX: u8 = 40;
}

/// Parts of a record in front of its arrays.
const FIXED: usize = 23;

/// Arrays that a record may hold.
const ARRAYS_MAX: usize = 16;

/// nal_unit_type of a unit; 63 (unspecified) of an empty one.
pub fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(63, |head| (head >> 1) & 0x3f)
}

/// Pictures where a decoder can begin: BLA, IDR and CRA, and what is reserved for more of them.
pub fn is_irap(kind: u8) -> bool {
    (16..=23).contains(&kind)
}

/// A configuration record: HEVCDecoderConfigurationRecord.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the lengths in front of a frame's units: 1, 2 or 4.
    pub length: usize,
    /// Video parameter sets.
    pub vps: Vec<Bytes>,
    /// Sequence parameter sets, not empty.
    pub sps: Vec<Bytes>,
    /// Picture parameter sets.
    pub pps: Vec<Bytes>,
}

impl Config {
    /// Reads a record; none where it is malformed or has no sequence parameter set.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = record.split_at_checked(FIXED)?;
        let (&version, &length, &arrays) = (fixed.first()?, fixed.get(21)?, fixed.get(22)?);
        let mut this = Self { length: usize::from(length & 3) + 1, ..Self::default() };
        if version != 1 || usize::from(arrays) > ARRAYS_MAX {
            return None;
        }
        for _ in 0..arrays {
            let (&[kind, high, low], tail) = rest.split_first_chunk()?;
            rest = tail;
            let sets = take_sets(&mut rest, usize::from(u16::from_be_bytes([high, low])))?;
            match kind & 0x3f {
                unit::VPS => this.vps = sets,
                unit::SPS => this.sps = sets,
                unit::PPS => this.pps = sets,
                _ => {}
            }
        }
        (!this.sps.is_empty()).then_some(this)
    }

    /// Writes a record for units with lengths of four bytes; none without all kinds of parameter sets, or where they
    /// are too many or too long.
    pub fn write(&self) -> Option<Vec<u8>> {
        let sound = |sets: &[Bytes]| {
            (1..=PARAMETER_SETS_MAX).contains(&sets.len())
                && sets.iter().all(|set| set.len() <= PARAMETER_SET_BYTES_MAX)
        };
        let all = [(unit::VPS, &self.vps), (unit::SPS, &self.sps), (unit::PPS, &self.pps)];
        if !all.iter().all(|(_, sets)| sound(sets)) {
            return None;
        }
        let sps = Sps::parse(self.sps.first()?)?;
        let mut out = vec![1];
        out.extend_from_slice(&sps.profile);
        // No minimum of spatial segmentation, parallelism unknown, frame rate unknown.
        out.extend([0xf0, 0, 0xfc, 0xfc | sps.chroma & 3]);
        out.extend([0xf8 | sps.depth_luma.saturating_sub(8) & 7, 0xf8 | sps.depth_chroma.saturating_sub(8) & 7, 0, 0]);
        out.extend([(sps.sub_layers & 7) << 3 | u8::from(sps.nested) << 2 | 3, 3]);
        for (kind, sets) in all {
            out.push(0x80 | kind);
            out.extend_from_slice(&u16::try_from(sets.len()).ok()?.to_be_bytes());
            sets.iter().for_each(|set| put_set(&mut out, set));
        }
        Some(out)
    }
}

/// What is read of a sequence parameter set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sps {
    /// general_profile_space up to general_level_idc, as both the set and the record hold them.
    pub profile: [u8; 12],
    /// sps_max_sub_layers_minus1 + 1.
    pub sub_layers: u8,
    /// sps_temporal_id_nesting_flag.
    pub nested: bool,
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
    /// Reads a sequence parameter set with its unit's header (7.3.2.2.1 of H.265); none where it is malformed.
    pub fn parse(unit: &[u8]) -> Option<Self> {
        let data = unescape(unit.get(2..)?, PARAMETER_SET_BYTES_MAX);
        let mut bits = Bits::new(&data);
        bits.skip(4)?;
        let more = bits.small(3)?;
        let mut this = Self { sub_layers: more + 1, nested: bits.flag()?, ..Self::default() };
        for byte in &mut this.profile {
            *byte = bits.small(8)?;
        }
        skip_sub_layers(&mut bits, more)?;
        bits.ue()?;
        this.chroma = u8::try_from(bits.ue()?).ok().filter(|chroma| *chroma <= 3)?;
        let separate = this.chroma == 3 && bits.flag()?;
        let (mut width, mut height) = (bits.ue()?, bits.ue()?);
        if bits.flag()? {
            let (across, down) = match this.chroma {
                1 if !separate => (2, 2),
                2 if !separate => (2, 1),
                _ => (1, 1),
            };
            let (left, right, top, bottom) = (bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?);
            width = width.checked_sub(left.checked_add(right)?.checked_mul(across)?)?;
            height = height.checked_sub(top.checked_add(bottom)?.checked_mul(down)?)?;
        }
        this.size = Size { width, height };
        this.depth_luma = u8::try_from(bits.ue()?).ok()?.checked_add(8)?;
        this.depth_chroma = u8::try_from(bits.ue()?).ok()?.checked_add(8)?;
        Some(this)
    }
}

/// Profiles and levels of the sub-layers below the highest (7.3.3).
fn skip_sub_layers(bits: &mut Bits<'_>, more: u8) -> Option<()> {
    let mut present = [(false, false); 8];
    for layer in present.iter_mut().take(usize::from(more)) {
        *layer = (bits.flag()?, bits.flag()?);
    }
    if more > 0 {
        bits.skip(2 * usize::from(8 - more))?;
    }
    for (profile, level) in present.into_iter().take(usize::from(more)) {
        bits.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 })?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What x265 writes for 640x360, main profile.
    const SPS: &[u8] = &[
        0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3f,
        0xa0, 0x05, 0x02, 0x01, 0x69, 0x65, 0x95, 0x9a, 0x49, 0x32, 0xbc, 0x04, 0x04, 0x00, 0x00, 0x03, 0x00, 0x04,
    ];

    #[test]
    fn a_sequence_parameter_set() {
        let sps = Sps::parse(SPS).unwrap();
        assert_eq!((sps.profile[0], sps.profile[11], sps.sub_layers, sps.nested), (1, 0x3f, 1, true));
        assert_eq!((sps.chroma, sps.depth_luma, sps.depth_chroma), (1, 8, 8));
        assert_eq!(sps.size, Size { width: 640, height: 360 });
        for end in 0..20 {
            assert_eq!(Sps::parse(&SPS[..end]), None);
        }
    }

    #[test]
    fn records_both_ways() {
        let set = |bytes: &'static [u8]| vec![Bytes::from_static(bytes)];
        let config = Config { length: 4, vps: set(&[0x40, 1, 0x0c]), sps: set(SPS), pps: set(&[0x44, 1, 0xc1]) };
        let record = config.write().unwrap();
        assert_eq!(Config::parse(&record), Some(config));
        for end in 0..record.len() - 8 {
            assert_eq!(Config::parse(&record[..end]), None, "cut at {end}");
        }
        assert_eq!(Config::default().write(), None);
    }

    #[test]
    fn fuzz_hevc() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|data: &[u8]| {
            let _ = Sps::parse(data);
            if let Some(config) = Config::parse(data) {
                let _ = config.write();
            }
        });
    }
}
