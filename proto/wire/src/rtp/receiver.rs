//! How a received source is received: what a report block says (RFC 3550 6.4.1, A.3, A.8).

use std::time::{Duration, Instant};

use super::ntp;
use super::rtcp::{Block, SenderInfo};

/// A step of the sequence number past this is a source that began again, not one that lost so much (A.1).
pub const DROPOUT_MAX: u64 = 3_000;

/// A change of the transit time past this is a clock that was set, not a path that varies.
const TRANSIT_MAX: Duration = Duration::from_secs(5);

/// The statistics of one received source.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Ticks a second.
    clock: u32,
    /// Counts of the first packet and of the newest.
    first: u64,
    newest: u64,
    received: u64,
    /// What was expected and received when the last block was made.
    reported: (u64, u64),
    /// In sixteenths of a tick (A.8).
    jitter: u64,
    /// When the newest packet came, and its timestamp.
    last: Option<(Instant, u32)>,
    /// The source's last report, and when it came.
    source: Option<(Instant, SenderInfo)>,
}

impl Receiver {
    /// A source whose timestamps have `clock` ticks a second.
    pub fn new(clock: u32) -> Self {
        Self { clock, first: 0, newest: 0, received: 0, reported: (0, 0), jitter: 0, last: None, source: None }
    }

    /// A packet came; `count` as [`super::seq::Sequences`] counts it. Not for packets that were sent again by a source
    /// of their own (RFC 4588 4): the block speaks of the path.
    pub fn packet(&mut self, now: Instant, count: u64, timestamp: u32) {
        let Some((before, last)) = self.last else {
            self.begin(now, count, timestamp);
            return;
        };
        if count > self.newest + DROPOUT_MAX {
            self.begin(now, count, timestamp);
            return;
        }
        self.received += 1;
        if count <= self.newest {
            // What comes late may be older than the first.
            self.first = self.first.min(count);
            return;
        }
        self.newest = count;
        self.last = Some((now, timestamp));
        let transit =
            self.ticks(now.saturating_duration_since(before)) - i64::from(timestamp.wrapping_sub(last) as i32);
        if transit.unsigned_abs() < self.ticks(TRANSIT_MAX).unsigned_abs() {
            self.jitter = self.jitter + transit.unsigned_abs() - ((self.jitter + 8) >> 4);
        }
    }

    fn begin(&mut self, now: Instant, count: u64, timestamp: u32) {
        *self = Self {
            first: count,
            newest: count,
            received: 1,
            last: Some((now, timestamp)),
            source: self.source,
            ..Self::new(self.clock)
        };
    }

    /// A length of time in ticks; of years, as many as fit.
    fn ticks(&self, length: Duration) -> i64 {
        i64::try_from(length.as_micros() * u128::from(self.clock) / 1_000_000).unwrap_or(i64::MAX)
    }

    /// The source has reported.
    pub fn sender_report(&mut self, now: Instant, info: SenderInfo) {
        self.source = Some((now, info));
    }

    /// The source's clocks now, by its last report: NTP time, and timestamp. None without a report.
    pub fn source_clock(&self, now: Instant) -> Option<(u64, u32)> {
        let (came, info) = self.source?;
        let since = now.saturating_duration_since(came);
        // The low bits are meant.
        let ticks = self.ticks(since) as u32;
        Some((info.ntp.wrapping_add(ntp::from_duration(since)), info.rtp.wrapping_add(ticks)))
    }

    /// The block of a report that is made now, and goes out: its fraction is of what came since the one before. None
    /// before the first packet.
    pub fn report(&mut self, now: Instant, ssrc: u32) -> Option<Block> {
        self.last?;
        let expected = self.expected();
        let lost = self.lost();
        let (expected_before, received_before) = self.reported;
        let expected_since = expected.saturating_sub(expected_before);
        let lost_since = expected_since.saturating_sub(self.received - received_before);
        self.reported = (expected, self.received);
        let (last_report, delay) = self
            .source
            .map_or((0, 0), |(came, info)| (ntp::middle(info.ntp), ntp::short(now.saturating_duration_since(came))));
        let fraction = (lost_since << 8).checked_div(expected_since).unwrap_or(0);
        Some(Block {
            ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: i32::try_from(lost).unwrap_or(i32::MAX).clamp(-0x80_0000, 0x7f_ffff),
            // Counts begin at a multiple of 2^32, so these are the number and its cycles.
            highest: self.newest as u32,
            jitter: u32::try_from(self.jitter >> 4).unwrap_or(u32::MAX),
            last_report,
            delay,
        })
    }

    fn expected(&self) -> u64 {
        self.newest - self.first + 1
    }

    /// Packets lost since the source began; below zero with duplicates.
    pub fn lost(&self) -> i64 {
        // Neither comes near 2^63.
        self.expected() as i64 - self.received as i64
    }

    /// Packets received since the source began, duplicates included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The variation of the transit time.
    pub fn jitter(&self) -> Duration {
        Duration::from_micros((self.jitter >> 4) * 1_000_000 / u64::from(self.clock.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = (1 << 32) + 65_000;

    fn start() -> Instant {
        // A test may know what time it is; the receiver is told.
        #[expect(clippy::disallowed_methods)]
        Instant::now()
    }

    #[test]
    fn losses_by_interval_and_in_all() {
        let (start, mut receiver) = (start(), Receiver::new(90_000));
        assert_eq!(receiver.report(start, 7), None);
        for n in (0..1_000).filter(|n| n % 4 != 3) {
            receiver.packet(start + Duration::from_millis(n), FIRST + n, (90 * n) as u32);
        }
        let block = receiver.report(start, 7).unwrap();
        assert_eq!((block.ssrc, block.fraction_lost, block.lost, block.jitter), (7, 63, 249, 0));
        assert_eq!(block.highest, 65_000 + 998, "once wrapped");
        assert_eq!((block.last_report, block.delay), (0, 0));
        for n in 1_000..2_000 {
            receiver.packet(start + Duration::from_millis(n), FIRST + n, (90 * n) as u32);
        }
        let block = receiver.report(start, 7).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, 250), "one between the two, in 256ths");
        receiver.packet(start, FIRST - 1, 0);
        receiver.packet(start, FIRST - 1, 0);
        let block = receiver.report(start, 7).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, 249), "older than the first, twice");
        for _ in 0..300 {
            receiver.packet(start, FIRST, 0);
        }
        let block = receiver.report(start, 7).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, -51));
        receiver.packet(start, FIRST + 2_400, 0);
        assert_eq!(receiver.report(start, 7).unwrap().fraction_lost, 255);
    }

    #[test]
    fn jitter_follows_the_transit_time() {
        let (start, mut receiver) = (start(), Receiver::new(48_000));
        for n in 0..500_u64 {
            // Each second packet comes 10 ms late.
            let late = 10 * (n % 2);
            receiver.packet(start + Duration::from_millis(20 * n + late), FIRST + n, (960 * n) as u32);
        }
        assert_eq!(receiver.jitter().as_millis(), 9, "{:?}", receiver.jitter());
        let jitter = receiver.jitter();
        receiver.packet(start + Duration::from_secs(11), FIRST + 3, 0);
        receiver.packet(start + Duration::from_secs(11), FIRST + 500, 1 << 31);
        assert_eq!(receiver.jitter(), jitter, "neither what comes late nor another clock");
    }

    #[test]
    fn a_source_that_begins_again_has_lost_nothing() {
        let (start, mut receiver) = (start(), Receiver::new(90_000));
        receiver.packet(start, FIRST, 0);
        receiver.packet(start, FIRST + 60_000, 0);
        receiver.packet(start, FIRST + 60_001, 0);
        let block = receiver.report(start, 7).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, 0));
    }

    #[test]
    fn the_source_s_clock_and_the_delay() {
        let (start, mut receiver) = (start(), Receiver::new(90_000));
        assert_eq!(receiver.source_clock(start), None);
        receiver.packet(start, FIRST, 0);
        let info = SenderInfo { ntp: 0x0123_4567_ffff_ffff, rtp: u32::MAX, packets: 1, octets: 1 };
        receiver.sender_report(start, info);
        let later = start + Duration::from_millis(1_500);
        let block = receiver.report(later, 7).unwrap();
        assert_eq!((block.last_report, block.delay), (0x4567_ffff, 98_304));
        assert_eq!(receiver.source_clock(later), Some((0x0123_4569_7fff_ffff, 134_999)));
    }

    #[test]
    fn fuzz_receiver() {
        let start = start();
        let check = bolero::check!().with_test_time(Duration::from_secs(1)).with_type::<(u32, Vec<(u16, u32, u16)>)>();
        check.for_each(|(clock, packets)| {
            let (mut receiver, mut sequences) = (Receiver::new(*clock), crate::rtp::seq::Sequences::default());
            let mut now = start;
            for (sequence, timestamp, wait) in packets {
                now += Duration::from_millis(u64::from(*wait));
                if let Some(count) = sequences.unwrap(*sequence) {
                    receiver.packet(now, count, *timestamp);
                    let block = receiver.report(now, 1).unwrap();
                    assert!(block.lost <= 0x7f_ffff && receiver.jitter() <= TRANSIT_MAX + Duration::from_secs(1));
                }
            }
        });
    }
}
