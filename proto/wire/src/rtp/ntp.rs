//! NTP's format of times (RFC 3550 4): seconds since 1900 in 32.32 fixed point; RTCP's short one is its middle.

use std::time::Duration;

/// Seconds from 1900 to 1970.
const UNIX: u64 = 2_208_988_800;

/// The time that is so long after 1970. The format wraps in 2036.
pub fn from_unix(since: Duration) -> u64 {
    (since.as_secs().wrapping_add(UNIX) << 32) | u64::from(fraction(since))
}

/// A length of time, to be added to a time, wrapping.
pub fn from_duration(length: Duration) -> u64 {
    (length.as_secs() << 32) | u64::from(fraction(length))
}

/// The short form: the middle 32 bits, 16.16.
pub fn middle(ntp: u64) -> u32 {
    // The low ones of what is left are meant.
    (ntp >> 16) as u32
}

/// A length of time in the short form, up to its eighteen hours.
pub fn short(length: Duration) -> u32 {
    u32::try_from(from_duration(length) >> 16).unwrap_or(u32::MAX)
}

/// The length of time that is so long in the short form.
pub fn from_short(short: u32) -> Duration {
    Duration::from_nanos((u64::from(short) * 1_000_000_000) >> 16)
}

/// What is below a second, in units of 2^-32 seconds.
fn fraction(length: Duration) -> u32 {
    // Below a second, so below 2^32.
    ((u64::from(length.subsec_nanos()) << 32) / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(from_unix(Duration::ZERO), 2_208_988_800 << 32);
        let half = from_unix(Duration::from_millis(1_500));
        assert_eq!(half, (2_208_988_801 << 32) + (1 << 31));
        assert_eq!(middle(half), (2_208_988_801_u64 << 16) as u32 + 0x8000);
        assert_eq!(short(Duration::from_millis(250)), 16_384);
        assert_eq!(from_short(16_384), Duration::from_millis(250));
        assert_eq!(short(Duration::from_secs(1 << 20)), u32::MAX);
        assert_eq!(from_unix(Duration::from_secs(1 << 33)) >> 32, (UNIX + (1 << 33)) & 0xffff_ffff, "it wraps");
    }
}
