//! Wire protocols as state machines: bytes and time in, bytes and events out.
//!
//! No I/O, no clock, no randomness: `handle` takes what was read and the time, `poll` says what is to be done. Every
//! input is hostile, and each limit has a name.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod amf;
pub mod http;
pub mod relay;
pub mod rtmp;
pub mod rtp;
pub mod sdp;
pub mod signal;
pub mod srtp;
pub mod stun;
