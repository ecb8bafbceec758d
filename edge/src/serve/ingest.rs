//! The sockets of the publishers: read as soon as something comes while the worker has time, and in batches when it has
//! not.
//!
//! They lie in an epoll set of their own. While the worker has time the set is watched by the runtime, as any socket is.
//! When its round clock says that frames may wait, or the vhosts of all publishers do, nobody watches the set: it is looked
//! at once a round. A message that comes then wakes nobody, and all that came since is one read a publisher and one write
//! to the relay.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::READ;
use super::feed::Feed;
use crate::fanout::Rounds;
use crate::hub::{Hub, Stats, add};

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(100);

/// A publisher of whom so much comes at one look may have filled its window and wait for it.
const MUCH: usize = 32 * 1024;

/// Then the next look is no later than this.
const SOON: Duration = Duration::from_millis(10);

/// With an `mw_latency` below this, publishers are read at once.
const SHORTEST: Duration = Duration::from_millis(10);

/// Sockets that one look at the set tells of.
const BATCH: usize = 256;

/// Reading yields to the worker's other tasks after so long.
const TURN: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ingest {
    epoll: Epoll,
    feeds: RefCell<Slab<Rc<Feed>>>,
    /// How many of them have which latency; `None` is `auto`.
    latencies: RefCell<BTreeMap<Option<Duration>, usize>>,
    rounds: Rc<Rounds>,
    stats: Rc<Stats>,
    /// At the last look much came of somebody.
    much: Cell<bool>,
    scratch: RefCell<Vec<u8>>,
    changed: Notify,
}

impl Ingest {
    /// An empty set, looked after for as long as the worker lives.
    ///
    /// # Errors
    /// The kernel has no descriptor for it.
    pub(crate) fn new(hub: &Rc<Hub>) -> io::Result<Rc<Self>> {
        let ingest = Rc::new(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            feeds: RefCell::default(),
            latencies: RefCell::default(),
            rounds: hub.rounds().clone(),
            stats: hub.stats().clone(),
            much: Cell::new(false),
            scratch: RefCell::new(vec![0; READ]),
            changed: Notify::new(),
        });
        spawn_local(ingest.clone().run());
        Ok(ingest)
    }

    /// Reads `feed` from now on, until it stops by itself or is taken out.
    ///
    /// # Errors
    /// The kernel does not watch the socket.
    pub(crate) fn insert(&self, feed: &Rc<Feed>) -> io::Result<()> {
        if feed.key().is_some() {
            return Ok(());
        }
        let key = self.feeds.borrow_mut().insert(feed.clone());
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, key as u64);
        if let Err(error) = self.epoll.add(feed.socket(), event) {
            self.feeds.borrow_mut().remove(key);
            return Err(error.into());
        }
        feed.set_key(Some(key));
        *self.latencies.borrow_mut().entry(feed.latency()).or_default() += 1;
        self.changed.notify_one();
        Ok(())
    }

    /// Reads it no more.
    pub(crate) fn remove(&self, feed: &Feed) {
        let Some(key) = feed.key() else { return };
        feed.set_key(None);
        self.epoll.delete(feed.socket()).ok();
        self.feeds.borrow_mut().try_remove(key);
        if let Entry::Occupied(mut count) = self.latencies.borrow_mut().entry(feed.latency()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// When they are read next, if they were last read at `last`; `None`: whenever something comes.
    fn due(&self, last: Instant) -> Option<Instant> {
        let latencies = self.latencies.borrow();
        let auto = latencies.contains_key(&None);
        let shortest = latencies.keys().find_map(|latency| *latency);
        if shortest.is_some_and(|latency| latency < SHORTEST) {
            return None;
        }
        let round = self.rounds.pace().round().min(LONGEST);
        let due = match shortest {
            _ if auto && round.is_zero() => return None,
            None => last + round,
            Some(latency) => {
                let reading = self.rounds.reading(latency, LONGEST);
                if auto { reading.min(last + round) } else { reading }
            }
        };
        Some(if self.much.get() { due.min(last + SOON) } else { due })
    }

    async fn run(self: Rc<Self>) {
        let mut last = Instant::now();
        loop {
            if self.feeds.borrow().is_empty() {
                self.changed.notified().await;
            } else if let Some(due) = self.due(last) {
                sleep_until(due).await;
            } else if let Err(error) = self.watch().await {
                error!(%error, "publishers cannot be waited for; they are read at intervals");
                sleep_until(last + LONGEST).await;
            }
            last = Instant::now();
            while !self.turn() {
                yield_now().await;
            }
        }
    }

    /// Reads whenever something comes, for as long as nothing may wait.
    async fn watch(&self) -> io::Result<()> {
        // SAFETY: the set's descriptor is open for as long as `self` is borrowed, and a borrowed one never changes.
        let watched = unsafe { AsyncFd::register_with_interest(self.epoll.0.as_fd(), Interest::READABLE) };
        let watched = watched.map_err(|failed| failed.into_parts().1)?;
        while !self.feeds.borrow().is_empty() && self.due(Instant::now()).is_none() {
            let mut ready = watched.readable().await?;
            // Before it is looked at: what comes in the meantime says so again.
            ready.clear_ready();
            while !self.turn() {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Reads what there is. False: there may be more, but others want their turn.
    fn turn(&self) -> bool {
        let scratch = &mut *self.scratch.borrow_mut();
        let mut events = [EpollEvent::empty(); BATCH];
        let now = std::time::Instant::now();
        self.much.set(false);
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            let mut more = count == BATCH;
            for event in events.iter().take(count) {
                let key = usize::try_from(event.data()).unwrap_or(usize::MAX);
                let Some(feed) = self.feeds.borrow().get(key).cloned() else { continue };
                let read = feed.read(scratch, now);
                add(&self.stats.bytes_in, read as u64);
                more |= read == scratch.len();
                self.much.set(self.much.get() || read >= MUCH);
                if feed.is_stopped() {
                    self.remove(&feed);
                }
            }
            if !more {
                return true;
            }
            if now.elapsed() > TURN {
                return false;
            }
        }
    }
}

/// Reads once into `scratch`: the number of bytes, or `None` if there was nothing to read.
pub(super) fn read_once(socket: &TcpStream, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    match (&*socket).read(scratch) {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes what the socket takes at once.
pub(super) fn write_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match (&*socket).write(bytes) {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        result => result,
    }
}
