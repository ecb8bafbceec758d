//! The RTCP that a browser exchanges with a server (RFC 3550 6, RFC 4585 6).

const SR: u8 = 200;
const RR: u8 = 201;
const SDES: u8 = 202;
const BYE: u8 = 203;
/// Transport-layer feedback; its format 1 is the generic NACK.
const RTPFB: u8 = 205;
/// Payload-specific feedback: its format 1 is PLI, format 4 is FIR.
const PSFB: u8 = 206;

/// Sequence numbers that are taken from one packet.
const NACKED_MAX: usize = 512;

/// What is read of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// A sender report: source, and the middle of its NTP time.
    Sender { ssrc: u32, ntp: u32 },
    /// Packets that are missing.
    Nack { sequences: Vec<u16> },
    /// A keyframe is wanted, by PLI or FIR.
    Keyframe,
    /// Something else.
    Other,
}

/// Reads a compound packet up to what is malformed in it.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(([first, kind, l0, l1], _)) = bytes.split_first_chunk::<4>() {
        let length = 4 * (usize::from(u16::from_be_bytes([*l0, *l1])) + 1);
        let Some((packet, rest)) = bytes.split_at_checked(length).filter(|_| first >> 6 == 2) else { break };
        packets.push(one(first & 0x1f, *kind, packet));
        bytes = rest;
    }
    packets
}

fn one(format: u8, kind: u8, packet: &[u8]) -> Packet {
    let word = |at: usize| packet.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    match (kind, format) {
        (SR, _) => match (word(4), word(10)) {
            (Some(ssrc), Some(ntp)) => Packet::Sender { ssrc, ntp },
            _ => Packet::Other,
        },
        (RTPFB, 1) => Packet::Nack { sequences: nacked(packet.get(12..).unwrap_or_default()) },
        (PSFB, 1 | 4) => Packet::Keyframe,
        _ => Packet::Other,
    }
}

/// RFC 4585 6.2.1: a sequence number, and a bit for each of the sixteen behind it.
fn nacked(items: &[u8]) -> Vec<u16> {
    let mut sequences = Vec::new();
    for item in items.as_chunks::<4>().0.iter().take(NACKED_MAX / 17) {
        let [p0, p1, m0, m1] = *item;
        let (first, mask) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([m0, m1]));
        sequences.push(first);
        sequences.extend((0..16).filter(|bit| mask >> bit & 1 == 1).map(|bit| first.wrapping_add(bit + 1)));
    }
    sequences
}

/// What a receiver says of one source (RFC 3550 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The source.
    pub(super) ssrc: u32,
    /// Lost since the last report, of 256.
    pub(super) fraction: u8,
    /// Lost since the start, 24 bits.
    pub(super) lost: u32,
    /// Highest sequence number, with its cycles.
    pub(super) highest: u32,
    /// In ticks.
    pub(super) jitter: u32,
    /// The middle of the last sender report's time.
    pub(super) last_report: u32,
    /// Since that came, in 1/65536 s.
    pub(super) delay: u32,
}

fn head(out: &mut Vec<u8>, count: u8, kind: u8, words: usize) {
    out.extend_from_slice(&[0x80 | count, kind]);
    out.extend_from_slice(&u16::try_from(words).unwrap_or(u16::MAX).to_be_bytes());
}

/// Appends a receiver report and the canonical name.
pub(super) fn put_receiver(out: &mut Vec<u8>, own: u32, blocks: &[Block]) {
    let blocks = blocks.get(..31).unwrap_or(blocks);
    #[expect(clippy::cast_possible_truncation, reason = "31 at most")]
    head(out, blocks.len() as u8, RR, 1 + 6 * blocks.len());
    out.extend_from_slice(&own.to_be_bytes());
    for block in blocks {
        let Block { ssrc, fraction, lost, highest, jitter, last_report, delay } = *block;
        let loss = u32::from(fraction) << 24 | lost.min(0x7f_ffff);
        for word in [ssrc, loss, highest, jitter, last_report, delay] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    put_name(out, own);
}

/// Appends a sender report (without blocks) and the canonical name. `ntp` is of 32.32 bits.
pub(super) fn put_sender(out: &mut Vec<u8>, own: u32, ntp: u64, rtp: u32, packets: u32, octets: u32) {
    head(out, 0, SR, 6);
    out.extend_from_slice(&own.to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
    for word in [rtp, packets, octets] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    put_name(out, own);
}

/// SDES with CNAME `load` (RFC 3550 6.5.1), which ends with two zeros of padding.
fn put_name(out: &mut Vec<u8>, own: u32) {
    head(out, 1, SDES, 3);
    out.extend_from_slice(&own.to_be_bytes());
    out.extend_from_slice(b"\x01\x04load\0\0");
}

/// Appends a NACK of these sequence numbers, which are in order.
pub(super) fn put_nack(out: &mut Vec<u8>, own: u32, media: u32, sequences: &[u16]) {
    let mut items: Vec<(u16, u16)> = Vec::new();
    for sequence in sequences {
        match items.last_mut() {
            Some((first, mask)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                *mask |= 1 << (sequence.wrapping_sub(*first) - 1);
            }
            _ => items.push((*sequence, 0)),
        }
    }
    head(out, 1, RTPFB, 2 + items.len());
    out.extend_from_slice(&own.to_be_bytes());
    out.extend_from_slice(&media.to_be_bytes());
    for (first, mask) in items {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&mask.to_be_bytes());
    }
}

/// Appends a PLI.
pub(super) fn put_keyframe(out: &mut Vec<u8>, own: u32, media: u32) {
    head(out, 1, PSFB, 2);
    out.extend_from_slice(&own.to_be_bytes());
    out.extend_from_slice(&media.to_be_bytes());
}

/// Appends a BYE.
pub(super) fn put_bye(out: &mut Vec<u8>, own: u32) {
    head(out, 1, BYE, 1);
    out.extend_from_slice(&own.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = Vec::new();
        let block = Block { ssrc: 7, fraction: 3, lost: 9, highest: 70_000, jitter: 5, last_report: 1, delay: 2 };
        put_receiver(&mut out, 1, &[block; 2]);
        put_nack(&mut out, 1, 2, &[65_530, 65_535, 0, 10, 11, 300]);
        put_keyframe(&mut out, 1, 2);
        put_sender(&mut out, 3, 0x1234_5678_9abc_def0, 5, 6, 7);
        put_bye(&mut out, 1);
        let wanted = [
            Packet::Other,
            Packet::Other,
            Packet::Nack { sequences: vec![65_530, 65_535, 0, 10, 11, 300] },
            Packet::Keyframe,
            Packet::Sender { ssrc: 3, ntp: 0x5678_9abc },
            Packet::Other,
            Packet::Other,
        ];
        assert_eq!(parse(&out), wanted);
        // As another implementation reads it.
        let packets = rtc::rtcp::packet::unmarshal(&mut out.as_slice()).unwrap();
        assert_eq!(packets.len(), wanted.len());
        let report = packets[0].as_any().downcast_ref::<rtc::rtcp::receiver_report::ReceiverReport>().unwrap();
        assert_eq!((report.ssrc, report.reports.len(), report.reports[1].total_lost), (1, 2, 9));
    }

    #[test]
    fn fuzz_packets() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            for packet in parse(bytes) {
                assert!(!matches!(packet, Packet::Nack { sequences } if sequences.len() > NACKED_MAX));
            }
        });
    }
}
