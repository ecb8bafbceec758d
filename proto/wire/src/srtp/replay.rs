//! Which packets of a source came already (RFC 3711 3.3.2).

/// Words of the window. Wide, since a packet that is sent again on request comes a round trip late: 1024 packets are a
/// second of 12 Mbit/s.
const WORDS: usize = 16;
const WINDOW: u64 = 64 * WORDS as u64;

/// The newest index of a source and which of those before it were seen.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    newest: Option<u64>,
    seen: [u64; WORDS],
}

impl Replay {
    pub(super) fn new() -> Self {
        Self { newest: None, seen: [0; WORDS] }
    }

    /// Whether a packet with this index may be new.
    pub(super) fn is_new(&self, index: u64) -> bool {
        match self.newest {
            Some(newest) if index <= newest => newest - index < WINDOW && !self.bit(index),
            _ => true,
        }
    }

    /// A packet with this index was authentic.
    pub(super) fn accept(&mut self, index: u64) {
        let from = self.newest.map_or(index, |newest| newest.saturating_add(1).max(index.saturating_sub(WINDOW - 1)));
        for passed in from..=index {
            self.set(passed, false);
        }
        self.newest = Some(self.newest.map_or(index, |newest| newest.max(index)));
        self.set(index, true);
    }

    /// The index that a 16-bit sequence number stands for: the one nearest to the newest (RFC 3711 3.3.1).
    pub(super) fn index_of(&self, sequence: u16) -> u64 {
        let Some(newest) = self.newest else { return u64::from(sequence) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "serial number arithmetic")]
        let step = i64::from(sequence.wrapping_sub(newest as u16) as i16);
        match newest.checked_add_signed(step) {
            Some(index) => index,
            // Before the first wrap there is none below.
            None => u64::from(sequence),
        }
    }

    fn bit(&self, index: u64) -> bool {
        self.seen.get(word(index)).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn set(&mut self, index: u64, seen: bool) {
        if let Some(word) = self.seen.get_mut(word(index)) {
            *word = *word & !(1 << (index % 64)) | u64::from(seen) << (index % 64);
        }
    }
}

fn word(index: u64) -> usize {
    (index / 64 % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_taken_once_and_late_ones_within_the_window() {
        let mut replay = Replay::new();
        for index in [5, 3, 2000, 1990, 978, 4000] {
            assert!(replay.is_new(index), "{index}");
            replay.accept(index);
            assert!(!replay.is_new(index), "{index}");
        }
        assert!(!replay.is_new(4000 - WINDOW), "too old");
        assert!(replay.is_new(4001 - WINDOW) && replay.is_new(3999) && replay.is_new(4001));
        assert!(!replay.is_new(2000), "out of the window");
        let mut jump = Replay::new();
        jump.accept(1);
        jump.accept(u64::from(u32::MAX));
        assert!(jump.is_new(u64::from(u32::MAX) - 1), "what lies between was not seen");
    }

    #[test]
    fn sequence_numbers_wrap_both_ways() {
        let mut replay = Replay::new();
        assert_eq!(replay.index_of(65_000), 65_000);
        replay.accept(65_000);
        assert_eq!((replay.index_of(10), replay.index_of(64_000)), (65_546, 64_000));
        replay.accept(65_546);
        assert_eq!((replay.index_of(65_535), replay.index_of(11)), (65_535, 65_547));
        let mut young = Replay::new();
        young.accept(3);
        assert_eq!(young.index_of(65_535), 65_535, "nothing lies before the first");
    }
}
