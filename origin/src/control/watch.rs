//! Watchers: each is told the newest state of what it watches, as fast as it takes it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use rustc_hash::FxHashSet;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tonic::Status;
use weir_media::StreamName;
use weir_proto::origin::StreamState;

use super::write_state;
use crate::relay::Relay;

/// Watchers of all edges together; more are refused.
const WATCHERS_MAX: usize = 1024;

/// Streams that are gone and that a watcher was not told of; past so many more than there are streams it is told that
/// it missed some, and then all that there is.
const OWED_MAX: usize = 4096;

type Sender = mpsc::Sender<Result<StreamState, Status>>;

/// See the module.
pub(super) struct Watchers {
    relay: Weak<Relay>,
    list: Rc<RefCell<Vec<Rc<Watcher>>>>,
}

struct Watcher {
    /// `None`: all streams.
    name: Option<StreamName>,
    sender: Sender,
    owed: RefCell<Owed>,
    missed: Cell<bool>,
    wake: Notify,
}

/// Streams whose newest state a watcher is to be told, each once.
#[derive(Default)]
struct Owed {
    order: VecDeque<StreamName>,
    names: FxHashSet<StreamName>,
}

impl Owed {
    fn push(&mut self, name: &StreamName) {
        if self.names.insert(name.clone()) {
            self.order.push_back(name.clone());
        }
    }

    fn pop(&mut self) -> Option<StreamName> {
        let name = self.order.pop_front()?;
        self.names.remove(&name);
        Some(name)
    }
}

impl Watchers {
    /// Hears of every change from now on.
    pub(super) fn new(relay: &Rc<Relay>) -> Self {
        let this = Self { relay: Rc::downgrade(relay), list: Rc::default() };
        let (list, weak) = (this.list.clone(), this.relay.clone());
        relay.on_change(move |name| {
            let Some(relay) = weak.upgrade() else { return };
            for watcher in list.borrow().iter() {
                watcher.changed(&relay, name);
            }
        });
        this
    }

    /// Tells a new watcher all that it watches, and then each change.
    pub(super) fn add(&self, name: Option<StreamName>, sender: Sender) {
        let Some(relay) = self.relay.upgrade() else { return };
        if self.list.borrow().len() >= WATCHERS_MAX {
            sender.try_send(Err(Status::resource_exhausted("the origin has as many watchers as it may"))).ok();
            return;
        }
        let watcher =
            Rc::new(Watcher { name, sender, owed: RefCell::default(), missed: Cell::new(false), wake: Notify::new() });
        watcher.owe_all(&relay);
        self.list.borrow_mut().push(watcher.clone());
        let (relay, list) = (self.relay.clone(), self.list.clone());
        spawn_local(async move {
            watcher.tell(&relay).await;
            list.borrow_mut().retain(|w| !Rc::ptr_eq(w, &watcher));
        });
    }
}

impl Watcher {
    fn changed(&self, relay: &Relay, name: &StreamName) {
        if self.name.as_ref().is_some_and(|mine| mine != name) {
            return;
        }
        self.owed.borrow_mut().push(name);
        let bound = OWED_MAX + relay.hub().borrow().stream_count();
        if self.owed.borrow().order.len() > bound {
            self.missed.set(true);
            self.owe_all(relay);
        }
        self.wake.notify_one();
    }

    fn owe_all(&self, relay: &Relay) {
        let mut owed = Owed::default();
        match &self.name {
            Some(name) => owed.push(name),
            None => relay.hub().borrow().names().for_each(|name| owed.push(name)),
        }
        *self.owed.borrow_mut() = owed;
    }

    /// Tells what is owed until the watcher goes.
    async fn tell(&self, relay: &Weak<Relay>) {
        loop {
            let next = self.owed.borrow_mut().pop();
            let Some(name) = next else {
                self.missed.set(false);
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = self.sender.closed() => return,
                }
            };
            let Ok(place) = self.sender.reserve().await else { return };
            let Some(relay) = relay.upgrade() else { return };
            place.send(Ok(StreamState { missed: self.missed.get(), ..write_state(&relay, &name) }));
        }
    }
}
