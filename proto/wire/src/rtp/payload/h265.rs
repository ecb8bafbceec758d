//! H.265 (RFC 7798).

/// Video parameter set.
pub const VPS: u8 = 32;
/// Sequence parameter set.
pub const SPS: u8 = 33;
/// Several units in a packet.
pub const AP: u8 = 48;
/// A fragment of a unit.
pub const FU: u8 = 49;

/// nal_unit_type of a header's first byte.
pub fn kind(head: u8) -> u8 {
    (head >> 1) & 0x3f
}

/// Pictures where a decoder can begin: BLA, IDR and CRA (and what is reserved for more of them).
pub fn is_irap(kind: u8) -> bool {
    (16..=23).contains(&kind)
}
