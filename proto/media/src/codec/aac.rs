//! AAC: AudioSpecificConfig (1.6.2.1 of ISO/IEC 14496-3).

use super::Bits;

/// Rates by samplingFrequencyIndex (table 1.18).
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// Samples of a channel in a frame, without spectral band replication.
pub const FRAME: u32 = 1024;

/// What is read of an AudioSpecificConfig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// audioObjectType: 2 is LC, 5 and 29 are HE.
    pub object: u8,
    /// Samples a second of the core.
    pub rate: u32,
    /// channelConfiguration: 1 to 7, 7 means eight; 0 is told elsewhere.
    pub channels: u8,
}

impl Config {
    /// Reads it; none where it is malformed.
    pub fn parse(config: &[u8]) -> Option<Self> {
        let bits = &mut Bits::new(config);
        let mut object = bits.small(5)?;
        if object == 31 {
            object = 32 + bits.small(6)?;
        }
        let index = bits.read(4)?;
        let rate = match index {
            15 => bits.read(24)?,
            _ => *RATES.get(usize::try_from(index).ok()?)?,
        };
        Some(Self { object, rate, channels: bits.small(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs() {
        assert_eq!(Config::parse(&[0x12, 0x10]), Some(Config { object: 2, rate: 44_100, channels: 2 }));
        assert_eq!(Config::parse(&[0x11, 0x88]), Some(Config { object: 2, rate: 48_000, channels: 1 }));
        let written = [0x17, 0x80, 0x3e, 0x80, 0x10];
        assert_eq!(Config::parse(&written), Some(Config { object: 2, rate: 32_000, channels: 2 }));
        assert_eq!((Config::parse(&[0x12]), Config::parse(&[0x16, 0x90])), (None, None));
    }
}
