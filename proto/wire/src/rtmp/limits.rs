use std::time::Duration;

use super::chunk::Bounds;
use crate::amf;

/// What one connection may cost. The defaults are the named constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accept until `connect` is complete.
    pub handshake: Duration,
    /// Connected, but nothing published or played.
    pub idle_request: Duration,
    /// Bytes after the handshake until `connect` is complete.
    pub bytes_before_connect: usize,
    /// Bytes of one message until a publish was accepted.
    pub message_before_publish: u32,
    /// Bytes of one message of an accepted publisher, at most [`super::chunk::MAX_LENGTH`] by the format.
    pub message: u32,
    /// Chunk streams of one connection.
    pub chunk_streams: usize,
    /// Bytes allocated for the partly received messages of one connection.
    pub partial_bytes: usize,
    /// Bytes kept that came behind a request which the shell has not answered yet.
    pub held_bytes: usize,
    /// Bytes of answers not yet polled.
    pub pending_out: usize,
    /// What one command may hold.
    pub amf: amf::Limits,
    /// Bytes of an application name, of a stream name and of a virtual host, each.
    pub name: usize,
    /// Bytes of a query string.
    pub query: usize,
    /// Whether the address that a go-oryx proxy puts before the handshake (0xF3) is believed. It must be off wherever a
    /// client can reach the port without that proxy.
    pub proxy_prefix: bool,
}

impl Limits {
    /// From accept until `connect` is complete.
    pub const HANDSHAKE: Duration = Duration::from_secs(10);
    /// Connected, but nothing published or played.
    pub const IDLE_REQUEST: Duration = Duration::from_secs(30);
    /// Bytes after the handshake until `connect` is complete.
    pub const BYTES_BEFORE_CONNECT: usize = 64 * 1024;
    /// Bytes of one message until a publish was accepted.
    pub const MESSAGE_BEFORE_PUBLISH: u32 = 64 * 1024;
    /// Bytes of one message of an accepted publisher.
    pub const MESSAGE: u32 = 16 * 1024 * 1024;
    /// Chunk streams of one connection.
    pub const CHUNK_STREAMS: usize = 64;
    /// Bytes allocated for the partly received messages of one connection.
    pub const PARTIAL_BYTES: usize = 24 * 1024 * 1024;
    /// Bytes kept behind an unanswered request.
    pub const HELD_BYTES: usize = 256 * 1024;
    /// Bytes of answers not yet polled.
    pub const PENDING_OUT: usize = 256 * 1024;
    /// Bytes of a name. A stream's name becomes a file name with a suffix, and those end at 255 bytes.
    pub const NAME: usize = 200;
    /// Bytes of a query string: a signed token fits.
    pub const QUERY: usize = 4096;

    /// What the chunk reader accepts before a publish.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            message: self.message_before_publish,
            chunk_streams: self.chunk_streams,
            partial_bytes: self.partial_bytes,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Self::HANDSHAKE,
            idle_request: Self::IDLE_REQUEST,
            bytes_before_connect: Self::BYTES_BEFORE_CONNECT,
            message_before_publish: Self::MESSAGE_BEFORE_PUBLISH,
            message: Self::MESSAGE,
            chunk_streams: Self::CHUNK_STREAMS,
            partial_bytes: Self::PARTIAL_BYTES,
            held_bytes: Self::HELD_BYTES,
            pending_out: Self::PENDING_OUT,
            amf: amf::Limits::default(),
            name: Self::NAME,
            query: Self::QUERY,
            proxy_prefix: false,
        }
    }
}
