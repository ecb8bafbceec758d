//! RTCP (RFC 3550 6, RFC 4585, RFC 5104), reduced-size packets included (RFC 5506).
//!
//! Reading borrows from the datagram and allocates nothing: a peer's reports come ten to twenty times a second for each
//! subscriber. What is truncated or malformed ends the compound, what came before it counts; what is unknown is skipped.

mod transport_cc;
pub(super) mod write;

pub use transport_cc::{FEEDBACK_MAX, TransportCc};
pub use write::{BLOCKS_MAX, bye, cname, fir, nack, pli, receiver_report, sender_report};

use write::{BYE, FIR, NACK, PAYLOAD_FEEDBACK, PLI, RECEIVER_REPORT, SENDER_REPORT, TRANSPORT_CC, TRANSPORT_FEEDBACK};

/// Pairs of a number and a mask of sixteen more that are read from, and written to, the negative acknowledgements of
/// one compound.
pub const NACK_PAIRS_MAX: usize = 256;

/// One packet of a compound.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Packet<'a> {
    /// What a source has sent (6.4.1).
    SenderReport {
        /// The source.
        ssrc: u32,
        /// What it has sent until when.
        info: SenderInfo,
        /// What it receives itself.
        blocks: Blocks<'a>,
    },
    /// What a receiver receives (6.4.2).
    ReceiverReport {
        /// The receiver; 1 or so in browsers that send nothing.
        ssrc: u32,
        /// One block for each source.
        blocks: Blocks<'a>,
    },
    /// Packets that are missed (RFC 4585 6.2.1).
    Nack {
        /// Who misses them.
        sender: u32,
        /// Whose packets.
        media: u32,
        /// Their sequence numbers.
        lost: Lost<'a>,
    },
    /// A keyframe is asked for (RFC 4585 6.3.1).
    Pli {
        /// Who asks.
        sender: u32,
        /// Of whom.
        media: u32,
    },
    /// Keyframes are asked for, by number (RFC 5104 4.3.1).
    Fir {
        /// Who asks.
        sender: u32,
        /// Of whom, and the count of the request: one seen before is a repetition.
        requests: Requests<'a>,
    },
    /// Which transport-wide sequence numbers arrived when.
    TransportCc(TransportCc<'a>),
    /// Sources that end (6.6).
    Bye {
        /// Which.
        sources: Sources<'a>,
    },
}

/// The sender's part of a sender report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// When the report was made, by the sender's clock: seconds since 1900 in 32.32 fixed point.
    pub ntp: u64,
    /// The same moment in ticks of the media's clock.
    pub rtp: u32,
    /// Packets sent so far.
    pub packets: u32,
    /// Bytes of payload sent so far.
    pub octets: u32,
}

/// How one source is received (6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The source.
    pub ssrc: u32,
    /// Lost since the block before, in 256ths.
    pub fraction_lost: u8,
    /// Lost so far, in 24 bits; below zero with duplicates.
    pub lost: i32,
    /// The newest sequence number, and above it how often it has wrapped.
    pub highest: u32,
    /// Of the transit time, in ticks of the media's clock.
    pub jitter: u32,
    /// The middle of the NTP time of the source's last report; zero without one.
    pub last_report: u32,
    /// Since that report came, in 65,536ths of a second.
    pub delay: u32,
}

/// The packets of a datagram, decrypted and without its tag. A datagram that is none has none.
pub fn parse(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound, pairs: NACK_PAIRS_MAX }
}

/// See [`parse`].
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
    /// Pairs of negative acknowledgements that may still be read.
    pairs: usize,
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        loop {
            let (&[first, kind, l0, l1], rest) = self.rest.split_first_chunk::<4>()?;
            let length = 4 * usize::from(u16::from_be_bytes([l0, l1]));
            // Nothing after a packet that is malformed can be trusted to begin where it seems to.
            self.rest = &[];
            if first >> 6 != 2 {
                return None;
            }
            let (mut body, rest) = rest.split_at_checked(length)?;
            if first & 0x20 != 0 {
                let padding = body.last().copied().map_or(0, usize::from);
                body = body.get(..body.len().checked_sub(padding).filter(|_| padding > 0)?)?;
            }
            let count = first & 0x1f;
            let found = match (kind, count) {
                (SENDER_REPORT | RECEIVER_REPORT | BYE, _) => report(kind, count, body),
                (TRANSPORT_FEEDBACK, NACK | TRANSPORT_CC) | (PAYLOAD_FEEDBACK, PLI | FIR) => {
                    self.feedback(kind, count, body)
                }
                _ => {
                    self.rest = rest;
                    continue;
                }
            };
            if found.is_some() {
                self.rest = rest;
            }
            return found;
        }
    }
}

impl<'a> Packets<'a> {
    /// A packet of RFC 4585 and its heirs.
    fn feedback(&mut self, kind: u8, format: u8, body: &'a [u8]) -> Option<Packet<'a>> {
        let (sender, body) = word(body)?;
        let (media, body) = word(body)?;
        Some(match (kind, format) {
            (PAYLOAD_FEEDBACK, PLI) => Packet::Pli { sender, media },
            (PAYLOAD_FEEDBACK, _) => Packet::Fir { sender, requests: Requests(body) },
            (_, NACK) => {
                let pairs = (body.len() / 4).min(self.pairs);
                self.pairs -= pairs;
                Packet::Nack { sender, media, lost: Lost { pairs: body.get(..4 * pairs)?, first: 0, mask: 0 } }
            }
            _ => Packet::TransportCc(TransportCc::parse(sender, media, body)?),
        })
    }
}

/// A packet of RFC 3550, without header and padding.
fn report(kind: u8, count: u8, body: &[u8]) -> Option<Packet<'_>> {
    let count = usize::from(count);
    if kind == BYE {
        return Some(Packet::Bye { sources: Sources(body.get(..4 * count)?) });
    }
    let (ssrc, body) = word(body)?;
    if kind == RECEIVER_REPORT {
        return Some(Packet::ReceiverReport { ssrc, blocks: Blocks(body.get(..BLOCK * count)?) });
    }
    let (ntp, body) = body.split_first_chunk::<8>()?;
    let (rtp, body) = word(body)?;
    let (packets, body) = word(body)?;
    let (octets, body) = word(body)?;
    let info = SenderInfo { ntp: u64::from_be_bytes(*ntp), rtp, packets, octets };
    Some(Packet::SenderReport { ssrc, info, blocks: Blocks(body.get(..BLOCK * count)?) })
}

/// Length of a report block.
const BLOCK: usize = 24;

/// Takes a number off the front.
fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk::<4>().map(|(word, rest)| (u32::from_be_bytes(*word), rest))
}

/// Report blocks: at most [`BLOCKS_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a>(&'a [u8]);

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let (ssrc, rest) = word(self.0)?;
        let (losses, rest) = word(rest)?;
        let (highest, rest) = word(rest)?;
        let (jitter, rest) = word(rest)?;
        let (last_report, rest) = word(rest)?;
        let (delay, rest) = word(rest)?;
        self.0 = rest;
        let [fraction_lost, ..] = losses.to_be_bytes();
        // Shifted up and down again for its sign.
        let lost = (losses << 8).cast_signed() >> 8;
        Some(Block { ssrc, fraction_lost, lost, highest, jitter, last_report, delay })
    }
}

/// Sequence numbers of negative acknowledgements: at most seventeen for each of [`NACK_PAIRS_MAX`] pairs of a compound.
#[derive(Clone, Copy, Debug)]
pub struct Lost<'a> {
    pairs: &'a [u8],
    /// The number that `mask` counts from.
    first: u16,
    /// Bit 0 is the number after `first`.
    mask: u16,
}

impl Iterator for Lost<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask == 0 {
            let (&[f0, f1, m0, m1], rest) = self.pairs.split_first_chunk::<4>()?;
            self.pairs = rest;
            (self.first, self.mask) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([m0, m1]));
            return Some(self.first);
        }
        let bit = self.mask.trailing_zeros();
        self.mask &= self.mask - 1;
        // At most fifteen.
        Some(self.first.wrapping_add(bit as u16 + 1))
    }
}

/// Requests for keyframes: the source, and the count of the request.
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a>(&'a [u8]);

impl Iterator for Requests<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let (ssrc, rest) = word(self.0)?;
        let (&[number, ..], rest) = rest.split_first_chunk::<4>()?;
        self.0 = rest;
        Some((ssrc, number))
    }
}

/// Identifiers of sources: at most 31.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a>(&'a [u8]);

impl Iterator for Sources<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (ssrc, rest) = word(self.0)?;
        self.0 = rest;
        Some(ssrc)
    }
}

#[cfg(test)]
mod tests;
