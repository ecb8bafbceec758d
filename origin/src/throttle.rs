//! Log lines that a peer or a full system could make many of.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The least time between two lines.
const EVERY: Duration = Duration::from_secs(5);

/// Lets one line through each [`EVERY`], with the number of those that it stands for.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Cell<Option<Instant>>,
    held: Cell<u64>,
}

impl Throttle {
    /// It happened `times` times more. How often since the last line, if one is due.
    pub(crate) fn hit(&self, now: Instant, times: u64) -> Option<u64> {
        let held = self.held.get().saturating_add(times);
        self.held.set(held);
        if held == 0 || self.last.get().is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return None;
        }
        self.last.set(Some(now));
        Some(self.held.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stands_for_many() {
        let throttle = Throttle::default();
        let now = Instant::now();
        assert_eq!(throttle.hit(now, 0), None);
        assert_eq!(throttle.hit(now, 1), Some(1));
        assert_eq!(throttle.hit(now, 2), None);
        assert_eq!(throttle.hit(now + EVERY / 2, 3), None);
        assert_eq!(throttle.hit(now + EVERY, 1), Some(6));
        assert_eq!(throttle.hit(now + 3 * EVERY, 0), None);
    }
}
