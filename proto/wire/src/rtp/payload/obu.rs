//! Open bitstream units of AV1 (5.3 of the AV1 specification), as far as payloads need them.

/// `OBU_SEQUENCE_HEADER`.
pub const SEQUENCE_HEADER: u8 = 1;

/// obu_type of a header's first byte.
pub fn kind(head: u8) -> u8 {
    (head >> 3) & 0x0f
}

/// Reads a leb128 (4.10.5) of at most 32 bits and gives what is behind it.
pub fn read_leb128(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().enumerate().take(8) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, bytes.get(i + 1..)?));
        }
    }
    None
}
