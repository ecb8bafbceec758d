//! Arrivals of packets by their transport-wide sequence number, and the feedback about them
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::{Duration, Instant};

use super::rtcp::write::{TRANSPORT_CC, TRANSPORT_FEEDBACK, packet};
use super::seq::Sequences;

/// Feedback goes out this long after the feedback before, once a packet has come ...
pub const INTERVAL: Duration = Duration::from_millis(100);

/// ... or this long, once [`BATCH`] packets have come.
pub const INTERVAL_BUSY: Duration = Duration::from_millis(50);

/// See [`INTERVAL_BUSY`].
pub const BATCH: usize = 40;

/// Arrivals that wait; with as many, feedback is due at once, and what comes before it goes out is not told.
pub const PENDING_MAX: usize = 128;

/// A gap of more packets than this is not told: the sender began again.
pub const GAP_MAX: u64 = 1_000;

/// How far below the last feedback a late packet is still told.
const LATE_MAX: u64 = 128;

/// Packets in one feedback packet.
const STATUS_MAX: usize = super::rtcp::FEEDBACK_MAX as usize;

/// What was received and not yet told. At most 2.5 KiB.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    sequences: Sequences,
    /// Where its ticks count from: the first packet.
    start: Option<Instant>,
    /// In ascending order of their counts.
    pending: Vec<Arrived>,
    /// The count after the newest one that was told.
    next: Option<u64>,
    /// Which of the [`LATE_MAX`] packets below `next` were told as received; bit 0 is the one just below.
    told: u128,
    /// When the feedback before went out.
    sent: Option<Instant>,
    number: u8,
}

#[derive(Clone, Copy, Debug)]
struct Arrived {
    count: u64,
    /// In units of 250 us since the start. They wrap together with the reference time of the format.
    tick: u32,
}

impl Recorder {
    /// Nothing was received.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet came with this transport-wide sequence number.
    pub fn packet(&mut self, now: Instant, sequence: u16) {
        let Some(count) = self.sequences.unwrap(sequence) else { return };
        let start = *self.start.get_or_insert(now);
        let known = self.next.and_then(|next| next.checked_sub(count + 1));
        if self.pending.len() >= PENDING_MAX || known.is_some_and(|below| below >= LATE_MAX || self.was_told(below)) {
            return;
        }
        let place = self.pending.partition_point(|other| other.count < count);
        if self.pending.get(place).is_none_or(|other| other.count != count) {
            // The low bits are meant.
            let tick = (now.saturating_duration_since(start).as_micros() / 250) as u32;
            self.pending.insert(place, Arrived { count, tick });
        }
    }

    fn was_told(&self, below: u64) -> bool {
        self.told >> below & 1 == 1
    }

    /// When to call [`Recorder::poll`]; none while there is nothing to tell.
    pub fn deadline(&self) -> Option<Instant> {
        let wait = match self.pending.len() {
            0 => return None,
            1..BATCH => INTERVAL,
            BATCH..PENDING_MAX => INTERVAL_BUSY,
            _ => Duration::ZERO,
        };
        Some(self.sent.or(self.start)? + wait)
    }

    /// Appends feedback if it is due, as `sender`, about packets of which `media` is a source. Whether it was: one
    /// packet, or several after great gaps.
    pub fn poll(&mut self, now: Instant, sender: u32, media: u32, out: &mut Vec<u8>) -> bool {
        if self.deadline().is_none_or(|due| now < due) {
            return false;
        }
        self.sent = Some(now);
        while let Some(message) = self.take() {
            packet(out, TRANSPORT_FEEDBACK, TRANSPORT_CC, |out| {
                out.extend(sender.to_be_bytes());
                out.extend(media.to_be_bytes());
                // The low bits are meant; there are at most STATUS_MAX symbols.
                out.extend((message.base as u16).to_be_bytes());
                out.extend((message.symbols.len() as u16).to_be_bytes());
                out.extend(((message.reference << 8) | u32::from(self.number)).to_be_bytes());
                chunks(out, &message.symbols);
                out.extend(&message.deltas);
            });
            self.number = self.number.wrapping_add(1);
        }
        true
    }

    /// As much of what waits as one packet can tell.
    fn take(&mut self) -> Option<Message> {
        let first = *self.pending.first()?;
        // What comes late is told without what lies between, which was told; else what lies between is lost.
        let late = self.next.filter(|next| first.count < *next);
        let base = match self.next {
            Some(next) if late.is_none() && first.count - next <= GAP_MAX => next,
            _ => first.count,
        };
        let reference = first.tick >> 8;
        let mut message = Message { base, reference, symbols: Vec::new(), deltas: Vec::new() };
        let (mut clock, mut taken) = (reference << 8, 0);
        for arrived in &self.pending {
            let gap = arrived.count - base - message.symbols.len() as u64;
            if late.is_some_and(|next| gap > 0 || arrived.count >= next) || gap > GAP_MAX {
                break;
            }
            // At most GAP_MAX.
            let length = message.symbols.len() + gap as usize;
            let delta = i16::try_from(arrived.tick.wrapping_sub(clock).cast_signed());
            let Some(delta) = delta.ok().filter(|_| length < STATUS_MAX) else { break };
            message.symbols.resize(length, LOST);
            if let Ok(delta) = u8::try_from(delta) {
                message.symbols.push(SHORT);
                message.deltas.push(delta);
            } else {
                message.symbols.push(LONG);
                message.deltas.extend(delta.to_be_bytes());
            }
            clock = arrived.tick;
            taken += 1;
        }
        for told in self.pending.drain(..taken) {
            match self.next.and_then(|next| next.checked_sub(told.count + 1)) {
                Some(below) => self.told |= 1_u128.checked_shl(below as u32).unwrap_or(0),
                None => {
                    let step = self.next.map_or(1, |next| told.count + 1 - next);
                    let shifted = u32::try_from(step).ok().and_then(|step| self.told.checked_shl(step));
                    self.told = shifted.unwrap_or(0) | 1;
                    self.next = Some(told.count + 1);
                }
            }
        }
        (taken > 0).then_some(message)
    }
}

/// What one packet tells.
struct Message {
    /// The count of the first symbol.
    base: u64,
    /// In units of 64 ms, of which the format has 24 bits.
    reference: u32,
    symbols: Vec<u8>,
    deltas: Vec<u8>,
}

// Symbols (3.1.1).
const LOST: u8 = 0;
const SHORT: u8 = 1;
const LONG: u8 = 2;

/// Appends the chunks for the symbols (3.1.3, 3.1.4): a run where it is longer than what a vector holds, or all that
/// is left.
fn chunks(out: &mut Vec<u8>, mut symbols: &[u8]) {
    while let Some(&first) = symbols.first() {
        let run = symbols.iter().take(0x1fff).take_while(|symbol| **symbol == first).count();
        let near = symbols.get(..14).unwrap_or(symbols);
        let width = if near.contains(&LONG) { 2 } else { 1 };
        let vector = symbols.len().min(14 / width);
        let (chunk, told) = if run >= vector {
            // Thirteen bits.
            (u16::from(first) << 13 | run as u16, run)
        } else {
            let bits = near.iter().take(vector).fold(0_u16, |bits, symbol| bits << width | u16::from(*symbol));
            let empty = 14 - width * vector;
            (0x8000 | (width as u16 - 1) << 14 | bits << empty, vector)
        };
        out.extend(chunk.to_be_bytes());
        symbols = symbols.get(told..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rtc::rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
    use rtc::shared::marshal::Unmarshal;

    use super::*;
    use crate::rtp::rtcp::{Packet, TransportCc, parse};

    fn start() -> Instant {
        // A test may know what time it is; the recorder is told.
        #[expect(clippy::disallowed_methods)]
        Instant::now()
    }

    fn ms(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    /// What goes out when it is due.
    fn polled(recorder: &mut Recorder, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(recorder.poll(now, 1, 2, &mut out), !out.is_empty());
        out
    }

    fn feedbacks(compound: &[u8]) -> Vec<TransportCc<'_>> {
        let only = |packet| match packet {
            Packet::TransportCc(feedback) => feedback,
            other => panic!("{other:?}"),
        };
        parse(compound).map(only).collect()
    }

    #[test]
    fn arrivals_and_losses_over_the_wrap() {
        let (start, mut recorder) = (start(), Recorder::new());
        assert_eq!(recorder.deadline(), None);
        for (at, sequence) in [(0, 65_534), (1, 65_535), (1, 65_535), (40, 2), (10, 1), (200, 3)] {
            recorder.packet(ms(start, at), sequence);
        }
        assert_eq!(recorder.deadline(), Some(ms(start, 100)));
        assert!(!recorder.poll(ms(start, 99), 1, 2, &mut Vec::new()));
        let out = polled(&mut recorder, ms(start, 100));
        let [feedback] = feedbacks(&out)[..] else { panic!() };
        assert_eq!((feedback.sender, feedback.media, feedback.number), (1, 2, 0));
        let expected = [(65_534, Some(0)), (65_535, Some(1)), (0, None), (1, Some(10)), (2, Some(40)), (3, Some(200))];
        assert_eq!(feedback.collect::<Vec<_>>(), expected.map(|(n, at)| (n, at.map(|at: i64| at * 1_000))));
        assert_eq!(recorder.deadline(), None);
        // What was lost comes late, what was told again; what is next begins where the last ended.
        recorder.packet(ms(start, 101), 0);
        recorder.packet(ms(start, 102), 1);
        recorder.packet(ms(start, 103), 5);
        assert_eq!(recorder.deadline(), Some(ms(start, 200)));
        let out = polled(&mut recorder, ms(start, 200));
        let told: Vec<Vec<_>> = feedbacks(&out).into_iter().map(Iterator::collect).collect();
        assert_eq!(told, [vec![(0, Some(101_000))], vec![(4, None), (5, Some(103_000))]]);
        assert_eq!(feedbacks(&out)[1].number, 2);
    }

    #[test]
    fn many_packets_are_told_sooner_and_bounded() {
        let (start, mut recorder) = (start(), Recorder::new());
        for n in 0..BATCH as u16 - 1 {
            recorder.packet(start, n);
        }
        assert_eq!(recorder.deadline(), Some(ms(start, 100)));
        recorder.packet(start, BATCH as u16);
        assert_eq!(recorder.deadline(), Some(ms(start, 50)));
        for n in 100..2_000 {
            recorder.packet(ms(start, 1), n);
        }
        assert_eq!(recorder.deadline(), Some(start));
        assert_eq!(recorder.pending.len(), PENDING_MAX);
        assert!(size_of::<Recorder>() + PENDING_MAX * size_of::<Arrived>() <= 2_560);
        let out = polled(&mut recorder, ms(start, 1));
        assert_eq!(feedbacks(&out).into_iter().flatten().filter(|(_, at)| at.is_some()).count(), PENDING_MAX);
    }

    #[test]
    fn after_great_gaps() {
        let (start, mut recorder) = (start(), Recorder::new());
        recorder.packet(start, 0);
        polled(&mut recorder, ms(start, 100));
        // Eight seconds are more than a delta holds, ten thousand packets more than a sender loses.
        recorder.packet(ms(start, 100), 1);
        recorder.packet(ms(start, 8_400), 2);
        recorder.packet(ms(start, 8_401), 10_002);
        recorder.packet(ms(start, 8_402), 10_102);
        let out = polled(&mut recorder, ms(start, 8_402));
        let told: Vec<Vec<_>> = feedbacks(&out).into_iter().map(Iterator::collect).collect();
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 101]);
        assert_eq!(told[2].first(), Some(&(10_002, Some(8_401_000))));
        assert_eq!(told[2].last(), Some(&(10_102, Some(8_402_000))));
        // The clock of the format wraps after 2^24 times 64 ms.
        let wrap = Duration::from_millis(64 << 24);
        recorder.packet(start + wrap - Duration::from_millis(1), 10_103);
        recorder.packet(start + wrap + Duration::from_millis(1), 10_104);
        let out = polled(&mut recorder, start + wrap + Duration::from_secs(1));
        let [feedback] = feedbacks(&out)[..] else { panic!() };
        assert_eq!(feedback.collect::<Vec<_>>(), [(10_103, Some(-1_000)), (10_104, Some(1_000))]);
    }

    #[test]
    fn chunks_of_each_kind() {
        let encode = |symbols: &[u8]| {
            let mut out = Vec::new();
            chunks(&mut out, symbols);
            out.chunks(2).map(|chunk| u16::from_be_bytes([chunk[0], chunk[1]])).collect::<Vec<_>>()
        };
        assert_eq!(encode(&[]), [] as [u16; 0]);
        assert_eq!(encode(&[1; 20]), [0x2014]);
        assert_eq!(encode(&[0; 10_000]), [0x1fff, 10_000 - 0x1fff]);
        assert_eq!(encode(&[2; 7]), [0x4007]);
        assert_eq!(encode(&[1, 0, 1]), [0b1010_1000_0000_0000]);
        assert_eq!(encode(&[1, 0, 2]), [0b1101_0010_0000_0000]);
        assert_eq!(encode(&[0, 1, 1, 1, 1, 1, 1, 2, 2]), [0b1100_0101_0101_0101, 0x4002]);
    }

    /// Whatever comes: each packet is told once as received, at its time; the other implementation reads the same.
    #[test]
    fn fuzz_recorder() {
        let start = start();
        let check = bolero::check!().with_test_time(Duration::from_secs(2)).with_type::<Vec<(u16, u16, u8)>>();
        check.for_each(|steps| {
            let (mut recorder, mut sequences, mut now) = (Recorder::new(), Sequences::default(), start);
            let (mut came, mut told) = (HashMap::new(), HashMap::new());
            for &(sequence, wait, near) in steps {
                now += Duration::from_micros(u64::from(wait) * u64::from(near));
                let newest = sequences.newest().unwrap_or(0) as u16;
                let sequence = if near < 8 { sequence } else { newest.wrapping_add(sequence % 40).wrapping_sub(9) };
                let full = recorder.pending.len() >= PENDING_MAX;
                recorder.packet(now, sequence);
                if let Some(count) = sequences.unwrap(sequence).filter(|_| !full) {
                    let first = recorder.start.unwrap();
                    came.entry(count).or_insert_with(|| now.duration_since(first).as_micros() as i64);
                }
                if wait % 4 == 0 {
                    let out = polled(&mut recorder, now);
                    for feedback in feedbacks(&out) {
                        for (sequence, at) in feedback {
                            let Some(at) = at else { continue };
                            // Which one is meant after steps of half the space, only what is still to be told can say.
                            let meant = |count: &&u64| **count as u16 == sequence && !told.contains_key(*count);
                            let count = *came.keys().filter(meant).max().expect("told twice, or never came");
                            told.insert(count, at);
                            assert!((0..250).contains(&(came[&count] - at)), "{count}: {} {at}", came[&count]);
                        }
                    }
                    let mut rest = &out[..];
                    while let [_, _, l0, l1, ..] = *rest {
                        let (mut one, after) = rest.split_at(4 + 4 * usize::from(u16::from_be_bytes([l0, l1])));
                        let theirs = TransportLayerCc::unmarshal(&mut one).unwrap();
                        let [ours] = feedbacks(&rest[..rest.len() - after.len()])[..] else { panic!() };
                        let clock = i64::from(theirs.reference_time) * 64_000;
                        let times = theirs.recv_deltas.iter().scan(clock, |clock, delta| {
                            *clock += delta.delta;
                            Some(*clock)
                        });
                        assert_eq!(times.collect::<Vec<_>>(), ours.filter_map(|(_, at)| at).collect::<Vec<_>>());
                        rest = after;
                    }
                }
                assert!(recorder.pending.len() <= PENDING_MAX);
            }
        });
    }
}
