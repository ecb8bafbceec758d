//! What a source sends: one track of sound or picture, for all its players. Of a picture in several sizes (simulcast, RFC
//! 8853), each is a track.

use std::cell::Cell;
use std::time::{Duration, Instant};

use weir_wire::rtp::{Codec, Media};

use super::log::{Log, Packet};

/// How soon a publisher is asked for a key frame again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Which time of the sender's clock a timestamp is (RFC 3550 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// NTP, 32.32 fixed point.
    pub(crate) ntp: u64,
    pub(crate) timestamp: u32,
    /// When that was heard.
    pub(crate) at: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Track {
    /// Differs from every earlier track's of this process: players notice that another one took the place.
    pub(crate) generation: u64,
    pub(crate) codec: Codec,
    /// Its place among the sizes of a picture, in no order.
    pub(crate) layer: usize,
    pub(crate) log: Log,
    pub(crate) reference: Option<Reference>,
    meter: Meter,
    /// Somebody waits for a key frame.
    wanted: Cell<bool>,
    asked: Option<Instant>,
}

impl Track {
    pub(crate) fn new(generation: u64, codec: Codec, layer: usize) -> Self {
        Self {
            generation,
            codec,
            layer,
            log: Log::default(),
            reference: None,
            meter: Meter::default(),
            wanted: Cell::new(false),
            asked: None,
        }
    }

    /// For another source that takes this one's place: what it sends is about as much, and it was asked for a key frame
    /// if this one was.
    pub(crate) fn successor(&self, generation: u64) -> Self {
        Self { meter: self.meter, asked: self.asked, ..Self::new(generation, self.codec, self.layer) }
    }

    pub(crate) fn media(&self) -> Media {
        self.codec.media()
    }

    /// Takes a packet in; false: it came before.
    pub(crate) fn push(&mut self, packet: Packet) -> bool {
        if packet.keyframe {
            self.wanted.set(false);
        }
        self.meter.add(packet.arrived, packet.payload.len());
        self.log.push(packet)
    }

    /// Bits a second that come now; nought while nothing does.
    pub(crate) fn rate(&self, now: Instant) -> u64 {
        self.meter.rate(now)
    }

    /// Bits a second that come when something does.
    pub(crate) fn usual(&self) -> u64 {
        self.meter.usual
    }

    /// Whether it usually needs clearly more than another: what comes varies.
    pub(crate) fn needs_more_than(&self, other: &Self) -> bool {
        self.usual() / 5 > other.usual() / 4
    }

    /// Somebody needs a key frame.
    pub(crate) fn want_keyframe(&self) {
        self.wanted.set(self.media() == Media::Video);
    }

    /// Whether a key frame came since then.
    pub(crate) fn has_keyframe_since(&self, since: Instant) -> bool {
        self.log.keyframe_packet().is_some_and(|packet| packet.arrived >= since)
    }

    /// Whether the source is to be asked now.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        let due = self.wanted.get() && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// When [`Track::ask`] may say yes.
    pub(crate) fn ask_at(&self) -> Option<Instant> {
        self.wanted.get().then(|| self.asked.map(|at| at + ASK_AGAIN))?
    }
}

/// How much of a track comes.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    window: Option<Instant>,
    bytes: usize,
    newest: Option<Instant>,
    /// Of the windows so far, smoothed.
    usual: u64,
}

/// What is measured at once.
const WINDOW: Duration = Duration::from_secs(1);

/// A track of which nothing came for so long has stopped.
const STOPPED: Duration = Duration::from_secs(2);

impl Meter {
    fn add(&mut self, now: Instant, bytes: usize) {
        let stopped = self.newest.is_none_or(|newest| now.saturating_duration_since(newest) > STOPPED);
        if stopped {
            (self.window, self.bytes) = (Some(now), 0);
        }
        self.newest = Some(now);
        self.bytes += bytes;
        let elapsed = self.window.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if elapsed >= WINDOW {
            let bps = per_second(self.bytes, elapsed);
            self.usual = if self.usual == 0 { bps } else { (self.usual * 3 + bps) / 4 };
            (self.window, self.bytes) = (Some(now), 0);
        }
    }

    fn rate(&self, now: Instant) -> u64 {
        match self.newest {
            Some(newest) if now.saturating_duration_since(newest) <= STOPPED => self.usual.max(1),
            _ => 0,
        }
    }
}

fn per_second(bytes: usize, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    (bytes as u64).saturating_mul(8_000_000) / micros.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_is_metered_while_it_comes() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!((meter.rate(start), meter.usual), (0, 0));
        let mut now = start;
        for _ in 0..300 {
            meter.add(now, 1250);
            now += Duration::from_millis(10);
        }
        assert!((990_000..=1_020_000).contains(&meter.rate(now)), "{}", meter.rate(now));
        now += STOPPED + WINDOW;
        assert_eq!(meter.rate(now), 0);
        assert!(meter.usual > 990_000, "it is known what it would need");
        meter.add(now, 1250);
        assert!(meter.rate(now) > 990_000, "and it does not count the pause");
    }
}
