//! The plan: which worker each slot has, and what is to be done about it. Pure: no process, no socket, no clock.
//!
//! ```text
//!              spawn            Ready
//!   Empty ───────────> Starting ──────> Ready ──────> Draining ──> (gone)
//!     ^                    │ death        │ death        asked to go, its exit is no death
//!     │     back-off over  v              v
//!     └──────────────── Backoff / Faulted (many deaths, tried again slowly)
//! ```
//!
//! A slot's sockets are never closed while the supervisor serves. An edge slot without a worker that serves is a
//! hole in the SO_REUSEPORT group, into which the kernel still queues its share of connections, so its sockets
//! are lent to a sibling until its own worker is ready ([`loan`]). Workers are known by role, slot and
//! incarnation; a draining incarnation may live on beside the next one.

mod check;
mod deaths;
mod loan;
mod slot;
mod stop;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use weir_node::worker::Role;

pub use view::{SlotState, SlotView, WorkerState, WorkerView};

use slot::{Slot, State, Worker};
use stop::Stop;

/// A moment: the time since an origin that stays the same as long as the plan lives.
pub type Time = Duration;

/// Most incarnations of one slot at a time: the current one and draining ones. A slot that has them waits.
pub const INCARNATIONS_MAX: usize = 4;

/// A place for one worker, with its own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// What its workers are for.
    pub role: Role,
    /// Its number among the slots of the role.
    pub index: u32,
}

impl SlotId {
    /// The edge slot `index`.
    pub fn edge(index: u32) -> Self {
        Self { role: Role::Edge, index }
    }

    /// The origin slot `index`.
    pub fn origin(index: u32) -> Self {
        Self { role: Role::Origin, index }
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.index)
    }
}

/// One worker process: the incarnation is counted over all slots and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// Its slot.
    pub slot: SlotId,
    /// Its number.
    pub incarnation: u64,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.slot, self.incarnation)
    }
}

/// How patient the plan is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From spawn to ready; then it is killed.
    pub start: Duration,
    /// Without a report; then its slot is lent.
    pub silent: Duration,
    /// Without a report; then it is killed.
    pub hung: Duration,
    /// From an order to leave at once, or from the end of a drain, to the kill.
    pub stop: Duration,
    /// From a kill to the next, and to giving up when stopping.
    pub reap: Duration,
    /// What a draining worker is given.
    pub drain: Duration,
    /// From a loan's message to its repetition.
    pub ack: Duration,
    /// How long the sockets of a new slot wait for its first worker before they are lent.
    pub cold: Duration,
    /// After a sibling refused a loan.
    pub refused: Duration,
    /// How long a worker serves until its slot's deaths are forgotten; also the span in which they are counted.
    pub stable: Duration,
    /// Between two attempts in a faulted slot.
    pub faulted: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            silent: Duration::from_secs(3),
            hung: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            reap: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            ack: Duration::from_secs(2),
            cold: Duration::from_secs(1),
            refused: Duration::from_secs(1),
            stable: Duration::from_secs(60),
            faulted: Duration::from_secs(60),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// How many slots of each role are wanted. Their sockets are bound.
    Desired {
        /// Edge slots.
        edges: u32,
        /// Origin slots.
        origins: u32,
    },
    /// The worker's link is up.
    Attached(WorkerId),
    /// The worker's link is down.
    Detached(WorkerId),
    /// The worker accepts from its sockets.
    Ready(WorkerId),
    /// The worker's loop runs.
    Report {
        /// Who reports.
        worker: WorkerId,
        /// Clients it has.
        connections: u64,
    },
    /// A worker answered a loan or its return.
    Ack {
        /// Of the action.
        token: u64,
        /// False: it could not.
        done: bool,
    },
    /// The worker's process is no more, or could not be started at all.
    Exited(WorkerId),
    /// Time passed.
    Tick,
    /// Stop everything: workers drain, or close their clients at once. A stop that is under way only becomes
    /// more urgent.
    Stop {
        /// Whether they drain.
        graceful: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this worker with its slot's sockets.
    Spawn(WorkerId),
    /// Ask it to close its clients and leave.
    Stop(WorkerId),
    /// End it.
    Kill(WorkerId),
    /// Ask it to stop accepting and to leave when its clients have, at the latest after `within`.
    Drain {
        /// Who.
        worker: WorkerId,
        /// Time given.
        within: Duration,
    },
    /// Give `to` the sockets of `slot` too.
    Lend {
        /// Whose sockets.
        slot: SlotId,
        /// To whom.
        to: WorkerId,
        /// To come back in [`Input::Ack`].
        token: u64,
    },
    /// Tell `from` to stop accepting for `slot`.
    Return {
        /// Whose sockets.
        slot: SlotId,
        /// From whom.
        from: WorkerId,
        /// To come back in [`Input::Ack`].
        token: u64,
    },
    /// Every wanted slot has a ready worker for the first time.
    NotifyReady,
    /// The stop began.
    NotifyStopping,
    /// Close the listening sockets: nobody will accept from them again, and clients are to hear it at once.
    CloseListeners,
    /// All workers are gone but `abandoned` ones, which not even a kill ended.
    Exit {
        /// Number of processes left.
        abandoned: usize,
    },
    /// For the log.
    Note(Note),
}

/// What an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A worker died.
    Died {
        /// Which.
        worker: WorkerId,
        /// Time until the slot is tried again.
        again_in: Duration,
        /// Whether the slot is given up on but for slow attempts.
        faulted: bool,
    },
    /// A worker was not ready in time and is killed.
    StartTooLong(WorkerId),
    /// A worker stopped reporting and is killed.
    Hung(WorkerId),
    /// A worker did not leave in time and is killed.
    LeaveTooLong(WorkerId),
    /// A worker accepts for a sibling slot.
    Lent {
        /// Whose sockets.
        slot: SlotId,
        /// To whom.
        to: WorkerId,
    },
    /// A worker accepts for its own slot again.
    Returned {
        /// Whose sockets.
        slot: SlotId,
        /// From whom.
        from: WorkerId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died { worker, again_in, faulted: false } if again_in.is_zero() => {
                write!(f, "{worker} died; starting its slot again")
            }
            Self::Died { worker, again_in, faulted: false } => {
                write!(f, "{worker} died; starting its slot again in {again_in:.1?}")
            }
            Self::Died { worker, again_in, faulted: true } => {
                write!(f, "{worker} died, too often: its slot is faulted; trying again in {again_in:.1?}")
            }
            Self::StartTooLong(worker) => write!(f, "{worker} was not ready in time; killing it"),
            Self::Hung(worker) => write!(f, "{worker} does not report any more; killing it"),
            Self::LeaveTooLong(worker) => write!(f, "{worker} did not leave in time; killing it"),
            Self::Lent { slot, to } => write!(f, "{to} accepts for {slot} too"),
            Self::Returned { slot, from } => write!(f, "{from} no longer accepts for {slot}"),
        }
    }
}

/// What [`Plan::poll`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Do this, then poll again.
    Do(Action),
    /// Nothing to do until something happens, or until this moment.
    Wait(Option<Time>),
}

/// The plan of one host.
#[derive(Debug)]
pub struct Plan {
    limits: Limits,
    seed: u64,
    now: Time,
    /// When the last poll asked to be called again.
    wake: Option<Time>,
    slots: BTreeMap<SlotId, Slot>,
    incarnations: u64,
    tokens: u64,
    announced: bool,
    stop: Option<Stop>,
    actions: VecDeque<Action>,
}

/// How much later than asked the plan may be called before it takes itself for the one that stood still.
const LATE: Duration = Duration::from_millis(500);

impl Plan {
    /// A plan with no slots. `seed` spreads the back-offs of hosts that fail together.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            now: Time::ZERO,
            wake: None,
            slots: BTreeMap::new(),
            incarnations: 0,
            tokens: 0,
            announced: false,
            stop: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`. A clock that went back is taken to stand still. Inputs about a worker
    /// that is gone and answers to superseded tokens are passed over.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.advance_clock(now);
        match input {
            Input::Desired { edges, origins } => self.desire(edges, origins),
            Input::Attached(worker) => self.attached(worker),
            Input::Detached(worker) => self.with(worker, |w| w.attached = false),
            Input::Ready(worker) => self.ready(worker),
            Input::Report { worker, connections } => self.report(worker, connections),
            Input::Ack { token, done } => self.ack(token, done),
            Input::Exited(worker) => self.exited(worker),
            Input::Tick => {}
            Input::Stop { graceful } => self.begin_stop(graceful),
        }
        self.patience();
        match self.stop {
            None => {
                self.spawn();
                self.cover();
                self.announce();
            }
            Some(_) => self.go_on_stopping(),
        }
        self.check();
    }

    /// What to do next.
    pub fn poll(&mut self) -> Output {
        if let Some(action) = self.actions.pop_front() {
            return Output::Do(action);
        }
        self.wake = self.deadlines().filter(|at| *at > self.now).min();
        Output::Wait(self.wake)
    }

    /// Replaces what draining workers are given from now on.
    pub fn set_drain(&mut self, drain: Duration) {
        self.limits.drain = drain;
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn note(&mut self, note: Note) {
        self.act(Action::Note(note));
    }

    fn with(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.worker_mut(id) {
            change(worker);
        }
    }

    fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.slots.get_mut(&id.slot)?.workers.iter_mut().find(|w| w.id == id)
    }

    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.slots.get(&id.slot)?.workers.iter().find(|w| w.id == id)
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.slots.values().flat_map(|slot| &slot.workers)
    }

    /// When the supervisor itself stood still (the host was suspended, its process stopped), the workers'
    /// silence meanwhile is its own: what they had until then they have once more from now on.
    fn advance_clock(&mut self, now: Time) {
        let late = self.wake.is_some_and(|wake| now.saturating_sub(wake) > LATE);
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        // Counted once; the next poll says anew when it wants to be called.
        self.wake = None;
        if late {
            self.slots.values_mut().for_each(|slot| slot.postpone(passed));
        }
    }

    fn desire(&mut self, edges: u32, origins: u32) {
        let cold = self.now + self.limits.cold;
        let wanted = (0..edges).map(SlotId::edge).chain((0..origins).map(SlotId::origin));
        for id in wanted {
            self.slots.entry(id).or_insert_with(|| Slot::new(id, cold));
        }
        let mut retired = Vec::new();
        for slot in self.slots.values_mut() {
            slot.wanted = slot.id.index < if slot.id.role == Role::Edge { edges } else { origins };
            retired.extend(slot.current().filter(|_| !slot.wanted).map(|worker| worker.id));
        }
        for worker in retired {
            self.drain(worker);
        }
    }

    fn attached(&mut self, id: WorkerId) {
        let now = self.now;
        self.with(id, |worker| {
            worker.attached = true;
            worker.seen = now;
        });
        // What it was told may have been lost with the old link.
        if let Some(Worker { state: State::Draining { deadline }, .. }) = self.worker(id) {
            let within = deadline.saturating_sub(now);
            self.act(Action::Drain { worker: id, within });
        }
    }

    fn ready(&mut self, id: WorkerId) {
        let now = self.now;
        self.with(id, |worker| {
            worker.seen = now;
            if matches!(worker.state, State::Starting { .. }) {
                worker.state = State::Ready { since: now };
            }
        });
    }

    fn report(&mut self, id: WorkerId, connections: u64) {
        let now = self.now;
        self.with(id, |worker| {
            worker.seen = now;
            worker.connections = connections;
        });
    }

    fn exited(&mut self, id: WorkerId) {
        let Some(slot) = self.slots.get_mut(&id.slot) else { return };
        let Some(at) = slot.workers.iter().position(|w| w.id == id) else { return };
        let worker = slot.workers.remove(at);
        let died = slot.wanted && !worker.leaving() && self.stop.is_none();
        let delay = died.then(|| slot.deaths.record(&self.limits, self.now, &worker, self.seed));
        let faulted = slot.deaths.faulted;
        if let Some(again_in) = delay {
            slot.spawn_at = self.now + again_in;
            self.note(Note::Died { worker: id, again_in, faulted });
        }
        self.forget_loans_to(id);
    }

    /// Asks a worker to leave in time; one that is not ready yet has nobody to wait for.
    fn drain(&mut self, id: WorkerId) {
        let (now, limits) = (self.now, self.limits);
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            State::Starting { .. } => self.leave_now(id),
            State::Ready { .. } => {
                worker.state = State::Draining { deadline: now + limits.drain };
                self.act(Action::Drain { worker: id, within: limits.drain });
                self.forget_loans_to(id);
            }
            State::Draining { .. } | State::Stopping { .. } | State::Killed { .. } => {}
        }
    }

    /// Asks a worker to leave at once.
    fn leave_now(&mut self, id: WorkerId) {
        let kill_at = self.now + self.limits.stop;
        let Some(worker) = self.worker_mut(id) else { return };
        match worker.state {
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                worker.state = State::Stopping { kill_at };
                self.act(Action::Stop(id));
                self.forget_loans_to(id);
            }
            State::Stopping { .. } | State::Killed { .. } => {}
        }
    }

    /// Kills whoever used up its time.
    fn patience(&mut self) {
        let due: Vec<_> = self.workers().filter(|w| self.patient_until(w) <= self.now).map(|w| w.id).collect();
        for id in due {
            let again_at = self.now + self.limits.reap;
            let Some(worker) = self.worker_mut(id) else { continue };
            let leaving = worker.leaving();
            let before = std::mem::replace(&mut worker.state, State::Killed { again_at, leaving, times: 1 });
            match before {
                State::Starting { .. } => self.note(Note::StartTooLong(id)),
                State::Ready { .. } => self.note(Note::Hung(id)),
                State::Draining { .. } | State::Stopping { .. } => self.note(Note::LeaveTooLong(id)),
                State::Killed { times, .. } => worker.state = State::Killed { again_at, leaving, times: times + 1 },
            }
            self.act(Action::Kill(id));
            self.forget_loans_to(id);
        }
    }

    fn patient_until(&self, worker: &Worker) -> Time {
        match worker.state {
            State::Starting { until } => until,
            State::Ready { .. } => worker.seen + self.limits.hung,
            // The worker ends itself a little after its deadline.
            State::Draining { deadline } => deadline + self.limits.stop,
            State::Stopping { kill_at } => kill_at,
            State::Killed { again_at, .. } => again_at,
        }
    }

    fn spawn(&mut self) {
        let until = self.now + self.limits.start;
        for slot in self.slots.values_mut() {
            if slot.wants_worker() && slot.spawn_at <= self.now {
                self.incarnations += 1;
                let id = WorkerId { slot: slot.id, incarnation: self.incarnations };
                slot.workers.push(Worker::new(id, self.now, until));
                self.actions.push_back(Action::Spawn(id));
            }
        }
    }

    fn announce(&mut self) {
        let mut wanted = self.slots.values().filter(|slot| slot.wanted).peekable();
        if !self.announced && wanted.peek().is_some() && wanted.all(Slot::is_ready) {
            self.announced = true;
            self.act(Action::NotifyReady);
        }
    }

    /// Every moment at which something is due.
    fn deadlines(&self) -> impl Iterator<Item = Time> {
        let patience = self.workers().map(|worker| self.patient_until(worker));
        let silence = self.workers().filter(|w| w.is_ready()).map(|w| w.seen + self.limits.silent);
        let running = self.stop.is_none();
        let spawns = self.slots.values().filter(move |slot| running && slot.wants_worker()).map(|slot| slot.spawn_at);
        let loans = self.slots.values().flat_map(Slot::loan_deadlines);
        patience.chain(silence).chain(spawns).chain(loans)
    }
}
