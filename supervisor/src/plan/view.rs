//! What the plan shows of itself.

use std::fmt;

use super::slot::{Slot, State, Worker};
use super::{Plan, SlotId, Time, WorkerId};

/// A worker's state in statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Spawned, not ready yet.
    Starting,
    /// Serves.
    Ready,
    /// Ready, but not heard of for a while.
    Silent,
    /// Leaves when its clients have.
    Draining,
    /// Leaves at once.
    Stopping,
    /// Was killed and is not reaped yet.
    Killed,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Silent => "silent",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
        })
    }
}

/// The state of a slot that has no worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Retired, or about to get a worker.
    Empty,
    /// Waits for its next worker after deaths.
    Backoff {
        /// Until then.
        until: Time,
    },
    /// Had too many deaths and waits long.
    Faulted {
        /// Until then.
        until: Time,
    },
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "empty",
            Self::Backoff { .. } => "backoff",
            Self::Faulted { .. } => "faulted",
        })
    }
}

/// One worker.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView {
    /// Which.
    pub id: WorkerId,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Whether it was asked to go.
    pub leaving: bool,
}

/// One slot.
#[derive(Debug)]
pub struct SlotView {
    /// Which.
    pub id: SlotId,
    /// False: retired by scaling down.
    pub wanted: bool,
    /// What it waits for while it has no worker that is to serve it.
    pub state: SlotState,
    /// Its workers, oldest first.
    pub workers: Vec<WorkerView>,
    /// Who took its sockets. In the time of a hand-over these may be several.
    pub lent_to: Vec<WorkerId>,
    /// Deaths of its workers.
    pub deaths: u64,
}

impl Plan {
    /// All slots, edges first.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> {
        self.slots.values().map(|slot| SlotView {
            id: slot.id,
            wanted: slot.wanted,
            state: self.slot_state(slot),
            workers: slot.workers.iter().map(|worker| self.worker_view(worker)).collect(),
            lent_to: slot.loans.iter().filter(|loan| !loan.is_returning()).map(|loan| loan.to).collect(),
            deaths: slot.deaths.total,
        })
    }

    /// Whether every wanted slot had a ready worker at one time.
    pub fn was_ready(&self) -> bool {
        self.announced
    }

    fn slot_state(&self, slot: &Slot) -> SlotState {
        let until = slot.spawn_at;
        match slot.wanted && until > self.now {
            false => SlotState::Empty,
            true if slot.deaths.faulted => SlotState::Faulted { until },
            true => SlotState::Backoff { until },
        }
    }

    fn worker_view(&self, worker: &Worker) -> WorkerView {
        let state = match worker.state {
            State::Starting { .. } => WorkerState::Starting,
            State::Ready { .. } if worker.serves(self.now, self.limits.silent) => WorkerState::Ready,
            State::Ready { .. } => WorkerState::Silent,
            State::Draining { .. } => WorkerState::Draining,
            State::Stopping { .. } => WorkerState::Stopping,
            State::Killed { .. } => WorkerState::Killed,
        };
        WorkerView { id: worker.id, state, leaving: worker.leaving() }
    }
}
