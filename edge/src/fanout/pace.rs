//! How long a frame may wait to be written together with later ones where nobody said: `mw_latency: auto`. Pure.

use std::time::Duration;

/// The longest wait, at [`FULL`] and above.
pub(crate) const LONGEST: Duration = Duration::from_millis(350);

/// The busy share at which the wait is the longest: above it the worker is overloaded whatever is done here.
const FULL: f64 = 0.5;

/// A wait below this is none: timers are no finer.
const SHORTEST: Duration = Duration::from_millis(1);

/// What was measured counts less and less for about so long.
const MEMORY: Duration = Duration::from_secs(1);

/// Makes the time between rounds out of the worker's busy share.
///
/// The wait grows with the square of the share. A longer wait means fewer writes and so a smaller share, which makes the
/// wait shorter again: the two meet at one point. Around it, a share that is off by 1 % changes the wait by 2 %, and that
/// the next share by at most 2 % the other way, which [`MEMORY`] turns into a calm approach.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    share: f64,
}

impl Pace {
    /// The worker was busy for `busy` of the last `passed`.
    pub(crate) fn observe(&mut self, busy: Duration, passed: Duration) {
        if passed.is_zero() {
            return;
        }
        let share = (busy.as_secs_f64() / passed.as_secs_f64()).min(1.0);
        let old = (-passed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.share = self.share * old + share * (1.0 - old);
    }

    /// The share of its time that the worker is busy, 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        self.share
    }

    /// The time from one round to the next; zero: frames are written as they come.
    pub(crate) fn round(&self) -> Duration {
        let wait = LONGEST.mul_f64((self.share / FULL).min(1.0).powi(2));
        if wait < SHORTEST { Duration::ZERO } else { wait }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A worker that the pace drives: what each round and all other work cost it.
    struct Worker {
        pace: Pace,
        /// Seconds that one round costs, besides its bytes.
        round: f64,
        /// Seconds a second that the bytes cost, in rounds of any length.
        bytes: f64,
        /// Seconds a second of other work.
        other: f64,
        now: f64,
        next_frame: f64,
        last_round: f64,
        longest_gap: f64,
    }

    const FRAME: f64 = 1.0 / 68.0;

    impl Worker {
        /// `players`, 6 us a write and 170 us a megabyte, as on loopback.
        fn new(players: f64, other: f64) -> Self {
            Self {
                pace: Pace::default(),
                round: players * 6e-6,
                bytes: players * 0.085 * 170e-6,
                other,
                now: 0.0,
                next_frame: 0.0,
                last_round: 0.0,
                longest_gap: 0.0,
            }
        }

        /// One window of a tenth of a second. Returns the wait after it, in seconds.
        fn window(&mut self) -> f64 {
            let end = self.now + 0.1;
            let mut busy = 0.0;
            while self.now < end {
                let due = self.next_frame.max(self.last_round + self.pace.round().as_secs_f64()).max(self.now);
                if due >= end {
                    self.now = end;
                    break;
                }
                self.longest_gap = self.longest_gap.max(due - self.last_round);
                self.last_round = due;
                // Other work takes its share of the thread, so a round takes longer than it costs.
                self.now = due + self.round / (1.0 - self.other).max(0.05);
                self.next_frame = (self.now / FRAME).ceil() * FRAME;
                busy += self.round;
            }
            let passed = 0.1 + (self.now - end);
            busy += (self.other + self.bytes) * passed;
            self.pace.observe(Duration::from_secs_f64(busy.min(passed)), Duration::from_secs_f64(passed));
            self.pace.round().as_secs_f64()
        }

        fn run(&mut self, seconds: usize) -> Vec<f64> {
            (0..seconds * 10).map(|_| self.window()).collect()
        }
    }

    #[test]
    fn a_few_players_never_wait_and_thousands_wait_a_little() {
        assert_eq!(Worker::new(1.0, 0.0).run(20).pop(), Some(0.0));
        let mut thousand = Worker::new(1000.0, 0.0);
        let wait = thousand.run(20).pop().unwrap();
        assert!((0.015..0.06).contains(&wait), "{wait}");
        let mut many = Worker::new(4000.0, 0.0);
        let wait = many.run(20).pop().unwrap();
        assert!((0.05..0.2).contains(&wait), "{wait}");
        assert!(many.pace.share() < 0.5, "{}", many.pace.share());
    }

    #[test]
    fn a_thread_with_no_time_left_writes_at_the_longest_round_and_recovers() {
        let mut worker = Worker::new(2000.0, 0.95);
        assert_eq!(worker.run(20).pop(), Some(LONGEST.as_secs_f64()));
        worker.other = 0.0;
        let wait = worker.run(20).pop().unwrap();
        assert!((0.02..0.1).contains(&wait), "{wait}");
    }

    #[test]
    fn a_long_sleep_is_forgotten_at_once() {
        let mut pace = Pace::default();
        pace.observe(Duration::from_secs(5), Duration::from_secs(5));
        assert!(pace.round() > LONGEST / 2);
        pace.observe(Duration::ZERO, Duration::from_secs(60));
        assert_eq!(pace.round(), Duration::ZERO);
        pace.observe(Duration::from_secs(1), Duration::ZERO);
        assert_eq!(pace.round(), Duration::ZERO);
    }

    proptest! {
        /// Whatever the load: it settles, does not swing, and no player waits longer than the longest round and a walk.
        #[test]
        fn settles_and_starves_nobody(players in 1.0..20_000_f64, other in 0.0..1.0_f64, later in 1.0..20_000_f64) {
            let mut worker = Worker::new(players, other);
            worker.run(15);
            let mut settled = worker.run(15);
            settled.sort_by(f64::total_cmp);
            let (low, high) = (settled[settled.len() / 20], settled[settled.len() * 19 / 20]);
            prop_assert!(high <= low * 1.5 + 0.002, "swings between {low} and {high}");
            // The crowd changes at once.
            let change = Worker::new(later, other);
            (worker.round, worker.bytes) = (change.round, change.bytes);
            worker.run(15);
            let mut settled = worker.run(15);
            settled.sort_by(f64::total_cmp);
            let (low, high) = (settled[settled.len() / 20], settled[settled.len() * 19 / 20]);
            prop_assert!(high <= low * 1.5 + 0.002, "swings between {low} and {high} after the change");
            let walk = (players.max(later) * 6e-6) / (1.0 - other).max(0.05);
            let bound = LONGEST.as_secs_f64() + walk + 2.0 * FRAME;
            prop_assert!(worker.longest_gap <= bound, "{} above {bound}", worker.longest_gap);
        }
    }
}
