//! What the workers told, on its way into another process.

use std::collections::BTreeMap;

use super::merge::{Counted, Merge, Worker, find};
use super::{Buckets, Family, Kind};

/// Counters by name and labels, then histograms with the counts of their buckets and their sums.
pub type SavedCounted = (Vec<(String, Vec<String>, u64)>, Vec<(String, Vec<String>, Vec<u64>, u64)>);

/// What was counted by all that are gone, by each that lives, and the pairs of vhost and app that are told apart.
pub type SavedMerge<K> = (SavedCounted, Vec<(K, SavedCounted)>, Vec<(String, String)>);

impl<K: Ord + Clone> Merge<K> {
    /// What [`restore`](Self::restore) needs. Gauges are not part of it: living workers tell them again.
    pub fn save(&self) -> SavedMerge<K> {
        let live = self.live.iter().map(|(key, worker)| (key.clone(), worker.counted.save()));
        (self.past.save(), live.collect(), self.pairs.iter().cloned().collect())
    }

    /// Goes on with what another process had been told. Families that are not known
    /// here, or not as they were, are forgotten.
    pub fn restore((past, live, pairs): SavedMerge<K>) -> Self {
        let worker = |(key, counted)| (key, Worker { counted: Counted::restore(counted), ..Worker::default() });
        Self {
            live: live.into_iter().map(worker).collect(),
            past: Counted::restore(past),
            pairs: pairs.into_iter().take(super::PAIRS_MAX).collect(),
        }
    }
}

fn fits(family: &Family, labels: &[String]) -> bool {
    family.all_labels().count() == labels.len()
}

impl Counted {
    fn save(&self) -> SavedCounted {
        let text = |name: &str| name.to_owned();
        let counters = self.counters.iter().map(|((name, labels), value)| (text(name), labels.clone(), *value));
        let histograms = self
            .histograms
            .iter()
            .map(|((name, labels), buckets)| (text(name), labels.clone(), buckets.counts.clone(), buckets.sum_us));
        (counters.collect(), histograms.collect())
    }

    fn restore((counters, histograms): SavedCounted) -> Self {
        let counters = counters.into_iter().filter_map(|(name, labels, value)| {
            let family = find(&name).filter(|family| family.kind == Kind::Counter)?;
            fits(family, &labels).then_some(((family.name, labels), value))
        });
        let histograms = histograms.into_iter().filter_map(|(name, labels, counts, sum_us)| {
            let family = find(&name)?;
            let Kind::Histogram(bounds) = family.kind else { return None };
            let same = fits(family, &labels) && counts.len() == bounds.len() + 1;
            same.then_some(((family.name, labels), Buckets { counts, sum_us }))
        });
        Self { counters: counters.collect::<BTreeMap<_, _>>(), histograms: histograms.collect() }
    }
}
