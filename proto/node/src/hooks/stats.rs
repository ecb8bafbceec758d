//! What is counted of callbacks.

use std::cell::Cell;
use std::time::Duration;

use weir_proto::metrics::{Observed, families};
use weir_proto::supervisor::Snapshot;

use super::Hook;

/// What became of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A yes, or a notice that was taken.
    Ok,
    /// A no.
    Refused,
    /// No answer that could be understood.
    Failed,
    /// A notice for which there was no room.
    Dropped,
}

impl Outcome {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Ok, "ok"), (Self::Refused, "refused"), (Self::Failed, "failed"), (Self::Dropped, "dropped")];
}

/// See the module.
#[derive(Debug)]
pub struct HookStats {
    counts: [[Cell<u64>; Outcome::ALL.len()]; Hook::ALL.len()],
    took: [Observed; Hook::ALL.len()],
}

impl Default for HookStats {
    fn default() -> Self {
        Self { counts: Default::default(), took: std::array::from_fn(|_| Observed::new(&families::CALLBACK_SECONDS)) }
    }
}

impl HookStats {
    pub(super) fn count(&self, hook: Hook, outcome: Outcome) {
        if let Some(count) = self.counts.get(hook as usize).and_then(|counts| counts.get(outcome as usize)) {
            count.set(count.get() + 1);
        }
    }

    pub(super) fn took(&self, hook: Hook, time: Duration) {
        if let Some(took) = self.took.get(hook as usize) {
            took.observe(time);
        }
    }

    /// How often that came of it.
    pub fn counted(&self, hook: Hook, outcome: Outcome) -> u64 {
        self.counts.get(hook as usize).and_then(|counts| counts.get(outcome as usize)).map_or(0, Cell::get)
    }

    /// Adds all to what a worker tells /metrics; hooks that were never called are left out.
    pub fn fill(&self, out: &mut Snapshot) {
        for ((hook, counts), took) in Hook::ALL.iter().zip(&self.counts).zip(&self.took) {
            let name = hook.as_str();
            for ((_, outcome), count) in Outcome::ALL.iter().zip(counts).filter(|(_, count)| count.get() > 0) {
                out.count(&families::CALLBACKS, &[name, outcome], count.get());
            }
            if took.get().count() > 0 {
                out.observed(&[name], took);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_count() {
        let stats = HookStats::default();
        for (place, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook as usize, place);
            for (place, (outcome, _)) in Outcome::ALL.into_iter().enumerate() {
                assert_eq!(outcome as usize, place);
                stats.count(hook, outcome);
                assert_eq!(stats.counted(hook, outcome), 1);
            }
        }
        let mut out = Snapshot::default();
        stats.took(Hook::Play, Duration::from_millis(3));
        stats.fill(&mut out);
        assert_eq!((out.counters.len(), out.histograms.len()), (24, 1));
    }
}
