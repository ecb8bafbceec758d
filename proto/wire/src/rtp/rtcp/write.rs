use super::{Block, NACK_PAIRS_MAX, SenderInfo};

/// Report blocks of one packet: its count has five bits.
pub const BLOCKS_MAX: usize = 31;

// Packet types (RFC 3550 12.1, RFC 4585 9), and formats of the feedback ones.
pub(super) const SENDER_REPORT: u8 = 200;
pub(super) const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
pub(super) const BYE: u8 = 203;
pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
pub(super) const PAYLOAD_FEEDBACK: u8 = 206;
pub(super) const NACK: u8 = 1;
pub(crate) const TRANSPORT_CC: u8 = 15;
pub(super) const PLI: u8 = 1;
pub(super) const FIR: u8 = 4;

/// Appends a sender report, with the first [`BLOCKS_MAX`] of the blocks.
pub fn sender_report(out: &mut Vec<u8>, ssrc: u32, info: &SenderInfo, blocks: &[Block]) {
    packet(out, SENDER_REPORT, count(blocks), |out| {
        out.extend(ssrc.to_be_bytes());
        out.extend(info.ntp.to_be_bytes());
        out.extend(info.rtp.to_be_bytes());
        out.extend(info.packets.to_be_bytes());
        out.extend(info.octets.to_be_bytes());
        reports(out, blocks);
    });
}

/// Appends a receiver report, with the first [`BLOCKS_MAX`] of the blocks; `ssrc` is the receiver's own.
pub fn receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[Block]) {
    packet(out, RECEIVER_REPORT, count(blocks), |out| {
        out.extend(ssrc.to_be_bytes());
        reports(out, blocks);
    });
}

/// Appends a source description that only has the canonical name, without which a compound is not whole (RFC 3550 6.1);
/// of a longer name, its first 255 bytes.
pub fn cname(out: &mut Vec<u8>, ssrc: u32, name: &str) {
    let name = name.as_bytes();
    let name = name.get(..usize::from(u8::MAX)).unwrap_or(name);
    packet(out, SOURCE_DESCRIPTION, 1, |out| {
        out.extend(ssrc.to_be_bytes());
        // Item 1; at most 255.
        out.extend([1, name.len() as u8]);
        out.extend(name);
        // The list ends with zeros up to a multiple of four, and with one at least (RFC 3550 6.5).
        out.resize(out.len() + 4 - (2 + name.len()) % 4, 0);
    });
}

/// Appends the negative acknowledgement of sequence numbers in ascending order, with the first [`NACK_PAIRS_MAX`]
/// pairs; nothing for none.
pub fn nack(out: &mut Vec<u8>, sender: u32, media: u32, lost: &[u16]) {
    let mut rest = lost.iter().copied().peekable();
    if rest.peek().is_none() {
        return;
    }
    feedback(out, TRANSPORT_FEEDBACK, NACK, sender, media, |out| {
        for _ in 0..NACK_PAIRS_MAX {
            let Some(first) = rest.next() else { break };
            let mut mask = 0_u16;
            while let Some(next) = rest.next_if(|next| next.wrapping_sub(first) <= 16) {
                if let Some(bit) = next.wrapping_sub(first).checked_sub(1) {
                    mask |= 1 << bit;
                }
            }
            out.extend(first.to_be_bytes());
            out.extend(mask.to_be_bytes());
        }
    });
}

/// Appends a picture loss indication: `media` is to send a keyframe.
pub fn pli(out: &mut Vec<u8>, sender: u32, media: u32) {
    feedback(out, PAYLOAD_FEEDBACK, PLI, sender, media, |_| {});
}

/// Appends a full intra request: `media` is to send a keyframe. `number` grows with each request that is none's
/// repetition.
pub fn fir(out: &mut Vec<u8>, sender: u32, media: u32, number: u8) {
    // The source in the header is not used, and zero (RFC 5104 4.3.1.2).
    feedback(out, PAYLOAD_FEEDBACK, FIR, sender, 0, |out| {
        out.extend(media.to_be_bytes());
        out.extend([number, 0, 0, 0]);
    });
}

/// Appends the end of sources, of at most [`BLOCKS_MAX`].
pub fn bye(out: &mut Vec<u8>, sources: &[u32]) {
    let sources = sources.get(..BLOCKS_MAX).unwrap_or(sources);
    // At most 31.
    packet(out, BYE, sources.len() as u8, |out| out.extend(sources.iter().flat_map(|ssrc| ssrc.to_be_bytes())));
}

/// How many blocks go into a packet.
fn count(blocks: &[Block]) -> u8 {
    blocks.len().min(BLOCKS_MAX) as u8
}

fn reports(out: &mut Vec<u8>, blocks: &[Block]) {
    for block in blocks.iter().take(BLOCKS_MAX) {
        out.extend(block.ssrc.to_be_bytes());
        let lost = block.lost.clamp(-0x80_0000, 0x7f_ffff).cast_unsigned() & 0xff_ffff;
        out.extend((u32::from(block.fraction_lost) << 24 | lost).to_be_bytes());
        out.extend(block.highest.to_be_bytes());
        out.extend(block.jitter.to_be_bytes());
        out.extend(block.last_report.to_be_bytes());
        out.extend(block.delay.to_be_bytes());
    }
}

fn feedback(out: &mut Vec<u8>, kind: u8, format: u8, sender: u32, media: u32, body: impl FnOnce(&mut Vec<u8>)) {
    packet(out, kind, format, |out| {
        out.extend(sender.to_be_bytes());
        out.extend(media.to_be_bytes());
        body(out);
    });
}

/// Appends a packet: its header, what `body` appends, and padding up to a multiple of four bytes.
pub(crate) fn packet(out: &mut Vec<u8>, kind: u8, count: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0x80 | count, kind, 0, 0]);
    body(out);
    let padding = (out.len() - start).wrapping_neg() % 4;
    if padding > 0 {
        out.resize(out.len() + padding, 0);
        // The last byte counts the padding (RFC 3550 6.4.1).
        if let Some(last) = out.last_mut() {
            *last = padding as u8;
        }
    }
    // In words, the header not counted; every body is bounded far below 256 KiB.
    let words = ((out.len() - start) / 4 - 1) as u16;
    if let Some([first, _, length @ ..]) = out.get_mut(start..start + 4) {
        *first |= u8::from(padding > 0) << 5;
        length.copy_from_slice(&words.to_be_bytes());
    }
}
