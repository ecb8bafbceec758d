//! A subscription over QUIC: each group of frames goes out on a stream of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::BytesMut;
use quinn::{Connection, VarInt};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use weir_media::Frame;
use weir_wire::relay::{Record, encode};

/// A longer group is split, so that what is lost with a stream is bounded; in microseconds.
const SPLIT: i64 = 4_000_000;

/// Application error code of a group that was dropped.
const DROPPED: VarInt = VarInt::from_u32(2);

/// Bytes of one write.
const BATCH: usize = 64 * 1024;

/// See the module.
pub(super) struct Subscription {
    connection: Connection,
    channel: u32,
    /// Bytes that may wait over all groups.
    bound: usize,
    next: u64,
    current: Option<Rc<Group>>,
    /// Groups whose streams are not written to their ends, oldest first.
    open: VecDeque<Rc<Group>>,
    group_dts: i64,
    /// Only configuration came into the current group.
    only_config: bool,
}

#[derive(Default)]
struct Group {
    frames: RefCell<VecDeque<Frame>>,
    bytes: Cell<usize>,
    finished: Cell<bool>,
    dropped: Cell<bool>,
    done: Cell<bool>,
    wake: Notify,
    cancelled: Notify,
}

impl Subscription {
    pub(super) fn new(connection: Connection, channel: u32, bound: usize) -> Self {
        Self {
            connection,
            channel,
            bound,
            next: 0,
            current: None,
            open: VecDeque::new(),
            group_dts: 0,
            only_config: true,
        }
    }

    /// Sends a frame, on the current group's stream or on a new one.
    pub(super) fn push(&mut self, frame: Frame, starts_group: bool) {
        let split = frame.dts - self.group_dts > SPLIT && !self.only_config;
        let current = match &self.current {
            // Configuration goes first in the stream of the group that needs it.
            Some(group) if (!starts_group || self.only_config) && !split => group.clone(),
            _ => self.begin(&frame, starts_group || self.next == 0),
        };
        if current.dropped.get() {
            return;
        }
        if self.only_config {
            self.group_dts = frame.dts;
        }
        self.only_config &= frame.info.config;
        current.bytes.set(current.bytes.get() + frame.body.len());
        current.frames.borrow_mut().push_back(frame);
        current.wake.notify_one();
        self.bound_memory();
    }

    fn begin(&mut self, first: &Frame, joinable: bool) -> Rc<Group> {
        if let Some(old) = self.current.take() {
            old.finished.set(true);
            old.wake.notify_one();
        }
        let group = Rc::new(Group::default());
        spawn_local(write(self.connection.clone(), self.channel, self.next, joinable, group.clone()));
        self.next += 1;
        self.group_dts = first.dts;
        self.only_config = true;
        self.open.push_back(group.clone());
        self.current = Some(group.clone());
        group
    }

    /// Drops the oldest groups while too much waits: the edge goes on at the next one it can join.
    fn bound_memory(&mut self) {
        self.open.retain(|group| !group.done.get());
        let mut waiting: usize = self.open.iter().map(|group| group.bytes.get()).sum();
        while waiting > self.bound
            && let Some(oldest) = self.open.pop_front()
        {
            waiting -= oldest.bytes.get();
            oldest.cancel();
            if self.open.is_empty() {
                // The current one was dropped: what follows in it is of no use either.
                self.current = Some(oldest);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for group in &self.open {
            group.cancel();
        }
    }
}

impl Group {
    fn cancel(&self) {
        self.dropped.set(true);
        self.frames.borrow_mut().clear();
        self.bytes.set(0);
        self.wake.notify_one();
        self.cancelled.notify_one();
    }
}

/// Moves about [`BATCH`] bytes of waiting frames to the batch.
fn fill(batch: &mut BytesMut, channel: u32, group: &Group) {
    while batch.len() < BATCH
        && let Some(frame) = group.frames.borrow_mut().pop_front()
    {
        group.bytes.set(group.bytes.get().saturating_sub(frame.body.len()));
        encode(batch, &Record::Frame { channel, frame });
    }
}

/// Writes one group to its end; ends early when it is dropped here or not wanted there.
async fn write(connection: Connection, channel: u32, index: u64, joinable: bool, group: Rc<Group>) {
    let Ok(mut stream) = connection.open_uni().await else { return group.done.set(true) };
    // Older groups first.
    stream.set_priority(i32::try_from(index % (1 << 30)).map_or(0, |i| -i)).ok();
    let mut batch = BytesMut::new();
    encode(&mut batch, &Record::Group { channel, index, joinable });
    loop {
        fill(&mut batch, channel, &group);
        if group.dropped.get() {
            stream.reset(DROPPED).ok();
            break;
        }
        if batch.is_empty() {
            if group.finished.get() {
                stream.finish().ok();
                break;
            }
            group.wake.notified().await;
            continue;
        }
        tokio::select! {
            written = stream.write_all(&batch) => {
                if written.is_err() {
                    break;
                }
            }
            () = group.cancelled.notified() => {}
        }
        batch.clear();
    }
    group.done.set(true);
}
