//! Overload: what is near its limits, and whether new clients are still taken.
//!
//! ```text
//! worker:      thread CPU, loop lag, connections, UDP drops ─> Overload ─┐
//! supervisor:  host CPU, NIC, memory, disk ─> Overload ─ Pressure ───────┴> Verdict ─> accept, pass on, redirect, refuse
//! ```
//!
//! [`Overload`] judges samples and [`Relief`] chooses a sibling, both pure; [`proc`] reads the kernel's texts
//! and [`HostSampler`] fetches them. [`Watch`] is what a worker's body asks.

mod host;
mod machine;
pub mod proc;
mod relief;
mod udp;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;

use weir_proto::supervisor::{OverloadReason, OverloadState};

use crate::config;

pub use host::{HostSample, HostSampler};
pub use machine::{LEAVE_AT, Overload, Time};
pub use relief::{Load, MARGIN, PER_SECOND, Relief, Sibling};
pub use udp::{SOCKETS_MAX, UdpSockets};
pub use watch::{Turned, Watch};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criterion {
    /// CPU time of a worker's thread, in per cent of one core.
    WorkerCpu,
    /// CPU time of all processes, in per cent of all cores.
    HostCpu,
    /// Bits through a network interface, in per cent of its limit.
    Nic,
    /// Datagrams a second that a worker did not read in time.
    UdpDrops,
    /// Memory in use, in per cent.
    Memory,
    /// Used space of a file system, in per cent.
    Disk,
    /// How late a worker's loop was, in milliseconds.
    LoopLag,
    /// TCP clients of a worker, in per cent of `edge.connections`.
    Connections,
}

impl Criterion {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::WorkerCpu,
        Self::HostCpu,
        Self::Nic,
        Self::UdpDrops,
        Self::Memory,
        Self::Disk,
        Self::LoopLag,
        Self::Connections,
    ];

    /// The word of the configuration, of logs and of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkerCpu => "worker_cpu",
            Self::HostCpu => "host_cpu",
            Self::Nic => "nic",
            Self::UdpDrops => "udp_drops",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::LoopLag => "loop_lag",
            Self::Connections => "connections",
        }
    }
}

/// What a value of the criterion of that name is counted in, as it follows the number.
pub fn unit(criterion: &str) -> &'static str {
    match criterion {
        "loop_lag" => " ms",
        "udp_drops" => "/s",
        _ => " %",
    }
}

/// How it stands; the greater is the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing holds.
    #[default]
    Ok,
    /// Something is near its limit.
    Warn,
    /// New clients are refused.
    Refuse,
}

impl State {
    /// The word in logs and statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<OverloadState> for State {
    fn from(state: OverloadState) -> Self {
        match state {
            OverloadState::OverloadOk => Self::Ok,
            OverloadState::OverloadWarn => Self::Warn,
            OverloadState::OverloadRefuse => Self::Refuse,
        }
    }
}

impl From<State> for OverloadState {
    fn from(state: State) -> Self {
        match state {
            State::Ok => Self::OverloadOk,
            State::Warn => Self::OverloadWarn,
            State::Refuse => Self::OverloadRefuse,
        }
    }
}

/// One criterion that holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reason {
    /// Which.
    pub criterion: Criterion,
    /// [`State::Warn`] or [`State::Refuse`].
    pub state: State,
    /// The newest sample, in the criterion's unit.
    pub value: f64,
    /// The threshold that it passed.
    pub threshold: f64,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.criterion.as_str();
        write!(f, "{name} {:.0}{}", self.value, unit(name))
    }
}

impl From<&Reason> for OverloadReason {
    fn from(reason: &Reason) -> Self {
        Self {
            criterion: reason.criterion.as_str().to_owned(),
            state: OverloadState::from(reason.state).into(),
            value: reason.value,
            threshold: reason.threshold,
        }
    }
}

impl Reason {
    /// What another process said; `None` if this version does not know the criterion.
    pub fn read(said: &OverloadReason) -> Option<Self> {
        let criterion = Criterion::ALL.into_iter().find(|criterion| criterion.as_str() == said.criterion)?;
        Some(Self { criterion, state: said.state().into(), value: said.value, threshold: said.threshold })
    }
}

/// How it stands and why. Displayed as its reasons, the worse first: `worker_cpu 97 %, nic 83 %`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The worst of the reasons.
    pub state: State,
    /// What holds, the worse first.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Of these reasons.
    pub fn new(mut reasons: Vec<Reason>) -> Self {
        reasons.sort_by_key(|reason| (std::cmp::Reverse(reason.state), reason.criterion));
        Self { state: reasons.first().map_or(State::Ok, |reason| reason.state), reasons }
    }

    /// Of what another process said. A state that none of its reasons explains stands all the same.
    pub fn read(state: OverloadState, reasons: &[OverloadReason]) -> Self {
        let verdict = Self::new(reasons.iter().filter_map(Reason::read).collect());
        Self { state: state.into(), ..verdict }
    }

    /// Both together.
    pub fn with(&self, other: &Self) -> Self {
        let both = Self::new(self.reasons.iter().chain(&other.reasons).copied().collect());
        Self { state: self.state.max(other.state), ..both }
    }

    /// Whether the same criteria hold in the same way, whatever their values.
    pub fn is_like(&self, other: &Self) -> bool {
        let what = |verdict: &Self| verdict.reasons.iter().map(|r| (r.criterion, r.state)).collect::<Vec<_>>();
        self.state == other.state && what(self) == what(other)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The thresholds of one criterion, in its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Levels {
    /// For [`State::Warn`].
    pub warn: Option<f64>,
    /// For [`State::Refuse`].
    pub refuse: Option<f64>,
}

impl config::Overload {
    /// The thresholds of a criterion; none where all is off.
    pub fn levels(&self, criterion: Criterion) -> Levels {
        let whole = |warn: config::Threshold<u32>, refuse: config::Threshold<u32>| Levels {
            warn: warn.value().map(f64::from),
            refuse: refuse.value().map(f64::from),
        };
        if !self.enabled {
            return Levels::default();
        }
        match criterion {
            Criterion::WorkerCpu => whole(self.worker_cpu.warn, self.worker_cpu.refuse),
            Criterion::HostCpu => whole(self.host_cpu.warn, self.host_cpu.refuse),
            Criterion::Nic => whole(self.nic.warn, self.nic.refuse),
            Criterion::UdpDrops => whole(self.udp_drops.warn, self.udp_drops.refuse),
            Criterion::Memory => whole(self.memory.warn, self.memory.refuse),
            Criterion::Disk => whole(self.disk.warn, self.disk.refuse),
            Criterion::LoopLag => {
                let millis = |lag: std::time::Duration| lag.as_secs_f64() * 1000.0;
                let Self { loop_lag, .. } = self;
                Levels { warn: loop_lag.warn.value().map(millis), refuse: loop_lag.refuse.value().map(millis) }
            }
            Criterion::Connections => whole(self.connections.warn, self.connections.refuse),
        }
    }
}
