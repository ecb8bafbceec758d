//! What is counted of signaling.

use std::cell::Cell;

use weir_proto::metrics::families;
use weir_proto::supervisor::Snapshot;
use weir_wire::signal::Refusal;

use super::outbox::End;
use crate::hub::add;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Signaled {
    pub(super) sockets: Cell<u64>,
    /// Messages of clients, and to clients.
    pub(super) received: Cell<u64>,
    pub(super) sent: Cell<u64>,
    refused: [Cell<u64>; Refusal::ALL.len()],
    closed: [Cell<u64>; End::ALL.len()],
}

impl Signaled {
    /// A request was answered with an error.
    pub(super) fn refuse(&self, why: Refusal) {
        let place = Refusal::ALL.iter().position(|(known, _)| *known == why);
        if let Some(count) = place.and_then(|place| self.refused.get(place)) {
            add(count, 1);
        }
    }

    /// A connection was closed.
    pub(super) fn close(&self, why: End) {
        let place = End::ALL.iter().position(|known| *known == why);
        if let Some(count) = place.and_then(|place| self.closed.get(place)) {
            add(count, 1);
        }
    }

    /// Adds all of it to what /metrics shows.
    pub(crate) fn add_to(&self, out: &mut Snapshot) {
        out.gauge(&families::SIGNAL_SOCKETS, &[], self.sockets.get() as f64);
        out.count(&families::SIGNAL_MESSAGES, &["in"], self.received.get());
        out.count(&families::SIGNAL_MESSAGES, &["out"], self.sent.get());
        for ((_, reason), count) in Refusal::ALL.iter().zip(&self.refused) {
            out.count(&families::SIGNAL_REFUSALS, &[reason], count.get());
        }
        for (end, count) in End::ALL.iter().zip(&self.closed) {
            out.count(&families::SIGNAL_CLOSED, &[end.label()], count.get());
        }
    }
}
