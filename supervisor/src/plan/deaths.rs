//! How soon a slot is tried again after its worker died.

use std::collections::VecDeque;
use std::time::Duration;

use super::slot::{State, Worker};
use super::{Limits, Time};

/// What a slot waits after the first, second ... death in a row. Later ones wait as the last.
const STEPS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// So many deaths within [`Limits::stable`] fault the slot.
const FAULT_AT: usize = 5;

/// The deaths of one slot.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Deaths since a worker last served for [`Limits::stable`].
    in_a_row: usize,
    /// When the last of them were.
    recent: VecDeque<Time>,
    /// Whether the slot is only tried slowly, until a worker serves for [`Limits::stable`].
    pub(super) faulted: bool,
    /// All of the supervisor's life.
    pub(super) total: u64,
}

impl Deaths {
    /// What [`restore`](Self::restore) needs: deaths in a row, whether the slot is faulted, and how long ago the last deaths
    /// were.
    pub(super) fn save(&self, now: Time) -> (usize, bool, Vec<Duration>) {
        let ago = self.recent.iter().map(|at| now.saturating_sub(*at));
        (self.in_a_row, self.faulted, ago.collect())
    }

    /// The deaths before the moment zero. Lately ones count as of that moment; older ones make no difference any more.
    pub(super) fn restore(total: u64, in_a_row: usize, faulted: bool, ago: &[Duration], limits: &Limits) -> Self {
        let recent = ago.iter().rev().take(FAULT_AT).filter(|ago| **ago < limits.stable).map(|_| Time::ZERO);
        Self { in_a_row, recent: recent.collect(), faulted, total }
    }

    /// Counts a death and says how long the slot is to wait.
    pub(super) fn record(&mut self, limits: &Limits, now: Time, worker: &Worker, seed: u64) -> Duration {
        if matches!(worker.state, State::Ready { since } if now >= since + limits.stable) {
            *self = Self { total: self.total, ..Self::default() };
        }
        self.total += 1;
        self.recent.push_back(now);
        if self.recent.len() > FAULT_AT {
            self.recent.pop_front();
        }
        let many = self.recent.len() == FAULT_AT;
        let quick = self.recent.front().is_some_and(|first| now.saturating_sub(*first) <= limits.stable);
        self.faulted |= many && quick;
        let step = STEPS.get(self.in_a_row).or(STEPS.last()).copied().unwrap_or_default();
        self.in_a_row += 1;
        let wait = if self.faulted { limits.faulted } else { step };
        spread(wait, seed ^ worker.id.incarnation)
    }
}

/// Between 80 % and 120 % of `wait`, by the bits of `seed` (one round of SplitMix64).
fn spread(wait: Duration, seed: u64) -> Duration {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let per_mille = 800 + u32::try_from(bits % 401).unwrap_or_default();
    wait * per_mille / 1000
}

#[cfg(test)]
mod tests {
    use super::super::{SlotId, WorkerId};
    use super::*;

    fn worker(state: State) -> Worker {
        let id = WorkerId { slot: SlotId::edge(0), incarnation: 1 };
        Worker { state, ..Worker::new(id, Time::ZERO, Time::ZERO) }
    }

    fn near(got: Duration, wanted: Duration) -> bool {
        got >= wanted * 8 / 10 && got <= wanted * 12 / 10
    }

    #[test]
    fn waits_grow_and_five_quick_deaths_fault_the_slot() {
        let (limits, mut deaths) = (Limits::default(), Deaths::default());
        let starting = worker(State::Starting { until: Time::ZERO });
        let mut now = Time::ZERO;
        for step in &STEPS[..4] {
            let wait = deaths.record(&limits, now, &starting, 3);
            assert!(near(wait, *step), "{wait:?} for {step:?}");
            assert!(!deaths.faulted);
            now += wait;
        }
        assert!(near(deaths.record(&limits, now, &starting, 3), limits.faulted));
        assert!(deaths.faulted);
        assert!(near(deaths.record(&limits, now + limits.faulted, &starting, 3), limits.faulted));
    }

    #[test]
    fn slow_deaths_reach_the_longest_step_without_a_fault() {
        let (limits, mut deaths) = (Limits::default(), Deaths::default());
        let starting = worker(State::Starting { until: Time::ZERO });
        let waits: Vec<_> = (0..7).map(|i| deaths.record(&limits, i * Duration::from_secs(20), &starting, 9)).collect();
        assert!(!deaths.faulted);
        assert!(near(waits[4], STEPS[4]) && near(waits[6], STEPS[4]), "{waits:?}");
    }

    #[test]
    fn a_worker_that_served_long_enough_makes_a_fresh_start() {
        let (limits, mut deaths) = (Limits::default(), Deaths::default());
        let starting = worker(State::Starting { until: Time::ZERO });
        for _ in 0..5 {
            deaths.record(&limits, Time::ZERO, &starting, 0);
        }
        assert!(deaths.faulted);
        let short = worker(State::Ready { since: Time::from_secs(50) });
        assert!(near(deaths.record(&limits, Time::from_secs(100), &short, 0), limits.faulted));
        let long = worker(State::Ready { since: Time::from_secs(200) });
        assert_eq!(deaths.record(&limits, Time::from_secs(260), &long, 0), Duration::ZERO);
        assert!(!deaths.faulted);
        assert_eq!(deaths.total, 7);
    }

    #[test]
    fn slots_that_fail_together_are_spread() {
        let waits: std::collections::BTreeSet<_> = (0..100).map(|i| spread(Duration::from_secs(10), 42 ^ i)).collect();
        assert!(waits.len() > 70, "{}", waits.len());
        assert!(waits.iter().all(|wait| near(*wait, Duration::from_secs(10))));
    }
}
