//! VP8 and VP9: what their keyframes say, and the configuration record (VP Codec ISO Media File Format Binding 2.2).

use super::{Bits, Size};

/// Whether a frame of VP8 is a keyframe, and how large (RFC 6386 9.1).
pub fn vp8_keyframe(frame: &[u8]) -> Option<Size> {
    let &[tag, _, _, a, b, c, w0, w1, h0, h1] = frame.first_chunk()?;
    let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    (tag & 1 == 0 && [a, b, c] == [0x9d, 0x01, 0x2a]).then(|| Size { width: size(w0, w1), height: size(h0, h1) })
}

/// What a keyframe of VP9 says (6.2 of the VP9 specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vp9 {
    /// 0 to 3.
    pub profile: u8,
    /// Bits of a sample.
    pub depth: u8,
    /// As the record codes it: 0 and 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma: u8,
    /// The size of the frame.
    pub size: Size,
}

impl Vp9 {
    /// Reads the uncompressed header of a frame; none where it is no keyframe.
    pub fn keyframe(frame: &[u8]) -> Option<Self> {
        let bits = &mut Bits::new(frame.get(..frame.len().min(32))?);
        (bits.read(2)? == 2).then_some(())?;
        let profile = bits.small(1)? | bits.small(1)? << 1;
        if profile == 3 {
            bits.skip(1)?;
        }
        let (shown_again, inter) = (bits.flag()?, bits.flag()?);
        if shown_again || inter {
            return None;
        }
        bits.skip(2)?;
        (bits.read(24)? == 0x49_83_42).then_some(())?;
        let depth = match profile {
            2 | 3 if bits.flag()? => 12,
            2 | 3 => 10,
            _ => 8,
        };
        let chroma = chroma(bits, profile)?;
        let size = Size { width: bits.read(16)? + 1, height: bits.read(16)? + 1 };
        Some(Self { profile, depth, chroma, size })
    }

    /// Writes a record: VPCodecConfigurationRecord behind version and flags, colours not described (BT.709 is what
    /// players take then).
    pub fn config(&self) -> Vec<u8> {
        const UNSPECIFIED: u8 = 2;
        let format = self.depth << 4 | self.chroma << 1;
        vec![1, 0, 0, 0, self.profile, LEVEL, format, UNSPECIFIED, UNSPECIFIED, UNSPECIFIED, 0, 0]
    }
}

/// Level 3.1; a bitstream of VP9 does not tell its own.
const LEVEL: u8 = 31;

/// The record of a stream of VP8.
pub fn vp8_config() -> Vec<u8> {
    Vp9 { profile: 0, depth: 8, chroma: 1, size: Size::default() }.config()
}

fn chroma(bits: &mut Bits<'_>, profile: u8) -> Option<u8> {
    const RGB: u32 = 7;
    let odd = profile & 1 == 1;
    if bits.read(3)? == RGB {
        if odd {
            bits.skip(1)?;
        }
        return Some(3);
    }
    bits.skip(1)?;
    if !odd {
        return Some(1);
    }
    let (across, down) = (bits.flag()?, bits.flag()?);
    bits.skip(1)?;
    Some(match (across, down) {
        (true, true) => 1,
        (true, false) => 2,
        _ => 3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes() {
        let vp8 = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x41, 0xff];
        assert_eq!(vp8_keyframe(&vp8), Some(Size { width: 640, height: 360 }));
        assert_eq!(vp8_keyframe(&[0x11; 10]), None);
        let vp9 = [0x82, 0x49, 0x83, 0x42, 0x00, 0x27, 0xf0, 0x16, 0x70];
        let found = Vp9::keyframe(&vp9).unwrap();
        assert_eq!((found.profile, found.depth, found.size), (0, 8, Size { width: 640, height: 360 }));
        assert_eq!(Vp9::keyframe(&[0x86, 0, 0]), None, "an inter frame");
        for end in 0..9 {
            assert_eq!(Vp9::keyframe(&vp9[..end]), None);
        }
    }

    #[test]
    fn fuzz_vpx() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|data: &[u8]| {
            let _ = (vp8_keyframe(data), Vp9::keyframe(data));
        });
    }
}
