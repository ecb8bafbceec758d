//! Who the clients of all workers are, and disconnecting one.
//!
//! First every worker says how many it has, then those whose part of the list was asked for say who they are. One that does
//! not answer in time is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;
use weir_proto::supervisor::{
    ClientRow, Kick, Look, LookReply, LookRequest, Seen, StreamsReply, StreamsRequest, to_worker,
};

use super::Host;
use super::streams::Gathering;
use crate::plan::{SlotId, Time, WorkerId};

/// How long all workers together may take.
const WITHIN: Duration = Duration::from_millis(400);

/// Clients of one answer.
pub(super) const COUNT_MAX: u32 = 1000;

/// Questions that may wait for workers at a time.
const WAITING_MAX: usize = 64;

/// Questions for all streams that are gathered at a time: each answer may be some megabytes.
const GATHERING_MAX: usize = 8;

/// Tokens of this module's have this bit, so that nobody else's acknowledgement is taken for one's.
const OWN: u64 = 1 << 62;

/// What waits for workers.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: u64,
    looks: BTreeMap<u64, Waiting>,
    streams: BTreeMap<u64, Gathering>,
    kicks: BTreeMap<u64, (Time, oneshot::Sender<Result<(), Status>>)>,
}

impl Looks {
    fn token(&mut self) -> u64 {
        self.last += 1;
        OWN | self.last
    }
}

#[derive(Debug)]
struct Waiting {
    by: Time,
    start: u64,
    count: u64,
    /// Numbers are asked for, not yet clients.
    counting: bool,
    silent: BTreeSet<WorkerId>,
    totals: BTreeMap<WorkerId, u64>,
    rows: BTreeMap<WorkerId, Vec<ClientRow>>,
    partial: bool,
    answer: oneshot::Sender<LookReply>,
}

impl Waiting {
    /// Which part of each worker's clients the answer has: those of the workers before it come first.
    fn parts(&self) -> Vec<(WorkerId, u64, u64)> {
        let (mut parts, mut begin) = (Vec::new(), 0);
        for (worker, total) in &self.totals {
            let end = begin + total;
            let (from, to) = (self.start.max(begin), (self.start + self.count).min(end));
            if from < to {
                parts.push((*worker, from - begin, to - from));
            }
            begin = end;
        }
        parts
    }

    fn finish(self) {
        let total = self.totals.values().sum();
        let partial = self.partial || !self.silent.is_empty();
        let clients = self.rows.into_iter().flat_map(|(worker, rows)| {
            let named = move |row: ClientRow| ClientRow { id: id_of(worker, row.number), ..row };
            rows.into_iter().map(named)
        });
        self.answer.send(LookReply { clients: clients.collect(), total, partial }).ok();
    }
}

/// `edge.0.12.345`: role, slot, incarnation, and the worker's own number.
pub(super) fn id_of(worker: WorkerId, number: u64) -> String {
    let SlotId { role, index } = worker.slot;
    format!("{role}.{index}.{}.{number}", worker.incarnation)
}

fn client_of(id: &str) -> Option<(WorkerId, u64)> {
    let mut parts = id.split('.');
    let slot = SlotId { role: parts.next()?.parse().ok()?, index: parts.next()?.parse().ok()? };
    let (incarnation, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((WorkerId { slot, incarnation }, number))
}

impl Host {
    pub(super) fn look(&mut self, request: &LookRequest, answer: oneshot::Sender<LookReply>) {
        let token = self.looks.token();
        let mut waiting = Waiting {
            by: self.now() + WITHIN,
            start: request.start.into(),
            count: request.count.min(COUNT_MAX).into(),
            counting: request.id.is_empty(),
            silent: BTreeSet::new(),
            totals: BTreeMap::new(),
            rows: BTreeMap::new(),
            partial: self.looks.looks.len() >= WAITING_MAX,
            answer,
        };
        if waiting.partial {
            return waiting.finish();
        }
        if waiting.counting {
            let ask = Look { token, ..Look::default() };
            waiting.silent = self.workers.keys().copied().collect();
            for worker in self.workers.values() {
                worker.hint(to_worker::Kind::Look(ask));
            }
        } else if let Some((id, number)) = client_of(&request.id)
            && let Some(worker) = self.workers.get(&id)
        {
            waiting.silent.insert(id);
            worker.hint(to_worker::Kind::Look(Look { token, number: Some(number), count: 1, ..Look::default() }));
        }
        self.looks.looks.insert(token, waiting);
        self.look_on(token);
    }

    /// A worker answered.
    pub(super) fn seen(&mut self, id: WorkerId, seen: Seen) {
        let Some(waiting) = self.looks.looks.get_mut(&seen.token) else { return self.streams_seen(id, seen) };
        if !waiting.silent.remove(&id) {
            return;
        }
        waiting.totals.insert(id, seen.total);
        if !waiting.counting {
            waiting.rows.insert(id, seen.clients);
        }
        self.look_on(seen.token);
    }

    /// Asks for the clients once all numbers are there, and answers once those are.
    fn look_on(&mut self, token: u64) {
        let Some(waiting) = self.looks.looks.get_mut(&token).filter(|waiting| waiting.silent.is_empty()) else {
            return;
        };
        if std::mem::replace(&mut waiting.counting, false) {
            for (id, start, count) in waiting.parts() {
                let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                let ask = Look { token, start: part(start), count: part(count), ..Look::default() };
                if let Some(worker) = self.workers.get(&id) {
                    worker.hint(to_worker::Kind::Look(ask));
                }
                waiting.silent.insert(id);
            }
        }
        if waiting.silent.is_empty()
            && let Some(waiting) = self.looks.looks.remove(&token)
        {
            waiting.finish();
        }
    }

    /// Asks all workers for their streams.
    pub(super) fn streams(&mut self, request: StreamsRequest, answer: oneshot::Sender<StreamsReply>) {
        let token = self.looks.token();
        let mut gathering = Gathering::new(self.now() + WITHIN, request, answer);
        if self.looks.streams.len() >= GATHERING_MAX {
            return gathering.give_up();
        }
        for (id, worker) in &self.workers {
            gathering.waits_for(*id);
            worker.hint(to_worker::Kind::Look(Look { token, streams: true, ..Look::default() }));
        }
        if gathering.is_complete() {
            return gathering.finish();
        }
        self.looks.streams.insert(token, gathering);
    }

    fn streams_seen(&mut self, id: WorkerId, seen: Seen) {
        let token = seen.token;
        let Some(gathering) = self.looks.streams.get_mut(&token) else { return };
        gathering.add(id, seen);
        if gathering.is_complete()
            && let Some(gathering) = self.looks.streams.remove(&token)
        {
            gathering.finish();
        }
    }

    pub(super) fn kick(&mut self, id: &str, answer: oneshot::Sender<Result<(), Status>>) {
        let known = client_of(id).and_then(|(id, number)| Some((self.workers.get(&id)?, number)));
        let Some((worker, number)) = known else { return drop(answer.send(Err(unknown()))) };
        if self.looks.kicks.len() >= WAITING_MAX {
            return drop(answer.send(Err(Status::unavailable("too many wait for workers"))));
        }
        let token = self.looks.token();
        worker.hint(to_worker::Kind::Kick(Kick { token, number }));
        self.looks.kicks.insert(token, (self.now() + WITHIN, answer));
    }

    /// Whether an acknowledgement is of a kick.
    pub(super) fn kicked(&mut self, token: u64, error: &str) -> bool {
        let Some((_, answer)) = self.looks.kicks.remove(&token) else { return token & OWN != 0 && token >> 63 == 0 };
        answer.send(if error.is_empty() { Ok(()) } else { Err(unknown()) }).ok();
        true
    }

    /// Answers whoever has waited long enough; returns when the next one will have.
    pub(super) fn looks_due(&mut self) -> Option<Time> {
        let now = self.now();
        let late: Vec<u64> = self.looks.looks.iter().filter(|(_, w)| w.by <= now).map(|(token, _)| *token).collect();
        for waiting in late.into_iter().filter_map(|token| self.looks.looks.remove(&token)) {
            waiting.finish();
        }
        let late: Vec<u64> = self.looks.streams.iter().filter(|(_, g)| g.by <= now).map(|(token, _)| *token).collect();
        for gathering in late.into_iter().filter_map(|token| self.looks.streams.remove(&token)) {
            gathering.finish();
        }
        let late: Vec<u64> =
            self.looks.kicks.iter().filter(|(_, (by, _))| *by <= now).map(|(token, _)| *token).collect();
        for (_, answer) in late.into_iter().filter_map(|token| self.looks.kicks.remove(&token)) {
            answer.send(Err(Status::deadline_exceeded("its worker does not answer"))).ok();
        }
        let looks = self.looks.looks.values().map(|waiting| waiting.by);
        let looks = looks.chain(self.looks.streams.values().map(|gathering| gathering.by));
        looks.chain(self.looks.kicks.values().map(|(by, _)| *by)).min()
    }
}

fn unknown() -> Status {
    Status::not_found("there is no such client")
}

#[cfg(test)]
mod tests {
    use weir_node::worker::Role;

    use super::*;

    #[test]
    fn ids_name_worker_and_client() {
        let worker = WorkerId { slot: SlotId { role: Role::Edge, index: 3 }, incarnation: 12 };
        assert_eq!(id_of(worker, 7), "edge.3.12.7");
        assert_eq!(client_of("edge.3.12.7"), Some((worker, 7)));
        for wrong in ["", "edge.3.12", "edge.3.12.7.8", "cat.3.12.7", "edge.-3.12.7", "edge.3.12.x"] {
            assert_eq!(client_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_page_is_cut_from_the_workers_lists_one_behind_the_other() {
        let worker = |index| WorkerId { slot: SlotId { role: Role::Edge, index }, incarnation: u64::from(index) + 1 };
        let parts = |start, count| {
            let (answer, _) = oneshot::channel();
            let totals = [(worker(0), 5), (worker(1), 0), (worker(2), 3)].into();
            let rows = BTreeMap::new();
            let silent = BTreeSet::new();
            let by = Time::ZERO;
            let waiting = Waiting { by, start, count, counting: true, silent, totals, rows, partial: false, answer };
            waiting.parts()
        };
        assert_eq!(parts(0, 10), [(worker(0), 0, 5), (worker(2), 0, 3)]);
        assert_eq!(parts(4, 2), [(worker(0), 4, 1), (worker(2), 0, 1)]);
        assert_eq!(parts(5, 2), [(worker(2), 0, 2)]);
        assert_eq!((parts(8, 10).len(), parts(0, 0).len()), (0, 0));
    }
}
