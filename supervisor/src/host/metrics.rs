//! The loop's part of the metrics: its own numbers, and the text when it is asked for.

use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use weir_proto::metrics::{Page, families};

use super::Host;
use crate::admin::Ask;
use crate::metrics::http;
use crate::plan::{SlotView, WorkerState};

impl Host {
    /// Answers on the addresses of `metrics.listen`. The sockets stay in the slots; these are copies.
    pub(super) fn serve_metrics(&self, asks: &mpsc::Sender<Ask>) -> anyhow::Result<()> {
        for socket in self.slots.own() {
            let fd: OwnedFd = socket.fd.try_clone().with_context(|| socket.name.clone())?;
            let listener = TcpListener::from_std(fd.into()).with_context(|| socket.name.clone())?;
            spawn_local(http::serve(listener, asks.clone()));
        }
        Ok(())
    }

    /// The text for Prometheus.
    pub(super) fn metrics_text(&mut self) -> String {
        let now = Instant::now();
        if let Some(text) = self.metrics.fresh(now) {
            return text.to_owned();
        }
        let mut page = self.metrics.page(self.config.metrics.streams());
        page.set(&families::CONFIG_GENERATION, &[], self.generation as f64);
        self.pressure.numbers(&mut page);
        for slot in self.plan.slots() {
            self.slot_numbers(&slot, &mut page);
        }
        self.metrics.write(now, &page)
    }

    fn slot_numbers(&self, slot: &SlotView, page: &mut Page) {
        let index = slot.id.index.to_string();
        let labels = [slot.id.role.as_str(), index.as_str()];
        page.set(&families::WORKER_RESTARTS, &labels, slot.deaths as f64);
        if slot.wanted {
            let up = slot.workers.iter().any(|worker| worker.state == WorkerState::Ready);
            page.set(&families::WORKER_UP, &labels, f64::from(u8::from(up)));
        }
        for worker in slot.workers.iter().filter_map(|view| self.workers.get(&view.id)) {
            let started = self.metrics.unix_time(worker.process.started);
            page.raise(&families::WORKER_START, &labels, started.as_secs_f64());
            page.add(&families::WORKER_CPU, &labels, worker.usage.cpu_percent / 100.0);
            page.add(&families::WORKER_MEMORY, &labels, worker.usage.memory as f64);
        }
    }
}
