//! Packets back into the order of their numbers, within bounds of count and time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// The packet after the one before.
    Packet(T),
    /// Packets that were waited for in vain.
    Lost,
}

/// A reorder buffer.
#[derive(Debug)]
pub(super) struct Jitter<T> {
    next: Option<u64>,
    held: BTreeMap<u64, (Instant, T)>,
    wait: Duration,
    most: usize,
}

impl<T> Jitter<T> {
    /// Waits so long for a missing packet, and holds so many meanwhile.
    pub(super) fn new(wait: Duration, most: usize) -> Self {
        Self { next: None, held: BTreeMap::new(), wait, most }
    }

    /// Takes a packet by its extended sequence number; false where it is late or a duplicate.
    pub(super) fn push(&mut self, now: Instant, seq: u64, item: T) -> bool {
        let next = *self.next.get_or_insert(seq);
        if seq < next || self.held.contains_key(&seq) {
            return false;
        }
        self.held.insert(seq, (now, item));
        true
    }

    /// Gives the next packet, or that it is given up: its successor has waited its time or too many have come since.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Next<T>> {
        let first = self.held.first_entry()?;
        let seq = *first.key();
        if self.next == Some(seq) {
            self.next = seq.checked_add(1);
            return Some(Next::Packet(first.remove().1));
        }
        let (since, _) = first.get();
        if now.saturating_duration_since(*since) < self.wait && self.held.len() <= self.most {
            return None;
        }
        self.next = Some(seq);
        Some(Next::Lost)
    }

    /// When the packet that is waited for is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (seq, (since, _)) = self.held.first_key_value()?;
        (self.next != Some(*seq)).then(|| *since + self.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(300);

    fn all(jitter: &mut Jitter<u64>, now: Instant) -> Vec<Next<u64>> {
        core::iter::from_fn(|| jitter.pop(now)).collect()
    }

    #[test]
    fn order_and_duplicates() {
        let now = Instant::now();
        let mut jitter = Jitter::new(WAIT, 8);
        for (seq, taken) in [(10, true), (12, true), (12, false), (9, false), (11, true), (10, true)] {
            assert_eq!(jitter.push(now, seq, seq), taken, "{seq}");
            if seq == 11 {
                let got = all(&mut jitter, now);
                assert_eq!(got, [Next::Packet(10), Next::Packet(11), Next::Packet(12)]);
                assert!(!jitter.push(now, 10, 10), "late");
                break;
            }
        }
    }

    #[test]
    fn gives_up_in_time() {
        let now = Instant::now();
        let mut jitter = Jitter::new(WAIT, 8);
        jitter.push(now, 1, 1);
        jitter.push(now, 3, 3);
        assert_eq!(all(&mut jitter, now), [Next::Packet(1)]);
        assert_eq!(jitter.deadline(), Some(now + WAIT));
        assert_eq!(all(&mut jitter, now + WAIT), [Next::Lost, Next::Packet(3)]);
        assert_eq!(jitter.deadline(), None);
    }

    #[test]
    fn gives_up_by_count() {
        let now = Instant::now();
        let mut jitter = Jitter::new(WAIT, 3);
        jitter.push(now, 1, 1);
        all(&mut jitter, now);
        for seq in 3..6 {
            jitter.push(now, seq, seq);
            assert_eq!(jitter.pop(now), None);
        }
        jitter.push(now, 6, 6);
        assert_eq!(jitter.pop(now), Some(Next::Lost));
    }
}
