//! RTMP, by the client of `weir_wire`.

use std::time::Instant;

use weir_media::Kind;
use weir_wire::rtmp::client::{Client, Event, Handshake, Purpose, Request};
use weir_wire::rtmp::{Limits, Output};

use super::{Error, Media};
use crate::clock;
use crate::net::{Reason, Wire};
use crate::target::Target;

/// Of what is sent, unless told otherwise.
pub(super) const CHUNK_SIZE: u32 = 60_000;

/// A publisher's or player's conversation.
pub(crate) struct Rtmp {
    client: Client,
}

impl Rtmp {
    /// One that will play stream `number`.
    pub(crate) fn player(target: &Target, number: usize) -> Self {
        Self { client: client(target, number, Purpose::Play, CHUNK_SIZE) }
    }

    /// One that will publish stream `number` in chunks of `chunk_size` bytes.
    pub(crate) fn publisher(target: &Target, number: usize, chunk_size: u32) -> Self {
        Self { client: client(target, number, Purpose::Publish, chunk_size) }
    }

    /// Whether the server has accepted.
    pub(crate) fn started(&self) -> bool {
        self.client.started()
    }

    /// TCP is connected.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn connected(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        self.poll(wire, &mut |_| ())
    }

    /// Takes what came and hands each message of the stream to `media`.
    ///
    /// # Errors
    /// The server refused or broke the protocol, or the connection broke.
    pub(crate) fn received(
        &mut self,
        wire: &mut Wire,
        bytes: &[u8],
        media: &mut impl FnMut(Media<'_>),
    ) -> Result<(), Reason> {
        self.client.handle(Instant::now(), bytes).map_err(Error::from)?;
        self.poll(wire, media)
    }

    /// Sends one message, in one write.
    ///
    /// # Errors
    /// The connection broke, or its server does not read.
    pub(crate) fn media(&mut self, wire: &mut Wire, kind: Kind, timestamp: u32, body: &[u8]) -> Result<(), Reason> {
        self.client.media(kind, timestamp, body);
        self.poll(wire, &mut |_| ())
    }

    fn poll(&mut self, wire: &mut Wire, media: &mut impl FnMut(Media<'_>)) -> Result<(), Reason> {
        loop {
            match self.client.poll() {
                Output::Send(bytes) => wire.send(&bytes)?,
                Output::Event(Event::Media { kind, timestamp, body }) => media(Media { kind, timestamp, body: &body }),
                Output::Event(Event::Refused { code, description, .. }) => {
                    return Err(Error::Refused(format!("{code} {description}")).into());
                }
                Output::Event(Event::Started | Event::Status { .. }) => {}
                Output::Wait(_) => return Ok(()),
            }
        }
    }
}

/// The machine for stream `number`.
pub(super) fn client(target: &Target, number: usize, purpose: Purpose, chunk_size: u32) -> Client {
    let (app, stream) = target.app_and_stream(number);
    let tc_url = format!("rtmp://{}/{app}", target.authority);
    let request = Request { purpose, tc_url, app, stream, handshake: Handshake::Plain };
    // Only fills the handshake: it need not be a secret, only differ.
    let mut seed = [0; 32];
    let different = clock::now().to_le_bytes().into_iter().chain(number.to_le_bytes());
    seed.iter_mut().zip(different).for_each(|(slot, byte)| *slot = byte);
    Client::new(Instant::now(), request, Limits::default(), seed, chunk_size)
}
