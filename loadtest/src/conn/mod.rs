//! What is spoken on a connection.

mod flv;
mod rtmp;

use weir_media::Kind;
use weir_wire::rtmp as wire_rtmp;

use crate::net::{Reason, Wire};
use crate::target::{Scheme, Target};

pub(crate) use flv::{TagHead, Tags};
pub(crate) use rtmp::Rtmp;

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server breaks the protocol.
    #[error("RTMP: {0}")]
    Rtmp(#[from] wire_rtmp::Error),
    /// The server said no, or goodbye.
    #[error("refused: {0}")]
    Refused(String),
    /// What should be an FLV stream is none.
    #[error("what came is no FLV stream")]
    Flv,
}

/// One message of the stream.
pub(crate) struct Media<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// Milliseconds modulo 2^32.
    pub(crate) timestamp: u32,
    /// The FLV tag body, or its beginning.
    pub(crate) body: &'a [u8],
}

/// A player's conversation with a server.
pub(crate) enum Player {
    /// Over RTMP.
    Rtmp(Box<Rtmp>),
}

impl Player {
    /// One that will ask for stream `number` of `target`.
    pub(crate) fn new(target: &Target, number: usize) -> Self {
        match target.scheme {
            Scheme::Rtmp | Scheme::Http => Self::Rtmp(Box::new(Rtmp::player(target, number))),
        }
    }

    /// TCP is connected.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn connected(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        match self {
            Self::Rtmp(rtmp) => rtmp.connected(wire),
        }
    }

    /// Takes what came and hands each message of the stream to `media`.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn received(
        &mut self,
        wire: &mut Wire,
        bytes: &[u8],
        mut media: impl FnMut(Media<'_>),
    ) -> Result<(), Reason> {
        match self {
            Self::Rtmp(rtmp) => rtmp.received(wire, bytes, &mut media),
        }
    }
}
