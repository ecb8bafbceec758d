//! What a router asks of a payload without putting frames together.

use weir_media::codec::{av1, avc, hevc};

use super::{h264, h265, nal, vp8, vp9};
use crate::rtp::Codec;

/// What one packet's payload says of the frame that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// A decoder can begin here: the first packet of a keyframe, or of the parameter sets in front of one. More than
    /// one packet of a keyframe may say so (its parameter sets and its first slice); the first is meant.
    pub keyframe: bool,
    /// No other frame refers to this one: it may be left out.
    pub disposable: bool,
    /// Temporal layer, where the format tells; 0 is the base.
    pub temporal: u8,
    /// Spatial layer, where the format tells; 0 is the base.
    pub spatial: u8,
}

impl Look {
    /// Reads what the payload of an RTP packet says; of one that is malformed, nothing.
    pub fn at(codec: Codec, payload: &[u8]) -> Self {
        match codec {
            Codec::H264 => look_h264(payload),
            Codec::H265 => look_h265(payload),
            Codec::Vp8 => look_vp8(payload),
            Codec::Vp9 => look_vp9(payload),
            Codec::Av1 => look_av1(payload),
            Codec::Opus => Self::default(),
        }
    }
}

/// Whether a decoder can begin with this packet. See [`Look::keyframe`].
pub fn is_keyframe_start(codec: Codec, payload: &[u8]) -> bool {
    Look::at(codec, payload).keyframe
}

fn look_h264(payload: &[u8]) -> Look {
    let Some((&head, rest)) = payload.split_first() else { return Look::default() };
    let disposable = head & 0x60 == 0;
    let keyframe = match head & 0x1f {
        h264::STAP_A => nal::Sized16(rest).any(|nal| h264_begins(nal.first().copied(), nal.get(1))),
        h264::FU_A => match rest {
            [fu, rest @ ..] if fu & 0x80 != 0 => h264_begins(Some(*fu), rest.first()),
            _ => false,
        },
        _ => h264_begins(Some(head), rest.first()),
    };
    Look { keyframe, disposable, ..Look::default() }
}

/// A sequence parameter set, or the slice of an IDR picture with its first macroblock: first_mb_in_slice is ue(v), of
/// which zero is the single bit 1 (7.3.3 and 9.1 of H.264).
fn h264_begins(head: Option<u8>, next: Option<&u8>) -> bool {
    match head.map(|head| head & 0x1f) {
        Some(avc::unit::SPS) => true,
        Some(avc::unit::IDR) => next.is_some_and(|next| next & 0x80 != 0),
        _ => false,
    }
}

fn look_h265(payload: &[u8]) -> Look {
    let Some((&[first, second], rest)) = payload.split_first_chunk() else { return Look::default() };
    let temporal = (second & 7).saturating_sub(1);
    let kind = hevc::kind(&[first]);
    let (keyframe, inner) = match kind {
        h265::AP => {
            let mut inner = nal::Sized16(rest);
            let first = inner.next().map_or(kind, hevc::kind);
            let any = nal::Sized16(rest).any(|nal| match nal {
                [_, _, next, ..] => h265_begins(hevc::kind(nal), Some(*next)),
                _ => false,
            });
            (any, first)
        }
        h265::FU => match rest {
            [fu, rest @ ..] => (fu & 0x80 != 0 && h265_begins(fu & 0x3f, rest.first().copied()), fu & 0x3f),
            [] => (false, kind),
        },
        _ => (h265_begins(kind, rest.first().copied()), kind),
    };
    // Sub-layer non-reference pictures have the even numbers up to RSV_VCL_N14 (7.4.2.2 of H.265).
    Look { keyframe, disposable: inner < 16 && inner % 2 == 0, temporal, spatial: 0 }
}

/// A parameter set of video or sequence, or the first slice segment of an IRAP picture: first_slice_segment_in_pic_flag
/// is the first bit behind the header (7.3.6.1 of H.265).
fn h265_begins(kind: u8, next: Option<u8>) -> bool {
    match kind {
        hevc::unit::VPS | hevc::unit::SPS => true,
        _ if hevc::is_irap(kind) => next.is_some_and(|next| next & 0x80 != 0),
        _ => false,
    }
}

fn look_vp8(payload: &[u8]) -> Look {
    let Some((descriptor, frame)) = vp8::Descriptor::parse(payload) else { return Look::default() };
    let starts = descriptor.start && descriptor.partition == 0;
    // Bit 0 of a frame is 0 in keyframes (RFC 7741 4.3).
    let keyframe = starts && frame.first().is_some_and(|first| first & 1 == 0);
    Look { keyframe, disposable: descriptor.non_reference, temporal: descriptor.temporal.unwrap_or(0), spatial: 0 }
}

fn look_vp9(payload: &[u8]) -> Look {
    let Some((descriptor, _)) = vp9::Descriptor::parse(payload) else { return Look::default() };
    let spatial = descriptor.spatial;
    let keyframe = descriptor.begin && !descriptor.predicted && spatial == 0;
    Look { keyframe, disposable: false, temporal: descriptor.temporal, spatial }
}

/// The N bit: the packet begins a new coded video sequence (4.4 of the payload format). Some senders leave it out: then
/// a sequence header in front tells.
fn look_av1(payload: &[u8]) -> Look {
    let Some((&head, rest)) = payload.split_first() else { return Look::default() };
    let begins = head & 0x80 == 0;
    let mut look = Look { keyframe: begins && head & 0x08 != 0, ..Look::default() };
    let first = if (head >> 4) & 3 == 1 { Some(rest) } else { av1::read_leb128(rest).map(|(_, rest)| rest) };
    if let (true, Some([kind, rest @ ..])) = (begins, first) {
        look.keyframe |= av1::kind(*kind) == av1::unit::SEQUENCE_HEADER;
        if let (true, Some(layers)) = (kind & 0x04 != 0, rest.first()) {
            look.temporal = layers >> 5;
            look.spatial = (layers >> 3) & 3;
        }
    }
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(codec: Codec, payload: &[u8]) -> bool {
        is_keyframe_start(codec, payload)
    }

    #[test]
    fn h264_keyframes() {
        assert!(key(Codec::H264, &[0x67, 0x42, 0xe0, 0x1f]), "a parameter set");
        assert!(key(Codec::H264, &[0x65, 0x88]), "first slice of an IDR picture");
        assert!(!key(Codec::H264, &[0x65, 0x40]), "its second slice");
        assert!(!key(Codec::H264, &[0x41, 0x9a]), "a P slice");
        assert!(!key(Codec::H264, &[0x68, 0xce]), "a picture parameter set alone");
        assert!(key(Codec::H264, &[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xce]), "sets put together");
        assert!(key(Codec::H264, &[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x65, 0x88]), "SEI and IDR put together");
        assert!(!key(Codec::H264, &[0x78, 0, 9, 0x67, 0x42]), "cut short");
        assert!(key(Codec::H264, &[0x7c, 0x85, 0x88]), "the first fragment of an IDR slice");
        assert!(!key(Codec::H264, &[0x7c, 0x05, 0x88]), "one in the middle");
        assert!(!key(Codec::H264, &[0x7c, 0x81, 0x9a]), "the first of a P slice");
        assert!(Look::at(Codec::H264, &[0x01, 0x9a]).disposable, "nal_ref_idc 0");
        assert!(!Look::at(Codec::H264, &[0x41, 0x9a]).disposable);
    }

    #[test]
    fn h265_keyframes() {
        assert!(key(Codec::H265, &[0x40, 1, 0x0c]), "VPS");
        assert!(key(Codec::H265, &[0x42, 1, 0x01]), "SPS");
        assert!(key(Codec::H265, &[0x26, 1, 0xaf]), "IDR_W_RADL, first segment");
        assert!(!key(Codec::H265, &[0x26, 1, 0x2f]), "a later segment");
        assert!(key(Codec::H265, &[0x60, 1, 0, 3, 0x40, 1, 0x0c, 0, 3, 0x42, 1, 1]), "aggregated");
        assert!(key(Codec::H265, &[0x62, 1, 0x93, 0xaf]), "first fragment of IDR_W_RADL");
        assert!(!key(Codec::H265, &[0x62, 1, 0x13, 0xaf]), "a later fragment");
        assert!(!key(Codec::H265, &[0x02, 1, 0xd0]), "TRAIL_R");
        assert!(Look::at(Codec::H265, &[0x00, 2, 0xd0]).disposable, "TRAIL_N");
        assert_eq!(Look::at(Codec::H265, &[0x00, 2, 0xd0]).temporal, 1);
    }

    #[test]
    fn vp8_keyframes() {
        assert!(key(Codec::Vp8, &[0x10, 0x00]), "partition 0 begins, P is 0");
        assert!(!key(Codec::Vp8, &[0x10, 0x01]), "an inter frame");
        assert!(!key(Codec::Vp8, &[0x00, 0x00]), "not the first packet");
        assert!(!key(Codec::Vp8, &[0x11, 0x00]), "partition 1");
        let extended = [0x90, 0xe0, 0x80, 0x11, 7, 0x40, 0x00];
        assert!(key(Codec::Vp8, &extended), "behind picture id, TL0PICIDX and TID");
        assert_eq!(Look::at(Codec::Vp8, &extended).temporal, 1);
        assert!(Look::at(Codec::Vp8, &[0x30, 0x01]).disposable, "N");
    }

    #[test]
    fn vp9_keyframes() {
        assert!(key(Codec::Vp9, &[0x88, 0x01, 0x82]), "B, not P");
        assert!(!key(Codec::Vp9, &[0xc8, 0x01, 0x82]), "P");
        assert!(!key(Codec::Vp9, &[0x84, 0x01, 0x82]), "E without B");
        assert!(key(Codec::Vp9, &[0xa8, 0x01, 0x00, 0x05, 0x82]), "the base layer");
        let upper = [0xa8, 0x01, 0x23, 0x05, 0x82];
        assert!(!key(Codec::Vp9, &upper), "a layer above it");
        assert_eq!((Look::at(Codec::Vp9, &upper).spatial, Look::at(Codec::Vp9, &upper).temporal), (1, 1));
    }

    #[test]
    fn av1_keyframes() {
        assert!(key(Codec::Av1, &[0x18, 0x08, 0]), "N");
        assert!(!key(Codec::Av1, &[0x98, 0x08, 0]), "N in a continuation is not to be believed");
        assert!(key(Codec::Av1, &[0x10, 0x08, 0]), "a sequence header without N");
        assert!(key(Codec::Av1, &[0x20, 2, 0x08, 0, 0x30]), "the same with a length");
        assert!(!key(Codec::Av1, &[0x10, 0x30, 0]), "a frame");
    }

    #[test]
    fn fuzz_look() {
        let all = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|payload: &[u8]| {
            for codec in all {
                let _ = Look::at(codec, payload);
            }
        });
    }
}
