//! The plan against a made-up host: workers that die, start slowly, hang and lose messages, siblings that refuse,
//! a supervisor that stands still, and operators that scale and stop.
//!
//! `WEIR_SIM_SEED=17` replays one run, `WEIR_SIM_SEEDS=100000` makes more of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use weir_node::worker::Role;
use weir_supervisor::plan::{Action, Input, Limits, Note, Output, Plan, SlotId, Time, WorkerId, WorkerState};

const SEEDS: u64 = 256;

/// Faults end here.
const TROUBLE: Time = Time::from_secs(300);

/// From the end of the faults until every slot must have come to rest: the slowest start, and the longest
/// back-off with its spread.
const SETTLE: Duration = Duration::from_secs(240);

/// Longest time that connections of a slot may wait while a healthy sibling is there: a hang is noticed, the
/// first sibling that was asked hangs too, the second refuses once.
const COVER: Duration = Duration::from_secs(20);

/// Longest stop: for each role the drain, the order to leave, and the kills.
const STOP: Duration = Duration::from_secs(2 * (30 + 5 + 5 + 3 * 5) + 10);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low))
    }
}

/// A process as it really is.
struct Process {
    /// Its link to the supervisor works.
    linked: bool,
    ready: bool,
    hung: bool,
    /// Not even a kill ends it, as long as the faults last.
    stuck: bool,
    leaving: bool,
    adopted: BTreeSet<SlotId>,
    /// Messages to it keep their order.
    inbox: Time,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Attach(WorkerId),
    Ready(WorkerId),
    Report(WorkerId),
    Exit(WorkerId),
    Told(WorkerId, Told),
    Ack(u64, bool),
    Trouble,
    Scale,
    Replace,
    Stop(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Leave { within: Duration },
    Adopt { slot: SlotId, token: u64 },
    Release { slot: SlotId, token: u64 },
}

struct World {
    rng: Rng,
    plan: Plan,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sequence: u64,
    processes: BTreeMap<WorkerId, Process>,
    wake: Option<Time>,
    desired: (u32, u32),
    scalings: usize,
    /// Replacements and drains: each starts a worker a slot.
    renewals: usize,
    /// The plan counts from its own moment zero.
    origin: Time,
    seed: u64,
    uncovered: BTreeMap<SlotId, Time>,
    spawned: BTreeMap<SlotId, Vec<Time>>,
    announced: bool,
    stopping_since: Option<Time>,
    /// What standing still may add to a stop: deadlines begin anew.
    stood_still: Duration,
    exited: Option<usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            plan: Plan::new(Limits::default(), seed),
            now: Time::from_secs(1000),
            events: BinaryHeap::new(),
            sequence: 0,
            processes: BTreeMap::new(),
            wake: None,
            desired: (0, 0),
            scalings: 0,
            renewals: 0,
            origin: Time::ZERO,
            seed,
            uncovered: BTreeMap::new(),
            spawned: BTreeMap::new(),
            announced: false,
            stopping_since: None,
            stood_still: Duration::ZERO,
            exited: None,
        };
        world.scale();
        let first = world.rng.millis(0, 20_000);
        world.after(first, Event::Trouble);
        world
    }

    fn troubled(&self) -> bool {
        self.now < Time::from_secs(1000) + TROUBLE
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn scale(&mut self) {
        let edges = 1 + u32::try_from(self.rng.below(6)).unwrap();
        let origins = u32::try_from(self.rng.below(3)).unwrap();
        self.desired = (edges, origins);
        self.scalings += 1;
        self.tell(Input::Desired { edges, origins });
    }

    /// Gives the plan an input, at times with a clock that went back, and does what it says.
    fn tell(&mut self, input: Input) {
        let back = if self.rng.one_in(50) { self.rng.millis(0, 3000) } else { Duration::ZERO };
        self.plan.handle((self.now - back).saturating_sub(self.origin), input);
        loop {
            match self.plan.poll() {
                Output::Do(action) => self.carry_out(action),
                Output::Wait(wake) => {
                    self.wake = wake.map(|at| at + self.origin);
                    break;
                }
            }
        }
        self.look();
    }

    /// The supervisor becomes another image: what the plan says of itself is all that it keeps, and every worker attaches
    /// anew.
    fn exec(&mut self) {
        let saved = serde_json::to_string(&self.plan.save(self.now - self.origin)).unwrap();
        self.plan = Plan::restore(&serde_json::from_str(&saved).unwrap(), Limits::default(), self.seed).unwrap();
        self.origin = self.now;
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.processes.get_mut(&id).unwrap().linked = false;
            let back = self.rng.millis(5, 300);
            self.after(back, Event::Attach(id));
        }
        self.tell(Input::Replace);
    }

    fn carry_out(&mut self, action: Action) {
        assert!(self.exited.is_none(), "{action:?} after the exit");
        match action {
            Action::Spawn(id) => self.spawn(id),
            Action::Stop(id) => self.send(id, Told::Leave { within: Duration::ZERO }),
            Action::Drain { worker, within } => self.send(worker, Told::Leave { within }),
            Action::HandOver { from, to, within } => {
                let heir = self.plan.slots().flat_map(|view| view.workers).find(|worker| worker.id == to);
                assert!(heir.is_some_and(|heir| !heir.leaving), "{from} hands over to {to}, which is not there");
                assert!(from != to && from.slot.role == Role::Edge && to.slot.role == Role::Edge);
                self.send(from, Told::Leave { within });
            }
            Action::Kill(id) => {
                let troubled = self.troubled();
                let Some(process) = self.processes.get_mut(&id) else { return };
                process.hung = true;
                if !process.stuck || !troubled {
                    self.after(Duration::from_millis(5), Event::Exit(id));
                }
            }
            Action::Lend { slot, to, token } => {
                assert_ne!(slot, to.slot);
                self.send(to, Told::Adopt { slot, token });
            }
            Action::Return { slot, from, token } => {
                let view = self.plan.slots().find(|view| view.id == slot).unwrap();
                let serves = view.workers.iter().any(|worker| worker.state == WorkerState::Ready);
                assert!(serves, "{slot} is taken from {from} with nobody to read it");
                self.send(from, Told::Release { slot, token });
            }
            Action::NotifyReady => {
                assert!(!std::mem::replace(&mut self.announced, true), "ready twice");
                for view in self.plan.slots().filter(|view| view.wanted) {
                    assert!(view.workers.iter().any(|worker| !worker.leaving), "ready without {}", view.id);
                }
            }
            Action::NotifyStopping => assert_eq!(self.stopping_since.replace(self.now), None, "stopping twice"),
            Action::CloseListeners => assert!(self.stopping_since.is_some(), "sockets are closed while it serves"),
            Action::Exit { abandoned } => self.exited = Some(abandoned),
            Action::Note(note) => {
                if let Note::Hung(id) = note {
                    let process = &self.processes[&id];
                    assert!(process.hung || !process.linked, "{id} is taken for hung");
                }
                assert!(!note.to_string().is_empty());
            }
        }
    }

    fn spawn(&mut self, id: WorkerId) {
        assert!(self.stopping_since.is_none(), "{id} is spawned while everything stops");
        let times = self.spawned.entry(id.slot).or_default();
        times.push(self.now);
        let lately = times.iter().filter(|at| **at + Duration::from_secs(60) > self.now).count();
        assert!(lately <= 6 + self.scalings + self.renewals, "{} was started {lately} times within a minute", id.slot);
        if self.troubled() && self.rng.one_in(20) {
            // The process cannot be started at all.
            return self.after(Duration::ZERO, Event::Exit(id));
        }
        let stuck = self.troubled() && self.rng.one_in(50);
        let process = Process {
            linked: false,
            ready: false,
            hung: false,
            stuck,
            leaving: false,
            adopted: BTreeSet::new(),
            inbox: self.now,
        };
        assert!(self.processes.insert(id, process).is_none(), "{id} is spawned twice");
        let slow = self.troubled() && self.rng.one_in(8);
        let delay = if slow { self.rng.millis(1000, 45_000) } else { self.rng.millis(20, 300) };
        self.after(delay, Event::Attach(id));
    }

    fn send(&mut self, id: WorkerId, told: Told) {
        let delay = self.rng.millis(0, 30);
        let lost = self.troubled() && self.rng.one_in(10);
        let Some(process) = self.processes.get_mut(&id) else { return };
        // An order to leave is a signal and always arrives.
        if !matches!(told, Told::Leave { .. }) && (lost || !process.linked) {
            return;
        }
        process.inbox = process.inbox.max(self.now + delay);
        let delay = process.inbox - self.now;
        self.after(delay, Event::Told(id, told));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Attach(id) => self.attach(id),
            Event::Ready(id) => {
                if let Some(process) = self.processes.get_mut(&id).filter(|process| !process.hung) {
                    process.ready = true;
                    self.tell(Input::Ready(id));
                }
            }
            Event::Report(id) => self.report(id),
            Event::Exit(id) => {
                self.processes.remove(&id);
                self.tell(Input::Exited(id));
            }
            Event::Told(id, told) => self.told(id, told),
            Event::Ack(token, done) => self.tell(Input::Ack { token, done }),
            Event::Trouble => self.trouble(),
            Event::Scale => self.scale(),
            Event::Replace => {
                self.renewals += 1;
                match self.rng.below(3) {
                    0 if self.stopping_since.is_none() => self.exec(),
                    0 | 1 => self.tell(Input::Replace),
                    _ => {
                        let slot = SlotId::edge(u32::try_from(self.rng.below(6)).unwrap());
                        self.tell(Input::Drain(slot));
                    }
                }
            }
            Event::Stop(graceful) => self.tell(Input::Stop { graceful }),
        }
    }

    fn attach(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.hung) else { return };
        process.linked = true;
        let was_ready = process.ready;
        self.tell(Input::Attached(id));
        match was_ready {
            true => self.tell(Input::Ready(id)),
            false => {
                let delay = self.rng.millis(1, 200);
                self.after(delay, Event::Ready(id));
                self.after(Duration::from_secs(1), Event::Report(id));
            }
        }
    }

    fn report(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get(&id) else { return };
        if process.linked && !process.hung {
            let connections = self.rng.below(1000);
            self.tell(Input::Report { worker: id, connections });
        }
        self.after(Duration::from_secs(1), Event::Report(id));
    }

    fn told(&mut self, id: WorkerId, told: Told) {
        let troubled = self.troubled();
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.hung) else { return };
        match told {
            Told::Leave { within } => {
                process.leaving = true;
                process.adopted.clear();
                let millis = 1 + u64::try_from(within.as_millis()).unwrap();
                let takes = self.rng.millis(0, millis);
                self.after(takes, Event::Exit(id));
            }
            Told::Adopt { slot, token } => {
                let refuses = troubled && self.rng.one_in(10);
                if !refuses && !process.leaving {
                    process.adopted.insert(slot);
                }
                self.answer(id, token, !refuses);
            }
            Told::Release { slot, token } => {
                process.adopted.remove(&slot);
                self.answer(id, token, true);
            }
        }
    }

    fn answer(&mut self, id: WorkerId, token: u64, done: bool) {
        let lost = self.troubled() && self.rng.one_in(5);
        if !lost && self.processes.get(&id).is_some_and(|process| process.linked) {
            let delay = self.rng.millis(0, 30);
            self.after(delay, Event::Ack(token, done));
        }
    }

    fn trouble(&mut self) {
        if !self.troubled() {
            return;
        }
        let next = self.rng.millis(10, 15_000);
        self.after(next, Event::Trouble);
        let alive: Vec<_> = self.processes.keys().copied().collect();
        let Some(at) = self.rng.below(alive.len().max(1) as u64).try_into().ok().filter(|at: &usize| *at < alive.len())
        else {
            return;
        };
        let victim = alive[at];
        match self.rng.below(12) {
            0..4 => self.after(Duration::ZERO, Event::Exit(victim)),
            4 | 5 => self.processes.get_mut(&victim).unwrap().hung = true,
            6 => {
                // The link breaks and comes back, or the worker calls it lost and leaves.
                self.processes.get_mut(&victim).unwrap().linked = false;
                self.tell(Input::Detached(victim));
                let back = self.rng.millis(50, 4_900);
                self.after(back, Event::Attach(victim));
            }
            7 if self.scalings < 5 => self.after(Duration::ZERO, Event::Scale),
            8 | 9 if self.stopping_since.is_none() => self.after(Duration::ZERO, Event::Replace),
            10 => {
                // The supervisor stands still; what its workers said meanwhile waits for it.
                let still = self.rng.millis(600, 60_000);
                self.now += still;
                self.stood_still += still + Limits::default().drain;
                self.uncovered.clear();
            }
            _ => {
                // Every worker of a role dies at once.
                let role = if self.rng.one_in(2) { Role::Edge } else { Role::Origin };
                for id in alive.into_iter().filter(|id| id.slot.role == role) {
                    self.after(Duration::ZERO, Event::Exit(id));
                }
            }
        }
    }

    /// Whether a process reads the slot's accept queue.
    fn is_read(&self, slot: SlotId) -> bool {
        self.processes.iter().any(|(id, process)| {
            process.ready && !process.hung && !process.leaving && (id.slot == slot || process.adopted.contains(&slot))
        })
    }

    /// What must hold at every moment.
    fn look(&mut self) {
        let mut views = Vec::new();
        for view in self.plan.slots() {
            let accept = |state| matches!(state, WorkerState::Ready | WorkerState::Silent);
            let accepting = view.workers.iter().filter(|worker| accept(worker.state)).count();
            assert!(accepting <= 1, "{} has {accepting} ready workers", view.id);
            views.push(view.id);
        }
        for slot in views.into_iter().filter(|slot| slot.role == Role::Edge) {
            let sibling = self.processes.iter().any(|(id, process)| {
                id.slot.role == Role::Edge
                    && id.slot != slot
                    && process.ready
                    && process.linked
                    && !process.hung
                    && !process.leaving
            });
            if self.is_read(slot) || !sibling || self.stopping_since.is_some() {
                self.uncovered.remove(&slot);
                continue;
            }
            let since = *self.uncovered.entry(slot).or_insert(self.now);
            assert!(self.now <= since + COVER, "nobody reads {slot} since {since:?}");
        }
        if let Some(since) = self.stopping_since.filter(|_| self.exited.is_none()) {
            assert!(self.now <= since + STOP + self.stood_still, "the stop that began at {since:?} does not end");
        }
    }

    /// Lets time pass until `end` or the exit.
    fn run_until(&mut self, end: Time) {
        while self.exited.is_none() {
            let event_at = self.events.peek().map(|Reverse((at, ..))| *at);
            let next = event_at.into_iter().chain(self.wake).min().unwrap_or(end);
            if next > end {
                self.now = self.now.max(end);
                return;
            }
            self.now = self.now.max(next);
            match event_at.filter(|at| *at <= next) {
                Some(_) => {
                    let Reverse((_, _, event)) = self.events.pop().unwrap();
                    self.happen(event);
                }
                None => self.tell(Input::Tick),
            }
            self.look();
        }
    }

    /// After the faults: every wanted slot has its own worker, the retired ones are read by siblings.
    fn at_rest(&self) {
        assert!(self.announced, "never ready");
        assert_eq!(self.plan.replacing(), None, "a replacement that does not end");
        for view in self.plan.slots() {
            let ready = view.workers.iter().any(|worker| worker.state == WorkerState::Ready);
            assert_eq!(ready, view.wanted, "{view:?} in a host of {:?}", self.desired);
            if view.id.role == Role::Edge {
                assert_eq!(view.lent_to.is_empty(), view.wanted, "{view:?}");
                assert!(self.is_read(view.id), "nobody reads {view:?}");
            }
        }
    }
}

/// Names the run that failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay this run with WEIR_SIM_SEED={}", self.0);
        }
    }
}

fn simulate(seed: u64) {
    let _named = Named(seed);
    let mut world = World::new(seed);
    let start = world.now;
    let in_the_midst = world.rng.one_in(2);
    let rest = match in_the_midst {
        true => start + world.rng.millis(0, 300_000),
        false => start + TROUBLE + SETTLE,
    };
    world.run_until(rest);
    if !in_the_midst {
        world.at_rest();
    }
    let graceful = world.rng.one_in(2);
    world.after(Duration::ZERO, Event::Stop(graceful));
    if graceful && world.rng.one_in(2) {
        let hurry = world.rng.millis(0, 40_000);
        world.after(hurry, Event::Stop(false));
    }
    world.stood_still = Duration::ZERO;
    let end = world.now + 10 * STOP;
    world.run_until(end);
    let abandoned = world.exited.expect("the stop ends");
    // One that was given up on may have ended by itself later.
    assert!(world.processes.len() <= abandoned, "{} processes left", world.processes.len());
    assert!(world.processes.values().all(|process| process.stuck), "a process that could be killed was left");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_the_promises() {
    match number("WEIR_SIM_SEED") {
        Some(seed) => simulate(seed),
        None => (0..number("WEIR_SIM_SEEDS").unwrap_or(SEEDS)).for_each(simulate),
    }
}
