//! The server's side of one connection.
mod answer;
mod dialect;
mod event;
mod media;
mod request;
mod saved;

use core::net::Ipv4Addr;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, BytesMut};

pub use saved::Saved;

pub use event::{ConnectRequest, Enhanced, Event, PlayRefusal, PublishRefusal, StreamRequest};

use super::handshake::{self, Hello};
use super::link::Link;
use super::name::Base;
use super::{Error, Limits, Output};

/// One connection as the server sees it: what was read goes into [`handle`](Self::handle), what is to be done comes out
/// of [`poll`](Self::poll).
///
/// A `Connect`, `Publish` or `Play` event wants an answer. Until it is given nothing further is read: what comes in the
/// meantime is held, up to a limit, so a shell does well not to read the socket then
/// ([`awaits_answer`](Self::awaits_answer)). Once [`Event::Close`] was polled or an error returned, the machine is done.
#[derive(Clone)]
pub struct Server {
    limits: Limits,
    phase: Phase,
    link: Link,
    /// The time of the last call that had one.
    now: Instant,
    started: Instant,
    deadline: Option<Instant>,
    asked: Asked,
    role: Role,
    /// From an accepted or awaited `connect` on.
    base: Option<Box<Base>>,
    /// Whether the client can follow a request to connect elsewhere.
    reconnects: bool,
    /// The client came in the manner of FMLE, which expects `onFCPublish`.
    fc_publish: bool,
    /// The address from a proxy, until `connect` takes it.
    client: Option<Ipv4Addr>,
    chunk_size_out: u32,
    /// What came behind a request that is not answered.
    held: BytesMut,
    events: VecDeque<Event>,
}

#[derive(Clone)]
enum Phase {
    Hello(Box<Hello>),
    /// So many bytes of C2 are missing; nobody looks at them.
    C2(usize),
    Open,
    Closed,
}

/// The request that waits for the shell's answer.
#[derive(Clone)]
enum Asked {
    Nothing,
    Connect {
        transaction: f64,
        enhanced: Box<Enhanced>,
    },
    Publish,
    /// The stream's name, for the status message.
    Play(Box<str>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    None,
    Publisher,
    Player,
}

impl Server {
    /// A connection just accepted. `random` only fills the handshake; `chunk_size_out` is what `connect`'s answer
    /// announces, 1..=16777215.
    pub fn new(now: Instant, limits: Limits, random: [u8; 32], chunk_size_out: u32) -> Self {
        let deadline = now + limits.handshake;
        Self {
            phase: Phase::Hello(Box::new(Hello::new(random, limits.proxy_prefix))),
            link: Link::new(&limits),
            limits,
            now,
            started: now,
            deadline: Some(deadline),
            asked: Asked::Nothing,
            role: Role::None,
            base: None,
            reconnects: false,
            fc_publish: false,
            client: None,
            chunk_size_out,
            held: BytesMut::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes what was read from the client, all of it. Events of one call are kept until polled, so reads should not be
    /// longer than 64 KiB or so.
    pub fn handle(&mut self, now: Instant, input: &[u8]) -> Result<(), Error> {
        self.handle_timeout(now)?;
        if matches!(self.phase, Phase::Closed) {
            return Ok(());
        }
        self.link.receive(input.len());
        let mut input = input;
        self.handshake(&mut input)?;
        if !self.awaits_answer() {
            self.read(&mut input)?;
        }
        self.hold(input)
    }

    /// Fails if a deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.now = now;
        match self.deadline {
            Some(deadline) if now >= deadline && self.base.is_none() => Err(Error::HandshakeTimeout),
            Some(deadline) if now >= deadline => Err(Error::IdleTimeout),
            _ => Ok(()),
        }
    }

    /// The next thing to do: bytes to send first, then events in their order.
    pub fn poll(&mut self) -> Output<Event> {
        if let Some(bytes) = self.link.take_out() {
            return Output::Send(bytes);
        }
        if let Some(event) = self.events.pop_front() {
            return Output::Event(event);
        }
        // A burst must not cost an idle connection its memory for good.
        if self.events.capacity() > 32 {
            self.events.shrink_to(8);
        }
        Output::Wait(self.deadline)
    }

    /// Whether the client waits for the shell to accept or reject something.
    pub fn awaits_answer(&self) -> bool {
        !matches!(self.asked, Asked::Nothing)
    }

    /// Bytes received on this connection, handshake included.
    pub fn received(&self) -> u64 {
        self.link.received()
    }

    /// Bytes allocated for partly received messages.
    pub fn partial_bytes(&self) -> usize {
        self.link.reader.partial_bytes()
    }

    /// Bytes allocated outside this value, for tests of what a connection costs.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let base = self
            .base
            .as_ref()
            .map_or(0, |base| size_of_val(&**base) + base.vhost.len() + base.app.len() + base.query.len());
        let events = self.events.capacity() * size_of::<Event>();
        base + events + self.held.capacity() + self.link.heap_bytes()
    }

    fn handshake(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        if let Phase::Hello(hello) = &mut self.phase {
            let Some(client) = hello.handle(input, self.link.out())? else { return Ok(()) };
            self.client = client;
            self.phase = Phase::C2(handshake::PACKET);
        }
        if let Phase::C2(missing) = &mut self.phase {
            let count = input.len().min(*missing);
            *missing -= count;
            *input = input.get(count..).unwrap_or_default();
            if *missing == 0 {
                self.phase = Phase::Open;
            }
        }
        Ok(())
    }

    /// Reads messages until there are no more, or one has to be answered by the shell.
    fn read(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        while matches!(self.phase, Phase::Open) && !self.awaits_answer() {
            let Some(message) = self.link.read(input)? else { break };
            self.message(&message)?;
            self.link.check_pending()?;
        }
        if self.base.is_none() && matches!(self.phase, Phase::Open) {
            let handshake = 2 * handshake::PACKET as u64 + 1;
            if self.link.received() > handshake + self.limits.bytes_before_connect as u64 {
                return Err(Error::BytesBeforeConnect(self.limits.bytes_before_connect));
            }
        }
        self.link.settle()
    }

    /// Keeps what the shell's answer has to come before.
    fn hold(&mut self, input: &[u8]) -> Result<(), Error> {
        if !self.awaits_answer() || input.is_empty() {
            return Ok(());
        }
        if self.held.len() + input.len() > self.limits.held_bytes {
            return Err(Error::HeldBytes(self.limits.held_bytes));
        }
        self.held.extend_from_slice(input);
        Ok(())
    }

    /// Reads on after an answer.
    fn resume(&mut self) -> Result<(), Error> {
        let mut held = std::mem::take(&mut self.held);
        let mut input = &*held;
        self.read(&mut input)?;
        if self.awaits_answer() {
            held.advance(held.len() - input.len());
            self.held = held;
        }
        Ok(())
    }

    /// Waits for a request, not for ever.
    fn idle(&mut self) {
        self.deadline = Some(self.now + self.limits.idle_request);
    }

    fn close(&mut self, reason: String) {
        self.phase = Phase::Closed;
        self.role = Role::None;
        self.asked = Asked::Nothing;
        self.deadline = None;
        self.held = BytesMut::new();
        self.events.push_back(Event::Close(reason));
    }
}
