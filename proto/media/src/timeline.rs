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
    base: i64,
    /// The newest frame.
    last: Option<Last>,
    repairs: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    raw: u32,
    out: i64,
}

impl Timeline {
    /// The first frame will have the time `base`, in microseconds; a negative one counts as 0.
    pub fn new(base: i64) -> Self {
        Self { base: base.max(0), last: None, repairs: 0 }
    }

    /// The stream's time for a timestamp as the publisher sent it; never negative.
    pub fn map(&mut self, timestamp_ms: u32) -> i64 {
        let Some(last) = self.last else {
            self.last = Some(Last { raw: timestamp_ms, out: self.base });
            return self.base;
        };
        #[expect(clippy::cast_possible_wrap, reason = "serial number arithmetic")]
        let mut step = i64::from(timestamp_ms.wrapping_sub(last.raw) as i32) * 1000;
        if !(-BACK_MAX..=FORWARD_MAX).contains(&step) {
            self.repairs += 1;
            step = STEP;
        }
        // No publisher lives long enough to get there from a base that an origin grants.
        let out = last.out.saturating_add(step);
        // The reference only moves forward: small steps back are measured from the newest frame, not from each other.
        if step >= 0 {
            self.last = Some(Last { raw: timestamp_ms, out });
        }
        out.max(0)
    }

    /// What [`restore`](Self::restore) needs: the base, and of the newest frame the publisher's time and the stream's.
    pub fn save(&self) -> (i64, Option<(u32, i64)>) {
        (self.base, self.last.map(|last| (last.raw, last.out)))
    }

    /// A timeline that goes on where another stood.
    pub fn restore(base: i64, last: Option<(u32, i64)>) -> Self {
        Self { last: last.map(|(raw, out)| Last { raw, out }), ..Self::new(base) }
    }

    /// How many steps were replaced.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn goes_on_elsewhere() {
        let mut line = Timeline::new(7_000_000);
        for (stamp, out) in [(500, 7000), (540, 7040), (30, 7050), (70, 7090)] {
            assert_eq!(line.map(stamp), out * 1000);
            let (base, last) = line.save();
            line = Timeline::restore(base, last);
        }
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

    #[test]
    fn a_clock_that_jumps_for_ever_overflows_nothing() {
        for jump in [i32::MAX as u32, i32::MIN as u32] {
            let mut line = Timeline::new(0);
            // So many jumps of 24 days are more than 64 bits of microseconds.
            let (mut raw, jumps) = (0u32, 5_000_000);
            for _ in 0..=jumps {
                line.map(raw);
                raw = raw.wrapping_add(jump);
            }
            assert_eq!((line.repairs(), line.last.unwrap().out), (jumps, jumps as i64 * STEP));
        }
    }

    proptest! {
        /// Whatever a publisher's clock and an origin's base are.
        #[test]
        fn any_clock_gives_steps_within_bounds(
            base in prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>(), 0..9_000_000i64],
            stamps in prop::collection::vec(prop_oneof![any::<u32>(), 0..100_000u32], 1..60),
        ) {
            let mut line = Timeline::new(base);
            let mut newest = line.map(stamps[0]);
            prop_assert_eq!(newest, base.max(0));
            for stamp in &stamps[1..] {
                let out = line.map(*stamp);
                prop_assert!(out >= 0 && out >= newest.saturating_sub(BACK_MAX));
                prop_assert!(out <= newest.saturating_add(FORWARD_MAX));
                newest = newest.max(out);
            }
        }
    }
}
