//! Which packets of a received source are missed, and when to ask for them again (RFC 4585 6.2.1).

use std::time::{Duration, Instant};

/// Packets that can be missed at a time; with more, only a keyframe helps.
pub const OUTSTANDING_MAX: usize = super::rtcp::NACK_PAIRS_MAX;

/// How long a packet may be late before it is asked for: a path may reorder.
pub const GRACE: Duration = Duration::from_millis(10);

/// How often a packet is asked for.
pub const TRIES_MAX: u8 = 15;

/// How long a packet is waited for.
pub const AGE_MAX: Duration = Duration::from_secs(1);

/// Bounds of the time between two requests for a packet, and what it is before a round trip is known.
pub const INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
const INTERVAL_FIRST: Duration = Duration::from_millis(50);

/// What a packet is to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The newest so far; there may be a gap before it.
    New,
    /// It was missed, and came by itself.
    Late,
    /// It was missed and asked for.
    Recovered,
    /// Neither new nor missed: a duplicate, or given up before.
    Old,
    /// The newest, after more packets than can be asked for: a keyframe is needed. What was missed is given up.
    Reset,
}

/// What became of the packets of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequence numbers in negative acknowledgements, repetitions included.
    pub asked: u64,
    /// Packets that came after they were asked for.
    pub recovered: u64,
    /// Packets that never came.
    pub given_up: u64,
}

/// The packets that one received source misses. Takes no memory while it misses none, and at most 3 KiB.
#[derive(Clone, Debug, Default)]
pub struct Generator {
    /// Where its milliseconds count from; set by the first packet.
    start: Option<Instant>,
    newest: u64,
    /// In ascending order.
    missed: Vec<Missed>,
    /// Not before this is a request due or a packet given up. Only meant while packets are missed.
    due: Option<Instant>,
    /// Between requests for a packet; none until a round trip was measured.
    interval: Option<Duration>,
    stats: Stats,
}

#[derive(Clone, Copy, Debug)]
struct Missed {
    /// The low bits of its count: all that are missed lie within [`OUTSTANDING_MAX`] and a few resent ones.
    sequence: u16,
    tries: u8,
    /// When it was first missed, in milliseconds.
    since: u32,
    /// After `since`: when it was first asked for, and when it is due.
    asked: u16,
    due: u16,
}

impl Generator {
    /// None are missed before the first packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet came, or was recovered: `count` as [`super::seq::Sequences`] counts it.
    pub fn packet(&mut self, now: Instant, count: u64) -> Arrival {
        let Some(start) = self.start else {
            self.start = Some(now);
            self.newest = count;
            return Arrival::New;
        };
        let at = milliseconds(start, now);
        let Some(step) = count.checked_sub(self.newest).filter(|step| *step > 0) else {
            return self.old(at, count);
        };
        let first = self.newest + 1;
        self.newest = count;
        if step - 1 + self.missed.len() as u64 > OUTSTANDING_MAX as u64 {
            self.stats.given_up += step - 1 + self.missed.len() as u64;
            self.missed = Vec::new();
            return Arrival::Reset;
        }
        let grace = now + GRACE;
        if step > 1 && (self.missed.is_empty() || self.due.is_none_or(|due| due > grace)) {
            self.due = Some(grace);
        }
        for missed in first..count {
            // The low bits are meant.
            let sequence = missed as u16;
            self.missed.push(Missed { sequence, tries: 0, since: at, asked: 0, due: GRACE.as_millis() as u16 });
        }
        Arrival::New
    }

    fn old(&mut self, at: u32, count: u64) -> Arrival {
        let sequence = count as u16;
        // Of what is so far back, the low bits could be those of another.
        let near = self.newest - count < u64::from(u16::MAX);
        let Some(found) = self.missed.iter().position(|missed| near && missed.sequence == sequence) else {
            return Arrival::Old;
        };
        let missed = self.missed.remove(found);
        self.release();
        if missed.tries == 0 {
            return Arrival::Late;
        }
        self.stats.recovered += 1;
        let trip = since(missed.since, at).saturating_sub(u32::from(missed.asked));
        self.round_trip(Duration::from_millis(u64::from(trip)));
        Arrival::Recovered
    }

    /// A round trip to the source was measured otherwise. What was asked for and came counts by itself: from the first
    /// request, so that a long way does not look like lost answers.
    pub fn round_trip(&mut self, measured: Duration) {
        let last = self.interval.unwrap_or(INTERVAL_FIRST);
        let next = (last * 4 + measured.min(INTERVAL.1)) / 5;
        self.interval = Some(next.clamp(INTERVAL.0, INTERVAL.1));
    }

    /// Appends the sequence numbers to be asked for now, in ascending order, and gives up what is too old. Call it at
    /// [`Generator::deadline`]; earlier calls find nothing.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<u16>) {
        let Some(start) = self.start else { return };
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        let at = milliseconds(start, now);
        let interval = self.interval.unwrap_or(INTERVAL_FIRST).as_millis() as u16;
        let age_max = AGE_MAX.as_millis() as u16;
        let (mut next, before, asked) = (u32::from(age_max), self.missed.len(), out.len());
        self.missed.retain_mut(|missed| {
            let age = since(missed.since, at);
            if age >= u32::from(age_max) {
                return false;
            }
            // Below a second.
            let age = age as u16;
            if age >= missed.due {
                if missed.tries == TRIES_MAX {
                    return false;
                }
                if missed.tries == 0 {
                    missed.asked = age;
                }
                missed.tries += 1;
                missed.due = age.saturating_add(interval).min(age_max);
                out.push(missed.sequence);
            }
            next = next.min(u32::from(missed.due - age));
            true
        });
        self.stats.given_up += (before - self.missed.len()) as u64;
        self.stats.asked += (out.len() - asked) as u64;
        self.due = Some(now + Duration::from_millis(u64::from(next)));
        self.release();
    }

    /// When to call [`Generator::poll`]; none while no packet is missed.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.filter(|_| !self.missed.is_empty())
    }

    /// Lets go of the memory once nothing is missed.
    fn release(&mut self) {
        if self.missed.is_empty() {
            self.missed = Vec::new();
        }
    }

    /// How many packets are missed.
    pub fn outstanding(&self) -> usize {
        self.missed.len()
    }

    /// The smoothed time to an answer, once one was measured.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// What became of the packets.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// Milliseconds since `start`. They wrap after 49 days: see [`since`].
fn milliseconds(start: Instant, now: Instant) -> u32 {
    now.saturating_duration_since(start).as_millis() as u32
}

/// How far apart two times are, in milliseconds; none if they are the wrong way round.
fn since(then: u32, now: u32) -> u32 {
    now.wrapping_sub(then).cast_signed().max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = (1 << 32) + 65_530;

    fn ms(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn polled(generator: &mut Generator, now: Instant) -> Vec<u16> {
        let mut out = Vec::new();
        generator.poll(now, &mut out);
        out
    }

    /// A generator that has seen [`FIRST`] at the given time, and the packet ten later a millisecond after.
    fn with_gap(start: Instant) -> Generator {
        let mut generator = Generator::new();
        assert_eq!(generator.packet(start, FIRST), Arrival::New);
        assert_eq!(generator.deadline(), None);
        assert_eq!(generator.packet(ms(start, 1), FIRST + 10), Arrival::New);
        generator
    }

    fn start() -> Instant {
        // A test may know what time it is; the generator is told.
        #[expect(clippy::disallowed_methods)]
        Instant::now()
    }

    #[test]
    fn a_gap_is_asked_for_after_the_grace_and_over_the_wrap() {
        let start = start();
        let mut generator = with_gap(start);
        assert_eq!(generator.deadline(), Some(ms(start, 11)));
        assert_eq!(generator.packet(ms(start, 5), FIRST + 3), Arrival::Late);
        assert_eq!(polled(&mut generator, ms(start, 10)).len(), 0);
        assert_eq!(
            polled(&mut generator, ms(start, 11)),
            [65_531, 65_532, 65_534, 65_535, 0, 1, 2, 3],
            "all but what came late"
        );
        assert_eq!(generator.deadline(), Some(ms(start, 61)), "fifty milliseconds on");
        assert_eq!(generator.packet(ms(start, 41), FIRST + 1), Arrival::Recovered);
        assert_eq!(generator.packet(ms(start, 42), FIRST + 1), Arrival::Old);
        assert_eq!(generator.packet(ms(start, 43), FIRST - 70_000), Arrival::Old);
        assert_eq!(generator.interval(), Some(Duration::from_millis(46)), "four fifths of 50, one of 30");
        assert_eq!(polled(&mut generator, ms(start, 61)).len(), 7);
        assert_eq!(generator.stats(), Stats { asked: 15, recovered: 1, given_up: 0 });
    }

    #[test]
    fn a_packet_is_asked_for_fifteen_times_and_given_up() {
        let start = start();
        let mut generator = with_gap(start);
        generator.round_trip(Duration::ZERO);
        for _ in 0..50 {
            generator.round_trip(Duration::ZERO);
        }
        let mut asked = Vec::new();
        while let Some(due) = generator.deadline() {
            assert!(due <= ms(start, 1_001));
            asked.push(polled(&mut generator, due).len());
        }
        assert_eq!(asked, [vec![9; 15], vec![0]].concat());
        assert_eq!(generator.stats(), Stats { asked: 135, recovered: 0, given_up: 9 });
        // Far away, the age ends it first.
        let mut generator = with_gap(start);
        for _ in 0..50 {
            generator.round_trip(Duration::from_secs(5));
        }
        let mut at = Vec::new();
        while let Some(due) = generator.deadline() {
            polled(&mut generator, due);
            at.push(due);
        }
        assert_eq!(at.first(), Some(&ms(start, 11)));
        assert_eq!(at.last(), Some(&ms(start, 1_001)));
        assert!(at.len() <= 4, "{at:?}");
        assert_eq!(generator.stats().given_up, 9);
    }

    #[test]
    fn a_round_trip_longer_than_the_interval_is_learned_from_the_first_request() {
        let start = start();
        let mut generator = Generator::new();
        let mut now = start;
        for round in 0..30 {
            generator.packet(now, FIRST + 2 * round);
            let asked = generator.deadline();
            while let Some(due) = generator.deadline().filter(|due| asked.is_some_and(|asked| *due < ms(asked, 200))) {
                assert_eq!(polled(&mut generator, due).len(), 1);
            }
            if let Some(asked) = asked {
                now = ms(asked, 200);
                assert_eq!(generator.packet(now, FIRST + 2 * round - 1), Arrival::Recovered);
            }
        }
        assert_eq!(generator.interval().map(|interval| interval.as_millis() / 10), Some(19));
    }

    #[test]
    fn a_new_gap_is_not_held_up_by_an_older_one() {
        let start = start();
        let mut generator = with_gap(start);
        assert_eq!(polled(&mut generator, ms(start, 11)).len(), 9);
        generator.packet(ms(start, 20), FIRST + 12);
        assert_eq!(generator.deadline(), Some(ms(start, 30)));
        assert_eq!(polled(&mut generator, ms(start, 30)), [5]);
        assert_eq!(generator.deadline(), Some(ms(start, 61)));
    }

    #[test]
    fn too_many_are_not_asked_for() {
        let start = start();
        let mut generator = with_gap(start);
        let fits = FIRST + 11 + (OUTSTANDING_MAX - 9) as u64;
        assert_eq!(generator.clone().packet(ms(start, 2), fits), Arrival::New);
        assert_eq!(generator.packet(ms(start, 2), fits + 1), Arrival::Reset);
        assert_eq!((generator.outstanding(), generator.deadline()), (0, None));
        assert_eq!(generator.stats().given_up, OUTSTANDING_MAX as u64 + 1);
        assert_eq!(generator.packet(ms(start, 3), fits), Arrival::Old);
        assert_eq!(generator.packet(ms(start, 3), fits + 2), Arrival::New);
    }

    #[test]
    fn memory() {
        assert!(size_of::<Generator>() + OUTSTANDING_MAX * size_of::<Missed>() <= 3 * 1024 + 128);
        assert_eq!(with_gap(start()).missed.capacity().next_power_of_two(), 16);
    }

    /// Whatever comes: what is asked for was missed, requests end, deadlines move on.
    #[test]
    fn fuzz_generator() {
        let start = start();
        let check = bolero::check!().with_test_time(Duration::from_secs(1)).with_type::<Vec<(u16, u8, bool)>>();
        check.for_each(|steps| {
            let (mut generator, mut sequences) = (Generator::new(), crate::rtp::seq::Sequences::default());
            let (mut now, mut seen) = (start, std::collections::HashSet::new());
            for &(sequence, wait, poll) in steps {
                now += Duration::from_millis(u64::from(wait));
                // Most steps are small.
                let near = sequences.newest().unwrap_or(0) as u16;
                let sequence = if wait & 1 == 0 { sequence } else { near.wrapping_add(sequence % 8).wrapping_sub(3) };
                if let Some(count) = sequences.unwrap(sequence) {
                    generator.packet(now, count);
                    seen.insert(count);
                }
                if poll {
                    for asked in polled(&mut generator, now) {
                        assert!(!seen.contains(&sequences.nearest(asked).unwrap()), "asked for what came");
                    }
                    assert!(generator.deadline().is_none_or(|due| due > now));
                }
                assert!(generator.outstanding() <= OUTSTANDING_MAX);
            }
            for _ in 0..20 * OUTSTANDING_MAX {
                let Some(due) = generator.deadline() else { break };
                polled(&mut generator, due.max(now));
            }
            assert_eq!(generator.deadline(), None, "it ends");
        });
    }
}
