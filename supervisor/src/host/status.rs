//! The answer to `weir ctl status`.

use std::time::Duration;

use weir_proto::supervisor::{Listener, StatusReply, WorkerStatus};

use super::Host;
use crate::plan::{SlotView, WorkerView};

impl Host {
    pub(super) fn status(&self) -> StatusReply {
        let state = match (self.plan.is_stopping(), self.plan.was_ready()) {
            (true, _) => "stopping",
            (false, true) => "ready",
            (false, false) => "starting",
        };
        let listeners = self.slots.listeners().iter();
        let (bytes_in, bytes_out) = self.metrics.bytes();
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host: self.name.clone(),
            state: state.to_owned(),
            uptime_ms: millis(self.uptime()),
            generation: self.generation,
            listeners: listeners.map(|l| Listener { name: l.name.clone(), address: l.address.clone() }).collect(),
            upgrade: self.upgrade.clone(),
            load: Some(self.pressure.load()),
            bytes_in,
            bytes_out,
            workers: self.plan.slots().flat_map(|slot| self.rows(&slot)).collect(),
        }
    }

    /// A row a worker, and one for a slot that waits for its worker.
    fn rows(&self, slot: &SlotView) -> Vec<WorkerStatus> {
        let mut rows: Vec<_> = slot.workers.iter().map(|worker| self.row(slot, worker)).collect();
        if slot.wanted && slot.workers.iter().all(|worker| worker.leaving) {
            rows.push(WorkerStatus { state: slot.state.to_string(), ..empty_row(slot) });
        }
        rows
    }

    fn row(&self, slot: &SlotView, view: &WorkerView) -> WorkerStatus {
        let row = WorkerStatus { incarnation: view.id.incarnation, state: view.state.to_string(), ..empty_row(slot) };
        let Some(worker) = self.workers.get(&view.id) else { return row };
        let report = &worker.report;
        WorkerStatus {
            pid: worker.process.pid(),
            uptime_ms: millis(worker.process.started.elapsed()),
            connections: report.connections,
            streams: report.streams,
            publishers: report.publishers,
            players: report.players,
            bytes_in: report.bytes_in,
            bytes_out: report.bytes_out,
            loop_lag_us: report.loop_lag_us,
            busy_percent: report.busy_percent,
            round_us: report.round_us,
            skips: report.skips,
            slow_closed: report.slow_closed,
            refused: report.refused,
            gop_bytes: report.gop_bytes,
            overload: report.overload.clone(),
            cpu_percent: worker.usage.cpu_percent,
            memory_bytes: worker.usage.memory,
            ..row
        }
    }
}

fn empty_row(slot: &SlotView) -> WorkerStatus {
    WorkerStatus {
        role: slot.id.role.to_string(),
        slot: slot.id.index,
        restarts: slot.deaths,
        lent_to: slot.lent_to.first().map(|worker| worker.slot.index),
        ..WorkerStatus::default()
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
