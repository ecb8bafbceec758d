use bytes::Bytes;
use rtc::rtcp;
use rtc::shared::marshal::{Marshal, Unmarshal};

use super::write::packet;
use super::*;

/// What the `rtc` crate makes of a compound.
fn theirs(mut compound: &[u8]) -> Vec<Box<dyn rtcp::packet::Packet>> {
    rtcp::packet::unmarshal(&mut compound).unwrap()
}

fn only(compound: &[u8]) -> Packet<'_> {
    let mut packets = parse(compound);
    let packet = packets.next().unwrap();
    assert!(packets.next().is_none());
    packet
}

const BLOCKS: [Block; 2] = [
    Block { ssrc: 7, fraction_lost: 25, lost: 1_000, highest: 0x1_ffff, jitter: 90, last_report: 5, delay: 65_536 },
    Block { ssrc: 8, fraction_lost: 0, lost: -3, highest: 1, jitter: 0, last_report: 0, delay: 0 },
];

#[test]
fn reports_there_and_back() {
    let mut out = Vec::new();
    let info = SenderInfo { ntp: 0x0123_4567_89ab_cdef, rtp: 90_000, packets: 10, octets: 12_000 };
    sender_report(&mut out, 1, &info, &BLOCKS);
    receiver_report(&mut out, 2, &BLOCKS[..1]);
    for name in ["", "a", "ab", "abc", "abcd"] {
        cname(&mut out, 1, name);
    }
    bye(&mut out, &[1, 2]);
    let found = theirs(&out);
    assert_eq!(found.len(), 8);
    let report = found[0].as_any().downcast_ref::<rtcp::sender_report::SenderReport>().unwrap();
    assert_eq!((report.ssrc, report.ntp_time, report.rtp_time), (1, info.ntp, 90_000));
    assert_eq!((report.packet_count, report.octet_count, report.reports.len()), (10, 12_000, 2));
    assert_eq!((report.reports[0].fraction_lost, report.reports[0].total_lost), (25, 1_000));
    assert_eq!((report.reports[0].last_sequence_number, report.reports[0].delay), (0x1_ffff, 65_536));
    let description = found[6].as_any().downcast_ref::<rtcp::source_description::SourceDescription>().unwrap();
    assert_eq!(description.chunks[0].items[0].text, "abcd");

    let mut packets = parse(&out);
    let Some(Packet::SenderReport { ssrc: 1, info: read, blocks }) = packets.next() else { panic!() };
    assert_eq!((read, blocks.collect::<Vec<_>>()), (info, BLOCKS.to_vec()));
    let Some(Packet::ReceiverReport { ssrc: 2, blocks }) = packets.next() else { panic!() };
    assert_eq!(blocks.collect::<Vec<_>>(), BLOCKS[..1]);
    let Some(Packet::Bye { sources }) = packets.next() else { panic!("descriptions are skipped") };
    assert_eq!(sources.collect::<Vec<_>>(), [1, 2]);
    assert!(packets.next().is_none());
}

#[test]
fn losses_stay_within_their_bits() {
    for (lost, read) in [(i32::MAX, 0x7f_ffff), (i32::MIN, -0x80_0000), (-1, -1), (0x7f_fffe, 0x7f_fffe)] {
        let mut out = Vec::new();
        receiver_report(&mut out, 2, &[Block { lost, fraction_lost: 255, ..BLOCKS[0] }]);
        let Packet::ReceiverReport { mut blocks, .. } = only(&out) else { panic!() };
        assert_eq!(blocks.next(), Some(Block { lost: read, fraction_lost: 255, ..BLOCKS[0] }));
    }
    let mut out = Vec::new();
    receiver_report(&mut out, 2, &[BLOCKS[0]; 40]);
    let Packet::ReceiverReport { blocks, .. } = only(&out) else { panic!() };
    assert_eq!(blocks.count(), BLOCKS_MAX);
}

#[test]
fn feedback_there_and_back() {
    let lost = [65_530, 65_531, 65_535, 0, 10, 11, 400, 417];
    let mut out = Vec::new();
    nack(&mut out, 1, 2, &[]);
    assert!(out.is_empty(), "no loss, no packet");
    nack(&mut out, 1, 2, &lost);
    pli(&mut out, 1, 2);
    fir(&mut out, 1, 2, 9);
    let found = theirs(&out);
    let theirs =
        found[0].as_any().downcast_ref::<rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack>();
    assert_eq!(theirs.unwrap().nacks.iter().flat_map(|pair| pair.packet_list()).collect::<Vec<_>>(), lost);
    assert_eq!(theirs.unwrap().nacks.len(), 4);
    assert_eq!(found[1].destination_ssrc(), [2]);
    assert_eq!(found[2].destination_ssrc(), [2]);
    let mut packets = parse(&out);
    let Some(Packet::Nack { sender: 1, media: 2, lost: read }) = packets.next() else { panic!() };
    assert_eq!(read.collect::<Vec<_>>(), lost);
    let Some(Packet::Pli { sender: 1, media: 2 }) = packets.next() else { panic!() };
    let Some(Packet::Fir { sender: 1, mut requests }) = packets.next() else { panic!() };
    assert_eq!(requests.next(), Some((2, 9)));
}

#[test]
fn what_the_other_side_writes() {
    let theirs = rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack {
        sender_ssrc: 1,
        media_ssrc: 2,
        nacks: rtcp::transport_feedbacks::transport_layer_nack::nack_pairs_from_sequence_numbers(&[
            5, 6, 21, 22, 65_535,
        ]),
    };
    let bytes = theirs.marshal().unwrap();
    let Packet::Nack { lost, .. } = only(&bytes) else { panic!() };
    assert_eq!(lost.collect::<Vec<_>>(), [5, 6, 21, 22, 65_535]);
    let reason = rtcp::goodbye::Goodbye { sources: vec![3], reason: Bytes::from_static(b"gone") }.marshal().unwrap();
    let Packet::Bye { mut sources } = only(&reason) else { panic!() };
    assert_eq!((sources.next(), sources.next()), (Some(3), None), "the reason is not a source");
}

#[test]
fn the_pairs_of_a_compound_are_bounded() {
    let lost: Vec<u16> = (0..600).map(|n| n * 20).collect();
    let mut out = Vec::new();
    nack(&mut out, 1, 2, &lost);
    assert_eq!(out.len(), 12 + 4 * NACK_PAIRS_MAX);
    let whole = out.clone();
    out.extend(whole);
    let mut packets = parse(&out);
    let Some(Packet::Nack { lost: first, .. }) = packets.next() else { panic!() };
    let Some(Packet::Nack { lost: second, .. }) = packets.next() else { panic!() };
    assert_eq!((first.count(), second.count()), (NACK_PAIRS_MAX, 0));
}

#[test]
fn what_is_malformed_ends_the_compound_and_what_is_unknown_does_not() {
    let mut good = Vec::new();
    pli(&mut good, 1, 2);
    let after = |middle: &[u8]| {
        let compound = [&good[..], middle, &good].concat();
        parse(&compound).count()
    };
    assert_eq!(after(&[]), 2);
    assert_eq!(after(&[0x80, 204, 0, 1, 1, 2, 3, 4]), 2, "application-defined");
    assert_eq!(after(&[0x80, 207, 0, 0]), 2, "extended report");
    assert_eq!(after(&[0x8f, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]), 2, "REMB, and what else has no name here");
    assert_eq!(after(&[0x40, 200, 0, 0]), 1, "version 1");
    assert_eq!(after(&[0x81, 201, 0, 1, 0, 0, 0, 1]), 1, "a block that is not there");
    assert_eq!(after(&[0x80, 200, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]), 1, "half a sender report");
    assert_eq!(after(&[0x81, 206, 0, 1, 0, 0, 0, 1]), 1, "no source");
    assert_eq!(after(&[0x80, 204, 0xff, 0xff]), 1, "past the end");
    assert_eq!(after(&[0xa0, 201, 0, 1, 0, 0, 0, 5]), 1, "more padding than packet");
    assert_eq!(after(&[0xa0, 201, 0, 1, 0, 0, 0, 0]), 1, "padding of no bytes");
    for end in 0..good.len() {
        assert_eq!(parse(&good[..end]).count(), 0);
    }
    // Padding is no loss report.
    let mut padded = vec![0xa1, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 9, 0, 0, 0, 0, 0, 4];
    let Packet::Nack { lost, .. } = only(&padded) else { panic!() };
    assert_eq!(lost.collect::<Vec<_>>(), [9]);
    padded[19] = 8;
    let Packet::Nack { lost, .. } = only(&padded) else { panic!() };
    assert_eq!(lost.count(), 0);
}

/// A feedback packet with the given words after the two identifiers.
fn feedback(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    packet(&mut out, TRANSPORT_FEEDBACK, TRANSPORT_CC, |out| {
        out.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        out.extend(body);
    });
    out
}

fn arrivals(packet: &[u8]) -> Vec<(u16, Option<i64>)> {
    let Packet::TransportCc(feedback) = only(packet) else { panic!() };
    assert_eq!((feedback.sender, feedback.media), (1, 2));
    feedback.collect()
}

#[test]
fn transport_wide_feedback() {
    // From 65,535: two with short deltas, a run of two lost, then of a two-bit vector: long, lost, short.
    let body = [0xff, 0xff, 0, 7, 0, 0, 2, 1, 0x20, 2, 0, 2, 0b1110_0001, 0, 4, 8, 0xff, 0xf8, 1, 0, 0, 0];
    let expected = [
        (65_535, Some(129_000)),
        (0, Some(131_000)),
        (1, None),
        (2, None),
        (3, Some(129_000)),
        (4, None),
        (5, Some(129_250)),
    ];
    assert_eq!(arrivals(&feedback(&body)), expected);
    // A one-bit vector, a reference time below zero.
    let body = [0, 1, 0, 3, 0xff, 0xff, 0xff, 0, 0b1010_1000, 0, 1];
    assert_eq!(arrivals(&feedback(&body)), [(1, Some(-63_750)), (2, None)], "the third has no delta");
    let body = [0, 1, 0, 3, 0xff, 0xff, 0xff, 0, 0b0110_0000, 3];
    assert_eq!(arrivals(&feedback(&body)), [], "a reserved symbol");
    assert_eq!(parse(&feedback(&[0, 1, 0, 3, 0, 0, 0, 0])).count(), 0, "no chunk");
    assert_eq!(parse(&feedback(&[0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0])).count(), 0, "empty runs");
    let body = [
        0, 1, 0xff, 0xff, 0, 0, 0, 0, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f,
        0xff, 0x1f, 0xff, 0x1f, 0xff,
    ];
    assert_eq!(arrivals(&feedback(&body)).len(), usize::from(FEEDBACK_MAX));
}

/// Whatever comes, reading ends, within bounds.
#[test]
fn fuzz_parse() {
    bolero::check!().with_test_time(core::time::Duration::from_secs(2)).for_each(|bytes: &[u8]| {
        // As it is, and as feedback that gets past the header.
        let mut framed = vec![0x80 | bytes.first().map_or(0, |b| b & 0x1f), bytes.get(1).map_or(205, |b| 200 + b % 7)];
        framed.extend(((bytes.len() / 4) as u16).to_be_bytes());
        framed.extend(bytes);
        for compound in [bytes, &framed] {
            let mut lost_pairs = 0;
            assert!(parse(compound).count() <= compound.len() / 4);
            for packet in parse(compound) {
                match packet {
                    Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. } => {
                        assert!(blocks.count() <= BLOCKS_MAX);
                    }
                    Packet::Nack { lost, .. } => lost_pairs += lost.count(),
                    Packet::Fir { requests, .. } => assert!(requests.count() <= compound.len() / 8),
                    Packet::TransportCc(feedback) => assert!(feedback.count() <= usize::from(FEEDBACK_MAX)),
                    Packet::Bye { sources } => assert!(sources.count() <= BLOCKS_MAX),
                    Packet::Pli { .. } => {}
                }
            }
            assert!(lost_pairs <= 17 * NACK_PAIRS_MAX);
        }
    });
}

/// What is written is read again, here and by the other implementation.
#[test]
fn fuzz_nack() {
    let check = bolero::check!().with_test_time(core::time::Duration::from_secs(1));
    check.with_type::<(u16, Vec<u8>)>().for_each(|(first, steps)| {
        let mut numbers = vec![*first];
        for step in steps.iter().take(200) {
            numbers.push(numbers.last().unwrap().wrapping_add(u16::from(*step % 40) + 1));
        }
        let mut out = Vec::new();
        nack(&mut out, 1, 2, &numbers);
        let Packet::Nack { lost, .. } = only(&out) else { panic!() };
        assert_eq!(lost.collect::<Vec<_>>(), numbers);
        let other =
            rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack::unmarshal(&mut &out[..]).unwrap();
        assert_eq!(other.nacks.iter().flat_map(|pair| pair.packet_list()).collect::<Vec<_>>(), numbers);
    });
}
