//! Workers that are replaced while their clients stay: one slot after the other, edges first.
//!
//! An edge gets a successor beside it, with the same sockets. When that serves, the old worker hands its clients over and
//! leaves; what cannot move drains. An origin's sockets cannot be shared, so it leaves first; the edges keep publishers and
//! players for as long as that takes.

use std::collections::VecDeque;

use weir_node::worker::Role;

use super::slot::{State, Worker};
use super::{Action, Note, Plan, SlotId, Time, WorkerId};

/// A replacement of every worker under way.
#[derive(Debug)]
pub(super) struct Replacing {
    rest: VecDeque<SlotId>,
    step: Step,
    /// Workers up to this incarnation were there before.
    before: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Next,
    /// The successor is not ready yet.
    Starting(WorkerId),
    /// It is; the old worker hands over, and others need not wait for longer than this.
    HandingOver {
        old: WorkerId,
        until: Time,
    },
    /// An origin left, and its slot's next worker is not ready yet. The slot had so many deaths before.
    Restarting {
        slot: SlotId,
        old: WorkerId,
        deaths: u64,
    },
}

impl Plan {
    /// Whether workers are being replaced, and how many slots still wait for it.
    pub fn replacing(&self) -> Option<usize> {
        self.replacing.as_ref().map(|replacing| replacing.rest.len() + 1)
    }

    pub(super) fn begin_replacing(&mut self) {
        if self.stop.is_some() {
            return;
        }
        let mut rest: Vec<SlotId> = self.slots.values().filter(|slot| slot.wanted).map(|slot| slot.id).collect();
        rest.sort();
        match &mut self.replacing {
            // One that is under way goes on, and all that are done begin anew.
            Some(replacing) => {
                replacing.rest = rest.into();
                replacing.before = self.incarnations;
            }
            None => {
                let (rest, before) = (rest.into(), self.incarnations);
                self.replacing = Some(Replacing { rest, step: Step::Next, before });
            }
        }
    }

    pub(super) fn go_on_replacing(&mut self) {
        while let Some(replacing) = &mut self.replacing {
            let (step, before) = (replacing.step, replacing.before);
            let next = match step {
                Step::Next => match replacing.rest.front().copied() {
                    Some(slot) => self.replace(slot, before),
                    None => {
                        self.replacing = None;
                        self.note(Note::Replaced);
                        return;
                    }
                },
                Step::Starting(successor) => self.successor_starts(successor),
                Step::HandingOver { old, until } => {
                    let done = self.worker(old).is_none() || until <= self.now;
                    done.then_some(Step::Next)
                }
                Step::Restarting { slot, old, deaths } => self.origin_restarts(slot, old, deaths),
            };
            let Some(next) = next else { return };
            if let Some(replacing) = &mut self.replacing {
                if matches!(step, Step::Next) {
                    replacing.rest.pop_front();
                }
                replacing.step = next;
            }
        }
    }

    /// When the replacement goes on by itself.
    pub(super) fn replacing_deadline(&self) -> Option<Time> {
        match self.replacing.as_ref()?.step {
            Step::HandingOver { until, .. } => Some(until),
            Step::Next | Step::Starting(_) | Step::Restarting { .. } => None,
        }
    }

    pub(super) fn postpone_replacing(&mut self, late: Time) {
        if let Some(Replacing { step: Step::HandingOver { until, .. }, .. }) = &mut self.replacing {
            *until += late;
        }
    }

    /// Begins with a slot. One without a worker, or with one that is new already, is passed over; one whose worker is not
    /// ready is waited for, since that worker may still be an old one.
    fn replace(&mut self, id: SlotId, before: u64) -> Option<Step> {
        let Some(slot) = self.slots.get(&id).filter(|slot| slot.wanted) else { return Some(Step::Next) };
        let Some(old) = slot.current().filter(|old| old.id.incarnation <= before) else { return Some(Step::Next) };
        if !old.is_ready() {
            return None;
        }
        let old = old.id;
        match id.role {
            Role::Edge => {
                if let Some(successor) = slot.successor {
                    return Some(Step::Starting(successor));
                }
                if !slot.has_room() {
                    return None;
                }
                let successor = self.spawn_into(id);
                self.slots.get_mut(&id)?.successor = Some(successor);
                Some(Step::Starting(successor))
            }
            Role::Origin => {
                let deaths = slot.deaths.total;
                self.leave_now(old);
                Some(Step::Restarting { slot: id, old, deaths })
            }
        }
    }

    fn successor_starts(&mut self, successor: WorkerId) -> Option<Step> {
        match self.worker(successor).map(|worker| worker.state) {
            Some(State::Starting { .. }) => None,
            Some(State::Ready { .. }) => {
                let leaves = |old: &&Worker| matches!(old.state, State::Draining { to, .. } if to == Some(successor));
                let old = self.workers().find(leaves).map(|old| old.id);
                let until = self.now + self.limits.hand_over;
                Some(old.map_or(Step::Next, |old| Step::HandingOver { old, until }))
            }
            // Its slot was retired meanwhile.
            _ if self.slots.get(&successor.slot).is_none_or(|slot| !slot.wanted) => Some(Step::Next),
            Some(State::Draining { .. } | State::Stopping { .. } | State::Killed { .. }) | None => {
                self.give_up(successor.slot);
                None
            }
        }
    }

    fn origin_restarts(&mut self, id: SlotId, old: WorkerId, deaths: u64) -> Option<Step> {
        let slot = self.slots.get(&id)?;
        let current = slot.current().filter(|current| current.id != old);
        if slot.deaths.total > deaths {
            self.give_up(id);
            return None;
        }
        (!slot.wanted || current.is_some_and(Worker::is_ready)).then_some(Step::Next)
    }

    /// Successors that serve take the places of the workers that they were started beside.
    pub(super) fn succeed(&mut self) {
        let ready = |id: &WorkerId| self.worker(*id).is_some_and(Worker::is_ready);
        for successor in self.slots.values().filter_map(|slot| slot.successor).filter(ready).collect::<Vec<_>>() {
            let Some(slot) = self.slots.get_mut(&successor.slot) else { continue };
            let old = slot.current().map(|old| old.id);
            slot.successor = None;
            let Some(old) = old else { continue };
            self.hand_over(old, successor);
            // One that hangs has nobody to hand over; its exit is no death any more.
            self.with(old, |worker| {
                if let State::Killed { leaving, .. } = &mut worker.state {
                    *leaving = true;
                }
            });
        }
    }

    /// What is not replaced yet stays.
    fn give_up(&mut self, slot: SlotId) {
        self.replacing = None;
        self.note(Note::ReplaceFailed { slot });
    }

    /// Tells a worker to let its clients go on in another one, and to leave.
    pub(super) fn hand_over(&mut self, from: WorkerId, to: WorkerId) {
        let (now, within) = (self.now, self.limits.drain);
        let Some(worker) = self.worker_mut(from).filter(|worker| worker.is_ready()) else { return };
        worker.state = State::Draining { deadline: now + within, to: Some(to) };
        let clients = worker.connections;
        // Until it reports them itself: the next heir is chosen by what this one will have.
        self.with(to, |heir| heir.connections += clients);
        self.act(Action::HandOver { from, to, within });
        self.forget_loans_to(from);
    }

    /// Who should take the clients of a slot that is retired: the sibling with the fewest.
    pub(super) fn heir(&self, slot: SlotId) -> Option<WorkerId> {
        let siblings =
            self.slots.values().filter(|other| other.id.role == Role::Edge && other.id != slot && other.wanted);
        let serving =
            siblings.filter_map(|other| other.current()).filter(|worker| worker.attached && worker.is_ready());
        serving.min_by_key(|worker| (worker.connections, worker.id)).map(|worker| worker.id)
    }

    /// Who still has clients for a worker that is gone hands them to somebody else.
    pub(super) fn redirect(&mut self) {
        let gone = |to: WorkerId| self.worker(to).is_none_or(|worker| !worker.is_ready());
        let orphans = self.workers().filter_map(|worker| match worker.state {
            State::Draining { to: Some(to), deadline } if gone(to) => Some((worker.id, deadline)),
            _ => None,
        });
        for (from, deadline) in orphans.collect::<Vec<_>>() {
            let own = self.slots.get(&from.slot).and_then(|slot| slot.current()).filter(|worker| worker.is_ready());
            let Some(to) = own.map(|worker| worker.id).or_else(|| self.heir(from.slot)) else { continue };
            self.with(from, |worker| worker.state = State::Draining { deadline, to: Some(to) });
            self.act(Action::HandOver { from, to, within: deadline.saturating_sub(self.now) });
        }
    }
}
