//! A peer of the hub that is no edge but this process itself: publishers and players over UDP.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;
use weir_media::{Frame, StreamName};
use weir_wire::relay::Record;

use crate::hub::{Offence, PeerId, Port};

use super::{Now, Relay};

/// Connections are counted from 1.
pub(super) const LOCAL: PeerId = 0;

/// Frames that may wait to be taken. They are taken in the same turn of the runtime, so that only a fault fills this.
const FRAMES_MAX: usize = 16 * 1024;

/// What the hub tells.
#[derive(Debug)]
pub(crate) enum FromHub {
    /// Claimed, Refused, Live, Idle.
    Record(Record),
    /// A frame of a subscription.
    Frame { channel: u32, frame: Frame },
    /// So many pull a stream now.
    Changed { name: StreamName, subscribers: usize },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Local {
    waiting: RefCell<VecDeque<FromHub>>,
    wake: Notify,
    listening: Cell<bool>,
}

impl Local {
    /// The next thing that the hub told.
    pub(crate) fn take(&self) -> Option<FromHub> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Returns when there is something to take.
    pub(crate) async fn told(&self) {
        self.wake.notified().await;
    }

    pub(super) fn record(&self, record: Record) {
        self.waiting.borrow_mut().push_back(FromHub::Record(record));
        self.wake.notify_one();
    }

    pub(super) fn changed(&self, name: &StreamName, subscribers: usize) {
        if self.listening.get() {
            self.waiting.borrow_mut().push_back(FromHub::Changed { name: name.clone(), subscribers });
            self.wake.notify_one();
        }
    }

    /// Somebody takes what is told.
    pub(crate) fn listen(&self) {
        self.listening.set(true);
    }

    pub(super) fn frame(&self, port: Port, frame: Frame) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < FRAMES_MAX {
            waiting.push_back(FromHub::Frame { channel: port.channel, frame });
            self.wake.notify_one();
        }
    }
}

impl Relay {
    /// What the hub tells this process.
    pub(crate) fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// Tells the hub something, and does what follows. An answer is there to take when this returns.
    ///
    /// # Errors
    /// A fault of the caller: a channel that is open, or too many.
    pub(crate) fn tell(&self, record: Record) -> Result<(), Offence> {
        let now = Now::take();
        self.hub.borrow_mut().record(now.instant, now.wall, LOCAL, record)?;
        self.carry_out();
        Ok(())
    }
}
