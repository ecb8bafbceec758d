use std::cell::Cell;
use std::fmt;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use weir_media::{FrameId, Log, flv};

use super::{Blocked, Patience, Start};
use crate::stats::Awaited;

/// Bytes of a player's own that may wait for a message boundary: answers to a client that asks without reading.
const CONTROL_MAX: usize = 4096;

/// Bytes that a player who goes on in another process takes along of what it has not got yet.
const CARRY: u64 = 256 * 1024;

/// Why the fan-out let a player go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// Its socket failed.
    Gone,
    /// It lagged beyond `queue_close`, or what it had half of is no longer held.
    TooSlow,
    /// More than [`CONTROL_MAX`] of answers waited for it.
    Flood,
    /// It left for another process.
    Moved,
}

impl CloseReason {
    /// For logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "connection lost",
            Self::TooSlow => "too slow",
            Self::Flood => "asks without reading",
            Self::Moved => "moved to another process",
        }
    }
}

/// What a player's own task and the fan-out share.
#[derive(Default)]
pub(crate) struct Handle {
    live: Cell<bool>,
    started: Cell<bool>,
    stopped: Cell<bool>,
    closed: Cell<Option<CloseReason>>,
    sent: Cell<u64>,
    /// To be told of the first media.
    awaited: Cell<Option<Box<Awaited>>>,
    changed: Notify,
    left: Notify,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("live", &self.live).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Handle {
    /// Whether the stream has a publisher.
    pub(crate) fn live(&self) -> bool {
        self.live.get()
    }

    /// Whether the first media was written.
    pub(crate) fn started(&self) -> bool {
        self.started.get()
    }

    /// Whether the player, paused, stands at a message boundary with nothing of it unsent.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Set when the fan-out let it go.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.closed.get()
    }

    /// Bytes written.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Returns when one of the above has changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns when the player has left the fan-out, however it did: its socket is not to be held any more.
    pub(crate) async fn left(&self) {
        self.left.notified().await;
    }

    /// Has the time to its first media measured.
    pub(crate) fn awaits(&self, awaited: Awaited) {
        self.awaited.set(Some(Box::new(awaited)));
    }

    pub(crate) fn set_live(&self, live: bool) {
        if self.live.replace(live) != live {
            self.changed.notify_one();
        }
    }

    fn close(&self, reason: CloseReason) {
        self.closed.set(Some(reason));
        self.changed.notify_one();
    }
}

/// Where a player stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Waits for a group that starts at this offset or later.
    Waiting(u64),
    /// Reads from this offset on.
    Reading(u64),
    /// Finishes the message it is in, then does something else.
    Finishing { at: u64, until: u64, then: Then },
    /// Came from another process, where this was the last message that it got.
    Arriving(FrameId),
    /// Gets no media.
    Paused(Rest),
}

/// Where a paused player stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Stopped reading at this offset.
    Read(u64),
    /// Waited for a group from this offset on.
    Waited(u64),
    /// Came from another process, where this was the last message that it got.
    Arrived(FrameId),
}

/// A player on its way to another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    /// Goes out first: the rest of the message that it is in.
    pub(crate) unsent: Vec<u8>,
    /// What is its own, to go out behind that.
    pub(crate) control: Vec<u8>,
    /// Goes out with the first media.
    pub(crate) intro: Vec<u8>,
    /// The last message that it got when `unsent` is out; none while it waits for its first.
    pub(crate) last: Option<FrameId>,
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// Bytes written so far.
    pub(crate) sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Pause,
    /// Goes on as if nothing had been.
    Resume,
    /// Goes on at the newest group.
    Skip,
}

pub(super) enum Progress {
    /// It has all there is.
    Done,
    /// Its socket is full.
    Blocked,
    /// Its socket failed, or it was closed.
    Gone,
}

/// A socket, a cursor and a few flags.
#[derive(Debug)]
pub(super) struct Player {
    socket: Rc<TcpStream>,
    handle: Rc<Handle>,
    place: Place,
    /// Goes out before the log's bytes.
    front: Vec<u8>,
    /// Moves to `front` at the next message boundary.
    control: Vec<u8>,
    /// Moves to `front` with the first media.
    intro: Vec<u8>,
    pub(super) blocked: bool,
}

impl Player {
    pub(super) fn new(socket: Rc<TcpStream>, handle: Rc<Handle>, start: Start, from: u64) -> Self {
        Self {
            socket,
            handle,
            place: Place::Waiting(from),
            front: start.front,
            control: Vec::new(),
            intro: start.intro,
            blocked: false,
        }
    }

    /// A player that came from another process; `from` is where one that waits for its first media may begin.
    pub(super) fn arrive(socket: Rc<TcpStream>, handle: Rc<Handle>, moving: Moving, from: u64) -> Self {
        let place = match (moving.last, moving.paused) {
            (None, false) => Place::Waiting(from),
            (None, true) => Place::Paused(Rest::Waited(from)),
            (Some(last), false) => Place::Arriving(last),
            (Some(last), true) => Place::Paused(Rest::Arrived(last)),
        };
        handle.started.set(moving.last.is_some());
        handle.sent.set(moving.sent);
        let Moving { unsent: front, control, intro, .. } = moving;
        Self { socket, handle, place, front, control, intro, blocked: false }
    }

    /// What it takes to go on elsewhere.
    pub(super) fn departs(self, log: &Log) -> Moving {
        self.handle.close(CloseReason::Moved);
        let (at, paused) = match self.place {
            Place::Reading(at) => (at, false),
            Place::Finishing { at, then, .. } => (at, then == Then::Pause),
            Place::Waiting(at) => (at, false),
            Place::Paused(Rest::Read(at) | Rest::Waited(at)) => (at, true),
            Place::Arriving(last) => return self.moving(Vec::new(), Some(last), false),
            Place::Paused(Rest::Arrived(last)) => return self.moving(Vec::new(), Some(last), true),
        };
        if self.cursor().is_none() {
            // Of one that was moved forward, the last message that it did not get: it does not go back either way.
            let last = if self.handle.started() { log.before(at) } else { None };
            return self.moving(Vec::new(), last, paused);
        }
        let (mut rest, mut read) = (Vec::new(), at);
        // What it has not got of the last round goes along: the other process may know the next group only. One that lags
        // far behind is left to skip.
        let end = match self.place {
            Place::Reading(at) if log.end() - at <= CARRY => log.end(),
            _ => log.boundary(at),
        };
        while read < end {
            let part = log.read(read);
            let part = part.get(..usize::try_from(end - read).unwrap_or(usize::MAX)).unwrap_or(part);
            if part.is_empty() {
                break;
            }
            rest.extend_from_slice(part);
            read += part.len() as u64;
        }
        self.moving(rest, log.before(end), paused)
    }

    fn moving(&self, rest: Vec<u8>, last: Option<FrameId>, paused: bool) -> Moving {
        let unsent = [&self.front[..], &rest].concat();
        let (control, intro) = (self.control.clone(), self.intro.clone());
        Moving { unsent, control, intro, last, paused, sent: self.handle.sent() }
    }

    pub(super) fn socket(&self) -> &Rc<TcpStream> {
        &self.socket
    }

    /// Marks it as one to be waited for.
    pub(super) fn block(&mut self, key: usize) -> Blocked {
        self.blocked = true;
        Blocked { key, socket: self.socket.clone(), handle: self.handle.clone() }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The offset that the log must keep for it.
    pub(super) fn cursor(&self) -> Option<u64> {
        match self.place {
            Place::Reading(at) | Place::Finishing { at, .. } => Some(at),
            Place::Waiting(_) | Place::Arriving(_) | Place::Paused(_) => None,
        }
    }

    /// False: it was closed.
    pub(super) fn control(&mut self, bytes: &[u8]) -> bool {
        if self.control.len() + bytes.len() > CONTROL_MAX {
            self.handle.close(CloseReason::Flood);
            return false;
        }
        self.control.extend_from_slice(bytes);
        true
    }

    /// Stops at the end of the message that it is in, or of all there is.
    pub(super) fn pause(&mut self, log: &Log, all: bool) {
        match self.place {
            Place::Reading(at) | Place::Finishing { at, .. } if all => {
                self.place = Place::Finishing { at, until: log.end(), then: Then::Pause };
            }
            Place::Reading(at) | Place::Finishing { at, .. } => self.finish(log, at, Then::Pause),
            Place::Waiting(at) => self.rest(Rest::Waited(at)),
            Place::Arriving(last) => self.rest(Rest::Arrived(last)),
            Place::Paused(_) => self.halt(),
        }
    }

    /// Goes on where it stopped if the group is still the same, else at the newest one: never back in time.
    pub(super) fn resume(&mut self, log: &Log) {
        self.handle.stopped.set(false);
        match self.place {
            Place::Paused(Rest::Read(at)) => {
                let same_group = log.holds(at) && log.newest_join().is_none_or(|(join, _)| join <= at);
                self.place = if same_group { Place::Reading(at) } else { Place::Waiting(at) };
            }
            Place::Paused(Rest::Waited(at)) => self.place = Place::Waiting(at),
            Place::Paused(Rest::Arrived(last)) => self.place = Place::Arriving(last),
            Place::Finishing { at, until, then: Then::Pause } => {
                self.place = Place::Finishing { at, until, then: Then::Resume };
            }
            _ => {}
        }
    }

    /// Looks after a player whose socket is full. False: it was closed.
    pub(super) fn be_patient(&mut self, log: &Log, patience: Patience, skips: &mut u64) -> bool {
        let Some(at) = self.cursor() else { return true };
        let lag = log.lag(at);
        if lag > patience.close {
            self.handle.close(CloseReason::TooSlow);
            return false;
        }
        if lag > patience.skip
            && matches!(self.place, Place::Reading(_))
            && log.newest_join().is_some_and(|(join, _)| join > at)
        {
            self.finish(log, at, Then::Skip);
            *skips += 1;
        }
        true
    }

    /// After a block was let go. False: it was closed.
    pub(super) fn survives_shedding(&mut self, log: &Log, skips: &mut u64) -> bool {
        match self.cursor() {
            Some(at) if !log.holds(at) => {
                // Only a message that has not begun may be left out.
                self.handle.close(CloseReason::TooSlow);
                false
            }
            Some(at) if self.blocked && matches!(self.place, Place::Reading(_)) && log.lag(at) > 0 => {
                *skips += 1;
                self.finish(log, at, Then::Skip);
                true
            }
            _ => true,
        }
    }

    /// Writes until it has all there is or its socket is full, and adds what it wrote to `sent`.
    pub(super) fn write(&mut self, log: &Log, sent: &mut u64) -> Progress {
        if self.handle.closed.get().is_some() {
            return Progress::Gone;
        }
        loop {
            self.step(log);
            let (at, [slice, beyond]) = match self.place {
                Place::Reading(at) => (at, log.read_on(at)),
                Place::Finishing { at, until, .. } => {
                    let left = usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX);
                    let [slice, beyond] = log.read_on(at);
                    let rest = left.saturating_sub(slice.len());
                    (at, [slice.get(..left).unwrap_or(slice), beyond.get(..rest).unwrap_or(beyond)])
                }
                Place::Waiting(_) | Place::Arriving(_) | Place::Paused(_) => (0, [&[][..]; 2]),
            };
            let wanted = self.front.len() + slice.len() + beyond.len();
            if wanted == 0 {
                return Progress::Done;
            }
            // Lists cost more than contiguous bytes, and less than a second write.
            let written = if self.front.is_empty() && beyond.is_empty() {
                self.socket.try_write(slice)
            } else {
                let list = [IoSlice::new(&self.front), IoSlice::new(slice), IoSlice::new(beyond)];
                let list = if self.front.is_empty() { list.get(1..).unwrap_or_default() } else { &list };
                self.socket.try_write_vectored(list)
            };
            let written = match written {
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::Blocked,
                Err(_) => {
                    self.handle.close(CloseReason::Gone);
                    return Progress::Gone;
                }
            };
            *sent += written as u64;
            self.advance(at, written);
            if written < wanted {
                return Progress::Blocked;
            }
        }
    }

    /// Counts what was written off the front, then off the log.
    fn advance(&mut self, at: u64, written: usize) {
        self.handle.sent.set(self.handle.sent.get() + written as u64);
        let front = written.min(self.front.len());
        self.front.drain(..front);
        if self.front.is_empty() {
            self.front = Vec::new();
        }
        let moved = at + (written - front) as u64;
        match &mut self.place {
            Place::Reading(at) | Place::Finishing { at, .. } => *at = moved,
            Place::Waiting(_) | Place::Arriving(_) | Place::Paused(_) => {}
        }
    }

    /// What needs no socket: joining, ending what it finishes, moving its own bytes to the front at a boundary.
    fn step(&mut self, log: &Log) {
        if let Place::Finishing { at, until, then } = self.place
            && at >= until
            && self.front.is_empty()
        {
            match then {
                Then::Pause => self.place = Place::Paused(Rest::Read(at)),
                Then::Resume => self.place = Place::Reading(at),
                Then::Skip => self.place = Place::Waiting(at),
            }
        }
        if let Place::Arriving(last) = self.place
            && let Some((at, next)) = log.after(last)
        {
            // What it has not seen is gone from here: it goes on at the newest group, never back in time.
            self.place = if next { Place::Reading(at) } else { Place::Waiting(at) };
        }
        let between_messages = match self.place {
            Place::Reading(at) => self.control.is_empty() || log.boundary(at) == at,
            Place::Finishing { .. } => false,
            Place::Waiting(_) | Place::Arriving(_) | Place::Paused(_) => true,
        };
        if between_messages && self.front.is_empty() && !self.control.is_empty() {
            self.front = std::mem::take(&mut self.control);
        }
        if let Place::Waiting(from) = self.place {
            let newest = log.newest_join().filter(|(at, _)| *at >= from);
            if let Some((at, prelude)) = newest {
                let mut intro = std::mem::take(&mut self.intro);
                flv::promise(&mut intro, prelude);
                self.front.append(&mut intro);
                self.front.extend_from_slice(prelude);
                self.place = Place::Reading(at);
                if !self.handle.started.replace(true) {
                    // It is written in the next moment.
                    if let Some(awaited) = self.handle.awaited.take() {
                        awaited.came();
                    }
                    self.handle.changed.notify_one();
                }
            }
        }
        if matches!(self.place, Place::Paused(_)) && self.front.is_empty() {
            self.halt();
        }
    }

    fn rest(&mut self, rest: Rest) {
        self.place = Place::Paused(rest);
        self.halt();
    }

    fn halt(&self) {
        if self.front.is_empty() && !self.handle.stopped.replace(true) {
            self.handle.changed.notify_one();
        }
    }

    fn finish(&mut self, log: &Log, at: u64, then: Then) {
        self.place = Place::Finishing { at, until: log.boundary(at), then };
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.handle.left.notify_one();
    }
}
