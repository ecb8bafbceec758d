//! What operators ask and order.

use nix::sys::signal::Signal;
use tracing::warn;

use super::Host;
use super::reload::Answer;
use crate::admin::{Ask, Change};
use crate::plan::{Input, SlotId, WorkerState};

impl Host {
    pub(super) fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => drop(answer.send(self.status())),
            Ask::Metrics(answer) => drop(answer.send(self.metrics_text())),
            Ask::Look(request, answer) => self.look(&request, answer),
            Ask::Streams(request, answer) => self.streams(request, answer),
            Ask::Kick(id, answer) => self.kick(&id, answer),
            Ask::Change(change, answer) => self.change(change, answer),
            Ask::Stop { graceful, begun } => {
                self.stop(graceful);
                begun.send(()).ok();
            }
        }
    }

    fn change(&mut self, change: Change, answer: Answer) {
        match change {
            Change::Reload => self.reload(Some(answer)),
            Change::Scale { role, workers } => self.scale(&role, workers, answer),
            Change::Drain { role, slot } => drop(answer.send(self.drain(&role, slot))),
            Change::Upgrade(binary) => self.upgrade(binary, Some(answer)),
        }
    }

    fn drain(&mut self, role: &str, index: u32) -> Result<String, String> {
        let slot = SlotId { role: role.parse()?, index };
        let worker = self.plan.slots().find(|view| view.id == slot).and_then(|view| {
            let serves = view.workers.iter().find(|worker| worker.state == WorkerState::Ready)?;
            Some(serves.id)
        });
        let worker = worker.ok_or_else(|| format!("{slot} has no worker that serves"))?;
        self.tell(Input::Drain(slot));
        Ok(format!("{worker} drains; it leaves within {:?}", self.config.edge.drain_timeout))
    }

    pub(super) fn stop(&mut self, graceful: bool) {
        self.tell(Input::Stop { graceful });
    }

    pub(super) fn reopen_logs(&self) {
        if let Err(error) = weir_node::log::reopen() {
            warn!("{error}");
        }
        // One that has no link yet catches no signals either, and opens the file anew in a moment.
        for id in self.workers.iter().filter(|(_, worker)| worker.is_linked()).map(|(id, _)| *id) {
            self.signal(id, Signal::SIGUSR1);
        }
    }
}
