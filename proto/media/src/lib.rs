//! What a stream is: frames, codec configuration, the group of pictures, and the fan-out log.
//!
//! Pure: no I/O, no clock, no async. The canonical frame body is the (enhanced) FLV tag body, so RTMP and FLV pass
//! through untouched and every other muxer reads it through parsed accessors. Times are `i64` microseconds; a wire
//! format's own unit stays at its border.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod body;
pub mod codec;
pub mod describe;
pub mod flv;
mod frame;
mod gop;
mod log;
mod timeline;

pub use frame::{Epoch, Frame, FrameId, Kind, StreamName};
pub use gop::{Configs, Gop, GopLimits};
pub use log::{BLOCK, Log, Prelude};
pub use timeline::Timeline;
