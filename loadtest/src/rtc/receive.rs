//! One source as its receiver sees it: what is missing, what came after all, and what to report of it (RFC 3550 6.4,
//! A.8, RFC 4585 6.2.1).

use std::collections::BTreeMap;

use super::rtcp::Block;
use crate::clock::{MILLISECOND, SECOND};

/// A packet may be overtaken for so long before it is called missing.
const GRACE: u64 = 10 * MILLISECOND;
/// A missing packet is asked for again after so long.
const ASK_AGAIN: u64 = 60 * MILLISECOND;
/// A missing packet is lost after so long.
const GIVE_UP: u64 = SECOND;
/// Missing packets that are remembered; a longer gap is another stream.
const MISSING_MAX: u64 = 1000;
/// Sequence numbers in one request.
const ASKED_MAX: usize = 128;

/// What a packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The newest.
    Next,
    /// It was overtaken.
    Late,
    /// It had been asked for.
    Recovered,
    /// It was there before, or is too old.
    Duplicate,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: u64,
    /// 0: not yet.
    asked: u64,
}

/// The receiver of one source.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The source.
    pub(super) ssrc: u32,
    /// Ticks of its clock in a second.
    clock: u32,
    first: u64,
    highest: u64,
    received: u64,
    missing: BTreeMap<u64, Missing>,
    /// In ticks.
    jitter: f64,
    transit: Option<u32>,
    /// The last sender report: middle of its time, and when it came.
    report: Option<(u32, u64)>,
    /// Expected and received packets at the last own report.
    reported: (u64, u64),
}

impl Receiver {
    /// The receiver of a source whose first packet has this `index`; that packet is yet to be told.
    pub(super) fn new(ssrc: u32, clock: u32, index: u64) -> Self {
        // Counted from far enough above zero to be overtaken.
        let first = index;
        Self {
            ssrc,
            clock,
            first,
            highest: index.saturating_sub(1),
            received: 0,
            missing: BTreeMap::new(),
            jitter: 0.0,
            transit: None,
            report: None,
            reported: (0, 0),
        }
    }

    /// A packet came in its own right.
    pub(super) fn packet(&mut self, index: u64, timestamp: u32, now: u64) -> Arrival {
        self.measure(timestamp, now);
        self.arrived(index, now)
    }

    /// A packet came as a repeated one, known by its 16 bits (RFC 4588 4).
    pub(super) fn repeated(&mut self, sequence: u16, now: u64) -> Arrival {
        let distance = i64::from((u64::from(sequence).wrapping_sub(self.highest) as u16).cast_signed());
        match self.highest.checked_add_signed(distance) {
            Some(index) => self.arrived(index, now),
            None => Arrival::Duplicate,
        }
    }

    fn arrived(&mut self, index: u64, now: u64) -> Arrival {
        if index <= self.highest && self.received > 0 || index < self.first {
            let Some(missing) = self.missing.remove(&index) else { return Arrival::Duplicate };
            self.received += 1;
            return if missing.asked > 0 { Arrival::Recovered } else { Arrival::Late };
        }
        let from = (self.highest + 1).max(index.saturating_sub(MISSING_MAX));
        self.missing.extend((from..index).map(|index| (index, Missing { since: now, asked: 0 })));
        self.highest = index;
        self.received += 1;
        Arrival::Next
    }

    /// RFC 3550 A.8.
    #[expect(clippy::cast_possible_truncation, reason = "ticks that wrap at 32 bits, as timestamps do")]
    fn measure(&mut self, timestamp: u32, now: u64) {
        let arrival = (u128::from(now) * u128::from(self.clock) / u128::from(SECOND)) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(last) = self.transit.replace(transit) {
            let difference = transit.wrapping_sub(last).cast_signed().unsigned_abs();
            // A timestamp that jumps is another stream.
            if difference < self.clock {
                self.jitter += (f64::from(difference) - self.jitter) / 16.0;
            }
        }
    }

    /// Jitter in nanoseconds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^64")]
    pub(super) fn jitter_ns(&self) -> u64 {
        (self.jitter * SECOND as f64 / f64::from(self.clock.max(1))) as u64
    }

    /// What to ask for now, in order. Adds to `lost` what will not come any more.
    pub(super) fn ask(&mut self, now: u64, lost: &mut u64) -> Vec<u16> {
        let before = self.missing.len();
        self.missing.retain(|_, missing| now.saturating_sub(missing.since) < GIVE_UP);
        *lost += (before - self.missing.len()) as u64;
        let due = self.missing.iter_mut().filter(|(_, missing)| {
            if missing.asked == 0 { now >= missing.since + GRACE } else { now >= missing.asked + ASK_AGAIN }
        });
        #[expect(clippy::cast_possible_truncation, reason = "the 16 bits on the wire")]
        due.take(ASKED_MAX)
            .map(|(index, missing)| {
                missing.asked = now;
                *index as u16
            })
            .collect()
    }

    /// A sender report of this source came.
    pub(super) fn reported(&mut self, ntp: u32, now: u64) {
        self.report = Some((ntp, now));
    }

    /// What to report.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "fields of 32 bits that wrap; a fraction of 256; a jitter that is not negative"
    )]
    pub(super) fn block(&mut self, now: u64) -> Block {
        let expected = self.highest + 1 - self.first.min(self.highest);
        let (expected_before, received_before) = std::mem::replace(&mut self.reported, (expected, self.received));
        let (of, came) = (expected - expected_before, self.received - received_before);
        let fraction = (of.saturating_sub(came) * 256).checked_div(of).map_or(0, |fraction| fraction.min(255));
        let (last_report, delay) = self.report.map_or((0, 0), |(ntp, at)| {
            (ntp, (u128::from(now.saturating_sub(at)) * 65_536 / u128::from(SECOND)) as u32)
        });
        Block {
            ssrc: self.ssrc,
            fraction: fraction as u8,
            lost: expected.saturating_sub(self.received) as u32,
            highest: self.highest as u32,
            jitter: self.jitter as u32,
            last_report,
            delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packets_are_asked_for_and_lost_in_the_end() {
        let mut receiver = Receiver::new(1, 90_000, 65_530);
        let mut lost = 0;
        for index in [65_530, 65_531, 65_534, 65_538] {
            assert_eq!(receiver.packet(index, 0, 0), Arrival::Next);
        }
        assert!(receiver.ask(GRACE - 1, &mut lost).is_empty());
        assert_eq!(receiver.packet(65_533, 0, 1), Arrival::Late);
        assert_eq!(receiver.ask(GRACE, &mut lost), [65_532, 65_535, 0, 1]);
        assert!(receiver.ask(GRACE + 1, &mut lost).is_empty());
        assert_eq!(receiver.repeated(0, GRACE + 2), Arrival::Recovered);
        assert_eq!(receiver.packet(65_535, 0, GRACE + 2), Arrival::Recovered);
        assert_eq!(receiver.packet(65_535, 0, GRACE + 2), Arrival::Duplicate);
        assert_eq!(receiver.repeated(65_530, GRACE + 2), Arrival::Duplicate);
        assert_eq!(receiver.ask(GRACE + ASK_AGAIN, &mut lost), [65_532, 1]);
        assert_eq!((receiver.ask(GIVE_UP, &mut lost), lost), (vec![], 2));
        let block = receiver.block(GIVE_UP);
        assert_eq!((block.lost, block.highest, u32::from(block.fraction)), (2, 65_538, 2 * 256 / 9));
        assert_eq!(receiver.block(GIVE_UP).fraction, 0);
    }

    #[test]
    fn a_huge_gap_costs_little() {
        let mut receiver = Receiver::new(1, 90_000, 0);
        assert_eq!(receiver.packet(0, 0, 0), Arrival::Next);
        assert_eq!(receiver.packet(1 << 40, 0, 0), Arrival::Next);
        assert_eq!(receiver.missing.len() as u64, MISSING_MAX);
        assert_eq!(receiver.ask(GRACE, &mut 0).len(), ASKED_MAX);
        assert_eq!(receiver.packet(5, 0, 0), Arrival::Duplicate);
    }

    #[test]
    fn jitter_is_that_of_the_arrivals() {
        let mut receiver = Receiver::new(1, 90_000, 0);
        // Every second packet comes 10 ms late.
        for index in 0..1000_u32 {
            let late = u64::from(index % 2) * 10 * MILLISECOND;
            receiver.packet(index.into(), index * 1800, u64::from(index) * 20 * MILLISECOND + late);
        }
        assert!((9_000_000..11_000_000).contains(&receiver.jitter_ns()), "{}", receiver.jitter_ns());
    }

    #[test]
    fn a_sender_report_is_answered() {
        let mut receiver = Receiver::new(1, 48_000, 7);
        receiver.packet(7, 0, 0);
        receiver.reported(0xabcd, SECOND);
        let block = receiver.block(3 * SECOND / 2);
        assert_eq!((block.last_report, block.delay), (0xabcd, 32_768));
    }
}
