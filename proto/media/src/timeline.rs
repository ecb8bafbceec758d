//! A publisher's 32-bit millisecond clock, repaired once into the stream's own microseconds.

/// Backward steps up to this pass as they are: interleaved tracks overlap a little.
const BACK_MAX: i64 = 250_000;

/// Forward steps up to this pass as they are; a greater one is a broken clock.
const FORWARD_MAX: i64 = 30_000_000;

/// What a broken step is replaced by.
const STEP: i64 = 10_000;

/// Maps a publisher's timestamps to the stream's time, for all its tracks together, so that they stay in step.
///
/// The clock wraps at 2^32 ms (Adobe RTMP 5.3.1); a step back beyond 250 ms or forward beyond 30 s (an encoder that
/// restarted its clock, a corrupt field) is replaced by 10 ms, and what follows continues from there.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// Stream time minus unwrapped publisher time.
    offset: i64,
    last: Option<Last>,
    base: i64,
    repairs: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    raw: u32,
    unwrapped: i64,
    out: i64,
}

impl Timeline {
    /// The first frame will have the time `base`, in microseconds.
    pub fn new(base: i64) -> Self {
        Self { offset: 0, last: None, base, repairs: 0 }
    }

    /// The stream's time for a timestamp as the publisher sent it.
    pub fn map(&mut self, timestamp_ms: u32) -> i64 {
        let Some(last) = self.last else {
            let unwrapped = i64::from(timestamp_ms) * 1000;
            self.offset = self.base - unwrapped;
            self.last = Some(Last { raw: timestamp_ms, unwrapped, out: self.base });
            return self.base;
        };
        #[expect(clippy::cast_possible_wrap, reason = "serial number arithmetic")]
        let step = i64::from(timestamp_ms.wrapping_sub(last.raw) as i32) * 1000;
        let unwrapped = last.unwrapped + step;
        let mut out = unwrapped + self.offset;
        if out < last.out - BACK_MAX || out > last.out + FORWARD_MAX {
            self.repairs += 1;
            out = last.out + STEP;
            self.offset = out - unwrapped;
        }
        // The reference only moves forward: small steps back are measured from the newest frame, not from each other.
        if out >= last.out {
            self.last = Some(Last { raw: timestamp_ms, unwrapped, out });
        }
        out.max(0)
    }

    /// How many steps were replaced.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(base: i64, stamps: &[u32]) -> Vec<i64> {
        let mut line = Timeline::new(base);
        stamps.iter().map(|&t| line.map(t) / 1000).collect()
    }

    #[test]
    fn starts_at_its_base_and_keeps_distances() {
        assert_eq!(run(5_000_000, &[100, 140, 120, 180]), [5000, 5040, 5020, 5080]);
    }

    #[test]
    fn wraps_at_32_bits() {
        assert_eq!(run(0, &[u32::MAX - 9, u32::MAX, 10]), [0, 9, 20]);
        assert_eq!(run(0, &[0x00ff_fff0, 0x0100_0010]), [0, 32], "and not at 24");
    }

    #[test]
    fn broken_steps_are_replaced_and_later_ones_kept() {
        assert_eq!(run(0, &[1000, 1040, 0, 40, 20]), [0, 40, 50, 90, 70], "clock restarted");
        assert_eq!(run(0, &[0, 40, 90_000_000, 90_000_040]), [0, 40, 50, 90], "clock jumped");
        let mut line = Timeline::new(0);
        for t in [0, 500_000, 0] {
            line.map(t);
        }
        assert_eq!(line.repairs(), 2);
    }

    #[test]
    fn never_negative() {
        assert_eq!(run(0, &[100, 50]), [0, 0]);
    }
}
