//! A subscription over QUIC: each group of frames goes out on a stream of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use weir_media::{Configs, Frame};
use weir_wire::relay::{FRAME_COST, Record, encode};

/// A longer group is split, so that what is lost with a stream is bounded; in microseconds.
const SPLIT: i64 = 4_000_000;

/// Of key frames closer than this the first one's group holds all: a stream of key frames alone needs no stream each.
const GROUP_MIN: i64 = 250_000;

/// What an open group is counted as beside its frames, in bytes.
const GROUP_COST: usize = 4096;

/// Application error code of a group that was dropped.
const DROPPED: VarInt = VarInt::from_u32(2);

/// Bytes of one write.
const BATCH: usize = 64 * 1024;

/// Groups begun within this time are of one age and share a link fairly; older ones go first.
const AGE: Duration = Duration::from_millis(250);

/// The priority of a group that has made a newer one wait for too long: after all that are on time.
const LATE: i32 = i32::MIN;

/// Bounds of a subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes that may wait over all its groups.
    pub(super) queue: usize,
    /// How long a newer group waits for the older ones; then it goes first, and the edge stops the older ones.
    pub(super) hold: Duration,
    /// Ages are counted from then. One time for all subscriptions of a connection, as their priorities compete.
    pub(super) origin: Instant,
}

/// See the module.
pub(super) struct Subscription {
    connection: Connection,
    channel: u32,
    bounds: Bounds,
    next: u64,
    /// What is in force. Each group that can be joined begins with it, as the group that it came in may be skipped.
    configs: Configs,
    current: Option<Rc<Group>>,
    /// Groups that did not arrive yet, oldest first.
    open: VecDeque<Rc<Group>>,
    group_dts: i64,
    /// Only configuration came into the current group.
    only_config: bool,
    skips: Rc<Cell<u64>>,
}

struct Group {
    index: u64,
    joinable: bool,
    began: Instant,
    priority: i32,
    frames: RefCell<VecDeque<Frame>>,
    bytes: Cell<usize>,
    /// No more frames come.
    finished: Cell<bool>,
    /// Others go first from now on.
    late: Cell<bool>,
    /// It was told so.
    passed: Cell<bool>,
    /// It ends in the middle: let go here, or not wanted there.
    dropped: Cell<bool>,
    /// It arrived, or was dropped.
    done: Cell<bool>,
    wake: Notify,
}

impl Subscription {
    /// `skips` counts the groups that were dropped.
    pub(super) fn new(connection: Connection, channel: u32, bounds: Bounds, skips: Rc<Cell<u64>>) -> Self {
        Self {
            connection,
            channel,
            bounds,
            next: 0,
            configs: Configs::default(),
            current: None,
            open: VecDeque::new(),
            group_dts: 0,
            only_config: true,
            skips,
        }
    }

    /// Sends a frame, on the current group's stream or on a new one.
    pub(super) fn push(&mut self, frame: Frame, starts_group: bool) {
        let now = Instant::now();
        self.bound_memory();
        self.pass_late_groups(now);
        let age = frame.dts.saturating_sub(self.group_dts);
        let group = match &self.current {
            None => self.begin(now, &frame, true),
            Some(group) if starts_group => {
                let holds_it = group.joinable && !group.dropped.get();
                match holds_it && (self.only_config || (0..GROUP_MIN).contains(&age)) {
                    true => group.clone(),
                    false => self.begin(now, &frame, true),
                }
            }
            // The rest of a group that ends in the middle is of no use.
            Some(group) if group.dropped.get() => {
                if frame.info.config {
                    self.configs.update(&frame);
                }
                return;
            }
            Some(_) if age > SPLIT && !self.only_config => self.begin(now, &frame, false),
            Some(group) => group.clone(),
        };
        if self.only_config {
            self.group_dts = frame.dts;
        }
        self.only_config &= frame.info.config;
        if frame.info.config {
            self.configs.update(&frame);
        }
        group.push(frame);
    }

    /// What waits, in bytes.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let closed = self.current.iter().filter(|current| !self.open.iter().any(|group| Rc::ptr_eq(group, current)));
        self.open.iter().chain(closed).map(|group| group.bytes.get()).sum()
    }

    fn begin(&mut self, now: Instant, first: &Frame, joinable: bool) -> Rc<Group> {
        if let Some(old) = self.current.take() {
            old.finished.set(true);
            old.wake.notify_one();
        }
        let age = now.saturating_duration_since(self.bounds.origin).as_millis() / AGE.as_millis();
        let group = Rc::new(Group::new(self.next, joinable, now, -1 - i32::try_from(age).unwrap_or(i32::MAX - 2)));
        self.next += 1;
        self.group_dts = first.dts;
        self.only_config = true;
        if joinable {
            // In the order of their names, since what is older than the newest is taken for a repetition.
            let mut configs: Vec<&Frame> = self.configs.iter().collect();
            configs.sort_by_key(|frame| frame.id);
            configs.into_iter().for_each(|config| group.push(config.clone()));
        }
        spawn_local(write(self.connection.clone(), self.channel, group.clone()));
        self.open.push_back(group.clone());
        self.current = Some(group.clone());
        group
    }

    /// Drops the oldest groups while too much waits: the edge goes on at the next one that it can join.
    fn bound_memory(&mut self) {
        self.open.retain(|group| !group.done.get());
        let mut waiting: usize = self.open.iter().map(|group| group.cost()).sum();
        while waiting > self.bounds.queue
            && let Some(oldest) = self.open.pop_front()
        {
            waiting -= oldest.cost();
            oldest.drop_rest();
            self.skips.set(self.skips.get() + 1);
            // Its further parts cannot be read without it.
            while self.open.front().is_some_and(|group| !group.joinable)
                && let Some(part) = self.open.pop_front()
            {
                waiting -= part.cost();
                part.drop_rest();
            }
        }
    }

    /// Lets a newer group go first once it has waited for the hold.
    fn pass_late_groups(&self, now: Instant) {
        let waited = |group: &Group| now.saturating_duration_since(group.began) >= self.bounds.hold;
        let Some(newer) = self.open.iter().rposition(|group| group.joinable && waited(group)) else { return };
        for group in self.open.range(..newer).filter(|group| !group.passed.replace(true)) {
            group.late.set(true);
            group.wake.notify_one();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for group in &self.open {
            group.drop_rest();
        }
    }
}

impl Group {
    fn new(index: u64, joinable: bool, began: Instant, priority: i32) -> Self {
        Self {
            index,
            joinable,
            began,
            priority,
            frames: RefCell::default(),
            bytes: Cell::new(0),
            finished: Cell::new(false),
            late: Cell::new(false),
            passed: Cell::new(false),
            dropped: Cell::new(false),
            done: Cell::new(false),
            wake: Notify::new(),
        }
    }

    fn push(&self, frame: Frame) {
        self.bytes.set(self.bytes.get() + frame.body.len() + FRAME_COST);
        self.frames.borrow_mut().push_back(frame);
        self.wake.notify_one();
    }

    fn cost(&self) -> usize {
        GROUP_COST + self.bytes.get()
    }

    fn drop_rest(&self) {
        self.dropped.set(true);
        self.frames.borrow_mut().clear();
        self.bytes.set(0);
        self.wake.notify_one();
    }

    /// Moves about [`BATCH`] bytes of waiting frames to the batch.
    fn fill(&self, batch: &mut BytesMut, channel: u32) {
        while batch.len() < BATCH
            && let Some(frame) = self.frames.borrow_mut().pop_front()
        {
            self.bytes.set(self.bytes.get() - frame.body.len() - FRAME_COST);
            encode(batch, &Record::Frame { channel, frame });
        }
    }
}

/// Sends one group, on a stream of its own, until it has arrived; ends early when it is dropped here or not wanted there.
async fn write(connection: Connection, channel: u32, group: Rc<Group>) {
    let opened = loop {
        tokio::select! {
            opened = connection.open_uni() => break opened.ok(),
            () = group.wake.notified() => {
                if group.dropped.get() {
                    break None;
                }
            }
        }
    };
    let arrived = match opened {
        Some(stream) => carry(stream, channel, &group).await,
        None => false,
    };
    if !arrived {
        group.drop_rest();
    }
    group.done.set(true);
}

/// True when all of it arrived.
async fn carry(mut stream: SendStream, channel: u32, group: &Group) -> bool {
    stream.set_priority(group.priority).ok();
    let mut batch = BytesMut::new();
    encode(&mut batch, &Record::Group { channel, index: group.index, joinable: group.joinable });
    let stopped = stream.stopped();
    tokio::pin!(stopped);
    let mut ended = false;
    loop {
        if group.dropped.get() {
            stream.reset(DROPPED).ok();
            return false;
        }
        group.fill(&mut batch, channel);
        if batch.is_empty() && group.finished.get() && !ended {
            stream.finish().ok();
            ended = true;
        }
        if group.late.take() {
            stream.set_priority(LATE).ok();
        }
        tokio::select! {
            written = stream.write(&batch), if !batch.is_empty() => match written {
                Ok(written) => batch.advance(written),
                Err(_) => return false,
            },
            stopped = &mut stopped => return matches!(stopped, Ok(None)),
            () = group.wake.notified() => {}
        }
    }
}
