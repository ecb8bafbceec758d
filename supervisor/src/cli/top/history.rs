//! The host's rates of the last minutes, and as many bars of them as there is room for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back it goes.
pub(super) const SPAN: Duration = Duration::from_secs(300);

/// Samples that are kept: two a second of the span.
const SAMPLES_MAX: usize = 600;

/// Bits a second that a bar can show.
const BAR_MAX: f64 = (1u64 << 50) as f64;

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Full seconds since the first one.
    second: u64,
    bits_in: f64,
    bits_out: f64,
}

/// Which of the two rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// A sample a status.
#[derive(Debug, Default)]
pub(super) struct History {
    began: Option<Instant>,
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds the rates of `now`, in bits a second.
    pub(super) fn push(&mut self, now: Instant, bits_in: f64, bits_out: f64) {
        let began = *self.began.get_or_insert(now);
        // Rounded: statuses that come a millisecond early or late still have a second each.
        let second = (now.saturating_duration_since(began) + Duration::from_millis(500)).as_secs();
        self.samples.push_back(Sample { second, bits_in, bits_out });
        let oldest = second.saturating_sub(SPAN.as_secs());
        while self.samples.len() > SAMPLES_MAX || self.samples.front().is_some_and(|sample| sample.second < oldest) {
            self.samples.pop_front();
        }
    }

    /// `width` bars, the newest last, each the mean of the seconds that it stands for; together they cover the span
    /// or, where there is a bar for each second, the width. None: there was no status.
    pub(super) fn bars(&self, direction: Direction, width: usize) -> Vec<Option<u64>> {
        let mut sums = vec![(0.0, 0u32); width];
        let Some(last) = self.samples.back() else { return vec![None; width] };
        // A bar's seconds are counted from the first sample, so that bars move on but do not change.
        let step = SPAN.as_secs().div_ceil((width as u64).max(1)).max(1);
        let newest = last.second / step;
        for sample in &self.samples {
            let age = usize::try_from(newest.saturating_sub(sample.second / step)).unwrap_or(usize::MAX);
            let place = width.checked_sub(1).and_then(|end| end.checked_sub(age));
            let Some((sum, count)) = place.and_then(|place| sums.get_mut(place)) else { continue };
            *sum += match direction {
                Direction::In => sample.bits_in,
                Direction::Out => sample.bits_out,
            };
            *count += 1;
        }
        let bar = |(sum, count): (f64, u32)| (count > 0).then(|| (sum / f64::from(count)).clamp(0.0, BAR_MAX) as u64);
        sums.into_iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_means_of_whole_seconds_and_a_pause_is_a_gap() {
        let (start, mut history) = (Instant::now(), History::default());
        assert_eq!(history.bars(Direction::In, 3), [None; 3]);
        for (millis, rate) in [(0, 10.0), (998, 20.0), (2003, 30.0), (4999, 50.0)] {
            history.push(start + Duration::from_millis(millis), rate, 2.0 * rate);
        }
        let mut wanted = vec![None; 300];
        wanted.splice(294.., [Some(10), Some(20), Some(30), None, None, Some(50)]);
        assert_eq!(history.bars(Direction::In, 300), wanted);
        assert_eq!(history.bars(Direction::Out, 300).last(), Some(&Some(100)));
        // 300 s over 100 bars: three seconds each.
        assert_eq!(history.bars(Direction::In, 100)[98..], [Some(20), Some(50)]);
        assert_eq!(history.bars(Direction::In, 0), []);
        assert_eq!(history.bars(Direction::In, 1), [Some(27)]);
    }

    #[test]
    fn it_keeps_the_span_and_no_more() {
        let (start, mut history) = (Instant::now(), History::default());
        for tick in 0..10_000 {
            history.push(start + Duration::from_millis(tick * 100), 1.0, 1.0);
            assert!(history.samples.len() <= SAMPLES_MAX);
        }
        history.push(start + Duration::from_secs(5000), 1.0, 1.0);
        assert_eq!(history.samples.len(), 1);
    }

    #[test]
    fn hostile_rates_draw_bars() {
        let mut history = History::default();
        history.push(Instant::now(), f64::INFINITY, f64::NAN);
        assert_eq!(history.bars(Direction::In, 1), [Some(1 << 50)]);
        assert_eq!(history.bars(Direction::Out, 1), [Some(0)]);
    }
}
