//! Percentiles over any number of durations in constant memory.

/// Each power of two is cut into so many buckets, so that a bucket is narrower than 1 % of its value.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Longer durations count as this one: 2^40 ns, 18 minutes.
const LONGEST: u64 = 1 << 40;

/// Counts of durations in nanoseconds, in buckets that grow with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// Empty until the first duration.
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn add(&mut self, ns: u64) {
        let bucket = bucket(ns.min(LONGEST));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.total += 1;
    }

    /// The duration in milliseconds that `share` (0 to 1) of all do not exceed, exact to 1 %; `None` without any.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    pub(crate) fn percentile_ms(&self, share: f64) -> Option<f64> {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(index) / 1e6)
    }
}

/// Values below STEPS have a bucket each; from there on the highest bits choose it.
fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let index = u64::from(shift) * STEPS + (ns >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The middle of a bucket, in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a rounded value")]
fn middle(index: usize) -> f64 {
    let index = index as u64;
    let shift = (index / STEPS).saturating_sub(1);
    let low = (index - shift * STEPS) << shift;
    low as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_one_percent_of_its_bucket() {
        let mut ns = 1_u64;
        while ns < LONGEST {
            for value in [ns - 1, ns, ns + ns / 3, ns * 2 - 1] {
                let found = middle(bucket(value));
                let off = (found - value as f64).abs();
                assert!(off <= value as f64 * 0.01, "{value} became {found}");
            }
            ns *= 2;
        }
    }

    #[test]
    fn buckets_follow_one_another() {
        let mut last = 0;
        for value in 1..100_000 {
            let index = bucket(value);
            assert!(index == last || index == last + 1, "{value}");
            last = index;
        }
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ms(0.5), None);
        (1..=1000).for_each(|ms| histogram.add(ms * 1_000_000));
        for (share, wanted) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0), (0.0, 1.0)] {
            let found = histogram.percentile_ms(share).unwrap();
            assert!((found - wanted).abs() <= wanted * 0.01, "{share}: {found}");
        }
        histogram.add(u64::MAX);
        assert_eq!(histogram.total, 1001);
        assert!(histogram.counts.len() < 5000, "{}", histogram.counts.len());
    }
}
