//! Payload formats: frames into packets, packets into frames, and what can be seen of a packet alone.

pub mod h264;
pub mod h265;
mod inspect;
pub mod nal;
pub mod obu;
pub mod vp8;
pub mod vp9;

pub use inspect::{Look, is_keyframe_start};
