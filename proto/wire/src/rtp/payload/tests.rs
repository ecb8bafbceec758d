use proptest::prelude::*;

use super::*;

/// Units with four bytes of length, as [`assemble`] gives them.
fn sized(units: &[Vec<u8>]) -> Vec<u8> {
    units.iter().flat_map(|unit| (unit.len() as u32).to_be_bytes().into_iter().chain(unit.iter().copied())).collect()
}

fn back(codec: Codec, packets: &[Bytes]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    assemble(codec, packets.iter().map(|packet| &packet[..]), &mut out).map(|()| out)
}

fn sizes(packets: &[Bytes]) -> Vec<usize> {
    packets.iter().map(Bytes::len).collect()
}

/// All of one size but the last, which may be shorter; none above the limit.
fn assert_even(packets: &[Bytes], max: usize) {
    let sizes = sizes(packets);
    let (last, others) = sizes.split_last().unwrap();
    assert!(others.iter().all(|size| *size == others[0]) && *last <= *others.first().unwrap_or(last), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= max), "{sizes:?}");
}

#[test]
fn h264_keyframe() {
    let units = [vec![0x67, 1, 2], vec![0x68, 3], [vec![0x65, 0x88], vec![7; 5000]].concat()];
    let mut packets = Vec::new();
    h264::packetise(&units.each_ref().map(|unit| &unit[..]), 1200, &mut packets);
    assert_eq!(&packets[0][..], [0x78, 0, 3, 0x67, 1, 2, 0, 2, 0x68, 3]);
    assert_eq!(&packets[1][..3], [0x7c, 0x85, 0x88], "the first fragment");
    assert_eq!(packets.last().unwrap()[..2], [0x7c, 0x45], "the last one");
    assert_eq!(packets.len(), 6);
    assert_even(&packets[1..], 1200);
    assert_eq!(back(Codec::H264, &packets), Ok(sized(&units)));
    let keys: Vec<_> = packets.iter().map(|packet| is_keyframe_start(Codec::H264, packet)).collect();
    assert_eq!(keys, [true, true, false, false, false, false]);
}

#[test]
fn fragments_that_do_not_fit_together() {
    let unit = [vec![0x41], vec![7; 3000]].concat();
    let mut packets = Vec::new();
    h264::packetise(&[&unit], 1200, &mut packets);
    assert_eq!(packets.len(), 3);
    assert_eq!(back(Codec::H264, &packets[1..]), Err(Error::Fragment), "no beginning");
    assert_eq!(back(Codec::H264, &packets[..2]), Err(Error::Fragment), "no end");
    let other = Bytes::from_static(&[0x41, 0x9a]);
    assert_eq!(back(Codec::H264, &[packets[0].clone(), other]), Err(Error::Fragment), "another between");
    assert_eq!(back(Codec::H264, &[Bytes::from_static(&[0x78, 0, 9, 1])]), Err(Error::Short));
    assert_eq!(back(Codec::H264, &[Bytes::new()]), Err(Error::Short));
    let huge = vec![packets[1].clone(); FRAME_MAX / 999];
    let huge = [&packets[..1], &huge].concat();
    assert_eq!(back(Codec::H264, &huge), Err(Error::Long));
}

#[test]
fn h265_keyframe() {
    let units = [vec![0x40, 1, 1], vec![0x42, 1, 2], vec![0x44, 1], [vec![0x26, 1, 0xaf], vec![7; 4000]].concat()];
    let mut packets = Vec::new();
    h265::packetise(&units.each_ref().map(|unit| &unit[..]), 1200, &mut packets);
    assert_eq!(packets[0][..5], [0x60, 1, 0, 3, 0x40]);
    assert_eq!(packets[1][..4], [0x62, 1, 0x93, 0xaf]);
    assert_even(&packets[1..], 1200);
    assert_eq!(back(Codec::H265, &packets), Ok(sized(&units)));
    assert!(is_keyframe_start(Codec::H265, &packets[0]) && !is_keyframe_start(Codec::H265, &packets[2]));
}

#[test]
fn av1_temporal_unit() {
    let mut unit = vec![0x12, 0, 0x0a, 3, 1, 2, 3, 0x32];
    weir_media::codec::av1::write_leb128(&mut unit, 5000);
    unit.extend([9; 5000]);
    let mut packets = Vec::new();
    av1::packetise(&unit, true, 1200, &mut packets);
    assert_eq!(packets[0][..7], [0x68, 4, 0x08, 1, 2, 3, 0x30], "torn, two elements, a new sequence");
    assert_eq!(packets[1][0], 0xd0);
    assert_eq!(packets.last().unwrap()[0], 0x90);
    assert_even(&packets, 1200);
    assert_eq!(back(Codec::Av1, &packets).unwrap(), unit[2..], "without the temporal delimiter");
    assert_eq!(back(Codec::Av1, &packets[1..]), Err(Error::Fragment));
    assert_eq!(back(Codec::Av1, &packets[..2]), Err(Error::Fragment));
    let lengths = Bytes::from_static(&[0x00, 2, 0x08, 5, 3, 0x30, 6, 7]);
    assert_eq!(back(Codec::Av1, &[lengths]).unwrap(), [0x0a, 1, 5, 0x32, 2, 6, 7], "W is 0");
}

#[test]
fn vp8_and_vp9() {
    let frame: Vec<u8> = (0..4000_u32).map(|i| i as u8).collect();
    let mut packets = Vec::new();
    vp8::packetise(&frame, 0x7fff, 1200, &mut packets);
    assert_even(&packets, 1200);
    assert_eq!(back(Codec::Vp8, &packets).unwrap(), frame);
    assert_eq!(back(Codec::Vp8, &packets[1..]), Err(Error::Fragment));
    let id = vp8::Descriptor::parse(&packets[0]).unwrap().0.picture_id;
    assert_eq!(id, Some((0x7fff, true)));
    let mut packets = Vec::new();
    vp9::packetise(&frame, true, 5, 1200, &mut packets);
    assert_even(&packets, 1200);
    assert_eq!(back(Codec::Vp9, &packets).unwrap(), frame);
    assert_eq!(back(Codec::Vp9, &packets[1..]), Err(Error::Fragment));
    assert!(is_keyframe_start(Codec::Vp9, &packets[0]) && !is_keyframe_start(Codec::Vp9, &packets[1]));
}

#[test]
fn vp9_layers_become_a_superframe() {
    let layers = [&[0xac, 1, 0x00, 0, 0x82, 1][..], &[0xac, 1, 0x03, 0, 0x86, 2, 3]].map(Bytes::copy_from_slice);
    let whole = back(Codec::Vp9, &layers).unwrap();
    assert_eq!(whole, [0x82, 1, 0x86, 2, 3, 0xd9, 2, 0, 0, 0, 3, 0, 0, 0, 0xd9]);
}

fn units(head: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let unit = prop::collection::vec(any::<u8>(), head..4000).prop_map(move |mut unit| {
        // A type that is neither an aggregate nor a fragment, and no forbidden bit.
        unit[0] = if head == 1 { unit[0] & 0x60 | 5 } else { unit[0] & 1 | 19 << 1 };
        unit
    });
    prop::collection::vec(unit, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_units_come_back(one in units(1), two in units(2), max in 64_usize..1500) {
        let (mut h264, mut h265) = (Vec::new(), Vec::new());
        h264::packetise(&one.iter().map(|unit| &unit[..]).collect::<Vec<_>>(), max, &mut h264);
        h265::packetise(&two.iter().map(|unit| &unit[..]).collect::<Vec<_>>(), max, &mut h265);
        prop_assert!(h264.iter().chain(&h265).all(|packet| packet.len() <= max));
        prop_assert_eq!(back(Codec::H264, &h264), Ok(sized(&one)));
        prop_assert_eq!(back(Codec::H265, &h265), Ok(sized(&two)));
    }

    #[test]
    fn any_temporal_unit_comes_back(
        obus in prop::collection::vec((3_u8..8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..3000)), 1..8),
        max in 64_usize..1500,
    ) {
        let mut unit = Vec::new();
        for (kind, layered, payload) in &obus {
            let head = [kind << 3 | u8::from(*layered) << 2, 0x28];
            let head = &head[..if *layered { 2 } else { 1 }];
            weir_media::codec::av1::write_obu(&mut unit, weir_media::codec::av1::Obu { head, payload });
        }
        let mut packets = Vec::new();
        av1::packetise(&unit, false, max, &mut packets);
        prop_assert!(packets.iter().all(|packet| packet.len() <= max));
        prop_assert_eq!(back(Codec::Av1, &packets), Ok(unit));
    }
}

#[test]
fn fuzz_assemble() {
    let all = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];
    bolero::check!().with_type::<Vec<Vec<u8>>>().with_test_time(core::time::Duration::from_secs(2)).for_each(
        |packets| {
            for codec in all {
                let mut out = Vec::new();
                let _ = assemble(codec, packets.iter().map(|packet| &packet[..]), &mut out);
                let most: usize = packets.iter().map(|packet| 8 * packet.len() + 64).sum();
                assert!(out.len() <= most);
            }
        },
    );
}
