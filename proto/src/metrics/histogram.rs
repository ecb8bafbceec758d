//! What a worker observes, in buckets.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::{Family, Kind};

/// Observations in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Of each bucket alone, and at the end of those above all bounds.
    pub counts: Vec<u64>,
    /// Sum of what was observed, in microseconds: whole numbers do not depend on the order of their addition, so a
    /// merged sum never goes back by a rounding error.
    pub sum_us: u64,
}

impl Buckets {
    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Adds those of another one of the same bounds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    /// Takes the larger of each number.
    pub(super) fn grow(&mut self, other: &Self) {
        self.combine(other, u64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours = with(*ours, *theirs);
        }
        self.sum_us = with(self.sum_us, other.sum_us);
    }
}

/// The observations of one worker.
#[derive(Debug)]
pub struct Observed {
    family: &'static Family,
    counts: RefCell<Vec<u64>>,
    sum_us: Cell<u64>,
}

impl Observed {
    /// None yet, of a family whose kind is a histogram.
    pub fn new(family: &'static Family) -> Self {
        let observed = Self { family, counts: RefCell::default(), sum_us: Cell::new(0) };
        observed.counts.borrow_mut().resize(observed.bounds().len() + 1, 0);
        observed
    }

    fn bounds(&self) -> &'static [f64] {
        match self.family.kind {
            Kind::Histogram(bounds) => bounds,
            _ => &[],
        }
    }

    /// What it is.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Takes one in.
    pub fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let at = self.bounds().partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.borrow_mut().get_mut(at) {
            *count += 1;
        }
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.set(self.sum_us.get().saturating_add(micros));
    }

    /// All of them.
    pub fn get(&self) -> Buckets {
        Buckets { counts: self.counts.borrow().clone(), sum_us: self.sum_us.get() }
    }
}
