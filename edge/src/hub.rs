//! What this worker knows: the streams that it pulls, the publications that it carries, and its links to the origins.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use weir_media::{GopLimits, StreamName};
use weir_node::config::Config;

use crate::bygone::Bygone;
use crate::clients::Clients;
use crate::directory::Directory;
use crate::fanout::Rounds;
use crate::guard::Guard;
use crate::handover::Departing;
use crate::publication::Publication;
use crate::relay::Link;
pub(crate) use crate::stats::{Counted, Stats, add};
use crate::stats::{Protocol, Traffic};
use crate::stream::Stream;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    config: RefCell<Rc<Config>>,
    directory: Directory,
    links: Vec<Rc<Link>>,
    streams: RefCell<FxHashMap<StreamName, Rc<Stream>>>,
    bygone: Bygone,
    publications: RefCell<Vec<Weak<Publication>>>,
    rounds: Rc<Rounds>,
    log_memory: Cell<usize>,
    shed_due: Cell<bool>,
    publish_memory: Cell<usize>,
    stats: Rc<Stats>,
    clients: Rc<Clients>,
    guard: Guard,
    draining: Cell<bool>,
    /// It takes no new clients any more.
    going: Cell<bool>,
    /// Where clients leave for another process, and how many such ways there were.
    way: RefCell<Option<mpsc::Sender<Departing>>>,
    ways: Cell<u64>,
    /// `draining`, `going` or `way` has changed.
    leave: Notify,
}

/// Why a client's task must act.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// Close it.
    Close,
    /// Let it go on in another process.
    Move(mpsc::OwnedPermit<Departing>),
}

impl Hub {
    pub(crate) fn new(config: Rc<Config>, directory: Directory, guard: Guard) -> Rc<Self> {
        let queue = config.cluster.relay.queue;
        let rounds = Rc::new(Rounds::new());
        spawn_local(Rounds::run(Rc::downgrade(&rounds)));
        Rc::new_cyclic(|hub| Self {
            links: (0..directory.len()).map(|index| Link::new(hub.clone(), index, queue)).collect(),
            config: RefCell::new(config),
            directory,
            streams: RefCell::default(),
            bygone: Bygone::default(),
            publications: RefCell::default(),
            rounds,
            log_memory: Cell::new(0),
            shed_due: Cell::new(false),
            publish_memory: Cell::new(0),
            stats: Rc::default(),
            clients: Rc::default(),
            guard,
            draining: Cell::new(false),
            going: Cell::new(false),
            way: RefCell::default(),
            ways: Cell::new(0),
            leave: Notify::new(),
        })
    }

    pub(crate) fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    /// Takes over what can change while it runs.
    pub(crate) fn configure(&self, config: Rc<Config>) {
        for stream in self.streams.borrow().values() {
            if let Some((_, vhost)) = config.vhost(&stream.name().vhost) {
                stream.configure(vhost.play.clone());
            }
        }
        self.guard.configure(&config);
        *self.config.borrow_mut() = config;
    }

    pub(crate) fn stats(&self) -> &Rc<Stats> {
        &self.stats
    }

    /// Who publishes and plays here.
    pub(crate) fn clients(&self) -> &Rc<Clients> {
        &self.clients
    }

    /// Who may publish and play here.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(crate) fn rounds(&self) -> &Rc<Rounds> {
        &self.rounds
    }

    pub(crate) fn links(&self) -> &[Rc<Link>] {
        &self.links
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Bounds of a group held here.
    pub(crate) fn gop_limits(&self) -> GopLimits {
        let gop = &self.config.borrow().origin.gop;
        GopLimits {
            bytes: gop.bytes,
            frames: gop.frames as usize,
            duration: i64::try_from(gop.duration.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// The stream, pulled from the origin that owns it.
    pub(crate) fn stream(self: &Rc<Self>, name: &StreamName) -> Option<Rc<Stream>> {
        if let Some(stream) = self.streams.borrow().get(name) {
            return Some(stream.clone());
        }
        let play = self.config().vhost(&name.vhost)?.1.play.clone();
        let link = self.link_for(name)?.clone();
        let stream = Stream::new(self, name.clone(), link, play, self.bygone.take(name));
        self.streams.borrow_mut().insert(name.clone(), stream.clone());
        stream.start();
        Some(stream)
    }

    /// The link to the origin that owns a stream. `None`: there is no origin at all.
    pub(crate) fn link_for(&self, name: &StreamName) -> Option<&Rc<Link>> {
        self.links.get(self.directory.locate(name)?)
    }

    pub(crate) fn forget(&self, stream: &Rc<Stream>) {
        let held = self.streams.borrow_mut().remove(stream.name());
        if held.is_some() {
            self.bygone.put(stream.name(), stream.sent());
            self.log_memory_shrank(stream.close());
        }
    }

    pub(crate) fn holds(&self, stream: &Rc<Stream>) -> bool {
        self.streams.borrow().get(stream.name()).is_some_and(|held| Rc::ptr_eq(held, stream))
    }

    /// Looks at each stream.
    pub(crate) fn each_stream(&self, mut look: impl FnMut(&Stream)) {
        self.streams.borrow().values().for_each(|stream| look(stream));
    }

    /// Streams that were pulled here.
    pub(crate) fn bygone(&self) -> &Bygone {
        &self.bygone
    }

    /// Looks at each publication.
    pub(crate) fn each_publication(&self, mut look: impl FnMut(&Publication)) {
        self.publications.borrow().iter().filter_map(Weak::upgrade).for_each(|publication| look(&publication));
    }

    /// Memory of the streams' logs, in bytes.
    pub(crate) fn log_memory(&self) -> usize {
        self.log_memory.get()
    }

    /// Streams that are pulled here.
    pub(crate) fn stream_count(&self) -> usize {
        self.streams.borrow().len()
    }

    pub(crate) fn add_publication(&self, publication: &Rc<Publication>) {
        let mut list = self.publications.borrow_mut();
        if list.len() == list.capacity() {
            list.retain(|p| p.strong_count() > 0);
        }
        list.push(Rc::downgrade(publication));
    }

    /// A link came up or was lost: everything that lives on it hears of it.
    pub(crate) fn link_changed(&self, link: &Rc<Link>, up: bool) {
        let streams: Vec<_> = self.streams.borrow().values().filter(|s| Rc::ptr_eq(s.link(), link)).cloned().collect();
        let publications: Vec<_> = self.publications.borrow().iter().filter_map(Weak::upgrade).collect();
        // Publications first: an origin that has lost its memory then knows a stream before it is asked for it.
        for publication in publications.iter().filter(|p| Rc::ptr_eq(p.link(), link)) {
            publication.link_changed(up);
        }
        for stream in streams {
            stream.link_changed(up);
        }
    }

    /// Takes over what a fan-out counted; `traffic` is that of its stream.
    pub(crate) fn count(&self, (skips, sent): (u64, u64), protocol: Protocol, traffic: Option<&Traffic>) {
        add(&self.stats.skips, skips);
        add(&self.stats.bytes_out, sent);
        if let Some(traffic) = traffic {
            add(traffic.sent.of(protocol), sent);
        }
    }

    /// The logs took memory; above `edge.log_memory` the largest sheds its oldest blocks.
    pub(crate) fn log_memory_grew(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.log_memory.set(self.log_memory.get() + bytes);
        if self.log_memory.get() > self.config.borrow().edge.log_memory {
            self.shed_due.set(true);
        }
    }

    pub(crate) fn log_memory_shrank(&self, bytes: usize) {
        self.log_memory.set(self.log_memory.get().saturating_sub(bytes));
    }

    /// A batch of frames was taken in: their streams get their round, if they do not wait for one.
    pub(crate) fn batch_done(&self) {
        self.rounds.flush();
        if self.shed_due.take() {
            self.shed();
        }
    }

    /// Brings the logs back below `edge.log_memory`.
    fn shed(&self) {
        let limit = self.config.borrow().edge.log_memory;
        while self.log_memory.get() > limit {
            let largest = self.streams.borrow().values().max_by_key(|s| s.log_memory()).cloned();
            let gained = largest.map_or(0, |stream| stream.shed());
            if gained == 0 {
                return;
            }
            self.log_memory_shrank(gained);
        }
    }

    /// Bodies of the frames in the publishers' current groups.
    pub(crate) fn gop_bytes(&self) -> usize {
        self.publish_memory.get()
    }

    /// A publisher's group grew or shrank. False: all together are above `edge.publish_memory`.
    pub(crate) fn publish_memory(&self, before: usize, after: usize) -> bool {
        self.publish_memory.set((self.publish_memory.get() + after).saturating_sub(before));
        self.publish_memory.get() <= self.config.borrow().edge.publish_memory
    }

    /// Tells those who keep a connection for requests to come that the worker takes none any more.
    pub(crate) fn go(&self) {
        if !self.going.replace(true) {
            self.leave.notify_waiters();
        }
    }

    /// Returns when no new clients are taken.
    pub(crate) async fn going(&self) {
        loop {
            let changed = self.leave.notified();
            if self.going.get() {
                return;
            }
            changed.await;
        }
    }

    /// Tells every client's task that the worker goes.
    pub(crate) fn drain(&self) {
        self.going.set(true);
        self.draining.set(true);
        self.leave.notify_waiters();
    }

    /// Opens a way for clients to leave by, in place of one that there was.
    pub(crate) fn set_way(&self, way: mpsc::Sender<Departing>) {
        self.way.replace(Some(way));
        self.ways.set(self.ways.get() + 1);
        self.leave.notify_waiters();
    }

    /// Whether there is a way for clients to leave by.
    pub(crate) fn has_way(&self) -> bool {
        self.way.borrow().is_some()
    }

    /// The number of the newest way.
    pub(crate) fn ways(&self) -> u64 {
        self.ways.get()
    }

    /// Closes it, if no other was opened since.
    pub(crate) fn close_way(&self, way: &mpsc::WeakSender<Departing>) {
        let is_open = |open: &mpsc::Sender<Departing>| way.upgrade().is_some_and(|way| way.same_channel(open));
        if self.way.borrow().as_ref().is_some_and(is_open) {
            self.way.take();
            self.leave.notify_waiters();
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Returns when the worker closes its clients.
    pub(crate) async fn closing(&self) {
        loop {
            let changed = self.leave.notified();
            if self.draining.get() {
                return;
            }
            changed.await;
        }
    }

    /// Returns when the client's task must act; one that cannot go on elsewhere at this moment, or was not taken by the way
    /// of that number, only closes.
    pub(crate) async fn leaving(&self, movable: bool, refused_by: u64) -> Leaving {
        loop {
            let changed = self.leave.notified();
            if self.draining.get() {
                return Leaving::Close;
            }
            let way = if movable && refused_by != self.ways.get() { self.way.borrow().clone() } else { None };
            let permit = async {
                match way {
                    // Boxed: every waiting client would be larger by it.
                    Some(way) => Box::pin(way.reserve_owned()).await.ok(),
                    None => None,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                Some(permit) = permit => return Leaving::Move(permit),
                else => {}
            }
        }
    }
}
