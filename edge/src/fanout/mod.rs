//! Fan-out: one stream in one format to all its players.
//!
//! A round is one walk over the players; each gets one contiguous write from its cursor to the end of the log. Only a
//! player whose socket is full gets a task, which waits until it can be written to again.

mod format;
#[cfg(test)]
mod move_tests;
mod pace;
mod player;
mod rounds;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use slab::Slab;
use tokio::net::TcpStream;
use weir_media::{Configs, Frame, Gop, Log};

pub(crate) use format::Format;
pub(crate) use player::{CloseReason, Handle, Moving};
use player::{Player, Progress};
pub(crate) use rounds::Rounds;

use crate::stats::Protocol;

/// A round yields to the worker's other tasks after so many players.
const WALK: usize = 512;

/// How far a round has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    key: usize,
    /// The smallest offset that a player reads at.
    slowest: u64,
}

/// What a player may cost before it is moved or closed; times of media in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Lag at which it skips to the newest group.
    pub(crate) skip: i64,
    /// Lag at which it is closed.
    pub(crate) close: i64,
}

/// How a player begins.
#[derive(Debug)]
pub(crate) struct Start {
    /// Sent at once.
    pub(crate) front: Vec<u8>,
    /// Sent with the first media.
    pub(crate) intro: Vec<u8>,
    /// Whether it begins with the cached group; else it waits for the next one.
    pub(crate) cached: bool,
}

/// A player that would block, to be waited for.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) key: usize,
    pub(crate) socket: Rc<TcpStream>,
    pub(crate) handle: Rc<Handle>,
}

/// The log of one format with its players.
#[derive(Debug)]
pub(crate) struct FanOut {
    format: Format,
    log: Log,
    players: Slab<Player>,
    scratch: Vec<u8>,
    skips: u64,
    sent: u64,
}

impl FanOut {
    /// With what the stream's group holds, so that a player can join at once.
    pub(crate) fn new(format: Format, gop: &Gop) -> Self {
        let mut fan = Self { format, log: Log::new(), players: Slab::new(), scratch: Vec::new(), skips: 0, sent: 0 };
        let mut configs = gop.start_configs().clone();
        for (i, frame) in gop.frames().enumerate() {
            let prelude = (i == 0).then(|| fan.format.prelude(&configs, frame.dts));
            if frame.info.config {
                configs.update(frame);
            }
            fan.append(frame, prelude, &configs);
        }
        fan
    }

    /// Appends a frame that `gop` has taken in already.
    pub(crate) fn push(&mut self, frame: &Frame, starts_group: bool, gop: &Gop) {
        let joinable = starts_group && gop.joinable();
        let prelude = joinable.then(|| self.format.prelude(gop.start_configs(), frame.dts));
        self.append(frame, prelude, gop.configs());
        if !gop.joinable() {
            self.log.clear_joins();
        }
    }

    /// A frame that is not for these players has its place in the log all the same: players that come from another
    /// process go on behind the frame that they had there.
    fn append(&mut self, frame: &Frame, prelude: Option<weir_media::Prelude>, configs: &Configs) {
        self.scratch.clear();
        if self.format.takes(frame, configs) {
            self.format.encode(&mut self.scratch, frame);
        }
        self.log.append(frame.id, frame.dts, prelude, &self.scratch);
    }

    /// Takes a player in and writes what it can get. Its key, and whether it must be waited for.
    pub(crate) fn join(&mut self, socket: Rc<TcpStream>, handle: Rc<Handle>, start: Start) -> (usize, Option<Blocked>) {
        let from = if start.cached { 0 } else { self.log.end() };
        let key = self.players.insert(Player::new(socket, handle, start, from));
        (key, self.write(key))
    }

    /// Takes a player out. False if it was closed before.
    pub(crate) fn leave(&mut self, key: usize) {
        self.players.try_remove(key);
    }

    /// Takes in a player that comes from another process. `cached` as in [`Start`].
    pub(crate) fn arrive(
        &mut self,
        socket: Rc<TcpStream>,
        handle: Rc<Handle>,
        moving: Moving,
        cached: bool,
    ) -> (usize, Option<Blocked>) {
        let from = if cached { 0 } else { self.log.end() };
        let key = self.players.insert(Player::arrive(socket, handle, moving, from));
        (key, self.write(key))
    }

    /// Takes a player out that goes on in another process. `None`: it was closed before.
    pub(crate) fn depart(&mut self, key: usize) -> Option<Moving> {
        Some(self.players.try_remove(key)?.departs(&self.log))
    }

    /// Queues bytes of the player's own, which go out at the next message boundary.
    pub(crate) fn control(&mut self, key: usize, bytes: &[u8]) -> Option<Blocked> {
        if !self.players.get_mut(key)?.control(bytes) {
            self.players.remove(key);
        }
        self.write(key)
    }

    /// Stops or restarts the media of a player. It goes on where it was, or at the newest group.
    pub(crate) fn pause(&mut self, key: usize, on: bool) -> Option<Blocked> {
        let player = self.players.get_mut(key)?;
        if on {
            player.pause(&self.log, false)
        } else {
            player.resume(&self.log)
        }
        self.write(key)
    }

    /// Stops the media of a player when it has all there is by now.
    pub(crate) fn finish(&mut self, key: usize) -> Option<Blocked> {
        self.players.get_mut(key)?.pause(&self.log, true);
        self.write(key)
    }

    /// The socket of a player that was full takes bytes again.
    pub(crate) fn writable(&mut self, key: usize, socket: &Rc<TcpStream>, patience: Patience) -> Option<Blocked> {
        let player = self.players.get_mut(key).filter(|p| Rc::ptr_eq(p.socket(), socket))?;
        player.blocked = false;
        if !player.be_patient(&self.log, patience, &mut self.skips) {
            self.players.remove(key);
        }
        self.write(key)
    }

    /// A round over the players, or as much of it as `walk` has left to do. True when it is complete.
    pub(crate) fn walk(&mut self, walk: &mut Walk, patience: Patience, blocked: &mut Vec<Blocked>) -> bool {
        if walk.key == 0 {
            // Who joins behind the walk's back reads from here or later.
            walk.slowest = self.log.newest_join().map_or_else(|| self.log.end(), |(at, _)| at);
        }
        let mut seen = 0;
        while walk.key < self.players.capacity() {
            if seen == WALK {
                return false;
            }
            let key = walk.key;
            walk.key += 1;
            let Some(player) = self.players.get_mut(key) else { continue };
            seen += 1;
            let stays = if player.blocked {
                player.be_patient(&self.log, patience, &mut self.skips)
            } else {
                match player.write(&self.log, &mut self.sent) {
                    Progress::Done => true,
                    Progress::Blocked => {
                        blocked.push(player.block(key));
                        true
                    }
                    Progress::Gone => false,
                }
            };
            if stays {
                walk.slowest = walk.slowest.min(player.cursor().unwrap_or(u64::MAX));
            } else {
                self.players.remove(key);
            }
        }
        self.log.trim(walk.slowest);
        true
    }

    /// Memory of the log, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.log.memory()
    }

    /// Lets the oldest block go; those who read it skip, or are closed, at the next round.
    pub(crate) fn shed(&mut self) -> usize {
        let gained = self.log.shed();
        if gained > 0 {
            let skips = &mut self.skips;
            let log = &self.log;
            self.players.retain(|_, player| player.survives_shedding(log, skips));
        }
        gained
    }

    /// Tells every player that the stream has, or has no, publisher.
    pub(crate) fn announce(&mut self, live: bool) {
        if !live {
            self.log.clear_joins();
        }
        for (_, player) in &self.players {
            player.handle().set_live(live);
        }
    }

    /// What its players speak.
    pub(crate) fn protocol(&self) -> Protocol {
        self.format.into()
    }

    /// How many players there are.
    pub(crate) fn len(&self) -> usize {
        self.players.len()
    }

    /// Since the last call: how often a player was moved forward, and the bytes that were written.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.skips), std::mem::take(&mut self.sent))
    }

    fn write(&mut self, key: usize) -> Option<Blocked> {
        let player = self.players.get_mut(key)?;
        if player.blocked {
            return None;
        }
        match player.write(&self.log, &mut self.sent) {
            Progress::Done => None,
            Progress::Blocked => Some(player.block(key)),
            Progress::Gone => {
                self.players.remove(key);
                None
            }
        }
    }
}
