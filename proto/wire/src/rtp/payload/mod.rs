//! Payload formats: frames into packets, packets into frames, and what can be seen of a packet alone.
//!
//! A frame leaves as packets of one size but the last, so that the kernel can cut it (UDP_SEGMENT). What comes back
//! together is in the form that tag bodies hold: units with four bytes of length (H.264, H.265), units with their own
//! sizes (AV1), plain frames (VP8, VP9).

pub mod av1;
pub mod h264;
pub mod h265;
mod inspect;
mod nal;
pub mod vp8;
pub mod vp9;

pub use inspect::{Look, is_keyframe_start};

use bytes::{Bytes, BytesMut};

use super::Codec;

/// Payload in a packet: what is left of 1280 bytes of IPv6 behind the headers of IP, UDP, RTP with extensions, and SRTP.
pub const PAYLOAD_MAX: usize = 1200;

/// A frame put together from packets, in bytes: more is given up.
pub const FRAME_MAX: usize = 8 * 1024 * 1024;

/// Why packets make no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A payload is shorter than its own headers say.
    #[error("a payload is cut short")]
    Short,
    /// A fragment without its beginning, or a beginning without its end.
    #[error("a fragment without its others")]
    Fragment,
    /// Beyond [`FRAME_MAX`].
    #[error("a frame of more than {FRAME_MAX} bytes")]
    Long,
}

/// Puts a frame together and appends it to `out`. The payloads are all of the frame, in order.
///
/// # Errors
/// They make none; what was appended is to be dropped.
pub fn assemble<'a>(codec: Codec, payloads: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
    match codec {
        Codec::H264 => nal::assemble::<h264::Format>(payloads, out),
        Codec::H265 => nal::assemble::<h265::Format>(payloads, out),
        Codec::Av1 => av1::assemble(payloads, out),
        Codec::Vp8 => vp8::assemble(payloads, out),
        Codec::Vp9 => vp9::assemble(payloads, out),
        Codec::Opus => payloads.into_iter().try_for_each(|payload| append(out, payload)),
    }
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Error> {
    if out.len() + bytes.len() > FRAME_MAX {
        return Err(Error::Long);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Payloads of a frame, cut from one allocation.
struct Sink<'a> {
    arena: BytesMut,
    out: &'a mut Vec<Bytes>,
}

impl<'a> Sink<'a> {
    fn new(capacity: usize, out: &'a mut Vec<Bytes>) -> Self {
        Self { arena: BytesMut::with_capacity(capacity), out }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.arena.extend_from_slice(bytes);
    }

    /// What was put since the last one is a payload.
    fn done(&mut self) {
        self.out.push(self.arena.split().freeze());
    }
}

/// The size of each piece but the last when `length` bytes are cut into as few as have at most `room`.
fn even(length: usize, room: usize) -> usize {
    let room = room.max(1);
    length.div_ceil(length.div_ceil(room).max(1)).max(1)
}

#[cfg(test)]
mod tests;
