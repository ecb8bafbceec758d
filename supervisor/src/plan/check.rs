//! What is always true of a plan, looked at after every input in builds with debug assertions.

use weir_node::worker::Role;

use super::slot::Slot;
use super::{INCARNATIONS_MAX, Plan};

impl Plan {
    /// Panics when the plan contradicts itself.
    pub(super) fn check(&self) {
        if cfg!(debug_assertions) {
            self.slots.values().for_each(|slot| self.check_slot(slot));
        }
    }

    fn check_slot(&self, slot: &Slot) {
        let id = slot.id;
        let staying = |worker: &&super::slot::Worker| !worker.leaving() && slot.successor != Some(worker.id);
        let current = slot.workers.iter().filter(staying).count();
        let successor = slot.successor.map(|id| slot.workers.iter().any(|worker| worker.id == id));
        assert_ne!(successor, Some(false), "{id} waits for a successor that is gone");
        assert!(current <= 1, "{id} has {current} workers of which none is leaving");
        assert!(slot.workers.len() <= INCARNATIONS_MAX, "{id} has {} workers", slot.workers.len());
        assert!(slot.workers.iter().all(|worker| worker.id.slot == id), "{id} has another slot's worker");
        assert!(slot.workers.is_sorted_by_key(|worker| worker.id.incarnation), "{id}: incarnations out of order");
        assert!(slot.wanted || current == 0 || self.is_killing(slot), "{id} is retired and keeps its worker");

        assert!(slot.loans.is_empty() || id.role == Role::Edge, "{id} lends");
        assert!(slot.loans.is_empty() || self.stop.is_none(), "{id} lends while everything stops");
        for (i, loan) in slot.loans.iter().enumerate() {
            let twice = slot.loans.iter().skip(i + 1).any(|other| other.to == loan.to);
            assert!(!twice, "{id} is lent to {} twice", loan.to);
            assert!(loan.to.slot != id, "{id} is lent to its own worker");
            let borrower = self.worker(loan.to);
            assert!(
                borrower.is_some_and(|worker| worker.is_ready()),
                "{id} is lent to {}, which is not ready",
                loan.to
            );
        }
        let serves = slot.serves(self.now, self.limits.silent);
        let lent = slot.loans.iter().any(|loan| !loan.is_returning());
        assert!(!(serves && lent && self.stop.is_none()), "{id} serves and is lent");
    }

    /// A worker that was killed before its slot was retired is not asked to go as well.
    fn is_killing(&self, slot: &Slot) -> bool {
        slot.current().is_some_and(|worker| matches!(worker.state, super::slot::State::Killed { .. }))
    }
}
