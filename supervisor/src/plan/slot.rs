//! A slot, and the workers it has.

use std::time::Duration;

use weir_node::worker::Role;

use super::deaths::Deaths;
use super::loan::Loan;
use super::{INCARNATIONS_MAX, SlotId, Time, WorkerId};

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Spawned, not ready yet.
    Starting { until: Time },
    /// Serves.
    Ready { since: Time },
    /// Was asked to stop accepting and to leave by the deadline; its clients go on in that worker, if one is named.
    Draining { deadline: Time, to: Option<WorkerId> },
    /// Was asked to leave at once.
    Stopping { kill_at: Time },
    /// Was killed and is not reaped yet. `leaving`: it had been asked to go before.
    Killed { again_at: Time, leaving: bool, times: u32 },
}

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) state: State,
    pub(super) attached: bool,
    /// When it was last heard of.
    pub(super) seen: Time,
    pub(super) connections: u64,
}

impl Worker {
    pub(super) fn new(id: WorkerId, now: Time, until: Time) -> Self {
        Self { id, state: State::Starting { until }, attached: false, seen: now, connections: 0 }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Whether it was asked to go, so that its exit is no death and its slot may have another worker.
    pub(super) fn leaving(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Ready { .. } => false,
            State::Draining { .. } | State::Stopping { .. } => true,
            State::Killed { leaving, .. } => leaving,
        }
    }

    /// Whether it takes connections, as far as one can tell.
    pub(super) fn serves(&self, now: Time, silent: Duration) -> bool {
        self.is_ready() && now < self.seen + silent
    }

    fn postpone(&mut self, late: Duration) {
        self.seen += late;
        match &mut self.state {
            State::Starting { until: at }
            | State::Draining { deadline: at, .. }
            | State::Stopping { kill_at: at }
            | State::Killed { again_at: at, .. } => *at += late,
            State::Ready { .. } => {}
        }
    }
}

/// A slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: SlotId,
    /// False: retired by scaling down. Its sockets stay.
    pub(super) wanted: bool,
    /// Oldest first.
    pub(super) workers: Vec<Worker>,
    /// The one of them that starts beside the one that it is to replace.
    pub(super) successor: Option<WorkerId>,
    pub(super) deaths: Deaths,
    /// Not before this.
    pub(super) spawn_at: Time,
    /// Not before this.
    pub(super) lend_at: Time,
    /// At most one a sibling.
    pub(super) loans: Vec<Loan>,
    /// Who could not take its sockets the last time: not asked again while there is another.
    pub(super) refused: Option<WorkerId>,
}

impl Slot {
    pub(super) fn new(id: SlotId, lend_at: Time) -> Self {
        Self {
            id,
            wanted: true,
            workers: Vec::new(),
            successor: None,
            deaths: Deaths::default(),
            spawn_at: Time::ZERO,
            lend_at,
            loans: Vec::new(),
            refused: None,
        }
    }

    /// The worker that is to serve the slot; others are leaving, or about to succeed it.
    pub(super) fn current(&self) -> Option<&Worker> {
        self.workers.iter().find(|worker| !worker.leaving() && self.successor != Some(worker.id))
    }

    pub(super) fn has_room(&self) -> bool {
        self.workers.len() < INCARNATIONS_MAX
    }

    pub(super) fn is_ready(&self) -> bool {
        self.current().is_some_and(Worker::is_ready)
    }

    /// Edges share their sockets with the next worker; an origin's streams, and its UDP sockets, are one process's.
    pub(super) fn wants_worker(&self) -> bool {
        let room = match self.id.role {
            Role::Edge => self.has_room(),
            Role::Origin => self.workers.is_empty(),
        };
        self.wanted && self.current().is_none() && self.successor.is_none() && room
    }

    pub(super) fn serves(&self, now: Time, silent: Duration) -> bool {
        self.current().is_some_and(|worker| worker.serves(now, silent))
    }

    pub(super) fn loan_deadlines(&self) -> impl Iterator<Item = Time> {
        self.loans.iter().filter_map(Loan::due).chain([self.lend_at])
    }

    pub(super) fn postpone(&mut self, late: Duration) {
        self.workers.iter_mut().for_each(|worker| worker.postpone(late));
        self.loans.iter_mut().for_each(|loan| loan.postpone(late));
    }
}
