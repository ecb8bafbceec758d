//! RTMP: the server's and a small client's side of a connection, as machines without I/O, and the chunk encoder of the
//! fan-out log.
//!
//! Both machines are driven alike: `handle` takes what was read, then `poll` is called until it says
//! [`Output::Wait`]. Names follow the RTMP 1.0 specification and Enhanced RTMP v2; media bodies are never looked into.
pub mod chunk;
pub mod client;
mod command;
mod handshake;
mod limits;
mod link;
mod name;
pub mod server;
#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::Bytes;

pub use client::Client;
pub use limits::Limits;
pub use name::{NameError, from_url};
pub use server::{ConnectRequest, Enhanced, Event, PlayRefusal, PublishRefusal, Server, StreamRequest};

use crate::amf;

/// What a machine wants of its shell, `E` being its events.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<E> {
    /// Bytes for the peer, in order. All that `handle` caused comes as one.
    Send(Bytes),
    /// Something happened.
    Event(E),
    /// Nothing more until the next `handle`; if it is given, `handle_timeout` wants to be called at that time.
    Wait(Option<Instant>),
}

/// Message type ids (5.4, 7.1 of the RTMP 1.0 specification).
mod type_id {
    pub(super) const SET_CHUNK_SIZE: u8 = 1;
    pub(super) const ABORT: u8 = 2;
    pub(super) const ACKNOWLEDGEMENT: u8 = 3;
    pub(super) const USER_CONTROL: u8 = 4;
    pub(super) const WINDOW_SIZE: u8 = 5;
    pub(super) const PEER_BANDWIDTH: u8 = 6;
    pub(super) const AUDIO: u8 = 8;
    pub(super) const VIDEO: u8 = 9;
    pub(super) const DATA_AMF3: u8 = 15;
    pub(super) const COMMAND_AMF3: u8 = 17;
    pub(super) const DATA: u8 = 18;
    pub(super) const COMMAND: u8 = 20;
    pub(super) const AGGREGATE: u8 = 22;
}

/// Why a connection cannot go on. The shell closes it; nothing needs to be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `connect` was not complete in time.
    #[error("handshake and connect took longer than allowed")]
    HandshakeTimeout,
    /// Connected, but nothing was published or played for too long.
    #[error("connected for too long without publishing or playing")]
    IdleTimeout,
    /// The first byte of the handshake is not a version that is spoken here.
    #[error("unsupported RTMP version {0}")]
    Version(u8),
    /// The address that a proxy put before the handshake is malformed.
    #[error("malformed proxy prefix")]
    ProxyPrefix,
    /// The server's answer to a digest handshake does not prove what it should.
    #[error("digest of the handshake does not match")]
    Digest,
    /// More bytes than allowed came before `connect` was complete.
    #[error("more than {0} bytes before connect")]
    BytesBeforeConnect(usize),
    /// More bytes than allowed came while an answer of ours was awaited.
    #[error("more than {0} bytes while a request was being decided")]
    HeldBytes(usize),
    /// Another command came before `connect`.
    #[error("a command came before connect")]
    NotConnected,
    /// A chunk size that is not one.
    #[error("illegal chunk size {0}")]
    ChunkSize(u32),
    /// A chunk header longer than any can be.
    #[error("malformed chunk header")]
    ChunkHeader,
    /// A header that relies on an earlier one that never came.
    #[error("chunk stream {0} begins without a full header")]
    UnknownChunkStream(u32),
    /// A new message on a chunk stream whose last one is not complete.
    #[error("new message inside an unfinished one on chunk stream {0}")]
    UnfinishedMessage(u32),
    /// More chunk streams than allowed.
    #[error("more than {0} chunk streams")]
    ChunkStreams(usize),
    /// A message longer than allowed at this point.
    #[error("message of {length} bytes, at most {limit} allowed here")]
    MessageTooLong {
        /// Bytes of the message.
        length: u32,
        /// Bytes allowed.
        limit: u32,
    },
    /// Unfinished messages that need more memory than allowed.
    #[error("unfinished messages need more than {0} bytes")]
    PartialBytes(usize),
    /// A protocol control message that is too short for its type.
    #[error("malformed control message of type {0}")]
    Control(u8),
    /// More answers waiting to be sent than allowed: the peer asks without reading.
    #[error("more than {0} bytes of answers are waiting")]
    PendingOut(usize),
    /// A command or its arguments are malformed.
    #[error("malformed command: {0}")]
    Amf(#[from] amf::Error),
    /// A command without a name.
    #[error("a command without a name")]
    CommandName,
}
