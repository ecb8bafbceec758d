//! What the workers say on their links.

use tracing::{debug, warn};
use weir_proto::supervisor::{Ack, Attach, Welcome, from_worker, to_worker};

use super::Host;
use crate::link::{Event, Outgoing};
use crate::plan::{Input, SlotId, WorkerId};

impl Host {
    pub(super) fn heard(&mut self, event: Event) {
        match event {
            Event::Attach { attach, peer, link, outgoing, admit } => {
                let admitted = self.attach(&attach, peer, link, outgoing);
                if let Err(status) = &admitted {
                    warn!("refused a link: {}", status.message());
                }
                admit.send(admitted).ok();
            }
            Event::Said { link, kind } => {
                if let Some(id) = self.links.get(&link).copied() {
                    self.said(id, *kind);
                }
            }
            Event::Broken { link } => self.broken(link),
        }
    }

    fn attach(&mut self, attach: &Attach, peer: Option<i32>, link: u64, out: Outgoing) -> Result<(), tonic::Status> {
        let unknown = || {
            let Attach { role, slot, incarnation, pid, .. } = attach;
            tonic::Status::permission_denied(format!("{role} {slot} #{incarnation} of process {pid} is unknown"))
        };
        let role = attach.role.parse().map_err(|_| unknown())?;
        let slot = SlotId { role, index: attach.slot };
        let id = WorkerId { slot, incarnation: attach.incarnation };
        let worker = self.workers.get_mut(&id).ok_or_else(unknown)?;
        let pid = worker.process.pid();
        if attach.pid != pid || peer.is_some_and(|peer| peer.unsigned_abs() != pid) {
            return Err(unknown());
        }
        if let Some(old) = worker.take_link(link, out) {
            self.links.remove(&old);
        }
        self.links.insert(link, id);
        let welcome = Welcome {
            config: self.json.clone(),
            generation: self.generation,
            host: self.name.clone(),
            edge_workers: self.config.edge_workers(),
            origin_workers: self.config.origin.workers,
        };
        self.say(id, to_worker::Kind::Welcome(welcome));
        self.welcomed(id);
        self.tell(Input::Attached(id));
        self.renew_sockets();
        Ok(())
    }

    fn said(&mut self, id: WorkerId, kind: from_worker::Kind) {
        match kind {
            from_worker::Kind::Attach(_) => debug!("{id} attaches twice"),
            from_worker::Kind::Ready(_) => self.tell(Input::Ready(id)),
            from_worker::Kind::Report(report) => {
                let connections = report.connections;
                if let Some(worker) = self.workers.get_mut(&id) {
                    self.metrics.report(id, &report);
                    worker.report = report;
                }
                self.tell(Input::Report { worker: id, connections });
            }
            from_worker::Kind::Seen(seen) => self.seen(id, seen),
            from_worker::Kind::Ack(Ack { token, error }) if self.kicked(token, &error) => {}
            from_worker::Kind::Ack(Ack { token, error }) => {
                if !error.is_empty() {
                    warn!("{id} could not do what it was told: {error}");
                }
                self.sockets_answered(id, token, error.is_empty());
                self.reload_answered(token, &error);
                self.tell(Input::Ack { token, done: error.is_empty() });
            }
        }
    }

    pub(super) fn broken(&mut self, link: u64) {
        let Some(id) = self.links.remove(&link) else { return };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.drop_link();
        }
        self.tell(Input::Detached(id));
    }
}
