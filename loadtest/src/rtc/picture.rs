//! A picture that costs nothing to make: grey, 640x360, in constrained baseline H.264 (ITU-T H.264), as large as wanted
//! by filler data. Every decoder shows it.

/// Macroblocks across and down; the last row shows half of its height.
const ACROSS: u32 = 40;
const DOWN: u32 = 23;
/// Lines below the picture, in units of two.
const CROPPED: u32 = 4;
const PROFILE: [u8; 3] = [66, 0xe0, 31];
/// Bits of `frame_num`.
const FRAME_NUM_BITS: u32 = 8;

/// NAL unit headers: type and importance.
const SPS: u8 = 0x67;
const PPS: u8 = 0x68;
const IDR: u8 = 0x65;
const INTER: u8 = 0x41;
const FILLER: u8 = 0x0c;

/// Writes bits, high ones first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from(value >> bit & 1 == 1) << (7 - self.used % 8);
            }
            self.used += 1;
        }
    }

    /// ue(v), clause 9.1; of small values.
    fn golomb(&mut self, value: u32) {
        let length = u32::BITS - (value + 1).leading_zeros();
        self.put(0, length - 1);
        self.put(value + 1, length);
    }

    /// The NAL unit, with the stop bit and without sequences that look like a start code (clause 7.4.1).
    fn nal(mut self, header: u8) -> Vec<u8> {
        self.put(1, 1);
        let mut nal = vec![header];
        let mut zeros = 0;
        for byte in self.bytes {
            if zeros == 2 && byte < 4 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}

/// Sequence and picture parameter set.
pub(super) fn parameter_sets() -> [Vec<u8>; 2] {
    let mut sps = Bits::default();
    for byte in PROFILE {
        sps.put(byte.into(), 8);
    }
    // seq_parameter_set_id, log2_max_frame_num_minus4, pic_order_cnt_type (2: as decoded), max_num_ref_frames.
    for value in [0, FRAME_NUM_BITS - 4, 2, 1] {
        sps.golomb(value);
    }
    sps.put(0, 1);
    sps.golomb(ACROSS - 1);
    sps.golomb(DOWN - 1);
    // frame_mbs_only_flag, direct_8x8_inference_flag, frame_cropping_flag.
    sps.put(0b111, 3);
    for value in [0, 0, 0, CROPPED] {
        sps.golomb(value);
    }
    sps.put(0, 1);
    let mut pps = Bits::default();
    pps.golomb(0);
    pps.golomb(0);
    // CAVLC; no order of bottom fields.
    pps.put(0, 2);
    // num_slice_groups_minus1, num_ref_idx_l0_default_active_minus1, num_ref_idx_l1_default_active_minus1.
    (0..3).for_each(|_| pps.golomb(0));
    pps.put(0, 3);
    // pic_init_qp_minus26, pic_init_qs_minus26, chroma_qp_index_offset.
    (0..3).for_each(|_| pps.golomb(0));
    // deblocking_filter_control_present_flag alone.
    pps.put(0b100, 3);
    [sps.nal(SPS), pps.nal(PPS)]
}

/// The slice of picture `number` of a GOP; 0 is the keyframe. `gop` numbers the keyframes.
pub(super) fn slice(number: u32, gop: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    let key = number == 0;
    // first_mb_in_slice, slice_type (I or P, as all slices of the picture), pic_parameter_set_id.
    for value in [0, if key { 7 } else { 5 }, 0] {
        bits.golomb(value);
    }
    bits.put(number % (1 << FRAME_NUM_BITS), FRAME_NUM_BITS);
    if key {
        // idr_pic_id differs from that of the keyframe before.
        bits.golomb(gop % 2);
        bits.put(0, 2);
    } else {
        // No other number of references, no other order of them, no marking.
        bits.put(0, 3);
    }
    // slice_qp_delta; no deblocking.
    bits.golomb(0);
    bits.golomb(1);
    if key {
        // Each macroblock: Intra 16x16 by DC, chroma by DC, no residual, which is medium grey.
        (0..ACROSS * DOWN).for_each(|_| bits.put(0b0010_0111, 8));
    } else {
        // mb_skip_run over the whole picture.
        bits.golomb(ACROSS * DOWN);
    }
    bits.nal(if key { IDR } else { INTER })
}

/// A filler data NAL unit of `length` bytes, at least 2 (clause 7.3.2.7).
pub(super) fn filler(length: usize) -> Vec<u8> {
    let mut nal = vec![0xff; length.max(2)];
    if let [first, .., last] = nal.as_mut_slice() {
        (*first, *last) = (FILLER, 0x80);
    }
    nal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_length() {
        let mut bits = Bits::default();
        for value in [0, 1, 2, 3, 7, 919] {
            bits.golomb(value);
        }
        let text: String = bits.bytes.iter().map(|byte| format!("{byte:08b}")).collect();
        assert!(text.starts_with("10100110010000010000000000001110011000"), "{text}");
    }

    #[test]
    fn nothing_looks_like_a_start_code() {
        let mut nals = parameter_sets().to_vec();
        nals.extend((0..600).map(|number| slice(number % 300, number)));
        nals.push(filler(1000));
        for nal in nals {
            assert!(!nal.windows(3).any(|three| three[0] == 0 && three[1] == 0 && three[2] < 3), "{nal:?}");
            assert_ne!(nal.last(), Some(&0));
        }
    }

    #[test]
    fn profile_is_the_one_that_is_offered() {
        let [sps, _] = parameter_sets();
        assert_eq!(sps[..4], [0x67, 0x42, 0xe0, 0x1f]);
    }
}
