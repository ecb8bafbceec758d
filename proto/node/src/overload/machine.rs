//! Samples in, a verdict out. Pure.
//!
//! Each threshold is a latch with hysteresis in value and in time: it closes when every sample of a while was at the
//! threshold or above, and opens when every sample of another while was below [`LEAVE_AT`] of it. So it cannot change
//! more often than those times allow, whatever the samples do.

use std::time::Duration;

use super::{Criterion, Levels, Reason, State, Verdict};
use crate::config;

/// Time since any fixed moment; it never goes back.
pub type Time = Duration;

/// The part of a threshold that a value must fall below before it counts no more.
pub const LEAVE_AT: f64 = 0.9;

/// Judges one process, or one host.
#[derive(Clone, Debug)]
pub struct Overload {
    enter: Duration,
    leave: Duration,
    tracked: [Tracked; Criterion::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Tracked {
    levels: Levels,
    value: Option<f64>,
    warn: Latch,
    refuse: Latch,
}

#[derive(Clone, Copy, Debug, Default)]
struct Latch {
    closed: bool,
    /// Since then every sample was on the other side.
    since: Option<Time>,
}

impl Latch {
    fn sample(&mut self, now: Time, threshold: Option<f64>, value: Option<f64>, enter: Duration, leave: Duration) {
        let Some(threshold) = threshold else {
            *self = Self::default();
            return;
        };
        // What cannot be measured any more must not hold for ever.
        let (beyond, hold) = match self.closed {
            true => (value.is_none_or(|value| value < threshold * LEAVE_AT), leave),
            false => (value.is_some_and(|value| value >= threshold), enter),
        };
        if !beyond {
            self.since = None;
        } else if now.saturating_sub(*self.since.get_or_insert(now)) >= hold {
            *self = Self { closed: !self.closed, since: None };
        }
    }
}

impl Overload {
    /// Nothing was sampled yet.
    pub fn new(config: &config::Overload) -> Self {
        let mut overload = Self { enter: config.enter, leave: config.leave, tracked: Default::default() };
        overload.configure(config);
        overload
    }

    /// Takes over other thresholds. They count with the next sample.
    pub fn configure(&mut self, config: &config::Overload) {
        (self.enter, self.leave) = (config.enter, config.leave);
        for (tracked, criterion) in self.tracked.iter_mut().zip(Criterion::ALL) {
            tracked.levels = config.levels(criterion);
        }
    }

    /// Takes a sample in; `None`: it cannot be measured.
    pub fn sample(&mut self, now: Time, criterion: Criterion, value: Option<f64>) {
        let (enter, leave) = (self.enter, self.leave);
        if let Some(tracked) = self.tracked.get_mut(criterion as usize) {
            let value = value.filter(|value| value.is_finite());
            tracked.value = value;
            tracked.warn.sample(now, tracked.levels.warn, value, enter, leave);
            tracked.refuse.sample(now, tracked.levels.refuse, value, enter, leave);
        }
    }

    /// How it stands after the last samples.
    pub fn verdict(&self) -> Verdict {
        let reasons = self.tracked.iter().zip(Criterion::ALL).filter_map(|(tracked, criterion)| {
            let (state, threshold) = match (tracked.refuse.closed, tracked.warn.closed) {
                (true, _) => (State::Refuse, tracked.levels.refuse?),
                (false, true) => (State::Warn, tracked.levels.warn?),
                (false, false) => return None,
            };
            Some(Reason { criterion, state, value: tracked.value.unwrap_or_default(), threshold })
        });
        Verdict::new(reasons.collect())
    }
}
