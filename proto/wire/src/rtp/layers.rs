//! Which of a publisher's simulcast layers a subscriber gets.

use std::time::{Duration, Instant};

use super::estimate::Capacity;

/// A layer above is taken when the path has carried this much more than it needs, for [`UP_AFTER`].
pub const UP_MARGIN: f64 = 1.2;

/// See [`UP_MARGIN`].
pub const UP_AFTER: Duration = Duration::from_secs(3);

/// Where less is sent than the path carries, nobody knows how much that is: the layer above is tried after this long
/// without a queue or loss, and after twice as long each time it was too much, up to the second.
pub const TRY_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(80));

/// A layer that is left within this was too much; past it, it was not, and the next try comes as soon as the first.
pub const TRIAL: Duration = Duration::from_secs(10);

/// The choice for one subscriber: down at once, up by a layer at a time.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    current: usize,
    /// Since when the current layer is sent, and whether it is one above that was tried.
    since: Instant,
    trial: bool,
    /// Since when the path is free, or carries enough for the layer above.
    free: Option<Instant>,
    roomy: Option<Instant>,
    try_after: Duration,
}

impl Layers {
    /// Begins with a layer.
    pub fn new(now: Instant, current: usize) -> Self {
        Self { current, since: now, trial: false, free: None, roomy: None, try_after: TRY_AFTER.0 }
    }

    /// The layer that is to be sent from now on (from its next keyframe). `rates` are the layers' measured bits a
    /// second, from the smallest layer up, zero where nothing comes; `capacity` is what the path carries of them, with
    /// all else that is sent taken off, or none if nothing is known: then the layer stays.
    pub fn choose(&mut self, now: Instant, rates: &[u64], capacity: Option<Capacity>) -> usize {
        let rate = |layer: usize| rates.get(layer).copied().unwrap_or(0);
        if rate(self.current) == 0 {
            // Below rather than above; with none at all, it waits where it is.
            let below = (0..self.current).rev().find(|layer| rate(*layer) > 0);
            if let Some(other) = below.or_else(|| (0..rates.len()).find(|layer| rate(*layer) > 0)) {
                self.go(now, other);
            }
            return self.current;
        }
        let Some(capacity) = capacity else { return self.current };
        if capacity.congested {
            (self.free, self.roomy) = (None, None);
            if rate(self.current) > capacity.bps {
                let fits = |layer: &usize| (1..=capacity.bps).contains(&rate(*layer));
                let lowest = || (0..self.current).find(|layer| rate(*layer) > 0);
                if let Some(below) = (0..self.current).rev().find(fits).or_else(lowest) {
                    if self.trial {
                        self.try_after = (self.try_after * 2).min(TRY_AFTER.1);
                    }
                    self.go(now, below);
                }
            }
            return self.current;
        }
        if self.trial && now.saturating_duration_since(self.since) >= TRIAL {
            (self.trial, self.try_after) = (false, TRY_AFTER.0);
        }
        let Some(above) = (self.current + 1..rates.len()).find(|layer| rate(*layer) > 0) else {
            return self.current;
        };
        let held = |since: &mut Option<Instant>, holds: bool, wait: Duration| {
            *since = if holds { since.or(Some(now)) } else { None };
            since.is_some_and(|since| now.saturating_duration_since(since) >= wait)
        };
        // Bits a second, far below 2^53.
        let roomy = capacity.bps as f64 >= rate(above) as f64 * UP_MARGIN;
        let roomy = held(&mut self.roomy, roomy, UP_AFTER);
        if held(&mut self.free, capacity.limited, self.try_after) || roomy {
            self.go(now, above);
            self.trial = true;
        }
        self.current
    }

    fn go(&mut self, now: Instant, layer: usize) {
        *self = Self { try_after: self.try_after, ..Self::new(now, layer) };
    }

    /// The layer that is sent has another place among all of them now.
    pub fn stands_at(&mut self, layer: usize) {
        self.current = layer;
    }

    /// The layer that is sent.
    pub fn current(&self) -> usize {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: [u64; 3] = [150_000, 500_000, 1_500_000];

    fn start() -> Instant {
        // A test may know what time it is; the choice is told.
        #[expect(clippy::disallowed_methods)]
        Instant::now()
    }

    fn free(bps: u64) -> Option<Capacity> {
        Some(Capacity { bps, limited: false, congested: false })
    }

    const LIMITED: Option<Capacity> = Some(Capacity { bps: 200_000, limited: true, congested: false });

    fn full(bps: u64) -> Option<Capacity> {
        Some(Capacity { bps, limited: false, congested: true })
    }

    /// The seconds at which the layer changes, with the same capacity over so many seconds.
    fn changes(layers: &mut Layers, now: &mut Instant, seconds: u32, capacity: Option<Capacity>) -> Vec<(u64, usize)> {
        let (start, mut last, mut found) = (*now, layers.current(), Vec::new());
        for _ in 0..seconds * 10 {
            *now += Duration::from_millis(100);
            let layer = layers.choose(*now, &RATES, capacity);
            if layer != last {
                found.push((now.duration_since(start).as_secs(), layer));
                last = layer;
            }
        }
        found
    }

    #[test]
    fn up_slowly_by_one_and_down_at_once() {
        let mut now = start();
        let mut layers = Layers::new(now, 0);
        assert_eq!(changes(&mut layers, &mut now, 60, free(590_000)), [], "not enough above what the next needs");
        assert_eq!(changes(&mut layers, &mut now, 20, free(5_000_000)), [(3, 1), (6, 2)]);
        assert_eq!(changes(&mut layers, &mut now, 20, free(100_000)), [], "no queue, no reason");
        assert_eq!(changes(&mut layers, &mut now, 20, full(1_500_000)), [], "it fits");
        assert_eq!(changes(&mut layers, &mut now, 20, full(510_000)), [(0, 1)]);
        assert_eq!(changes(&mut layers, &mut now, 1, free(5_000_000)), []);
        assert_eq!(changes(&mut layers, &mut now, 1, full(400_000)), [(0, 0)]);
        assert_eq!(changes(&mut layers, &mut now, 1, full(10_000)), [], "there is none below");
        assert_eq!(changes(&mut layers, &mut now, 20, None), []);
    }

    #[test]
    fn tries_that_fail_become_rare_and_one_that_holds_forgives() {
        let mut now = start();
        let mut layers = Layers::new(now, 0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let tried = changes(&mut layers, &mut now, 100, None).len();
            assert_eq!(tried, 0);
            let begun = now;
            while layers.choose(now, &RATES, LIMITED) == 0 {
                now += Duration::from_millis(100);
            }
            waits.push(now.duration_since(begun).as_secs());
            now += Duration::from_millis(500);
            assert_eq!(layers.choose(now, &RATES, full(300_000)), 0);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 80]);
        assert_eq!(changes(&mut layers, &mut now, 105, LIMITED), [(80, 1), (90, 2)], "when the trial is over");
    }

    #[test]
    fn layers_that_come_and_go() {
        let now = start();
        let mut layers = Layers::new(now, 2);
        assert_eq!(layers.choose(now, &[0, 0, 0], None), 2, "none comes: it waits");
        assert_eq!(layers.choose(now, &[], None), 2);
        assert_eq!(layers.choose(now, &[1, 1, 0], None), 1);
        assert_eq!(layers.choose(now, &[0, 0, 1], None), 2);
        assert_eq!(layers.choose(now, &[1, 0, 1], full(0)), 0, "past the one that does not come");
    }

    #[test]
    fn fuzz_layers() {
        let start = start();
        type Step = (u16, Vec<u64>, Option<(u64, bool, bool)>);
        let check = bolero::check!().with_test_time(Duration::from_secs(1)).with_type::<(u8, Vec<Step>)>();
        check.for_each(|(first, steps)| {
            let (mut now, mut layers) = (start, Layers::new(start, usize::from(*first)));
            for (wait, rates, capacity) in steps {
                now += Duration::from_millis(u64::from(*wait));
                let capacity = capacity.map(|(bps, limited, congested)| Capacity { bps, limited, congested });
                let before = layers.current();
                let layer = layers.choose(now, rates, capacity);
                assert!(layer == before || rates[layer] > 0);
            }
        });
    }
}
