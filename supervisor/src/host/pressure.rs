//! How near to its limits the host is: looked at once a second, told to the workers, shown to the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};
use weir_node::config;
use weir_node::overload::{HostSample, HostSampler, Overload, State, Time, Verdict};
use weir_node::worker::Role;
use weir_proto::metrics::{Page, families};
use weir_proto::supervisor::{EdgeLoad, HostLoad, OverloadReport, OverloadState, Pressure, to_worker};

use super::Host;
use crate::plan::{WorkerId, WorkerState};

/// The host's own part of the overload.
#[derive(Debug)]
pub(super) struct HostPressure {
    sampler: HostSampler,
    overload: Overload,
    sample: HostSample,
    verdict: Verdict,
    loss: Loss,
}

impl HostPressure {
    pub(super) fn new(config: &config::Overload) -> Self {
        Self {
            sampler: HostSampler::default(),
            overload: Overload::new(config),
            sample: HostSample::default(),
            verdict: Verdict::default(),
            loss: Loss::default(),
        }
    }

    fn look(&mut self, now: Time, config: &config::Overload) {
        self.overload.configure(config);
        self.sample = self.sampler.sample(config);
        self.sample.judge(now, &mut self.overload);
        let verdict = self.overload.verdict();
        if !verdict.is_like(&self.verdict) {
            match verdict.state {
                State::Ok => info!("this host is well again"),
                State::Warn => warn!("this host is near its limits: {verdict}"),
                State::Refuse => warn!("this host is overloaded, its edges refuse new clients: {verdict}"),
            }
        }
        self.verdict = verdict;
    }

    /// For the operator.
    pub(super) fn load(&self) -> HostLoad {
        let HostSample { cpu, memory, nic, nic_bytes, disk, send_drops } = self.sample;
        HostLoad {
            state: OverloadState::from(self.verdict.state).into(),
            reasons: self.verdict.reasons.iter().map(Into::into).collect(),
            cpu_percent: cpu,
            memory_percent: memory.map(|memory| memory.percent()),
            memory_available_bytes: memory.map(|memory| memory.available),
            nic_percent: nic,
            nic_received_bytes: nic_bytes.map(|(received, _)| received),
            nic_sent_bytes: nic_bytes.map(|(_, sent)| sent),
            disk_percent: disk,
            udp_send_drops: send_drops,
        }
    }

    /// For Prometheus.
    pub(super) fn numbers(&self, page: &mut Page) {
        let HostSample { cpu, memory, nic, nic_bytes, disk, send_drops } = self.sample;
        let mut set = |family, labels: &[&str], value: Option<f64>| {
            if let Some(value) = value {
                page.set(family, labels, value);
            }
        };
        set(&families::HOST_CPU, &[], cpu.map(|percent| percent / 100.0));
        set(&families::HOST_MEMORY, &[], memory.map(|memory| memory.available as f64));
        set(&families::HOST_NIC, &[], nic.map(|percent| percent / 100.0));
        set(&families::HOST_NIC_BYTES, &["in"], nic_bytes.map(|(received, _)| received as f64));
        set(&families::HOST_NIC_BYTES, &["out"], nic_bytes.map(|(_, sent)| sent as f64));
        set(&families::HOST_DISK, &[], disk.map(|percent| 1.0 - percent / 100.0));
        set(&families::UDP_SEND_DROPS, &[], send_drops.map(|drops| drops as f64));
    }
}

impl Host {
    /// Looks at the host, and tells every worker.
    pub(super) fn press(&mut self) {
        let now = self.now();
        self.pressure.look(now, &self.config.overload);
        let HostLoad { state, reasons, .. } = self.pressure.load();
        let pressure = Pressure { state, reasons, edges: self.edge_loads() };
        for worker in self.workers.values() {
            worker.hint(to_worker::Kind::Pressure(pressure.clone()));
        }
        let told =
            |(id, worker): (&WorkerId, &super::worker::Worker)| Some((*id, lost(worker.report.overload.as_ref()?)?));
        let lost = self.workers.iter().filter_map(told).collect();
        if let Some(line) =
            self.pressure.loss.line(now, self.config.overload.loss_log, lost, self.pressure.sample.send_drops)
        {
            line.write();
        }
    }

    /// Every edge worker that serves.
    fn edge_loads(&self) -> Vec<EdgeLoad> {
        let most = f64::from(self.config.edge.connections.max(1));
        let edges = self.plan.slots().filter(|slot| slot.id.role == Role::Edge).flat_map(|slot| slot.workers);
        let serving = edges.filter(|view| view.state == WorkerState::Ready && !view.leaving);
        let load = serving.filter_map(|view| {
            let report = &self.workers.get(&view.id)?.report;
            let overload = report.overload.as_ref()?;
            // Its own state: that of the host is the same for all.
            let state = overload.reasons.iter().map(|reason| reason.state).max().unwrap_or_default();
            let load = (report.connections as f64 / most).max(overload.cpu_percent / 100.0).min(1.0);
            Some(EdgeLoad { slot: view.id.slot.index, incarnation: view.id.incarnation, state, load })
        });
        load.collect()
    }
}

/// Datagrams that a worker's sockets dropped so far; `None`: it has no such sockets.
fn lost(report: &OverloadReport) -> Option<u64> {
    let drops = report.udp.iter().map(|socket| socket.receive_drops);
    (!report.udp.is_empty()).then(|| drops.fold(0, u64::saturating_add))
}

/// Makes a line about lost datagrams now and then. Pure.
#[derive(Debug, Default)]
struct Loss {
    since: Option<Time>,
    received: BTreeMap<WorkerId, u64>,
    sent: Option<u64>,
}

/// What was lost in some time.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    received: u64,
    sent: u64,
    within: Duration,
}

impl Loss {
    /// What was lost since the line before, if one is due. `received` are what the sockets of each worker dropped since
    /// its start, `sent` what the host could not send since its own. Without any sockets there is no line.
    fn line(
        &mut self,
        now: Time,
        every: Duration,
        received: BTreeMap<WorkerId, u64>,
        sent: Option<u64>,
    ) -> Option<Line> {
        if every.is_zero() || received.is_empty() {
            *self = Self::default();
            return None;
        }
        let Some(since) = self.since else {
            // What was lost before is for nobody's account, except that of workers that are new now.
            *self = Self { since: Some(now), received, sent };
            return None;
        };
        let within = now.saturating_sub(since);
        if within < every {
            return None;
        }
        let more = |(id, count): (&WorkerId, &u64)| count.saturating_sub(self.received.get(id).copied().unwrap_or(0));
        let line = Line {
            received: received.iter().map(more).fold(0, u64::saturating_add),
            sent: sent.zip(self.sent).map_or(0, |(now, before)| now.saturating_sub(before)),
            within,
        };
        *self = Self { since: Some(now), received, sent };
        Some(line)
    }
}

impl Line {
    /// `r` and `s` as SRS writes them, and over what time, which it does not say.
    fn write(&self) {
        let Self { received, sent, within } = self;
        let seconds = within.as_secs_f64().round();
        if *received + *sent > 0 {
            warn!("udp: loss=(r:{received},s:{sent}) in {seconds} s");
        } else {
            info!("udp: loss=(r:{received},s:{sent}) in {seconds} s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SlotId;

    const TEN: Duration = Duration::from_secs(10);

    fn of(counts: &[(u64, u64)]) -> BTreeMap<WorkerId, u64> {
        let slot = SlotId { role: Role::Edge, index: 0 };
        counts.iter().map(|(incarnation, count)| (WorkerId { slot, incarnation: *incarnation }, *count)).collect()
    }

    #[test]
    fn a_line_tells_of_the_time_since_the_one_before() {
        let mut loss = Loss::default();
        let second = Duration::from_secs(1);
        assert_eq!(loss.line(second, TEN, of(&[(1, 5)]), Some(7)), None);
        assert_eq!(loss.line(second * 10, TEN, of(&[(1, 50)]), Some(7)), None, "not due");
        let line = loss.line(second * 12, TEN, of(&[(1, 54), (2, 3)]), Some(8));
        assert_eq!(line, Some(Line { received: 52, sent: 1, within: second * 11 }));
        // A worker is gone, and the kernel counts no more.
        let line = loss.line(second * 22, TEN, of(&[(2, 3)]), None);
        assert_eq!(line, Some(Line { received: 0, sent: 0, within: TEN }));
        assert_eq!(loss.line(second * 40, TEN, of(&[]), Some(9)), None, "no sockets");
        assert_eq!(loss.line(second * 60, Duration::ZERO, of(&[(2, 3)]), Some(9)), None, "switched off");
    }
}
