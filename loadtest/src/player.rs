//! One player: its connection, and what it has seen.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use socket2::Socket;
use weir_media::{Kind, flv::TagInfo};
use weir_wire::rtmp::client::{Event, Purpose};
use weir_wire::rtmp::{Client, Limits, Output};

use crate::body::Body;
use crate::drive::Poll;
use crate::stamp;
use crate::target::{Scheme, Target};

/// No byte for so long is a gap.
const GAP: Duration = Duration::from_secs(1);

/// What all players of a run share.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) messages: u64,
    pub(crate) latency: crate::histogram::Histogram,
    /// Whether the steady part has begun: only its frames count for latency.
    pub(crate) steady: bool,
}

/// See the module.
pub(crate) struct Player {
    socket: Socket,
    speaks: Speaks,
    born: Instant,
    pub(crate) bytes: u64,
    pub(crate) steady_bytes: u64,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) first_key: Option<Duration>,
    last: Instant,
    pub(crate) gaps: u64,
    unsent: Vec<u8>,
}

enum Speaks {
    Rtmp(Box<Client>),
    Flv(Box<Body>),
    Raw,
}

/// Why a player is at its end.
pub(crate) type Failure = anyhow::Error;

impl Player {
    /// One that connects.
    pub(crate) fn open(
        poll: &Poll,
        target: &Target,
        index: usize,
        name: usize,
        now: Instant,
        receive_buffer: Option<usize>,
    ) -> Result<Self, Failure> {
        let socket = poll.connect(target.address, index, receive_buffer)?;
        let speaks = match target.scheme {
            Scheme::Rtmp => {
                let limits = Limits { handshake: Duration::from_secs(30), ..Limits::default() };
                let request = target.request(Purpose::Play, name)?;
                Speaks::Rtmp(Box::new(Client::new(now, request, limits, [index as u8; 32], 65_536)))
            }
            Scheme::Http => Speaks::Flv(Box::new(Body::new())),
            Scheme::Raw => Speaks::Raw,
        };
        let mut player = Self {
            socket,
            speaks,
            born: now,
            bytes: 0,
            steady_bytes: 0,
            first_byte: None,
            first_key: None,
            last: now,
            gaps: 0,
            unsent: Vec::new(),
        };
        match &mut player.speaks {
            Speaks::Flv(_) => player.unsent = target.get(name).into_bytes(),
            Speaks::Rtmp(_) => player.answer()?,
            Speaks::Raw => {}
        }
        Ok(player)
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The steady part begins.
    pub(crate) fn steady(&mut self, now: Instant) {
        self.steady_bytes = 0;
        self.gaps = 0;
        self.last = now;
    }

    /// The steady part ends.
    pub(crate) fn end(&mut self, now: Instant) {
        self.gaps += u64::from(now - self.last > GAP);
    }

    /// Writes what waits, then reads once, at most all of `scratch`; the number of bytes.
    ///
    /// # Errors
    /// The connection ended, or what came is not what was asked for.
    pub(crate) fn turn(&mut self, scratch: &mut [u8], seen: &mut Seen, now: Instant) -> Result<usize, Failure> {
        self.write()?;
        let read = match (&self.socket).read(scratch) {
            Ok(0) => anyhow::bail!("closed by the server"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        self.gaps += u64::from(now - self.last > GAP);
        self.last = now;
        self.bytes += read as u64;
        self.steady_bytes += read as u64;
        let (born, first_byte, first_key) = (self.born, &mut self.first_byte, &mut self.first_key);
        first_byte.get_or_insert_with(|| now - born);
        let mut media = |kind: Kind, body: &[u8]| {
            seen.messages += 1;
            if first_key.is_none() && kind == Kind::Video {
                let info = TagInfo::parse(kind, body);
                if info.keyframe && !info.config {
                    *first_key = Some(born.elapsed());
                }
            }
            if let Some(sent) = stamp::read(body).filter(|_| seen.steady) {
                seen.latency.record(stamp::now().saturating_sub(sent));
            }
        };
        let bytes = scratch.get(..read).unwrap_or_default();
        match &mut self.speaks {
            Speaks::Raw => {}
            Speaks::Flv(body) => body.handle(bytes, |tag, first| {
                if let Some(kind) = Kind::from_type(tag) {
                    media(kind, first);
                }
            })?,
            Speaks::Rtmp(client) => {
                client.handle(now, bytes)?;
                loop {
                    match client.poll() {
                        Output::Send(bytes) => self.unsent.extend_from_slice(&bytes),
                        Output::Event(Event::Media { kind, body, .. }) => media(kind, &body),
                        Output::Event(Event::Refused { code, description, .. }) => {
                            anyhow::bail!("{code} {description}")
                        }
                        Output::Event(_) => {}
                        Output::Wait(_) => break,
                    }
                }
                self.write()?;
            }
        }
        Ok(read)
    }

    fn answer(&mut self) -> Result<(), Failure> {
        if let Speaks::Rtmp(client) = &mut self.speaks {
            while let Output::Send(bytes) = client.poll() {
                self.unsent.extend_from_slice(&bytes);
            }
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), Failure> {
        while !self.unsent.is_empty() {
            match (&self.socket).write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}
