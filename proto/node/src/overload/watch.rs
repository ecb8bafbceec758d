//! A worker's own view: samples itself, hears of the host from the supervisor, and answers its body.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tracing::{info, warn};
use weir_proto::metrics::families;
use weir_proto::supervisor::{OverloadReport, OverloadState, Pressure, Report};

use super::{Criterion, Load, Overload, Relief, Sibling, State, UdpSockets, Verdict};
use crate::config::Config;
use crate::worker::Role;

/// What the supervisor said counts for so long: one that is replaced, or hangs, must not refuse for ever.
const HEARD_FOR: Duration = Duration::from_secs(5);

/// What became of a client that was not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Refused for overload.
    Away,
    /// Refused, and told of another host.
    Elsewhere,
    /// Taken by a sibling.
    ToSibling,
}

/// See the module. Cheap to clone; one a process.
#[derive(Clone, Debug)]
pub struct Watch {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    who: Cell<(Role, u32)>,
    connections_max: Cell<u32>,
    machine: RefCell<Overload>,
    cpu: Cell<Option<(Instant, Duration)>>,
    cpu_share: Cell<f64>,
    udp: RefCell<UdpSockets>,
    udp_sampled: Cell<Option<Instant>>,
    own: RefCell<Verdict>,
    host: RefCell<Verdict>,
    heard: Cell<Option<Instant>>,
    both: RefCell<Rc<Verdict>>,
    siblings: RefCell<Vec<Load>>,
    relief: Cell<Relief>,
    refused: Cell<u64>,
    redirected: Cell<u64>,
    passed: Cell<u64>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let config = Config::default();
        let inner = Inner {
            started: Instant::now(),
            who: Cell::new((Role::Edge, 0)),
            connections_max: Cell::new(config.edge.connections),
            machine: RefCell::new(Overload::new(&config.overload)),
            cpu: Cell::default(),
            cpu_share: Cell::default(),
            udp: RefCell::default(),
            udp_sampled: Cell::default(),
            own: RefCell::default(),
            host: RefCell::default(),
            heard: Cell::default(),
            both: RefCell::default(),
            siblings: RefCell::default(),
            relief: Cell::default(),
            refused: Cell::default(),
            redirected: Cell::default(),
            passed: Cell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Says whose view it is.
    pub(crate) fn begin(&self, role: Role, slot: u32, config: &Config) {
        self.inner.who.set((role, slot));
        self.configure(config);
    }

    /// Takes over another configuration.
    pub(crate) fn configure(&self, config: &Config) {
        self.inner.connections_max.set(config.edge.connections);
        self.inner.machine.borrow_mut().configure(&config.overload);
    }

    /// Whether new work is taken, by the worker's own criteria and the host's.
    pub fn verdict(&self) -> Rc<Verdict> {
        self.inner.both.borrow().clone()
    }

    /// Watches a UDP socket for datagrams that the kernel dropped; not every kernel counts them.
    pub fn watch_udp(&self, name: &str, socket: impl AsFd) {
        if let Err(error) = self.inner.udp.borrow_mut().add(name, socket) {
            warn!(%error, socket = name, "lost datagrams of this socket are not counted");
        }
    }

    /// The sibling that takes the next new client in the place of this overloaded worker, which has `connections` now.
    /// `None`: there is none that is well and clearly emptier, or the whole host is overloaded, or enough clients were
    /// passed on lately. Each answer counts as a client that is passed on.
    pub fn pass_to(&self, connections: u64) -> Option<Sibling> {
        let inner = &self.inner;
        if inner.host.borrow().state == State::Refuse {
            return None;
        }
        let mut relief = inner.relief.get();
        let chosen = relief.pass_to(inner.started.elapsed(), self.load(connections), &inner.siblings.borrow());
        inner.relief.set(relief);
        chosen
    }

    /// Counts a client that was not served here.
    pub fn turned(&self, how: Turned) {
        let Inner { refused, redirected, passed, .. } = &*self.inner;
        let count = match how {
            Turned::Away => refused,
            Turned::Elsewhere => redirected,
            Turned::ToSibling => passed,
        };
        count.set(count.get().wrapping_add(1));
    }

    fn load(&self, connections: u64) -> f64 {
        let filled = connections as f64 / f64::from(self.inner.connections_max.get().max(1));
        filled.max(self.inner.cpu_share.get()).min(1.0)
    }

    /// Looks at this process; `lag` is how late its loop was at worst since the last time.
    pub(crate) fn sample(&self, report: &Report, lag: Duration) {
        let inner = &self.inner;
        let now = inner.started.elapsed();
        let machine = &mut *inner.machine.borrow_mut();
        machine.sample(now, Criterion::WorkerCpu, self.sample_cpu());
        machine.sample(now, Criterion::LoopLag, Some(lag.as_secs_f64() * 1000.0));
        machine.sample(now, Criterion::UdpDrops, self.sample_udp());
        if inner.who.get().0 == Role::Edge {
            let filled = 100.0 * report.connections as f64 / f64::from(inner.connections_max.get().max(1));
            machine.sample(now, Criterion::Connections, Some(filled));
        }
        let verdict = machine.verdict();
        if !verdict.is_like(&inner.own.borrow()) {
            match verdict.state {
                State::Ok => info!("this worker is well again"),
                State::Warn => warn!("this worker is near its limits: {verdict}"),
                State::Refuse => warn!("this worker is overloaded and refuses new clients: {verdict}"),
            }
        }
        inner.own.replace(verdict);
        if inner.heard.get().is_none_or(|heard| heard.elapsed() > HEARD_FOR) {
            inner.host.take();
            inner.siblings.take();
        }
        self.conclude();
    }

    /// Takes in what the supervisor knows.
    pub(crate) fn told(&self, pressure: &Pressure) {
        let inner = &self.inner;
        inner.heard.set(Some(Instant::now()));
        inner.host.replace(Verdict::read(pressure.state(), &pressure.reasons));
        let others = pressure.edges.iter().filter(|edge| edge.slot != inner.who.get().1);
        let load = |edge: &weir_proto::supervisor::EdgeLoad| Load {
            who: Sibling { slot: edge.slot, incarnation: edge.incarnation },
            state: edge.state().into(),
            load: edge.load,
        };
        inner.siblings.replace(others.map(load).collect());
        self.conclude();
    }

    fn conclude(&self) {
        let both = self.inner.own.borrow().with(&self.inner.host.borrow());
        self.inner.both.replace(Rc::new(both));
    }

    /// CPU time of this thread alone: helpers that read names or disks do not make it late.
    fn sample_cpu(&self) -> Option<f64> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
        let micros = usage.user_time().num_microseconds().checked_add(usage.system_time().num_microseconds())?;
        let (now, used) = (Instant::now(), Duration::from_micros(micros.try_into().ok()?));
        let (then, before) = self.inner.cpu.replace(Some((now, used)))?;
        let passed = now.saturating_duration_since(then).as_secs_f64();
        let share = used.saturating_sub(before).as_secs_f64() / passed;
        self.inner.cpu_share.set(if share.is_finite() { share.min(1.0) } else { 0.0 });
        Some(100.0 * self.inner.cpu_share.get())
    }

    fn sample_udp(&self) -> Option<f64> {
        let mut udp = self.inner.udp.borrow_mut();
        let (now, drops) = (Instant::now(), udp.sample());
        let then = self.inner.udp_sampled.replace(Some(now));
        let then = then.filter(|_| !udp.is_empty())?;
        Some(drops as f64 / now.saturating_duration_since(then).as_secs_f64())
    }

    /// Adds what is known here to a report.
    pub(crate) fn fill(&self, report: &mut Report) {
        let Inner { own, both, udp, refused, redirected, passed, cpu_share, who, .. } = &*self.inner;
        let (own, both, udp) = (own.borrow(), both.borrow(), udp.borrow().counts());
        let snapshot = report.snapshot.get_or_insert_default();
        snapshot.gauge(&families::OVERLOAD_STATE, &[], f64::from(both.state as u8));
        for reason in &both.reasons {
            snapshot.gauge(&families::OVERLOAD_REASON, &[reason.criterion.as_str()], 1.0);
        }
        for socket in &udp {
            snapshot.count(&families::UDP_RECEIVE_DROPS, &[&socket.name], socket.receive_drops);
        }
        if who.get().0 == Role::Edge {
            snapshot.count(&families::OVERLOAD_REFUSED, &[], refused.get());
            snapshot.count(&families::OVERLOAD_PASSED, &[], passed.get());
        }
        report.overload = Some(OverloadReport {
            state: OverloadState::from(both.state).into(),
            reasons: own.reasons.iter().map(Into::into).collect(),
            cpu_percent: 100.0 * cpu_share.get(),
            refused: refused.get(),
            redirected: redirected.get(),
            passed: passed.get(),
            udp,
        });
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::supervisor::{EdgeLoad, OverloadReason};

    use super::*;

    fn edge(slot: u32, load: f64) -> EdgeLoad {
        EdgeLoad { slot, incarnation: 5, state: OverloadState::OverloadOk.into(), load }
    }

    fn pressure(state: OverloadState) -> Pressure {
        let reason = OverloadReason { criterion: "nic".to_owned(), state: state.into(), value: 97.0, threshold: 95.0 };
        let reasons = if state == OverloadState::OverloadOk { Vec::new() } else { vec![reason] };
        Pressure { state: state.into(), reasons, edges: vec![edge(0, 0.2), edge(1, 0.0), edge(2, 0.1)] }
    }

    #[test]
    fn what_the_supervisor_says_counts_until_it_is_silent() {
        let watch = Watch::new();
        watch.begin(Role::Edge, 1, &Config::default());
        assert_eq!((watch.verdict().state, watch.pass_to(u64::MAX)), (State::Ok, None));
        watch.told(&pressure(OverloadState::OverloadWarn));
        assert_eq!(watch.verdict().to_string(), "nic 97 %");
        // Not to itself, which is the emptiest in the list.
        assert_eq!(watch.pass_to(u64::MAX), Some(Sibling { slot: 2, incarnation: 5 }));
        assert_eq!(watch.pass_to(0), None, "it has room itself");

        watch.told(&pressure(OverloadState::OverloadRefuse));
        watch.sample(&Report::default(), Duration::ZERO);
        assert_eq!((watch.verdict().state, watch.pass_to(u64::MAX)), (State::Refuse, None));
        watch.turned(Turned::Away);
        let mut report = Report::default();
        watch.fill(&mut report);
        let overload = report.overload.unwrap();
        assert_eq!((overload.state(), overload.refused), (OverloadState::OverloadRefuse, 1));
        assert_eq!(overload.reasons, [], "the host's are the supervisor's to tell");

        watch.inner.heard.set(Instant::now().checked_sub(HEARD_FOR * 2));
        watch.sample(&Report::default(), Duration::ZERO);
        assert_eq!((watch.verdict().state, watch.pass_to(u64::MAX)), (State::Ok, None));
    }

    #[test]
    fn a_thread_that_works_without_rest_is_seen() {
        let watch = Watch::new();
        let busy = Duration::from_millis(300);
        let mut config = Config::default();
        config.overload.enter = Duration::ZERO;
        config.overload.worker_cpu.refuse = crate::config::Threshold::At(10);
        config.overload.worker_cpu.warn = crate::config::Threshold::Off;
        watch.begin(Role::Origin, 0, &config);
        watch.sample(&Report::default(), Duration::ZERO);
        let until = Instant::now() + busy;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        watch.sample(&Report::default(), Duration::ZERO);
        assert_eq!(watch.verdict().state, State::Refuse);
        // An origin has no clients of its own.
        let many = Report { connections: u64::MAX, ..Report::default() };
        watch.sample(&many, Duration::ZERO);
        let verdict = watch.verdict();
        assert!(verdict.reasons.iter().all(|reason| reason.criterion == Criterion::WorkerCpu), "{verdict}");
    }
}
