//! Another configuration while the host runs: all workers take it, or none keeps it.
//!
//! Sockets are bound first, since that is what fails. Then every worker is told; when all have answered, the new sockets
//! are handed out and the number of workers is changed. A worker that refuses, or does not answer in time, puts all of
//! them back.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};
use weir_node::config::{Auto, Config, EDGE_WORKERS_MAX, changes};
use weir_node::fdpass;
use weir_node::worker::Role;
use weir_proto::supervisor::{Adopt, Apply, to_worker};

use super::Host;
use crate::plan::{Input, SlotId, WorkerId, WorkerState};
use crate::slots::Slots;

/// How long workers have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tokens of this part have this bit; the plan counts from zero.
const OWN: u64 = 1 << 63;

/// Who wants to know how it ended.
pub(super) type Answer = oneshot::Sender<Result<String, String>>;

/// A configuration that not all workers have answered yet.
#[derive(Debug)]
pub(super) struct Reload {
    config: Config,
    json: String,
    generation: u64,
    slots: Slots,
    /// What is said when it succeeds.
    what: String,
    waiting: BTreeMap<u64, WorkerId>,
    told: Vec<WorkerId>,
    until: Instant,
    answer: Option<Answer>,
}

impl Host {
    /// Reads the configuration again and takes it over.
    pub(super) fn reload(&mut self, answer: Option<Answer>) {
        match (self.load)() {
            Ok(config) => self.reconfigure(config, answer),
            Err(errors) => self.refuse_config(answer, errors),
        }
    }

    /// Changes the number of edge workers.
    pub(super) fn scale(&mut self, role: &str, workers: u32, answer: Answer) {
        let refusal = match role.parse() {
            Ok(Role::Edge) if workers <= EDGE_WORKERS_MAX => None,
            Ok(Role::Edge) => Some(format!("{workers} are too many, at most {EDGE_WORKERS_MAX} are allowed")),
            Ok(Role::Origin) => {
                Some("the number of origin workers decides where streams live: it changes at a restart only".to_owned())
            }
            Err(error) => Some(error),
        };
        if let Some(refusal) = refusal {
            answer.send(Err(refusal)).ok();
            return;
        }
        let mut config = self.config.clone();
        config.edge.workers = Auto::Is(workers);
        self.reconfigure(config, Some(answer));
    }

    fn reconfigure(&mut self, config: Config, answer: Option<Answer>) {
        let busy = match (&self.reload, self.plan.is_stopping()) {
            (_, true) => Some("weir is stopping"),
            (Some(_), _) => Some("another configuration is just being taken over; try again"),
            (None, _) if self.plan.replacing().is_some() => Some("workers are just being replaced; try again"),
            (None, _) if self.is_upgrading() => Some("an upgrade is just under way; try again"),
            (None, false) => None,
        };
        if let Some(busy) = busy {
            return self.refuse_config(answer, busy.to_owned());
        }
        let found = changes(&self.config, &config);
        let fixed: Vec<_> = found.iter().filter(|change| change.fixed.is_some()).map(ToString::to_string).collect();
        if !fixed.is_empty() {
            return self.refuse_config(answer, fixed.join("\n"));
        }
        if found.is_empty() {
            return self.done(answer, format!("generation {}: nothing has changed", self.generation));
        }
        let (slots, json) = match (self.slots.rebind(&config), serde_json::to_string(&config)) {
            (Ok(slots), Ok(json)) => (slots, json),
            (Err(error), _) => return self.refuse_config(answer, error.to_string()),
            (_, Err(error)) => return self.refuse_config(answer, error.to_string()),
        };
        let generation = self.tried + 1;
        // Never used again, even if it is taken back: some worker may have missed that.
        self.tried = generation;
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        let mut reload = Reload {
            what: format!("generation {generation}: {}", lines.join(", ")),
            json,
            config,
            generation,
            slots,
            waiting: BTreeMap::new(),
            told: Vec::new(),
            until: Instant::now() + ANSWER_WITHIN,
            answer,
        };
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            let token = self.next_token();
            // One without a link gets what is in force when it attaches.
            if self.apply(id, token, generation, &reload.json) {
                reload.waiting.insert(token, id);
                reload.told.push(id);
            }
        }
        self.reload = Some(reload);
        self.go_on_reloading();
    }

    /// A worker answered, or is gone.
    pub(super) fn reload_answered(&mut self, token: u64, error: &str) {
        if token & OWN == 0 {
            return;
        }
        let Some(reload) = &mut self.reload else { return };
        let Some(id) = reload.waiting.remove(&token) else { return };
        if error.is_empty() {
            self.go_on_reloading();
        } else {
            self.undo(format!("{id} refused: {error}"));
        }
    }

    /// Takes over what everybody has answered, and takes back what somebody has not in time.
    pub(super) fn go_on_reloading(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        reload.waiting.retain(|_, id| self.workers.contains_key(id));
        if reload.waiting.is_empty() {
            self.take_over();
        } else if reload.until <= Instant::now() {
            let late: Vec<_> = reload.waiting.values().map(ToString::to_string).collect();
            self.undo(format!("no answer within {ANSWER_WITHIN:?} from {}", late.join(", ")));
        }
    }

    fn take_over(&mut self) {
        let Some(reload) = self.reload.take() else { return };
        let Reload { config, json, generation, slots, what, told, answer, .. } = reload;
        let same = self.slots.same_addresses(&slots);
        (self.config, self.json, self.generation, self.slots) = (config, json, generation, slots);
        weir_node::log::set_level(self.config.log.level);
        self.plan.set_drain(self.config.edge.drain_timeout);
        // Who attached in between was welcomed with the old one.
        for id in self.workers.keys().copied().filter(|id| !told.contains(id)).collect::<Vec<_>>() {
            let (token, json) = (self.next_token(), self.json.clone());
            self.apply(id, token, generation, &json);
        }
        if !same {
            self.addresses += 1;
            self.renew_sockets();
        }
        let (edges, origins) = (self.config.edge_workers(), self.config.origin.workers);
        self.tell(Input::Desired { edges, origins });
        self.metrics.reloaded(true);
        self.done(answer, what);
    }

    fn undo(&mut self, why: String) {
        let Some(reload) = self.reload.take() else { return };
        let (generation, json) = (self.generation, self.json.clone());
        for id in reload.told {
            let token = self.next_token();
            self.apply(id, token, generation, &json);
        }
        self.refuse_config(reload.answer, format!("{why}; every worker keeps generation {generation}"));
    }

    /// Gives each edge that has the sockets of other addresses those that there are now, its own and those that it accepts
    /// from for others; again and again until it took them.
    pub(super) fn renew_sockets(&mut self) {
        let accepts = |state| matches!(state, WorkerState::Starting | WorkerState::Ready | WorkerState::Silent);
        let edges: Vec<_> = self.plan.slots().filter(|slot| slot.id.role == Role::Edge).collect();
        let workers = edges.iter().flat_map(|slot| &slot.workers).filter(|worker| accepts(worker.state));
        let stale = |id: &WorkerId| {
            self.workers.get(id).is_some_and(|worker| worker.is_linked() && worker.addresses != self.addresses)
        };
        for id in workers.map(|worker| worker.id).filter(stale).collect::<Vec<_>>() {
            for lent in edges.iter().filter(|slot| slot.lent_to.contains(&id)) {
                let token = self.next_token();
                self.give_sockets(lent.id, id, token);
            }
            let token = self.next_token();
            self.give_sockets(id.slot, id, token);
            let addresses = self.addresses;
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.given = Some((token, addresses));
            }
        }
    }

    /// A worker took its sockets, or could not; then it is given them again.
    pub(super) fn sockets_answered(&mut self, id: WorkerId, token: u64, taken: bool) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some((given, addresses)) = worker.given
            && given == token
        {
            worker.given = None;
            if taken {
                worker.addresses = addresses;
            }
        }
    }

    /// A worker attached: it has the configuration that is in force, whatever it was told before.
    pub(super) fn welcomed(&mut self, id: WorkerId) {
        if let Some(reload) = &mut self.reload {
            reload.told.retain(|told| *told != id);
            reload.waiting.retain(|_, waiting| *waiting != id);
        }
        self.go_on_reloading();
    }

    /// Lets a worker accept from the sockets of a slot, in place of any that it had of it.
    pub(super) fn give_sockets(&mut self, slot: SlotId, to: WorkerId, token: u64) {
        let Some(worker) = self.workers.get(&to) else { return };
        let sockets = self.slots.sockets(slot);
        let fds: Vec<_> = sockets.iter().map(|socket| socket.fd.as_fd()).collect();
        let names = sockets.iter().map(|socket| socket.name.clone()).collect();
        // An adopt whose descriptors did not fit is refused by the worker, or asked for again.
        if let Err(error) = fdpass::send(worker.process.fds.as_fd(), token, &fds) {
            warn!("{to} was not given the sockets of {slot}: {error}");
        }
        self.say(to, to_worker::Kind::Adopt(Adopt { token, slot: slot.index, names }));
    }

    fn apply(&mut self, id: WorkerId, token: u64, generation: u64, json: &str) -> bool {
        self.say(id, to_worker::Kind::Apply(Apply { token, generation, config: json.to_owned() }))
    }

    fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        OWN | self.tokens
    }

    fn refuse_config(&mut self, answer: Option<Answer>, why: String) {
        error!("the configuration stays as it was: {why}");
        self.metrics.reloaded(false);
        super::notify_ready();
        if let Some(answer) = answer {
            answer.send(Err(why)).ok();
        }
    }

    fn done(&self, answer: Option<Answer>, what: String) {
        info!("{what}");
        super::notify_ready();
        if let Some(answer) = answer {
            answer.send(Ok(what)).ok();
        }
    }
}
