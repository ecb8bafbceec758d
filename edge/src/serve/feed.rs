//! One publisher's connection while it publishes: read by [`Ingest`](super::ingest::Ingest), not by its own task.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use weir_wire::rtmp::{self, Event, Output, Server};

use super::ingest::{read_once, write_once};
use crate::publication::Publication;

/// Answers that may wait for a publisher that does not read them.
const UNSENT_MAX: usize = 4096;

/// Why a feed is not read any more, for its task.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The client wants something other than sending media.
    Event(Event),
    /// The relay is full: to be read again when there is room.
    Full,
    /// The client closed the connection.
    Left,
    /// The socket failed.
    Io(io::Error),
    /// The client broke the protocol.
    Protocol(rtmp::Error),
    /// [`UNSENT_MAX`] of answers wait for it.
    Unread,
}

/// See the module.
pub(crate) struct Feed {
    socket: TcpStream,
    machine: Rc<RefCell<Server>>,
    publication: Rc<Publication>,
    /// How long its frames may wait to be written with others, where the vhost says so.
    latency: Option<Duration>,
    /// Its place among those that are read.
    key: Cell<Option<usize>>,
    read: Rc<Cell<u64>>,
    started: Cell<bool>,
    last_media: Cell<Instant>,
    unsent: RefCell<Vec<u8>>,
    stop: RefCell<Option<Stop>>,
    stopped: Notify,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("socket", &self.socket).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Feed {
    /// `socket` must not block.
    pub(crate) fn new(
        socket: TcpStream,
        machine: Rc<RefCell<Server>>,
        publication: Rc<Publication>,
        latency: Option<Duration>,
    ) -> Self {
        Self {
            socket,
            machine,
            publication,
            latency,
            key: Cell::new(None),
            read: Rc::default(),
            started: Cell::new(false),
            last_media: Cell::new(Instant::now()),
            unsent: RefCell::default(),
            stop: RefCell::default(),
            stopped: Notify::new(),
        }
    }

    /// Goes on where another feed stood: whether its media had begun, when it last came, and what is still to be written.
    pub(crate) fn go_on(self, started: bool, last_media: Instant, unsent: Vec<u8>) -> Self {
        self.started.set(started);
        self.last_media.set(last_media);
        self.unsent.replace(unsent);
        self
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Bytes that were read of it.
    pub(crate) fn bytes(&self) -> Rc<Cell<u64>> {
        self.read.clone()
    }

    pub(crate) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    pub(super) fn key(&self) -> Option<usize> {
        self.key.get()
    }

    pub(super) fn set_key(&self, key: Option<usize>) {
        self.key.set(key);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    pub(crate) fn publication(&self) -> &Rc<Publication> {
        &self.publication
    }

    /// Whether media came, and when it last did or began to be waited for.
    pub(crate) fn last_media(&self) -> (bool, Instant) {
        (self.started.get(), self.last_media.get())
    }

    /// It was not read for a while: that is no silence of the publisher's.
    pub(crate) fn resume(&self) {
        self.last_media.set(Instant::now());
    }

    /// Returns why it is not read any more.
    pub(crate) async fn stopped(&self) -> Stop {
        loop {
            if let Some(stop) = self.stop.borrow_mut().take() {
                return stop;
            }
            self.stopped.notified().await;
        }
    }

    /// The socket, and what is still to be written to it.
    pub(crate) fn into_socket(self: Rc<Self>) -> Option<(TcpStream, Vec<u8>)> {
        Rc::into_inner(self).map(|feed| (feed.socket, feed.unsent.into_inner()))
    }

    /// Reads once, carries on what came, and returns its number of bytes.
    pub(super) fn read(&self, scratch: &mut [u8], now: Instant) -> usize {
        let read = match read_once(&self.socket, scratch) {
            Ok(None) => return 0,
            Ok(Some(0)) => {
                self.stop(Stop::Left);
                return 0;
            }
            Ok(Some(n)) => n,
            Err(error) => {
                self.stop(Stop::Io(error));
                return 0;
            }
        };
        self.read.set(self.read.get() + read as u64);
        let handled = self.machine.borrow_mut().handle(now, scratch.get(..read).unwrap_or_default());
        // What came before an error counts.
        self.carry(now);
        if let Err(error) = handled {
            self.stop(Stop::Protocol(error));
        } else if !self.publication.has_room() {
            self.stop(Stop::Full);
        }
        read
    }

    fn carry(&self, now: Instant) {
        loop {
            let output = self.machine.borrow_mut().poll();
            match output {
                Output::Send(bytes) => self.write(&bytes),
                Output::Event(Event::Media { kind, timestamp, body }) => {
                    self.started.set(true);
                    self.last_media.set(now);
                    self.publication.push(now, kind, timestamp, body);
                }
                Output::Event(event) => return self.stop(Stop::Event(event)),
                Output::Wait(_) => return self.write(&[]),
            }
        }
    }

    /// Media that the task came upon by itself.
    pub(crate) fn media(&self, event: Event) {
        if let Event::Media { kind, timestamp, body } = event {
            self.started.set(true);
            let now = Instant::now();
            self.last_media.set(now);
            self.publication.push(now, kind, timestamp, body);
        }
    }

    /// Writes an answer, behind those that wait.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let unsent = &mut *self.unsent.borrow_mut();
        let written = match unsent.is_empty() {
            true if bytes.is_empty() => return,
            true => {
                write_once(&self.socket, bytes).map(|n| unsent.extend_from_slice(bytes.get(n..).unwrap_or_default()))
            }
            false => {
                unsent.extend_from_slice(bytes);
                write_once(&self.socket, unsent).map(|n| drop(unsent.drain(..n)))
            }
        };
        match written {
            Err(error) => self.stop(Stop::Io(error)),
            Ok(()) if unsent.len() > UNSENT_MAX => self.stop(Stop::Unread),
            Ok(()) => {}
        }
    }

    /// The first reason counts.
    fn stop(&self, why: Stop) {
        self.stop.borrow_mut().get_or_insert(why);
        self.stopped.notify_one();
    }
}
