//! Who publishes and plays here, for operators.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use weir_media::StreamName;
use weir_node::lately::Lately;
use weir_proto::supervisor::{ClientRow, Look, Seen};

use crate::fanout::Handle;
use crate::stats::Counted;

/// All of them, by the numbers that logs name them by.
#[derive(Debug, Default)]
pub(crate) struct Clients(RefCell<BTreeMap<u64, Rc<Known>>>);

/// What a client does.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// It publishes by RTMP; bytes read of it.
    Publish(Rc<Cell<u64>>),
    /// It plays.
    Play(&'static str, Rc<Handle>),
}

#[derive(Debug)]
struct Known {
    peer: SocketAddr,
    name: StreamName,
    does: RefCell<Does>,
    since: Instant,
    lately: Cell<Lately>,
    kick: Notify,
}

impl Known {
    /// What it does, and bytes of it and to it.
    fn done(&self) -> (&'static str, u64, u64) {
        match &*self.does.borrow() {
            Does::Publish(read) => ("fmle-publish", read.get(), 0),
            Does::Play(kind, handle) => (kind, 0, handle.sent()),
        }
    }

    fn note(&self) {
        let (_, received, sent) = self.done();
        let mut lately = self.lately.get();
        lately.note(received + sent);
        self.lately.set(lately);
    }

    fn row(&self, number: u64, noted: Duration) -> ClientRow {
        let (kind, received, sent) = self.done();
        let alive = self.since.elapsed();
        let bps = self.lately.get().bps(received + sent, noted, alive);
        ClientRow {
            number,
            vhost: self.name.vhost.to_string(),
            app: self.name.app.to_string(),
            stream: self.name.stream.to_string(),
            peer: self.peer.to_string(),
            kind: kind.to_owned(),
            alive_ms: u64::try_from(alive.as_millis()).unwrap_or(u64::MAX),
            received,
            sent,
            received_bps: if sent == 0 { bps } else { 0 },
            sent_bps: if sent == 0 { 0 } else { bps },
            ..ClientRow::default()
        }
    }
}

impl Clients {
    /// Takes one in, for as long as the place lives.
    pub(crate) fn enter(
        self: &Rc<Self>,
        (number, peer): (u64, SocketAddr),
        name: StreamName,
        does: Does,
        count: Counted,
    ) -> Place {
        let (does, lately) = (RefCell::new(does), Cell::default());
        let known = Rc::new(Known { peer, name, does, since: Instant::now(), lately, kick: Notify::new() });
        self.0.borrow_mut().insert(number, known.clone());
        Place { clients: self.clone(), number, known, _count: count }
    }

    /// Notes how many bytes each moved so far.
    pub(crate) fn note(&self) {
        self.0.borrow().values().for_each(|known| known.note());
    }

    /// Those that were asked for. `noted`: the time since [`Clients::note`].
    pub(crate) fn look(&self, look: &Look, noted: Duration) -> Seen {
        let all = self.0.borrow();
        let rows: Vec<ClientRow> = match look.number {
            Some(number) => all.get(&number).map(|known| known.row(number, noted)).into_iter().collect(),
            None => {
                let part = all.iter().skip(look.start as usize).take(look.count as usize);
                part.map(|(number, known)| known.row(*number, noted)).collect()
            }
        };
        Seen { token: look.token, clients: rows, total: all.len() as u64, ..Seen::default() }
    }

    /// The numbers of those who publish.
    pub(crate) fn publishers(&self) -> FxHashMap<StreamName, u64> {
        let all = self.0.borrow();
        let publishing = all.iter().filter(|(_, known)| matches!(&*known.does.borrow(), Does::Publish(_)));
        publishing.map(|(number, known)| (known.name.clone(), *number)).collect()
    }

    /// Has a client closed; false: there is none.
    pub(crate) fn kick(&self, number: u64) -> bool {
        let known = self.0.borrow().get(&number).cloned();
        known.map(|known| known.kick.notify_one()).is_some()
    }
}

/// A client's place among them.
pub(crate) struct Place {
    clients: Rc<Clients>,
    number: u64,
    known: Rc<Known>,
    _count: Counted,
}

impl Place {
    /// It does the same by other means: it came back from where it could not go on.
    pub(crate) fn goes_on(&self, does: Does) {
        self.known.does.replace(does);
    }

    /// Returns when an operator wants it gone.
    pub(crate) async fn kicked(&self) {
        self.known.kick.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who began anew on the same connection has another entry under the number.
        let mut all = self.clients.0.borrow_mut();
        if all.get(&self.number).is_some_and(|known| Rc::ptr_eq(known, &self.known)) {
            all.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Protocol, Stats};

    #[test]
    fn clients_are_listed_by_parts_until_they_leave() {
        let (clients, stats) = (Rc::new(Clients::default()), Rc::new(Stats::default()));
        let name = StreamName { vhost: "v".into(), app: "live".into(), stream: "s".into() };
        let enter = |number: u64| {
            let does = Does::Play("flv-play", Rc::default());
            let count = Counted::player(&stats, Protocol::HttpFlv);
            clients.enter((number, ([192, 0, 2, 1], 1000).into()), name.clone(), does, count)
        };
        let mut places: Vec<Place> = (1..=5).map(enter).collect();
        let numbers =
            |look: Look| clients.look(&look, Duration::ZERO).clients.iter().map(|row| row.number).collect::<Vec<_>>();
        assert_eq!(numbers(Look { start: 1, count: 3, ..Look::default() }), [2, 3, 4]);
        assert_eq!(numbers(Look { number: Some(5), ..Look::default() }), [5]);
        assert_eq!(clients.look(&Look::default(), Duration::ZERO).total, 5);
        drop(places.remove(0));
        assert_eq!(numbers(Look { start: 0, count: 9, ..Look::default() }), [2, 3, 4, 5]);
        assert!(clients.kick(2) && !clients.kick(1));
        // Another role on the same connection.
        let again = enter(5);
        drop(places.pop());
        assert_eq!(clients.look(&Look::default(), Duration::ZERO).total, 4);
        drop(again);
        assert_eq!(clients.look(&Look::default(), Duration::ZERO).total, 3);
    }
}
