//! A worker as the loop knows it.

use weir_proto::supervisor::{Report, ToWorker, to_worker};

use crate::link::Outgoing;
use crate::spawn::Process;
use crate::usage::Usage;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) process: Process,
    pub(super) report: Report,
    pub(super) usage: Usage,
    /// The number of the addresses whose sockets it has, and the token of those that it was given and did not take yet.
    pub(super) addresses: u64,
    pub(super) given: Option<(u64, u64)>,
    link: Option<(u64, Outgoing)>,
}

impl Worker {
    pub(super) fn new(process: Process, addresses: u64) -> Self {
        Self { process, report: Report::default(), usage: Usage::default(), addresses, given: None, link: None }
    }

    /// Queues a message. False when there is no link, or it is as good as broken.
    pub(super) fn say(&self, kind: to_worker::Kind) -> bool {
        let message = ToWorker { kind: Some(kind) };
        self.link.as_ref().is_some_and(|(_, outgoing)| outgoing.try_send(Ok(message)).is_ok())
    }

    /// Says something that is said again soon: nothing is lost when the worker is too far behind to hear it.
    pub(super) fn hint(&self, kind: to_worker::Kind) {
        let Some((_, outgoing)) = &self.link else { return };
        if outgoing.capacity() > outgoing.max_capacity() / 2 {
            outgoing.try_send(Ok(ToWorker { kind: Some(kind) })).ok();
        }
    }

    /// Whether it has one.
    pub(super) fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// Takes a new link; returns the number of the one it replaces.
    pub(super) fn take_link(&mut self, link: u64, outgoing: Outgoing) -> Option<u64> {
        self.link.replace((link, outgoing)).map(|(old, _)| old)
    }

    /// Closes the link; returns its number.
    pub(super) fn drop_link(&mut self) -> Option<u64> {
        self.link.take().map(|(link, _)| link)
    }
}
