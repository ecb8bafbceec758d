//! The beginning of a conversation, and no more of it.

use std::time::Instant;

use weir_wire::rtmp::Output;
use weir_wire::rtmp::client::{Client, Event, Purpose};

use super::Error;
use super::http::{ResponseHead, request};
use super::rtmp::{CHUNK_SIZE, client};
use crate::net::{Reason, Wire};
use crate::target::{Scheme, Target};

/// C0, C1 and C2 (5.2 of the RTMP specification).
const HELLO: usize = 1 + 2 * 1536;
/// The command that a client sends once `connect` was answered, as AMF0 has its name.
const AFTER_CONNECT: &[u8] = b"createStream";

/// How far to go.
pub(crate) enum Greeting {
    /// TCP is all.
    Tcp,
    /// RTMP's handshake; so many bytes of ours are still to be sent.
    Handshake(Box<Client>, usize),
    /// RTMP's handshake and `connect`.
    Connect(Box<Client>),
    /// A GET, and the head of its answer.
    Get(String, ResponseHead),
}

impl Greeting {
    /// What an idle client says to stream `number`'s server.
    pub(crate) fn idle(target: &Target, number: usize) -> Self {
        match target.scheme {
            Scheme::Rtmp => Self::Handshake(Box::new(client(target, number, Purpose::Play, CHUNK_SIZE)), HELLO),
            Scheme::Http | Scheme::Webrtc | Scheme::Janus => Self::Tcp,
        }
    }

    /// What a client says that wants an answer.
    pub(crate) fn call(target: &Target, number: usize) -> Self {
        match target.scheme {
            Scheme::Rtmp => Self::Connect(Box::new(client(target, number, Purpose::Play, CHUNK_SIZE))),
            Scheme::Http | Scheme::Webrtc | Scheme::Janus => {
                Self::Get(request(target, number), ResponseHead::default())
            }
        }
    }

    /// TCP is connected. True if that was all.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn connected(&mut self, wire: &mut Wire) -> Result<bool, Reason> {
        match self {
            Self::Tcp => Ok(true),
            Self::Get(request, _) => wire.send(request.as_bytes()).map(|()| false),
            Self::Handshake(..) | Self::Connect(_) => self.poll(wire),
        }
    }

    /// Bytes came. True once all is said; what comes later does not matter.
    ///
    /// # Errors
    /// The server refused or broke the protocol, or the connection broke.
    pub(crate) fn received(&mut self, wire: &mut Wire, mut bytes: &[u8]) -> Result<bool, Reason> {
        match self {
            Self::Tcp | Self::Handshake(_, 0) => return Ok(true),
            Self::Get(_, head) => return Ok(head.read(&mut bytes)?.is_some()),
            Self::Handshake(client, _) | Self::Connect(client) => {
                client.handle(Instant::now(), bytes).map_err(Error::from)?;
            }
        }
        self.poll(wire)
    }

    fn poll(&mut self, wire: &mut Wire) -> Result<bool, Reason> {
        let (client, mut left) = match self {
            Self::Handshake(client, left) => (client, Some(left)),
            Self::Connect(client) => (client, None),
            Self::Tcp | Self::Get(..) => return Ok(true),
        };
        loop {
            match client.poll() {
                Output::Send(bytes) => {
                    if let Some(left) = &mut left {
                        // The machine goes on to `connect` in the same breath.
                        let hello = bytes.get(..**left).unwrap_or(&bytes);
                        **left -= hello.len();
                        wire.send(hello)?;
                        if **left == 0 {
                            return Ok(true);
                        }
                    } else if bytes.windows(AFTER_CONNECT.len()).any(|part| part == AFTER_CONNECT) {
                        return Ok(true);
                    } else {
                        wire.send(&bytes)?;
                    }
                }
                Output::Event(Event::Refused { code, description, .. }) => {
                    return Err(Error::Refused(format!("{code} {description}")).into());
                }
                Output::Event(_) => {}
                Output::Wait(_) => return Ok(false),
            }
        }
    }
}
