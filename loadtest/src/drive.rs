//! The course of a run: connections are opened evenly, settle, and are measured over a steady part.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::Events;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::net::{Handler, Net, Reason};
use crate::report::Report;
use crate::usage::{Memory, Share, Usage, percent};

/// Connections opened before the others are looked after again.
const OPEN_AT_ONCE: usize = 64;
/// A connection that has not begun by then has failed.
const PATIENCE: u64 = 10 * SECOND;
/// The loop's longest sleep.
const REST: u64 = 100 * MILLISECOND;
/// A turn of the loop that took longer says that this process did not get its time.
const STALL: u64 = 500 * MILLISECOND;
/// Between two live lines where they cannot be written over.
const PLAIN_LINE_EVERY: u32 = 5;
/// Above it the generator itself is what is measured.
const BUSY_PERCENT: f64 = 90.0;

/// What is driven.
pub(crate) trait Load: Handler {
    /// How many connections have begun, or will not any more.
    fn settled(&self) -> usize;
    /// Whether a connection has begun what it is there for.
    fn begun(&self, conn: &Self::Conn) -> bool;
    /// When a connection was opened.
    fn opened(&self, conn: &Self::Conn) -> u64;
    /// The part that is measured begins.
    fn steady(&mut self, net: &mut Net<Self::Conn>, now: u64);
    /// It ends, with the connections still open.
    fn finish(&mut self, net: &mut Net<Self::Conn>, now: u64);
    /// Does what is due, and says when it wants to be called again.
    fn tick(&mut self, _net: &mut Net<Self::Conn>, _now: u64) -> u64 {
        u64::MAX
    }
    /// Bytes that went over all connections so far.
    fn bytes(&self) -> u64;
    /// How it stands, for the live line.
    fn live(&self) -> String;
    /// The figures.
    fn report(&self, outcome: &Outcome) -> Report;
    /// Why connections ended, and how many of them.
    fn reasons(&self) -> Vec<(String, u64)>;
}

/// What to do. Times are in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Connections.
    pub(crate) count: usize,
    /// That are open at once, if all goes well.
    pub(crate) at_once: usize,
    /// Over which they are opened.
    pub(crate) ramp: u64,
    /// Between the last one that begins and the steady part.
    pub(crate) settle: u64,
    /// How long that is.
    pub(crate) steady: u64,
    /// Measure all of it, from the first connection on.
    pub(crate) whole: bool,
    /// The server's processes.
    pub(crate) pids: Vec<i32>,
}

/// What was measured beside the load itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Length of the measured part, nanoseconds; 0 if it never began.
    pub(crate) passed: u64,
    /// This process, of one core.
    pub(crate) own_cpu_percent: f64,
    /// The server, if its processes are known.
    pub(crate) server: Option<Server>,
    /// Turns of the loop that came far too late.
    pub(crate) stalls: u64,
}

/// What the server used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Each process.
    pub(crate) processes: Vec<Share>,
    /// Before the first connection.
    pub(crate) before: Memory,
    /// At the end of the measured part.
    pub(crate) after: Memory,
    /// Connections that were open then.
    pub(crate) connections: u64,
}

impl Outcome {
    /// What a run without figures has: the names are known before it begins.
    pub(crate) fn blank(plan: &Plan) -> Self {
        Self { server: (!plan.pids.is_empty()).then(Server::default), ..Self::default() }
    }

    /// Adds the figures of the machine.
    pub(crate) fn report(&self, report: &mut Report) {
        report.number("own_cpu_percent", Some(self.own_cpu_percent));
        let Some(server) = &self.server else { return };
        report.number("cpu_percent", Some(server.processes.iter().map(|process| process.cpu_percent).sum()));
        report.number("cpu_user_percent", Some(server.processes.iter().map(|process| process.cpu_user_percent).sum()));
        let grown = |before: u64, after: u64| Some(after as f64 - before as f64);
        let anon = grown(server.before.anon, server.after.anon);
        report.count("memory_kib", server.after.pss);
        report.number("memory_growth_kib", grown(server.before.pss, server.after.pss));
        report.number("anon_growth_kib", anon);
        let connections = server.connections as f64;
        report.number("memory_per_connection_bytes", anon.map(|kib| kib * 1024.0 / connections));
        report.processes(server.processes.clone());
    }

    /// What casts doubt on the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.own_cpu_percent > BUSY_PERCENT {
            let used = self.own_cpu_percent;
            warnings
                .push(format!("the generator used {used:.0} % of its core: it, not the server, was the bottleneck"));
        }
        if self.stalls > 0 {
            warnings
                .push(format!("the generator was held up {} times for over 0.5 s: gaps may be its own", self.stalls));
        }
        warnings
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ramp,
    Settle { until: u64 },
    Steady { from: u64, until: u64 },
    Done,
}

struct Run<'a, L: Load> {
    load: &'a mut L,
    plan: &'a Plan,
    net: Net<L::Conn>,
    opened: usize,
    start: u64,
    phase: Phase,
    own: Usage,
    server: Usage,
    before: Memory,
    live: Live,
    outcome: Outcome,
}

/// Drives `load` to its end, or until the process is told to end.
///
/// # Errors
/// epoll failed.
pub(crate) fn run<L: Load>(load: &mut L, plan: &Plan, address: SocketAddr) -> io::Result<Outcome> {
    let server = Usage::of_trees(&plan.pids);
    let before = server.memory();
    let net = Net::new(address)?;
    let start = clock::now();
    let mut run = Run {
        load,
        plan,
        net,
        opened: 0,
        start,
        phase: Phase::Ramp,
        own: Usage::own(),
        server,
        before,
        live: Live::new(start),
        outcome: Outcome::blank(plan),
    };
    run.all()?;
    Ok(run.outcome)
}

impl<L: Load> Run<'_, L> {
    fn all(&mut self) -> io::Result<()> {
        let mut events = crate::net::events();
        let mut second = self.start + SECOND;
        if self.plan.whole {
            self.measure(self.start);
        }
        loop {
            let now = clock::now();
            let opening = self.open(now);
            let due = self.load.tick(&mut self.net, now);
            if now >= second {
                second = now + SECOND;
                self.each_second(now);
            }
            self.advance(now);
            if self.phase == Phase::Done {
                break;
            }
            let wake = opening.min(due).min(second).min(self.deadline());
            if self.turn(&mut events, wake)? {
                self.finish(clock::now());
                break;
            }
        }
        self.live.clear();
        Ok(())
    }

    /// One wait for events. True if the process was told to end.
    fn turn(&mut self, events: &mut Events, wake: u64) -> io::Result<bool> {
        let before = clock::now();
        let wait = wake.saturating_sub(before).min(REST);
        let told = self.net.turn(self.load, events, Duration::from_nanos(wait))?;
        if clock::now() - before > wait + STALL {
            self.outcome.stalls += 1;
        }
        Ok(told)
    }

    /// Opens what is due and says when the next one is.
    fn open(&mut self, now: u64) -> u64 {
        for _ in 0..OPEN_AT_ONCE {
            if self.opened >= self.plan.count {
                return u64::MAX;
            }
            let share = u128::from(self.plan.ramp) * self.opened as u128 / self.plan.count.max(1) as u128;
            let due = self.start + u64::try_from(share).unwrap_or(u64::MAX);
            if due > now {
                return due;
            }
            self.net.open(self.load, self.opened);
            self.opened += 1;
        }
        now
    }

    fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Settle { until } | Phase::Steady { until, .. } => until,
            Phase::Ramp | Phase::Done => u64::MAX,
        }
    }

    fn advance(&mut self, now: u64) {
        let all_open = self.opened == self.plan.count;
        if self.phase == Phase::Ramp && all_open && self.load.settled() == self.plan.count {
            self.phase = Phase::Settle { until: now + self.plan.settle };
        }
        if let Phase::Settle { until } = self.phase
            && now >= until
        {
            self.phase = Phase::Steady { from: now, until: now + self.plan.steady };
            if !self.plan.whole {
                self.measure(now);
            }
        }
        let over = matches!(self.phase, Phase::Steady { until, .. } if now >= until);
        // Nothing can come any more once every connection is gone.
        if over || all_open && self.net.len() == 0 {
            self.finish(now);
        }
    }

    fn measure(&mut self, now: u64) {
        self.own.begin();
        self.server.begin();
        self.live.restart(now, self.load.bytes());
        self.load.steady(&mut self.net, now);
    }

    fn each_second(&mut self, now: u64) {
        self.close_overdue(now);
        self.server.sample();
        let settled = if self.phase == Phase::Ramp { "starting, " } else { "" };
        let line = format!("{settled}{}", self.load.live());
        self.live.show(now, self.start, &line, self.load.bytes(), &self.server);
    }

    fn close_overdue(&mut self, now: u64) {
        let load = &*self.load;
        let overdue = |conn: &L::Conn| !load.begun(conn) && now.saturating_sub(load.opened(conn)) > PATIENCE;
        let tokens: Vec<usize> = self.net.entries().filter(|(_, conn)| overdue(conn)).map(|(token, _)| token).collect();
        for token in tokens {
            self.net.with(self.load, token, |_, _, _| Err(Reason::Overdue(PATIENCE / SECOND)));
        }
    }

    /// The end of what is measured.
    fn finish(&mut self, now: u64) {
        let from = match self.phase {
            _ if self.plan.whole => Some(self.start),
            Phase::Steady { from, .. } => Some(from),
            _ => None,
        };
        let passed = from.map_or(0, |from| now - from);
        self.outcome.passed = passed;
        if from.is_some() {
            self.own.sample();
            self.outcome.own_cpu_percent = percent(self.own.busy(), passed);
            if !self.server.is_empty() {
                self.server.sample();
                let (processes, after) = (self.server.shares(passed), self.server.memory());
                let connections = self.net.len() as u64;
                self.outcome.server = Some(Server { processes, before: self.before, after, connections });
            }
        }
        self.load.finish(&mut self.net, now);
        self.phase = Phase::Done;
    }
}

/// The line that tells how it stands while it runs.
struct Live {
    terminal: bool,
    seconds: u32,
    last: u64,
    bytes: u64,
    busy: u64,
}

impl Live {
    fn new(now: u64) -> Self {
        Self { terminal: io::stderr().is_terminal(), seconds: 0, last: now, bytes: 0, busy: 0 }
    }

    /// The server's CPU time is counted from here.
    fn restart(&mut self, now: u64, bytes: u64) {
        (self.last, self.bytes, self.busy) = (now, bytes, 0);
    }

    fn show(&mut self, now: u64, start: u64, line: &str, bytes: u64, server: &Usage) {
        self.seconds += 1;
        if !self.terminal && !self.seconds.is_multiple_of(PLAIN_LINE_EVERY) {
            return;
        }
        let passed = now - self.last;
        let megabits = bytes.saturating_sub(self.bytes) as f64 * 8000.0 / passed.max(1) as f64;
        let busy = server.busy();
        let mut text = format!("{:4.0} s  {line}, {megabits:.1} Mbit/s", clock::seconds(now - start));
        if !server.is_empty() {
            text += &format!(", server {:.1} % CPU", percent(busy.saturating_sub(self.busy), passed));
        }
        (self.last, self.bytes, self.busy) = (now, bytes, busy);
        let text = if self.terminal { format!("\r\x1b[K{text}") } else { text + "\n" };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn clear(&self) {
        if self.terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
