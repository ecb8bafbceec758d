//! H.264 (RFC 6184, packetization-mode 1).

/// Slice of an IDR picture.
pub const IDR: u8 = 5;
/// Sequence parameter set.
pub const SPS: u8 = 7;
/// Several units in a packet.
pub const STAP_A: u8 = 24;
/// A fragment of a unit.
pub const FU_A: u8 = 28;
