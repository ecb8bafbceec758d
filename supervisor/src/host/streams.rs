//! The streams of all workers, made one list of.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;
use weir_node::rows;
use weir_proto::supervisor::{Seen, StreamRow, StreamsReply, StreamsRequest, VhostRow};

use super::look::{COUNT_MAX, id_of};
use crate::plan::{Time, WorkerId};

/// What workers told so far.
#[derive(Debug)]
pub(super) struct Gathering {
    /// When the answer is given, whoever is still silent.
    pub(super) by: Time,
    request: StreamsRequest,
    silent: BTreeSet<WorkerId>,
    rows: BTreeMap<(String, String, String), StreamRow>,
    /// Bytes of workers that have nothing else of a stream any more.
    bygone: BTreeMap<(String, String, String), u64>,
    partial: bool,
    answer: oneshot::Sender<StreamsReply>,
}

impl Gathering {
    pub(super) fn new(by: Time, request: StreamsRequest, answer: oneshot::Sender<StreamsReply>) -> Self {
        let (silent, rows, bygone) = Default::default();
        Self { by, request, silent, rows, bygone, partial: false, answer }
    }

    pub(super) fn waits_for(&mut self, worker: WorkerId) {
        self.silent.insert(worker);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.silent.is_empty()
    }

    /// A worker's streams.
    pub(super) fn add(&mut self, worker: WorkerId, seen: Seen) {
        if !self.silent.remove(&worker) {
            return;
        }
        self.partial |= seen.total > seen.streams.len() as u64;
        for row in seen.streams {
            let name = (row.vhost.clone(), row.app.clone(), row.stream.clone());
            if (StreamRow { sent: 0, vhost: String::new(), app: String::new(), stream: String::new(), ..row.clone() })
                == StreamRow::default()
            {
                *self.bygone.entry(name).or_default() += row.sent;
                continue;
            }
            let all = self.rows.entry(name).or_default();
            all.clients += row.clients;
            all.received += row.received;
            all.sent += row.sent;
            all.received_bps += row.received_bps;
            all.sent_bps += row.sent_bps;
            // What an origin says of a stream is what its publisher's edge says, a little later.
            all.frames = all.frames.max(row.frames);
            all.alive_ms = all.alive_ms.max(row.alive_ms);
            all.video = better(all.video.take(), row.video, |video| video.width);
            // Players may be sent other sound than is published.
            if row.audio.is_some() && (row.publisher.is_some() || all.publisher_id.is_empty()) {
                all.audio = row.audio;
            }
            if let Some(number) = row.publisher {
                all.publisher_id = id_of(worker, number);
            }
        }
    }

    /// Gives an answer that says that it is none.
    pub(super) fn give_up(mut self) {
        self.partial = true;
        self.finish();
    }

    /// Gives the answer.
    pub(super) fn finish(mut self) {
        for (name, sent) in &self.bygone {
            if let Some(row) = self.rows.get_mut(name) {
                row.sent += sent;
            }
        }
        let mut vhosts: BTreeMap<&str, VhostRow> = BTreeMap::new();
        for ((vhost, ..), row) in &self.rows {
            let all = vhosts.entry(vhost).or_default();
            all.streams += 1;
            all.clients += row.clients;
            all.received += row.received;
            all.sent += row.sent;
            all.received_bps += row.received_bps;
            all.sent_bps += row.sent_bps;
        }
        let vhosts = vhosts.into_iter().map(|(vhost, row)| VhostRow { vhost: vhost.to_owned(), ..row }).collect();
        let (total, partial) = (self.rows.len() as u64, self.partial || !self.silent.is_empty());
        let StreamsRequest { start, count, id } = self.request;
        let rows = self.rows.into_iter().map(|((vhost, app, stream), row)| {
            let id = rows::id_of(&[&vhost, &app, &stream]);
            StreamRow { id, vhost, app, stream, ..row }
        });
        let streams = match id.is_empty() {
            true => rows.skip(start as usize).take(count.min(COUNT_MAX) as usize).collect(),
            false => rows.filter(|row| row.id == id).take(1).collect(),
        };
        self.answer.send(StreamsReply { streams, total, partial, vhosts }).ok();
    }
}

/// The one that knows more.
fn better<T>(a: Option<T>, b: Option<T>, knows: impl Fn(&T) -> u32) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if knows(&b) > knows(&a) { b } else { a }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use weir_node::worker::Role;
    use weir_proto::supervisor::VideoFigures;

    use super::*;
    use crate::plan::SlotId;

    fn worker(role: Role, index: u32) -> WorkerId {
        WorkerId { slot: SlotId { role, index }, incarnation: 7 }
    }

    fn row(app: &str, clients: u64, publisher: Option<u64>) -> StreamRow {
        let (vhost, app, stream) = ("v".to_owned(), app.to_owned(), "s".to_owned());
        StreamRow { vhost, app, stream, clients, publisher, sent: clients * 10, ..StreamRow::default() }
    }

    #[test]
    fn rows_of_one_stream_become_one() {
        let (answer, mut answered) = oneshot::channel();
        let request = StreamsRequest { start: 0, count: 10, id: String::new() };
        let mut all = Gathering::new(Time::ZERO, request, answer);
        let workers = [worker(Role::Edge, 0), worker(Role::Edge, 1), worker(Role::Origin, 0)];
        workers.iter().for_each(|id| all.waits_for(*id));
        all.add(
            workers[0],
            Seen { streams: vec![row("a", 3, Some(12)), row("b", 1, None)], total: 2, ..Seen::default() },
        );
        all.add(workers[1], Seen { streams: vec![row("a", 2, None)], total: 1, ..Seen::default() });
        all.add(workers[1], Seen { streams: vec![row("a", 100, None)], total: 1, ..Seen::default() });
        assert!(!all.is_complete());
        let past = |app: &str| StreamRow { sent: 7, ..row(app, 0, None) };
        let origin = vec![past("a"), past("over")];
        let mut known = row("a", 0, None);
        known.video = Some(VideoFigures { width: 320, ..VideoFigures::default() });
        let streams = [vec![known], origin].concat();
        all.add(workers[2], Seen { streams, total: 4, ..Seen::default() });
        assert!(all.is_complete());
        all.finish();
        let reply = answered.try_recv().unwrap();
        assert_eq!((reply.total, reply.partial), (2, true), "the origin had one more");
        let a = &reply.streams[0];
        assert_eq!((a.clients, a.sent, &*a.publisher_id), (5, 57, "edge.0.7.12"), "what was sent by who left counts");
        assert_eq!(a.video.as_ref().map(|video| video.width), Some(320));
        assert_eq!(
            reply.vhosts[0],
            VhostRow { vhost: "v".into(), streams: 2, clients: 6, sent: 67, ..VhostRow::default() }
        );
    }

    #[test]
    fn a_page_or_one() {
        let ask = |start, count, id: &str| {
            let (answer, mut answered) = oneshot::channel();
            let request = StreamsRequest { start, count, id: id.to_owned() };
            let mut all = Gathering::new(Time::ZERO, request, answer);
            let edge = worker(Role::Edge, 0);
            all.waits_for(edge);
            let streams = ["a", "b", "c"].map(|app| row(app, 1, None)).to_vec();
            all.add(edge, Seen { streams, total: 3, ..Seen::default() });
            all.finish();
            let reply = answered.try_recv().unwrap();
            assert_eq!((reply.total, reply.partial), (3, false));
            reply.streams.into_iter().map(|row| row.app).collect::<String>()
        };
        assert_eq!((ask(0, 2, ""), ask(2, 2, ""), ask(3, 2, "")), ("ab".into(), "c".into(), String::new()));
        assert_eq!(ask(0, 0, &rows::id_of(&["v", "b", "s"])), "b");
        assert_eq!(ask(0, 0, "vid-nope"), "");
    }

    #[test]
    fn who_is_not_asked_for_is_not_called_missing() {
        let (answer, mut answered) = oneshot::channel();
        Gathering::new(Time::ZERO, StreamsRequest::default(), answer).give_up();
        let reply = answered.try_recv().unwrap();
        assert_eq!((reply.total, reply.partial), (0, true));
    }
}
