//! The internal relay: how frames travel between an edge worker and an origin worker.
//!
//! One connection carries all streams of an edge worker, both ways. Everything on it is a [`Record`]; claim, subscribe,
//! end and refusal are records too, so that they are ordered with the frames. A record is at most 64 KiB on the wire;
//! a larger frame is continued in further records, between which other streams' records may lie.
//!
//! ```text
//! record  = length:u24  type:u8  channel:u32  payload       length counts the payload; integers are big-endian
//! frame   = epoch:u64 seq:u64 dts:i64 kind:u8 total:u32 body    total counts the whole body; the rest follows in `more`
//!                                                               kind's high bit: it stands in for others
//! ```
//!
//! A channel is a number chosen by the edge; it stands for one publication or one subscription on that connection.

mod decode;
mod groups;
mod outq;
mod record;

pub use decode::Decoder;
pub use groups::{Assembler, Group};
pub use outq::{CONTROL_MAX, Full, OutQueue, Policy};
pub use record::{Error, FRAME_MAX, RECORD_MAX, Record, Refusal, VERSION, encode};

use weir_media::Frame;

/// What a frame that waits is counted as beside its body, in bytes: itself, its place in a queue and the allocation of
/// its body. Without it very many tiny frames would cost far more memory than any bound of bytes says.
pub const FRAME_COST: usize = 128;

const _: () = assert!(size_of::<Frame>() < FRAME_COST);

/// What a frame that waits is counted as, in bytes.
fn cost(frame: &Frame) -> usize {
    frame.body.len() + FRAME_COST
}
