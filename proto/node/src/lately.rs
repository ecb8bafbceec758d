//! Bits a second over the last half minute, of a counter of bytes that is looked at now and then.

use std::time::{Duration, Instant};

/// How often [`Lately::note`] is to be called.
pub const NOTE_EVERY: Duration = Duration::from_secs(10);

/// Notes that are kept: thirty seconds of them.
const NOTES: usize = 3;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lately {
    notes: [u64; NOTES],
    /// How far the counter was at first.
    start: u64,
    /// How many were noted, counted on.
    noted: u32,
}

impl Lately {
    /// Of a counter that does not begin at 0.
    pub fn starting_at(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    /// Notes how far the counter is; to be called every [`NOTE_EVERY`].
    pub fn note(&mut self, bytes: u64) {
        if let Some(place) = self.notes.get_mut(self.noted as usize % NOTES) {
            *place = bytes;
        }
        self.noted = self.noted.wrapping_add(1);
    }

    /// Bits a second since the oldest note, or in all the counter's `life` before its second one. `noted` is the time since
    /// the last note.
    pub fn bps(&self, bytes: u64, noted: Duration, life: Duration) -> u64 {
        let kept = (self.noted as usize).min(NOTES);
        let oldest = self.notes.get((self.noted as usize).wrapping_sub(kept) % NOTES).copied().unwrap_or(0);
        let (first, time) = match u32::try_from(kept).unwrap_or(0) {
            // The first note may be of this moment.
            0 | 1 => (self.start, life),
            kept => (oldest, noted + NOTE_EVERY * (kept - 1)),
        };
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_sub(first).saturating_mul(8_000).checked_div(millis).unwrap_or(0)
    }
}

/// When the last note was, and when the next is due.
#[derive(Clone, Copy, Debug)]
pub struct Notes(Instant);

impl Notes {
    /// The first is due in [`NOTE_EVERY`].
    pub fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Whether one is due; then that is done.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.0) >= NOTE_EVERY;
        if due {
            self.0 = now;
        }
        due
    }

    /// Since the last.
    pub fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_not_of_late() {
        let mut lately = Lately::starting_at(1_000_000);
        assert_eq!(lately.bps(1_001_000, Duration::ZERO, Duration::from_secs(1)), 8000);
        lately.note(1_002_000);
        assert_eq!(lately.bps(1_002_000, Duration::ZERO, Duration::from_secs(2)), 8000);
    }

    /// What is said of a counter that grows by 1000 bytes a second from its first second on, in each.
    fn said(born: u64, until: u64) -> Vec<u64> {
        let mut lately = Lately::default();
        let mut out = Vec::new();
        for second in 0..until {
            let bytes = second.saturating_sub(born) * 1000;
            if second >= born && second % 10 == 0 {
                lately.note(bytes);
            }
            if second > born {
                let at = |seconds| Duration::from_secs(seconds);
                out.push(lately.bps(bytes, at(second % 10), at(second - born)));
            }
        }
        out
    }

    #[test]
    fn a_steady_counter_is_steady_from_the_beginning() {
        for born in 0..20 {
            let said = said(born, 100);
            assert!(said.iter().all(|bps| *bps == 8000), "born at {born}: {said:?}");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut lately = Lately::default();
        for bytes in [0, 1_000_000, 1_000_000, 1_000_000, 1_000_000] {
            lately.note(bytes);
        }
        assert_eq!(lately.bps(1_000_000, Duration::from_secs(5), Duration::from_secs(45)), 0);
        assert_eq!(Lately::default().bps(0, Duration::ZERO, Duration::ZERO), 0, "no time, no rate");
        assert_eq!(lately.bps(5, Duration::from_secs(5), Duration::from_secs(45)), 0, "a counter does not go back");
    }
}
