//! Sequence numbers and timestamps that wrap (RFC 3550 5.1, A.1), as counts that do not.

/// How far behind the newest packet one may come and still belong to it; what is further behind is a sender that
/// began again, or a stray.
pub const MISORDER_MAX: u64 = 4_096;

/// Whether `a` is newer than `b` (serial numbers, RFC 1982 3.2). Of two that are half the space apart, neither is.
pub fn newer(a: u16, b: u16) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// The same for timestamps.
pub fn newer_timestamp(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Sequence numbers of one source as counts. Begins at 2^32, so that what comes before the first is above zero.
///
/// Counts grow by what the numbers do, and by up to 65,535 where the sender begins again: who sees a step past its own
/// limit begins again too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequences {
    newest: Option<u64>,
    /// What would follow a packet too far behind: a second one in order says that it was no stray (RFC 3550 A.1).
    restart: Option<u16>,
}

impl Sequences {
    /// The count of a packet that came. None if it is too far behind the newest: not to be used.
    pub fn unwrap(&mut self, sequence: u16) -> Option<u64> {
        let Some(newest) = self.newest else {
            let first = (1 << 32) | u64::from(sequence);
            self.newest = Some(first);
            return Some(first);
        };
        let count = nearest(newest, sequence);
        if count + MISORDER_MAX >= newest {
            self.newest = Some(count.max(newest));
            self.restart = None;
            return Some(count);
        }
        if self.restart != Some(sequence) {
            self.restart = Some(sequence.wrapping_add(1));
            return None;
        }
        let forward = count + (1 << 16);
        self.newest = Some(forward);
        self.restart = None;
        Some(forward)
    }

    /// The count that a number stands for, seen from the newest packet; for what others say about packets.
    pub fn nearest(&self, sequence: u16) -> Option<u64> {
        self.newest.map(|newest| nearest(newest, sequence))
    }

    /// The count of the newest packet.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }
}

/// The count closest to `newest` whose low sixteen bits are `sequence`.
fn nearest(newest: u64, sequence: u16) -> u64 {
    // The low sixteen bits are meant.
    let step = sequence.wrapping_sub(newest as u16).cast_signed();
    newest.wrapping_add_signed(i64::from(step))
}

/// Timestamps of one source as counts of its clock's ticks. Begins at 2^40.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timestamps {
    newest: Option<u64>,
}

impl Timestamps {
    /// The count of a packet's timestamp: the one closest to the newest.
    pub fn unwrap(&mut self, timestamp: u32) -> u64 {
        let count = self.nearest(timestamp).unwrap_or_else(|| (1 << 40) | u64::from(timestamp));
        self.newest = Some(self.newest.map_or(count, |newest| newest.max(count)));
        count
    }

    /// The same for what others say about timestamps (sender reports).
    pub fn nearest(&self, timestamp: u32) -> Option<u64> {
        let newest = self.newest?;
        // The low thirty-two bits are meant.
        let step = timestamp.wrapping_sub(newest as u32).cast_signed();
        Some(newest.wrapping_add_signed(i64::from(step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1 << 32;

    #[test]
    fn serial_comparison() {
        assert!(newer(1, 0) && newer(0, 65_535) && newer(100, 65_500) && newer(32_767, 0));
        assert!(!newer(0, 0) && !newer(0, 1) && !newer(65_535, 0) && !newer(32_768, 0) && !newer(0, 32_768));
        assert!(newer_timestamp(5, u32::MAX) && !newer_timestamp(u32::MAX, 5) && !newer_timestamp(7, 7));
    }

    #[test]
    fn counts_pass_the_wrap_in_both_directions() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.newest(), None);
        assert_eq!(sequences.nearest(9), None);
        assert_eq!(sequences.unwrap(2), Some(START + 2));
        assert_eq!(sequences.unwrap(65_534), Some(START - 2), "before the first, over the wrap");
        assert_eq!(sequences.unwrap(3), Some(START + 3), "the newest has not gone back");
        let mut count = START + 3;
        for _ in 0..200_000 {
            count += 1;
            assert_eq!(sequences.unwrap(count as u16), Some(count));
        }
        assert_eq!(sequences.unwrap((count - 4_000) as u16), Some(count - 4_000));
        assert_eq!(sequences.newest(), Some(count));
        assert_eq!(sequences.nearest((count - 30_000) as u16), Some(count - 30_000));
    }

    #[test]
    fn a_stray_is_refused_and_a_restart_goes_on_ahead() {
        let mut sequences = Sequences::default();
        sequences.unwrap(40_000);
        assert_eq!(sequences.unwrap(20_000), None);
        assert_eq!(sequences.unwrap(40_001), Some(START + 40_001));
        assert_eq!(sequences.unwrap(20_001), None, "the stray was forgotten");
        assert_eq!(sequences.unwrap(20_002), Some(START + 65_536 + 20_002), "the second in order");
        assert_eq!(sequences.unwrap(20_003), Some(START + 65_536 + 20_003));
        assert_eq!(sequences.unwrap(20_001), Some(START + 65_536 + 20_001));
    }

    #[test]
    fn timestamps_pass_the_wrap() {
        let mut timestamps = Timestamps::default();
        let first = timestamps.unwrap(u32::MAX - 2_999);
        assert_eq!(timestamps.unwrap(0), first + 3_000);
        assert_eq!(timestamps.unwrap(u32::MAX), first + 2_999);
        assert_eq!(timestamps.unwrap(90_000), first + 93_000);
        assert_eq!(timestamps.nearest(45_000), Some(first + 48_000));
    }

    #[test]
    fn fuzz_counts() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).with_type::<Vec<u16>>().for_each(
            |numbers| {
                let (mut sequences, mut newest) = (Sequences::default(), 0);
                for &number in numbers {
                    let before = sequences.newest();
                    if let Some(count) = sequences.unwrap(number) {
                        assert_eq!(count as u16, number);
                        newest = newest.max(count);
                        assert_eq!(sequences.newest(), Some(newest));
                        assert!(before.is_none_or(|before| count + MISORDER_MAX >= before && count < before + 65_536));
                    } else {
                        assert_eq!(sequences.newest(), before);
                    }
                }
            },
        );
    }
}
