//! AV1: open bitstream units (5.3 of the AV1 specification), the sequence header and the configuration record (2.3 of
//! the binding to ISO base media files).

use super::{Bits, PARAMETER_SET_BYTES_MAX, Size};

/// Values of obu_type.
pub mod unit {
    /// Sequence header.
    pub const SEQUENCE_HEADER: u8 = 1;
    /// Temporal delimiter: neither files nor RTP carry it.
    pub const TEMPORAL_DELIMITER: u8 = 2;
    /// Tile list: not carried by RTP.
    pub const TILE_LIST: u8 = 8;
    /// Padding.
    pub const PADDING: u8 = 15;
}

/// obu_type of a header's first byte.
pub fn kind(head: u8) -> u8 {
    (head >> 3) & 0x0f
}

/// Reads a leb128 (4.10.5) below 2^32 and gives what is behind it.
pub fn read_leb128(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(8) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, bytes.get(i + 1..)?));
        }
    }
    None
}

/// Appends a leb128 in as few bytes as it takes.
pub fn write_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write_leb128`] appends.
pub fn leb128_len(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

/// One unit of a temporal unit in the low-overhead format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obu<'a> {
    /// Header byte and, where it says so, the extension byte, with the size field's bit as it was.
    pub head: &'a [u8],
    /// What is behind the header and its size field.
    pub payload: &'a [u8],
}

impl Obu<'_> {
    /// obu_type.
    pub fn kind(&self) -> u8 {
        self.head.first().map_or(0, |head| kind(*head))
    }
}

/// The units of a temporal unit; one without a size field is the last. Ends at one that is cut short.
#[derive(Clone, Copy, Debug)]
pub struct Obus<'a>(pub &'a [u8]);

impl<'a> Iterator for Obus<'a> {
    type Item = Obu<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = *self.0.first()?;
        let (head, rest) = self.0.split_at_checked(if first & 0x04 != 0 { 2 } else { 1 })?;
        let (size, rest) = match first & 0x02 {
            0 => (rest.len(), rest),
            _ => read_leb128(rest).and_then(|(size, rest)| Some((usize::try_from(size).ok()?, rest)))?,
        };
        let (payload, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some(Obu { head, payload })
    }
}

/// Appends a unit with a size field.
pub fn write_obu(out: &mut Vec<u8>, obu: Obu<'_>) {
    let Some((first, rest)) = obu.head.split_first() else { return };
    out.push(first | 0x02);
    out.extend_from_slice(rest);
    write_leb128(out, obu.payload.len());
    out.extend_from_slice(obu.payload);
}

/// What is read of a sequence header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// seq_profile.
    pub profile: u8,
    /// seq_level_idx of the first operating point.
    pub level: u8,
    /// seq_tier of the first operating point.
    pub tier: u8,
    /// high_bitdepth, twelve_bit, mono_chrome, subsampling in both directions and its position (2 bits), as the
    /// record's third byte holds them below seq_tier.
    pub format: u8,
    /// The largest size of its frames.
    pub size: Size,
}

impl Sequence {
    /// Reads what is behind a sequence header's unit header (5.5.1); none where it is malformed.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let bits = &mut Bits::new(payload.get(..payload.len().min(PARAMETER_SET_BYTES_MAX))?);
        let mut this = Self { profile: bits.small(3)?, ..Self::default() };
        bits.skip(1)?;
        let reduced = bits.flag()?;
        if reduced {
            this.level = bits.small(5)?;
        } else {
            (this.level, this.tier) = operating_points(bits)?;
        }
        let (wide, high) = (bits.read(4)? + 1, bits.read(4)? + 1);
        this.size = Size { width: bits.read(wide)?.checked_add(1)?, height: bits.read(high)?.checked_add(1)? };
        if !reduced && bits.flag()? {
            bits.skip(7)?;
        }
        bits.skip(3)?;
        if !reduced {
            bits.skip(4)?;
            let order = bits.flag()?;
            if order {
                bits.skip(2)?;
            }
            // seq_choose_screen_content_tools, else the value; then the same for integer motion vectors.
            let screen = if bits.flag()? { true } else { bits.flag()? };
            if screen && !bits.flag()? {
                bits.skip(1)?;
            }
            if order {
                bits.skip(3)?;
            }
        }
        bits.skip(3)?;
        this.format = color(bits, this.profile)?;
        Some(this)
    }
}

/// The operating points with what goes before them, down to level and tier of the first.
fn operating_points(bits: &mut Bits<'_>) -> Option<(u8, u8)> {
    let (mut model, mut delay) = (false, 0);
    if bits.flag()? {
        // timing_info: two times 32 bits, then equal_picture_interval.
        bits.skip(64)?;
        if bits.flag()? {
            bits.uvlc()?;
        }
        model = bits.flag()?;
        if model {
            delay = bits.read(5)? as usize + 1;
            bits.skip(32 + 5 + 5)?;
        }
    }
    let display = bits.flag()?;
    let count = bits.read(5)? + 1;
    let mut first = None;
    for _ in 0..count {
        bits.skip(12)?;
        let level = bits.small(5)?;
        let tier = if level > 7 { bits.small(1)? } else { 0 };
        if model && bits.flag()? {
            bits.skip(2 * delay + 1)?;
        }
        if display && bits.flag()? {
            bits.skip(4)?;
        }
        first.get_or_insert((level, tier));
    }
    first
}

/// color_config (5.5.2), as far as the record needs it.
fn color(bits: &mut Bits<'_>, profile: u8) -> Option<u8> {
    /// Colour primaries, transfer and matrix that make sRGB (6.4.2).
    const SRGB: u32 = 0x01_0d_00;
    let high = bits.flag()?;
    let twelve = profile == 2 && high && bits.flag()?;
    let mono = profile != 1 && bits.flag()?;
    let described = if bits.flag()? { bits.read(24)? } else { 0x02_02_02 };
    let (mut across, mut down, mut position) = (true, true, 0);
    if mono {
        bits.skip(1)?;
    } else if described == SRGB {
        (across, down) = (false, false);
    } else {
        bits.skip(1)?;
        (across, down) = match profile {
            0 => (true, true),
            1 => (false, false),
            _ if twelve => {
                let across = bits.flag()?;
                (across, across && bits.flag()?)
            }
            _ => (true, false),
        };
        if across && down {
            position = bits.small(2)?;
        }
    }
    let flags = [high, twelve, mono, across, down];
    Some(flags.into_iter().fold(0, |sum, flag| sum << 1 | u8::from(flag)) << 2 | position)
}

/// Writes a configuration record: AV1CodecConfigurationRecord with the sequence header, which is given as what is
/// behind its unit header. None where that is malformed.
pub fn write_config(sequence: &[u8]) -> Option<Vec<u8>> {
    let parsed = Sequence::parse(sequence)?;
    let mut out = vec![0x81, parsed.profile << 5 | parsed.level, parsed.tier << 7 | parsed.format, 0];
    write_obu(&mut out, Obu { head: &[unit::SEQUENCE_HEADER << 3], payload: sequence });
    Some(out)
}

/// The sequence header in a configuration record: what is behind its unit header. None where there is none.
pub fn parse_config(record: &[u8]) -> Option<&[u8]> {
    let (&[marker, ..], obus) = record.split_first_chunk::<4>()?;
    (marker == 0x81).then_some(())?;
    Obus(obus).find(|obu| obu.kind() == unit::SEQUENCE_HEADER).map(|obu| obu.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libaom writes for 640x360 at its defaults.
    const SEQUENCE: &[u8] = &[0x00, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x36, 0xbe, 0x40, 0x10];

    #[test]
    fn leb128_both_ways() {
        for value in [0_usize, 1, 127, 128, 16_383, 16_384, 0xffff_ffff] {
            let mut out = Vec::new();
            write_leb128(&mut out, value);
            assert_eq!(out.len(), leb128_len(value));
            assert_eq!(read_leb128(&out), Some((value as u32, &[][..])));
        }
        assert_eq!(read_leb128(&[0x80; 9]), None);
        assert_eq!(read_leb128(&[0xff, 0xff, 0xff, 0xff, 0x7f]), None, "more than 32 bits");
    }

    #[test]
    fn units_of_a_temporal_unit() {
        let data = [0x12, 0x00, 0x0a, 0x02, 7, 8, 0x36, 0x10, 0x01, 9, 0x30, 5, 6];
        let found: Vec<_> = Obus(&data).map(|obu| (obu.kind(), obu.payload)).collect();
        assert_eq!(found, [(2, &[][..]), (1, &[7, 8]), (6, &[9]), (6, &[5, 6])]);
        let mut out = Vec::new();
        Obus(&data).for_each(|obu| write_obu(&mut out, obu));
        assert_eq!(out, [0x12, 0x00, 0x0a, 0x02, 7, 8, 0x36, 0x10, 0x01, 9, 0x32, 2, 5, 6]);
        assert_eq!(Obus(&[0x0a, 5, 1]).next(), None, "cut short");
    }

    #[test]
    fn a_sequence_header() {
        let sequence = Sequence::parse(SEQUENCE).unwrap();
        assert_eq!((sequence.profile, sequence.tier), (0, 0));
        assert_eq!(sequence.size, Size { width: 640, height: 360 });
        let record = write_config(SEQUENCE).unwrap();
        assert_eq!(record[..6], [0x81, 0x01, 0x0c, 0x00, 0x0a, 0x0b], "as a muxer of files writes it");
        assert_eq!(parse_config(&record), Some(SEQUENCE));
        assert_eq!(parse_config(&record[..3]), None);
    }

    #[test]
    fn fuzz_av1() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|data: &[u8]| {
            let _ = (Sequence::parse(data), parse_config(data), Obus(data).count());
        });
    }
}
