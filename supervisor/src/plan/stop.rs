//! The orderly stop: edges first, so that no client sees an origin go, then origins, then the supervisor.

use weir_node::worker::Role;

use super::slot::State;
use super::{Action, Plan, WorkerId};

/// A stop under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    graceful: bool,
    /// Whose workers are leaving.
    role: Role,
    abandoned: usize,
    exited: bool,
}

/// After so many kills a process that is still there is left behind.
const KILLS_MAX: u32 = 2;

impl Plan {
    pub(super) fn begin_stop(&mut self, graceful: bool) {
        match &mut self.stop {
            Some(stop) => {
                stop.graceful &= graceful;
            }
            None => {
                self.stop = Some(Stop { graceful, role: Role::Edge, abandoned: 0, exited: false });
                self.replacing = None;
                for slot in self.slots.values_mut() {
                    slot.loans.clear();
                    slot.successor = None;
                }
                self.act(Action::NotifyStopping);
                self.act(Action::CloseListeners);
            }
        }
        self.ask_to_leave();
    }

    /// True once a stop began.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Moves on when the workers of a role are gone.
    pub(super) fn go_on_stopping(&mut self) {
        self.abandon();
        let Some(stop) = self.stop else { return };
        if self.workers().any(|worker| worker.id.slot.role == stop.role) {
            return;
        }
        match stop.role {
            Role::Edge => {
                self.stop = Some(Stop { role: Role::Origin, ..stop });
                self.ask_to_leave();
                self.go_on_stopping();
            }
            Role::Origin if !stop.exited => {
                self.stop = Some(Stop { exited: true, ..stop });
                self.act(Action::Exit { abandoned: stop.abandoned });
            }
            Role::Origin => {}
        }
    }

    fn ask_to_leave(&mut self) {
        let Some(stop) = self.stop else { return };
        let leaving: Vec<WorkerId> =
            self.workers().map(|worker| worker.id).filter(|id| id.slot.role == stop.role).collect();
        for id in leaving {
            match stop.graceful {
                true => self.drain(id),
                false => self.leave_now(id),
            }
        }
    }

    fn abandon(&mut self) {
        let mut abandoned = 0;
        for slot in self.slots.values_mut() {
            let before = slot.workers.len();
            slot.workers.retain(|worker| !matches!(worker.state, State::Killed { times, .. } if times > KILLS_MAX));
            abandoned += before - slot.workers.len();
        }
        if let Some(stop) = &mut self.stop {
            stop.abandoned += abandoned;
        }
    }
}
