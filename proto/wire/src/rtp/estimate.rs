//! How much the path to one receiver carries, from its transport-wide feedback.
//!
//! What is sent does not follow the estimate bit by bit: a subscriber gets one of a few layers, in bursts of a frame.
//! So the delay of single bursts says little. What counts is the least delay in each feedback above the least delay of
//! the last seconds: a queue that never drains. While there is one, what arrives is what the path carries. Where there
//! is none, the path carries at least what arrives, and how much more is not known: the estimate then grows to half
//! above that and says that it is limited ([`Capacity::limited`]).
//!
//! The `rtc` crate's `Gcc` is made for an encoder that follows it. Over the path of this module's tests it fills the
//! queue to the brim (it compares the change of delay from burst to burst with 12.5 ms), stays at 400 kbit/s of 2 Mbit/s
//! where one packet in twenty is lost, and grows without end where less is sent than it allows.

use std::time::{Duration, Instant};

use super::rtcp::TransportCc;

/// Packets that are remembered until there is feedback: a second and more at 4 Mbit/s.
pub const HISTORY: usize = 512;

/// Bounds of the estimate, in bits a second.
pub const BPS: (f64, f64) = (50_000.0, 100_000_000.0);

/// A queue that is longer, in microseconds, and grows over [`RISES`] feedbacks: more is sent than the path carries ...
const QUEUE_RISING: i64 = 30_000;
const RISES: u8 = 3;

/// ... and so it is with a queue that is longer than this, however it came about.
const QUEUE_MAX: i64 = 150_000;

/// Below this a queue has not grown: clocks and schedulers waver so much.
const WAVER: i64 = 2_000;

/// Of what arrives, what is offered while there is a queue: the rest drains it.
const BACK_OFF: f64 = 0.85;

/// Growth a second, before the path was ever full and after.
const GROWTH: (f64, f64) = (1.5, 1.08);

/// The estimate grows to so much more than what arrives.
const HEADROOM: f64 = 1.5;

/// After it fell, the estimate neither falls nor grows for this long and a round trip.
const SETTLE: Duration = Duration::from_millis(300);

/// The fraction lost is measured over this long and so many packets at least.
const LOSS_WINDOW: (Duration, u32) = (Duration::from_secs(1), 20);

/// A loss above this is too much whatever its cause; one above the path's own by less keeps the estimate from growing.
const LOSS_MAX: f64 = 0.10;
const LOSS_MORE: f64 = 0.03;

/// The receiver's clock has jumped (or wrapped, after twelve days) if the delay has by more than a minute.
const JUMP: i64 = 60_000_000;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bits a second.
    pub bps: u64,
    /// It may carry more: less is sent than would show.
    pub limited: bool,
    /// More was sent than it carries, just now.
    pub congested: bool,
}

/// The path to one receiver. Numbers what is sent; about 4.5 KiB.
#[derive(Clone, Debug)]
pub struct Estimate {
    start: Instant,
    /// By the low bits of their number.
    sent: Box<[Sent; HISTORY]>,
    next: u16,
    bps: f64,
    limited: bool,
    /// The path was full once: from then on the estimate grows slowly.
    full: bool,
    delay: Floor,
    /// The least delay of the feedback before, and how often it has risen in a row.
    last: Option<i64>,
    rises: u8,
    queue: i64,
    rate: Rate,
    loss: Loss,
    round_trip: Option<Duration>,
    fell: Option<Instant>,
    /// When the estimate was last given a chance to grow.
    grown: Option<Instant>,
}

/// A packet that was sent; one of zero bytes was not, or was told of.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    number: u16,
    bytes: u16,
    /// Microseconds; they wrap after 71 minutes.
    at: u32,
}

impl Estimate {
    /// Begins at `initial` bits a second.
    pub fn new(now: Instant, initial: u64) -> Self {
        Self {
            start: now,
            sent: Box::new([Sent::default(); HISTORY]),
            next: 0,
            bps: (initial as f64).clamp(BPS.0, BPS.1),
            limited: true,
            full: false,
            delay: Floor::default(),
            last: None,
            rises: 0,
            queue: 0,
            rate: Rate::default(),
            loss: Loss::default(),
            round_trip: None,
            fell: None,
            grown: None,
        }
    }

    /// A packet of so many bytes is being sent: the transport-wide sequence number that it is to carry.
    pub fn sent(&mut self, now: Instant, bytes: usize) -> u16 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        // The low bits are meant.
        let at = self.micros(now) as u32;
        if let Some(slot) = self.sent.get_mut(usize::from(number) % HISTORY) {
            *slot = Sent { number, bytes: u16::try_from(bytes).unwrap_or(u16::MAX), at };
        }
        number
    }

    /// Feedback came. What it says of packets that are forgotten, or were told of, does not count.
    pub fn feedback(&mut self, now: Instant, feedback: TransportCc<'_>) {
        let now_us = self.micros(now);
        let (mut least, mut newest) = (None::<i64>, None::<i64>);
        for (number, arrival) in feedback {
            let Some(slot) = self.sent.get_mut(usize::from(number) % HISTORY) else { continue };
            if slot.number != number || slot.bytes == 0 {
                continue;
            }
            let Some(arrival) = arrival else {
                self.loss.lost += 1;
                continue;
            };
            // Not longer ago than the count takes to wrap.
            let sent = now_us - i64::from((now_us as u32).wrapping_sub(slot.at));
            self.loss.arrived += 1;
            self.rate.add(arrival, slot.bytes);
            slot.bytes = 0;
            least = Some(least.map_or(arrival - sent, |least| least.min(arrival - sent)));
            newest = newest.max(Some(sent));
        }
        if let (Some(least), Some(newest)) = (least, newest) {
            let trip = Duration::from_micros((now_us - newest).unsigned_abs());
            self.round_trip = Some(self.round_trip.map_or(trip, |smooth| (smooth * 7 + trip) / 8));
            self.queued(now, least);
        }
        self.decide(now);
    }

    /// Takes the least delay of a feedback.
    fn queued(&mut self, now: Instant, delay: i64) {
        if self.last.is_some_and(|last| (delay - last).abs() > JUMP) {
            (self.delay, self.rate, self.last, self.rises) = (Floor::default(), Rate::default(), None, 0);
        }
        self.queue = delay - self.delay.least(now, delay);
        let risen = self.last.is_some_and(|last| delay > last + WAVER);
        self.rises = if risen { self.rises.saturating_add(1) } else { 0 };
        self.last = Some(delay);
    }

    fn decide(&mut self, now: Instant) {
        let settled = self.settled(now);
        let lost = self.loss.sample(now).filter(|lost| *lost > LOSS_MAX);
        let delivered = self.rate.bps();
        let over = self.queue > QUEUE_MAX || (self.queue > QUEUE_RISING && self.rises >= RISES);
        let elapsed = self.grown.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if over {
            if let Some(delivered) = delivered.filter(|_| settled) {
                self.fall(now, delivered * BACK_OFF);
            }
        } else if let Some(lost) = lost {
            if settled {
                self.fall(now, self.bps * (1.0 - lost / 2.0));
            }
        } else if let Some(delivered) = delivered.filter(|_| settled && self.queue < QUEUE_RISING) {
            let most = delivered * HEADROOM;
            self.limited = self.bps >= most;
            if self.loss.smooth < self.loss.own() + LOSS_MORE && !self.limited {
                let growth = if self.full { GROWTH.1 } else { GROWTH.0 };
                let grown = self.bps * growth.powf(elapsed.as_secs_f64().min(1.0));
                self.bps = grown.min(most).clamp(BPS.0, BPS.1);
            }
            self.bps = self.bps.max(delivered).clamp(BPS.0, BPS.1);
        }
    }

    fn fall(&mut self, now: Instant, to: f64) {
        self.bps = self.bps.min(to).clamp(BPS.0, BPS.1);
        (self.fell, self.full, self.limited, self.rises) = (Some(now), true, false, 0);
    }

    /// What was done last shows by now.
    fn settled(&self, now: Instant) -> bool {
        let wait = SETTLE + self.round_trip.unwrap_or(Duration::ZERO);
        self.fell.is_none_or(|fell| now.saturating_duration_since(fell) > wait)
    }

    /// What is known of the path.
    pub fn capacity(&self, now: Instant) -> Capacity {
        // Within the bounds, so above zero and below 2^53.
        let bps = self.bps as u64;
        Capacity { bps, limited: self.limited, congested: self.queue > QUEUE_MAX || !self.settled(now) }
    }

    /// The smoothed time from sending a packet to the feedback about it, which the receiver may hold for 100 ms.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// How long packets wait in the path, by the last feedback.
    pub fn queue(&self) -> Duration {
        Duration::from_micros(self.queue.max(0).unsigned_abs())
    }

    /// The fraction of packets lost, smoothed over a few seconds.
    pub fn loss(&self) -> f64 {
        self.loss.smooth
    }

    fn micros(&self, now: Instant) -> i64 {
        // 292,000 years.
        now.saturating_duration_since(self.start).as_micros() as i64
    }
}

/// The least of what was seen in the last ten to twenty seconds: of those that run, and of the ten before.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    since: Option<Instant>,
    running: i64,
    before: i64,
}

impl Floor {
    const SPAN: Duration = Duration::from_secs(10);

    fn least(&mut self, now: Instant, value: i64) -> i64 {
        match self.since {
            None => (self.since, self.running, self.before) = (Some(now), value, value),
            Some(since) if now.saturating_duration_since(since) > Self::SPAN => {
                (self.since, self.before, self.running) = (Some(now), self.running, value);
            }
            Some(_) => self.running = self.running.min(value),
        }
        self.running.min(self.before)
    }
}

/// What arrives, by the receiver's clock: in pieces of 100 ms, of which the newest is not yet whole.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    newest: Option<i64>,
    /// How many pieces were seen, up to all.
    pieces: usize,
    /// From the newest on back.
    bytes: [u32; Self::PIECES],
}

impl Rate {
    const PIECES: usize = 7;
    const PIECE: i64 = 100_000;

    fn add(&mut self, arrival: i64, bytes: u16) {
        let piece = arrival.div_euclid(Self::PIECE);
        let newest = *self.newest.get_or_insert(piece);
        if let Ok(step) = usize::try_from(piece - newest) {
            let step = step.min(Self::PIECES);
            self.bytes.rotate_right(step);
            self.bytes.iter_mut().take(step).for_each(|piece| *piece = 0);
            self.newest = Some(piece);
            self.pieces = (self.pieces + step).min(Self::PIECES - 1);
        }
        let back = usize::try_from(newest.max(piece) - piece).ok();
        if let Some(counted) = back.and_then(|back| self.bytes.get_mut(back)) {
            *counted = counted.saturating_add(u32::from(bytes));
        }
    }

    /// Bits a second; none before three pieces are whole.
    fn bps(&self) -> Option<f64> {
        let whole = self.bytes.iter().skip(1).take(self.pieces);
        let bytes: f64 = whole.map(|bytes| f64::from(*bytes)).sum();
        // At most six; in tenths of a second.
        (self.pieces >= 3).then(|| bytes * 80.0 / self.pieces as f64)
    }
}

/// Packets lost and arrived since the last measurement, and what the measurements say.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    lost: u32,
    arrived: u32,
    since: Option<Instant>,
    smooth: f64,
    floor: Floor,
    /// In millionths.
    own: i64,
}

impl Loss {
    /// The smoothed fraction lost, if there is enough for a new measurement.
    fn sample(&mut self, now: Instant) -> Option<f64> {
        let since = *self.since.get_or_insert(now);
        let total = self.lost.saturating_add(self.arrived);
        if now.saturating_duration_since(since) < LOSS_WINDOW.0 || total < LOSS_WINDOW.1 {
            return None;
        }
        let sample = f64::from(self.lost) / f64::from(total);
        self.smooth = (self.smooth * 3.0 + sample) / 4.0;
        self.own = self.floor.least(now, (self.smooth * 1e6) as i64);
        (self.lost, self.arrived, self.since) = (0, 0, Some(now));
        Some(self.smooth)
    }

    /// What the path loses whatever is sent.
    fn own(&self) -> f64 {
        self.own as f64 / 1e6
    }
}

#[cfg(test)]
mod tests;
