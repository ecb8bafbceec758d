//! A plan on its way into another image of the supervisor.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_node::worker::Role;

use super::deaths::Deaths;
use super::loan::{Loan, Step};
use super::slot::{Slot, State, Worker};
use super::{Limits, Plan, SlotId, Time, WorkerId};

/// What [`Plan::restore`] needs. Moments are times that are left, or have passed, in milliseconds; fields are only ever
/// added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedPlan {
    incarnations: u64,
    tokens: u64,
    announced: bool,
    slots: Vec<SavedSlot>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedSlot {
    role: String,
    index: u32,
    wanted: bool,
    deaths: u64,
    deaths_in_a_row: usize,
    faulted: bool,
    /// How long ago the last deaths were.
    deaths_ago: Vec<u64>,
    spawn_in: u64,
    successor: Option<u64>,
    workers: Vec<SavedWorker>,
    loans: Vec<SavedLoan>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedWorker {
    incarnation: u64,
    state: SavedState,
    connections: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedState {
    Starting { left: u64 },
    Ready { for_ms: u64 },
    Draining { left: u64, to: Option<(u32, u64)> },
    Stopping { left: u64 },
    Killed { left: u64, leaving: bool, times: u32 },
}

impl Default for SavedState {
    fn default() -> Self {
        Self::Ready { for_ms: 0 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedLoan {
    slot: u32,
    incarnation: u64,
    token: u64,
    /// `lending`, `lent` or `returning`.
    step: String,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Plan {
    /// What another image of the supervisor needs to go on. A replacement under way is not part of it.
    pub fn save(&self, now: Time) -> SavedPlan {
        let left = |at: Time| millis(at.saturating_sub(now));
        let worker = |worker: &Worker| SavedWorker {
            incarnation: worker.id.incarnation,
            connections: worker.connections,
            state: match worker.state {
                State::Starting { until } => SavedState::Starting { left: left(until) },
                State::Ready { since } => SavedState::Ready { for_ms: millis(now.saturating_sub(since)) },
                State::Draining { deadline, to } => {
                    SavedState::Draining { left: left(deadline), to: to.map(|to| (to.slot.index, to.incarnation)) }
                }
                State::Stopping { kill_at } => SavedState::Stopping { left: left(kill_at) },
                State::Killed { again_at, leaving, times } => {
                    SavedState::Killed { left: left(again_at), leaving, times }
                }
            },
        };
        let loan = |loan: &Loan| SavedLoan {
            slot: loan.to.slot.index,
            incarnation: loan.to.incarnation,
            token: loan.token,
            step: match loan.step {
                Step::Lending { .. } => "lending",
                Step::Lent => "lent",
                Step::Returning { .. } => "returning",
            }
            .to_owned(),
        };
        let slots = self.slots.values().map(|slot| {
            let (deaths_in_a_row, faulted, ago) = slot.deaths.save(now);
            SavedSlot {
                role: slot.id.role.to_string(),
                index: slot.id.index,
                wanted: slot.wanted,
                deaths: slot.deaths.total,
                deaths_in_a_row,
                faulted,
                deaths_ago: ago.into_iter().map(millis).collect(),
                spawn_in: left(slot.spawn_at),
                successor: slot.successor.map(|id| id.incarnation),
                workers: slot.workers.iter().map(worker).collect(),
                loans: slot.loans.iter().map(loan).collect(),
            }
        });
        SavedPlan {
            incarnations: self.incarnations,
            tokens: self.tokens,
            announced: self.announced,
            slots: slots.collect(),
        }
    }

    /// A plan that goes on at its moment zero. Every worker has to attach anew, and is given as long as one that was just
    /// heard of. `None`: `saved` speaks of a role that there is not.
    pub fn restore(saved: &SavedPlan, limits: Limits, seed: u64) -> Option<Self> {
        let mut plan = Self::new(limits, seed);
        plan.incarnations = saved.incarnations;
        plan.tokens = saved.tokens;
        plan.announced = saved.announced;
        for saved in &saved.slots {
            let id = SlotId { role: saved.role.parse().ok()?, index: saved.index };
            let mut slot = Slot::new(id, limits.cold);
            slot.wanted = saved.wanted;
            let ago: Vec<_> = saved.deaths_ago.iter().copied().map(Duration::from_millis).collect();
            slot.deaths = Deaths::restore(saved.deaths, saved.deaths_in_a_row, saved.faulted, &ago, &limits);
            slot.spawn_at = Duration::from_millis(saved.spawn_in);
            slot.workers = saved.workers.iter().map(|worker| worker.restore(id)).collect();
            let known = |incarnation: &u64| slot.workers.iter().any(|worker| worker.id.incarnation == *incarnation);
            slot.successor = saved.successor.filter(known).map(|incarnation| WorkerId { slot: id, incarnation });
            slot.loans = saved.loans.iter().filter_map(|loan| loan.restore(limits)).collect();
            plan.slots.insert(id, slot);
        }
        // A loan to a worker that is not there any more is none.
        let ready: Vec<WorkerId> = plan.workers().filter(|worker| worker.is_ready()).map(|worker| worker.id).collect();
        for slot in plan.slots.values_mut() {
            slot.loans.retain(|loan| ready.contains(&loan.to));
        }
        Some(plan)
    }

    /// Every worker's slot and number: those whose processes a new image looks for.
    pub fn worker_ids(&self) -> Vec<WorkerId> {
        self.workers().map(|worker| worker.id).collect()
    }
}

impl SavedWorker {
    fn restore(&self, slot: SlotId) -> Worker {
        let id = WorkerId { slot, incarnation: self.incarnation };
        let left = Duration::from_millis;
        let state = match self.state {
            SavedState::Starting { left: until } => State::Starting { until: left(until) },
            SavedState::Ready { .. } => State::Ready { since: Time::ZERO },
            SavedState::Draining { left: deadline, to } => {
                let heir = |(index, incarnation)| WorkerId { slot: SlotId { role: Role::Edge, index }, incarnation };
                State::Draining { deadline: left(deadline), to: to.map(heir) }
            }
            SavedState::Stopping { left: kill_at } => State::Stopping { kill_at: left(kill_at) },
            SavedState::Killed { left: again_at, leaving, times } => {
                State::Killed { again_at: left(again_at), leaving, times }
            }
        };
        Worker { state, connections: self.connections, ..Worker::new(id, Time::ZERO, Time::ZERO) }
    }
}

impl SavedLoan {
    fn restore(&self, limits: Limits) -> Option<Loan> {
        let to = WorkerId { slot: SlotId::edge(self.slot), incarnation: self.incarnation };
        let due = limits.ack;
        let step = match self.step.as_str() {
            "lending" => Step::Lending { due },
            "lent" => Step::Lent,
            "returning" => Step::Returning { due },
            _ => return None,
        };
        Some(Loan { to, token: self.token, step })
    }
}
