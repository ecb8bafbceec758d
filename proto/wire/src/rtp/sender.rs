//! What a sent source has sent, and what its receiver says of it (RFC 3550 6.4).

use std::time::Duration;

use super::ntp;
use super::rtcp::{Block, SenderInfo};

/// A round trip that is said to be longer than this is none.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// The statistics of one sent source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sender {
    packets: u32,
    octets: u32,
    round_trip: Option<Duration>,
    last: Option<Block>,
}

impl Sender {
    /// Nothing is sent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet with so many bytes of payload was sent.
    pub fn packet(&mut self, payload: usize) {
        self.packets = self.packets.wrapping_add(1);
        // A payload is smaller than a datagram.
        self.octets = self.octets.wrapping_add(payload as u32);
    }

    /// What a report says that is made at `ntp`, the timestamp `rtp`.
    pub fn info(&self, ntp: u64, rtp: u32) -> SenderInfo {
        SenderInfo { ntp, rtp, packets: self.packets, octets: self.octets }
    }

    /// The receiver's block about this source came; `ntp` is now, by the clock of the reports that were sent. Gives the
    /// round trip that it measures, if it does (6.4.1).
    pub fn block(&mut self, ntp: u64, block: &Block) -> Option<Duration> {
        self.last = Some(*block);
        if block.last_report == 0 {
            return None;
        }
        let trip = ntp::middle(ntp).wrapping_sub(block.last_report).wrapping_sub(block.delay);
        let trip = ntp::from_short(u32::try_from(trip.cast_signed()).ok()?);
        if trip > ROUND_TRIP_MAX {
            return None;
        }
        self.round_trip = Some(self.round_trip.map_or(trip, |smooth| (smooth * 7 + trip) / 8));
        Some(trip)
    }

    /// The smoothed round trip, once one was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The receiver's newest block.
    pub fn last(&self) -> Option<Block> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent() {
        let mut sender = Sender::new();
        for _ in 0..5_000 {
            sender.packet(1_200_000);
        }
        let octets = (5_000_u64 * 1_200_000) as u32;
        assert_eq!(sender.info(1, 2), SenderInfo { ntp: 1, rtp: 2, packets: 5_000, octets });
    }

    #[test]
    fn round_trips() {
        let mut sender = Sender::new();
        let sent = ntp::from_unix(Duration::from_millis(10_900));
        let came = sent + ntp::from_duration(Duration::from_millis(750));
        let block = |delay| Block { last_report: ntp::middle(sent), delay: ntp::short(delay), ..Block::default() };
        assert_eq!(sender.block(came, &Block::default()), None, "no report came there");
        let near = |trip: Option<Duration>, ms: i64| (trip.unwrap().as_micros() as i64 - ms * 1_000).abs() < 50;
        assert!(near(sender.block(came, &block(Duration::from_millis(500))), 250));
        assert!(near(sender.block(came, &block(Duration::from_millis(710))), 40));
        assert_eq!(sender.round_trip().unwrap().as_millis(), 223, "seven eighths of the first");
        assert_eq!(sender.block(came, &block(Duration::from_millis(760))), None, "below zero");
        let far = sent + ntp::from_duration(Duration::from_secs(61));
        assert_eq!(sender.block(far, &block(Duration::ZERO)), None);
        assert_eq!(sender.round_trip().unwrap().as_millis(), 223);
        assert_eq!(sender.last().map(|block| block.delay), Some(0));
    }
}
