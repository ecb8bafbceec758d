//! What the view shows: the last status, the rates between two of them, and the totals of the last minutes. Pure:
//! time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use weir_proto::supervisor::{StatusReply, WorkerStatus};

use super::history::History;

/// Rows that are kept of one status; a host has two a core.
const WORKERS_MAX: usize = 4096;

/// A worker reports once a second, and its status is read once a second: some statuses repeat a report. Its rates
/// are then those of before, until a worker that says nothing new for this long counts as one that does nothing.
const STALE: Duration = Duration::from_millis(2500);

/// Two statuses that are closer together than this give no rates: a report between them would count for too much.
const RATE_MIN: Duration = Duration::from_millis(200);

/// What a worker did each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Bits received from clients.
    pub(super) bits_in: f64,
    /// Bits sent to clients.
    pub(super) bits_out: f64,
    /// Players moved forward to a newer group.
    pub(super) skips: f64,
    /// Players closed because they lagged too far behind.
    pub(super) slow_closed: f64,
    /// Connections refused.
    pub(super) refused: f64,
}

/// A worker, or a slot that waits for one.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// As the supervisor says it.
    pub(super) status: WorkerStatus,
    /// None until its counters were seen twice.
    pub(super) rates: Option<Rates>,
}

/// The host's sums. Of the edges: what an origin counts are mostly the edges of the same clients. Of the origins on
/// a host that has nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) connections: u64,
    pub(super) publishers: u64,
    pub(super) players: u64,
    /// Workers that are ready, of every role, and all workers.
    pub(super) ready: usize,
    pub(super) workers: usize,
    /// Bits a second; None while no worker has rates.
    pub(super) bits: Option<(f64, f64)>,
}

/// The order of the rows; all but the first put the largest on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Slot,
    Cpu,
    Memory,
    Connections,
    In,
    Out,
    Lag,
    Skips,
}

impl Sort {
    /// As the view names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Connections => "connections",
            Self::In => "in",
            Self::Out => "out",
            Self::Lag => "lag",
            Self::Skips => "skips",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Slot => Self::Cpu,
            Self::Cpu => Self::Memory,
            Self::Memory => Self::Connections,
            Self::Connections => Self::In,
            Self::In => Self::Out,
            Self::Out => Self::Lag,
            Self::Lag => Self::Skips,
            Self::Skips => Self::Slot,
        }
    }

    fn key(self, row: &Row) -> f64 {
        let rates = row.rates.unwrap_or_default();
        match self {
            Self::Slot => 0.0,
            Self::Cpu => row.status.cpu_percent,
            Self::Memory => row.status.memory_bytes as f64,
            Self::Connections => row.status.connections as f64,
            Self::In => rates.bits_in,
            Self::Out => rates.bits_out,
            Self::Lag => row.status.loop_lag_us as f64,
            Self::Skips => rates.skips,
        }
    }
}

/// What an operator asks of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Sort by the next column.
    Sort,
    /// Show or hide the help.
    Help,
    /// Hide what lies over the table.
    Close,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// The whole state of the view.
#[derive(Debug)]
pub(super) struct Model {
    /// The machine's name.
    pub(super) machine: String,
    reply: StatusReply,
    rows: Vec<Row>,
    totals: Totals,
    flows: HashMap<Process, Flow>,
    history: History,
    lost: Option<Lost>,
    sort: Sort,
    first: usize,
    page: usize,
    help: bool,
}

/// Why there is no status, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// For people.
    pub(super) why: String,
    since: Instant,
    /// Since the first question that failed.
    pub(super) lasts: Duration,
}

impl Model {
    /// Nothing is known yet but the machine's name.
    pub(super) fn new(machine: String) -> Self {
        Self {
            machine,
            reply: StatusReply::default(),
            rows: Vec::new(),
            totals: Totals::default(),
            flows: HashMap::new(),
            history: History::default(),
            lost: None,
            sort: Sort::default(),
            first: 0,
            page: 1,
            help: false,
        }
    }

    /// Takes a status.
    pub(super) fn update(&mut self, now: Instant, mut reply: StatusReply) {
        self.lost = None;
        let mut workers = std::mem::take(&mut reply.workers);
        workers.truncate(WORKERS_MAX);
        let mut flows = HashMap::with_capacity(workers.len());
        self.rows.clear();
        for status in workers {
            let process = Process::of(&status);
            let reading = Reading::of(&status);
            let flow = match self.flows.get(&process) {
                Some(before) => before.then(now, reading),
                None => Flow { reading, at: now, rates: None },
            };
            self.rows.push(Row { status, rates: flow.rates.filter(|_| process.pid != 0) });
            flows.insert(process, flow);
        }
        self.flows = flows;
        self.reply = reply;
        self.totals = totals(&self.rows);
        if let Some((bits_in, bits_out)) = self.totals.bits {
            self.history.push(now, bits_in, bits_out);
        }
        self.order();
        self.clamp();
    }

    /// Takes note that there is no answer; what was known stays to be seen.
    pub(super) fn lost(&mut self, now: Instant, why: String) {
        let since = self.lost.as_ref().map_or(now, |lost| lost.since);
        self.lost = Some(Lost { why, since, lasts: now.saturating_duration_since(since) });
    }

    /// Does what the operator asks.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Sort => {
                self.sort = self.sort.next();
                self.order();
            }
            Action::Help => self.help = !self.help,
            Action::Close => self.help = false,
            Action::Up => self.first = self.first.saturating_sub(1),
            Action::Down => self.first = self.first.saturating_add(1),
            Action::PageUp => self.first = self.first.saturating_sub(self.page),
            Action::PageDown => self.first = self.first.saturating_add(self.page),
            Action::First => self.first = 0,
            Action::Last => self.first = self.rows.len(),
        }
        self.clamp();
    }

    /// Says how many rows of the table are in view.
    pub(super) fn set_page(&mut self, rows: usize) {
        self.page = rows.max(1);
        self.clamp();
    }

    /// The last status, without its workers.
    pub(super) fn reply(&self) -> &StatusReply {
        &self.reply
    }

    /// Every row, in order.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The number of the first row in view.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// The sums of the last status.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// The sums of the last minutes.
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Set while the supervisor does not answer.
    pub(super) fn is_lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// The order of the rows.
    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    /// Whether the help is shown.
    pub(super) fn is_help_shown(&self) -> bool {
        self.help
    }

    fn order(&mut self) {
        let sort = self.sort;
        let name = |row: &Row| (row.status.role.clone(), row.status.slot, row.status.incarnation);
        self.rows.sort_by_cached_key(name);
        self.rows.sort_by(|a, b| sort.key(b).total_cmp(&sort.key(a)));
    }

    fn clamp(&mut self) {
        self.first = self.first.min(self.rows.len().saturating_sub(self.page));
    }
}

fn totals(rows: &[Row]) -> Totals {
    let any_edge = rows.iter().any(|row| row.status.role == "edge");
    let mut totals = Totals { workers: rows.len(), ..Totals::default() };
    for Row { status, rates } in rows {
        totals.ready += usize::from(status.state == "ready");
        if any_edge && status.role != "edge" {
            continue;
        }
        totals.connections = totals.connections.saturating_add(status.connections);
        totals.publishers = totals.publishers.saturating_add(status.publishers);
        totals.players = totals.players.saturating_add(status.players);
        if let Some(rates) = rates {
            let (bits_in, bits_out) = totals.bits.unwrap_or_default();
            totals.bits = Some((bits_in + rates.bits_in, bits_out + rates.bits_out));
        }
    }
    totals
}

/// Whose counters they are: another process begins at zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    role: String,
    slot: u32,
    incarnation: u64,
    pid: u32,
}

impl Process {
    fn of(status: &WorkerStatus) -> Self {
        let WorkerStatus { ref role, slot, incarnation, pid, .. } = *status;
        Self { role: role.clone(), slot, incarnation, pid }
    }
}

/// The part of a status that comes out of the worker's report: the counters, and gauges that seldom repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    counters: [u64; 5],
    gauges: [u64; 3],
}

impl Reading {
    fn of(status: &WorkerStatus) -> Self {
        Self {
            counters: [status.bytes_in, status.bytes_out, status.skips, status.slow_closed, status.refused],
            gauges: [status.loop_lag_us, status.busy_percent.to_bits(), status.connections],
        }
    }
}

/// A worker's counters when they last changed, and what the change came to.
#[derive(Clone, Copy, Debug)]
struct Flow {
    reading: Reading,
    at: Instant,
    rates: Option<Rates>,
}

impl Flow {
    fn then(&self, now: Instant, reading: Reading) -> Self {
        let passed = now.saturating_duration_since(self.at);
        if passed < RATE_MIN || (reading == self.reading && passed < STALE) {
            return *self;
        }
        let seconds = passed.as_secs_f64();
        let mut rates = [0.0; 5];
        for ((rate, new), old) in rates.iter_mut().zip(reading.counters).zip(self.reading.counters) {
            // A counter that went back is another one: there is nothing to say until the next status.
            let Some(more) = new.checked_sub(old) else { return Self { reading, at: now, rates: None } };
            *rate = more as f64 / seconds;
        }
        let [bytes_in, bytes_out, skips, slow_closed, refused] = rates;
        let rates = Rates { bits_in: bytes_in * 8.0, bits_out: bytes_out * 8.0, skips, slow_closed, refused };
        Self { reading, at: now, rates: Some(rates) }
    }
}
