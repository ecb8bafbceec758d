//! The time at which a frame was sent, inside the frame: an H.264 SEI NAL that passes through every server.

/// Of the user_data_unregistered message (ITU-T H.264 D.1.7) that holds the time; no run of zeros in it, so that it
/// needs no emulation prevention.
const UUID: [u8; 16] = [0x7d, 0x2e, 0x5b, 0x91, 0xc4, 0x0f, 0x4a, 0x36, 0x8e, 0xd3, 0x1c, 0x77, 0xa9, 0x52, 0xe6, 0xf8];
/// NAL header (type 6), payload type 5, payload size.
const SEI_HEAD: [u8; 3] = [6, 5, 32];
/// rbsp_trailing_bits.
const SEI_TAIL: u8 = 0x80;
const DIGITS: usize = 16;
/// Bytes of the NAL.
const NAL: usize = SEI_HEAD.len() + UUID.len() + DIGITS + 1;
/// FLV video header: frame type and codec, packet type, composition time.
const VIDEO_HEAD: usize = 5;
/// Parameter sets may come first in a packet; a stamp begins within so many bytes.
const REACH_IN_PACKET: usize = 200;
/// So many bytes of a body are enough to find its stamp.
pub(crate) const REACH: usize = VIDEO_HEAD + 4 + NAL;

/// Whether a tag body holds H.264 NAL units, and so can be stamped.
pub(crate) fn fits(body: &[u8]) -> bool {
    matches!(body, [0x17 | 0x27, 1, _, _, _, ..])
}

/// Appends `body`, which [`fits`], to `out` with the time `ns` in front of its first NAL unit. `length_size` (1 to 4)
/// is how many bytes a NAL unit's length takes in this stream.
pub(crate) fn put(out: &mut Vec<u8>, body: &[u8], length_size: usize, ns: u64) {
    let (head, nals) = body.split_at_checked(VIDEO_HEAD).unwrap_or((body, &[]));
    out.extend_from_slice(head);
    #[expect(clippy::cast_possible_truncation, reason = "36")]
    let length = (NAL as u32).to_be_bytes();
    out.extend_from_slice(length.get(length.len().saturating_sub(length_size)..).unwrap_or(&length));
    put_nal(out, ns);
    out.extend_from_slice(nals);
}

/// Appends the NAL unit alone.
pub(crate) fn put_nal(out: &mut Vec<u8>, ns: u64) {
    out.extend_from_slice(&SEI_HEAD);
    out.extend_from_slice(&UUID);
    for digit in (0..DIGITS).rev() {
        let [low, ..] = (ns >> (4 * digit)).to_le_bytes();
        let nibble = low & 0x0f;
        out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    }
    out.push(SEI_TAIL);
}

/// The time in the first packet of a frame over RTP, whatever NAL units are before it.
pub(crate) fn search(payload: &[u8]) -> Option<u64> {
    let head = payload.get(..REACH_IN_PACKET).unwrap_or(payload);
    let at = head.windows(UUID.len()).position(|window| window == UUID)?;
    let digits = payload.get(at + UUID.len()..)?.first_chunk::<DIGITS>()?;
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// The time that a video body begins with, of which the first [`REACH`] bytes are enough.
pub(crate) fn find(body: &[u8]) -> Option<u64> {
    if !fits(body) {
        return None;
    }
    let nals = body.get(VIDEO_HEAD..)?;
    let digits = [4, 2, 1, 3].into_iter().find_map(|length_size| {
        let nal = nals.get(length_size..)?.strip_prefix(&SEI_HEAD)?;
        nal.strip_prefix(&UUID)?.first_chunk::<DIGITS>()
    })?;
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_and_the_frame_unharmed() {
        let body = [0x17, 1, 0, 0, 40, 0, 0, 0, 2, 0x65, 0x88];
        for length_size in 1..=4 {
            for ns in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
                let mut out = Vec::new();
                put(&mut out, &body, length_size, ns);
                assert_eq!(find(&out), Some(ns));
                assert_eq!(find(&out[..VIDEO_HEAD + length_size + NAL]), Some(ns));
                assert_eq!(out[..5], body[..5]);
                assert_eq!(out[5 + length_size + NAL..], body[5..]);
                let length = out[5..5 + length_size].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
                assert_eq!(length, NAL);
                assert!(
                    !out[5 + length_size..][..NAL].windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 4),
                    "emulation"
                );
            }
        }
    }

    #[test]
    fn a_stamp_is_found_in_a_packet() {
        let mut packet = vec![24, 0, 4, 0x67, 1, 2, 3, 0, 36];
        put_nal(&mut packet, 0x0123_4567_89ab_cdef);
        assert_eq!(search(&packet), Some(0x0123_4567_89ab_cdef));
        assert_eq!(search(&packet[..packet.len() - 2]), None, "cut off");
        assert_eq!(search(&[0x41; 1000]), None);
        assert_eq!(search(&[]), None);
    }

    #[test]
    fn what_has_no_stamp() {
        assert_eq!(find(&[0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 0x9a]), None);
        assert_eq!(find(&[0x17, 0, 0, 0, 0, 1, 2]), None, "a sequence header");
        assert_eq!(find(&[]), None);
        let mut out = Vec::new();
        put(&mut out, &[0x17, 1, 0, 0, 0], 4, 5);
        assert_eq!(find(&out[..REACH - 2]), None, "cut off");
        assert!(!fits(&[0xaf, 1, 0, 0, 0]));
    }
}
