//! What is spoken on a connection.

mod flv;
mod greeting;
mod http;
mod rtmp;

use weir_media::Kind;
use weir_wire::rtmp as wire_rtmp;

use crate::net::{Reason, Wire};
use crate::target::{Scheme, Target};

pub(crate) use flv::TagHead;
pub(crate) use greeting::Greeting;
use http::Http;
pub(crate) use http::{Body, ResponseHead};
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
    /// Not an HTTP response, or too long a head of one.
    #[error("the answer is no HTTP/1 response")]
    HttpHead,
    /// The server says no.
    #[error("the server answers {0}")]
    HttpStatus(u16),
    /// A body in chunks that are none.
    #[error("malformed chunks in the body")]
    Chunked,
    /// The server has ended the stream.
    #[error("the stream ended")]
    Ended,
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
    /// Over HTTP.
    Http(Box<Http>),
}

impl Player {
    /// One that will ask for stream `number` of `target`.
    pub(crate) fn new(target: &Target, number: usize) -> Self {
        match target.scheme {
            Scheme::Rtmp => Self::Rtmp(Box::new(Rtmp::player(target, number))),
            Scheme::Http | Scheme::Webrtc | Scheme::Janus => Self::Http(Box::new(Http::new(target, number))),
        }
    }

    /// TCP is connected.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn connected(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        match self {
            Self::Rtmp(rtmp) => rtmp.connected(wire),
            Self::Http(http) => http.connected(wire),
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
            Self::Http(http) => Ok(http.received(bytes, &mut media)?),
        }
    }
}
