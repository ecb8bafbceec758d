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
//! are lent to a sibling until its own worker is ready. Workers are known by role, slot and
//! incarnation; a draining incarnation may live on beside the next one, and a successor starts beside the one that it
//! replaces.

mod check;
mod deaths;
mod loan;
mod replace;
mod saved;
mod slot;
mod stop;
mod types;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weir_node::worker::Role;

pub use saved::SavedPlan;
pub use types::{Action, INCARNATIONS_MAX, Input, Limits, Note, Output, SlotId, Time, WorkerId};
pub use view::{SlotState, SlotView, WorkerState, WorkerView};

use replace::Replacing;
use slot::{Slot, State, Worker};
use stop::Stop;

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
    replacing: Option<Replacing>,
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
            replacing: None,
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
            Input::Replace => self.begin_replacing(),
            Input::Drain(slot) => {
                if let Some(worker) = self.slots.get(&slot).and_then(Slot::current).map(|worker| worker.id) {
                    self.drain(worker);
                }
            }
            Input::Stop { graceful } => self.begin_stop(graceful),
        }
        self.patience();
        match self.stop {
            None => {
                self.spawn();
                self.succeed();
                self.go_on_replacing();
                self.redirect();
                self.cover();
                self.announce();
            }
            Some(_) => self.go_on_stopping(),
        }
        self.check();
    }

    /// What workers are given to drain from now on.
    pub fn set_drain(&mut self, drain: Duration) {
        self.limits.drain = drain;
    }

    /// What to do next.
    pub fn poll(&mut self) -> Output {
        if let Some(action) = self.actions.pop_front() {
            return Output::Do(action);
        }
        self.wake = self.deadlines().filter(|at| *at > self.now).min();
        Output::Wait(self.wake)
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
            self.postpone_replacing(passed);
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
            if !slot.wanted {
                slot.successor = None;
                retired.extend(slot.workers.iter().filter(|worker| !worker.leaving()).map(|worker| worker.id));
            }
        }
        for worker in retired {
            match self.heir(worker.slot) {
                Some(heir) if worker.slot.role == Role::Edge && self.worker(worker).is_some_and(Worker::is_ready) => {
                    self.hand_over(worker, heir);
                }
                _ => self.drain(worker),
            }
        }
    }

    fn attached(&mut self, id: WorkerId) {
        let now = self.now;
        self.with(id, |worker| {
            worker.attached = true;
            worker.seen = now;
        });
        // What it was told may have been lost with the old link.
        if let Some(&Worker { state: State::Draining { deadline, to }, .. }) = self.worker(id) {
            let within = deadline.saturating_sub(now);
            self.act(match to {
                Some(to) if self.worker(to).is_some_and(Worker::is_ready) => Action::HandOver { from: id, to, within },
                Some(_) | None => Action::Drain { worker: id, within },
            });
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
        let succeeds = slot.successor == Some(id);
        // A successor that died too soon leaves the old worker as it was; one whose old worker died takes its place.
        if succeeds || slot.current().is_none() {
            slot.successor = None;
        }
        let died = slot.wanted && !worker.leaving() && self.stop.is_none() && !(succeeds && slot.current().is_some());
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
                worker.state = State::Draining { deadline: now + limits.drain, to: None };
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
            State::Draining { deadline, .. } => deadline + self.limits.stop,
            State::Stopping { kill_at } => kill_at,
            State::Killed { again_at, .. } => again_at,
        }
    }

    fn spawn(&mut self) {
        let due = self.slots.values().filter(|slot| slot.wants_worker() && slot.spawn_at <= self.now);
        for slot in due.map(|slot| slot.id).collect::<Vec<_>>() {
            self.spawn_into(slot);
        }
    }

    fn spawn_into(&mut self, slot: SlotId) -> WorkerId {
        self.incarnations += 1;
        let id = WorkerId { slot, incarnation: self.incarnations };
        let worker = Worker::new(id, self.now, self.now + self.limits.start);
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.workers.push(worker);
        }
        self.act(Action::Spawn(id));
        id
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
        patience.chain(silence).chain(spawns).chain(loans).chain(self.replacing_deadline())
    }
}
