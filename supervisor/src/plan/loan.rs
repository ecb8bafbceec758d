//! Loans: an edge slot without a worker that serves lends its sockets to a sibling that does.
//!
//! A loan is a message, and messages get lost: each is repeated under a fresh token until it is answered, and an
//! answer to a superseded token counts for nothing. Taking the same slot twice, and giving back what one does not
//! have, are harmless to a worker, and the order of messages to one worker is kept. Origins lend nothing: a
//! stream belongs to one of them.

use std::time::Duration;

use weir_node::worker::Role;

use super::{Action, Note, Plan, SlotId, Time, WorkerId};

/// How far a loan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Told to take the sockets, again at `due`.
    Lending { due: Time },
    /// Took them.
    Lent,
    /// Told to give them back, again at `due`.
    Returning { due: Time },
}

/// A slot's sockets in the hands of a sibling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    pub(super) to: WorkerId,
    /// Of the last message.
    pub(super) token: u64,
    pub(super) step: Step,
}

impl Loan {
    pub(super) fn due(&self) -> Option<Time> {
        match self.step {
            Step::Lending { due } | Step::Returning { due } => Some(due),
            Step::Lent => None,
        }
    }

    pub(super) fn is_returning(&self) -> bool {
        matches!(self.step, Step::Returning { .. })
    }

    pub(super) fn postpone(&mut self, late: Duration) {
        if let Step::Lending { due } | Step::Returning { due } = &mut self.step {
            *due += late;
        }
    }
}

impl Plan {
    /// Lends and returns what should be.
    pub(super) fn cover(&mut self) {
        let edges: Vec<_> = self.slots.keys().copied().filter(|id| id.role == Role::Edge).collect();
        for slot in edges {
            self.repeat(slot);
            if self.slot_serves(slot) {
                self.take_back(slot);
            } else if !self.is_covered(slot)
                && let Some(sibling) = self.sibling_for(slot)
            {
                self.lend(slot, sibling);
            }
        }
    }

    /// A worker answered.
    pub(super) fn ack(&mut self, token: u64, done: bool) {
        let retry_at = self.now + self.limits.refused;
        let found = self.slots.values_mut().find_map(|slot| {
            let at = slot.loans.iter().position(|loan| loan.token == token)?;
            Some((slot, at))
        });
        let Some((slot, at)) = found else { return };
        let (id, Some(loan)) = (slot.id, slot.loans.get_mut(at)) else { return };
        let to = loan.to;
        match (loan.step, done) {
            (Step::Lending { .. }, true) => {
                loan.step = Step::Lent;
                slot.refused = None;
                self.note(Note::Lent { slot: id, to });
            }
            (Step::Lending { .. }, false) => {
                slot.loans.remove(at);
                slot.refused = Some(to);
                slot.lend_at = retry_at;
            }
            (Step::Returning { .. }, true) => {
                slot.loans.remove(at);
                self.note(Note::Returned { slot: id, from: to });
            }
            // Asked again when it is due.
            (Step::Returning { .. }, false) | (Step::Lent, _) => {}
        }
    }

    /// A worker that leaves or is gone accepts for nobody.
    pub(super) fn forget_loans_to(&mut self, worker: WorkerId) {
        for slot in self.slots.values_mut() {
            slot.loans.retain(|loan| loan.to != worker);
        }
    }

    fn slot_serves(&self, slot: SlotId) -> bool {
        self.slots.get(&slot).is_some_and(|slot| slot.serves(self.now, self.limits.silent))
    }

    fn serves(&self, worker: WorkerId) -> bool {
        self.worker(worker).is_some_and(|worker| worker.serves(self.now, self.limits.silent))
    }

    /// Whether a sibling that serves has, or is being given, the slot's sockets.
    fn is_covered(&self, slot: SlotId) -> bool {
        let loans = self.slots.get(&slot).into_iter().flat_map(|slot| &slot.loans);
        loans.into_iter().any(|loan| !loan.is_returning() && self.serves(loan.to))
    }

    /// The sibling to lend to now: the one that serves the fewest slots, for each brings as many new
    /// connections as its own; then the one with the fewest connections.
    fn sibling_for(&self, slot: SlotId) -> Option<WorkerId> {
        let this = self.slots.get(&slot).filter(|slot| slot.lend_at <= self.now)?;
        let siblings = self.slots.values().filter(|other| other.id.role == Role::Edge && other.id != slot);
        let serving = siblings.filter_map(|other| other.current()).filter(|w| w.attached && self.serves(w.id));
        let borrowed = |id| self.slots.values().filter(|other| other.loans.iter().any(|loan| loan.to == id)).count();
        let cost = |id, connections| (this.refused == Some(id), borrowed(id), connections, id);
        serving.min_by_key(|w| cost(w.id, w.connections)).map(|w| w.id)
    }

    fn lend(&mut self, slot: SlotId, to: WorkerId) {
        let step = Step::Lending { due: self.now + self.limits.ack };
        let token = self.next_token();
        let Some(this) = self.slots.get_mut(&slot) else { return };
        this.loans.retain(|loan| loan.to != to);
        this.loans.push(Loan { to, token, step });
        self.act(Action::Lend { slot, to, token });
    }

    fn give_back(&mut self, slot: SlotId, from: WorkerId) {
        let due = self.now + self.limits.ack;
        let token = self.next_token();
        let Some(this) = self.slots.get_mut(&slot) else { return };
        let Some(loan) = this.loans.iter_mut().find(|loan| loan.to == from) else { return };
        loan.step = Step::Returning { due };
        loan.token = token;
        self.act(Action::Return { slot, from, token });
    }

    fn take_back(&mut self, slot: SlotId) {
        let loans = self.slots.get(&slot).into_iter().flat_map(|slot| &slot.loans);
        let held: Vec<_> = loans.filter(|loan| !loan.is_returning()).map(|loan| loan.to).collect();
        for from in held {
            self.give_back(slot, from);
        }
    }

    /// Says again what was not answered. A slot that stopped serving meanwhile takes nothing back.
    fn repeat(&mut self, slot: SlotId) {
        let serves = self.slot_serves(slot);
        let loans = self.slots.get(&slot).into_iter().flat_map(|slot| &slot.loans);
        let due: Vec<_> = loans.filter(|loan| loan.due().is_some_and(|due| due <= self.now)).copied().collect();
        for loan in due {
            match (loan.is_returning(), serves) {
                (true, true) => self.give_back(slot, loan.to),
                (false, false) => self.lend(slot, loan.to),
                (true, false) | (false, true) => {}
            }
        }
    }

    fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}
