//! Between the frames of the hub and the packets of WebRTC.
//!
//! [`to_rtc`] and [`to_rtmp`] are machines: values and time in, packets and frames out. [`audio`] has the codecs of
//! sound and the threads that run them.

pub(crate) mod audio;
#[cfg(test)]
mod tests;
pub(crate) mod to_rtc;
pub(crate) mod to_rtmp;
