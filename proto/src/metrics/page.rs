//! One page of numbers, ready to be written in any format.

use std::collections::BTreeMap;

use super::{Buckets, Family, families, label};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Buckets(Buckets),
}

/// Samples by family and labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    values: BTreeMap<&'static str, BTreeMap<Vec<String>, Value>>,
}

impl Page {
    /// Sets a sample; `labels` are the values of all the family's labels.
    pub fn set(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.put(family, labels, |_| value);
    }

    /// Adds to a sample.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.put(family, labels, |old| old.unwrap_or(0.0) + value);
    }

    /// Sets a sample to `value` unless it is larger.
    pub fn raise(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.put(family, labels, |old| old.map_or(value, |old| old.max(value)));
    }

    fn put(&mut self, family: &'static Family, labels: &[&str], value: impl FnOnce(Option<f64>) -> f64) {
        debug_assert_eq!(family.all_labels().count(), labels.len(), "{}", family.name);
        let labels = labels.iter().map(|text| label(text).to_owned()).collect();
        let samples = self.values.entry(family.name).or_default();
        let old = match samples.get(&labels) {
            Some(Value::Number(old)) => Some(*old),
            _ => None,
        };
        samples.insert(labels, Value::Number(value(old)));
    }

    /// Adds to a histogram's sample.
    pub fn add_buckets(&mut self, family: &'static Family, labels: Vec<String>, buckets: &Buckets) {
        let sample = self.values.entry(family.name).or_default().entry(labels);
        match sample.or_insert_with(|| Value::Buckets(Buckets::default())) {
            Value::Buckets(sum) => sum.add(buckets),
            Value::Number(_) => {}
        }
    }

    /// The families that have samples, in the order of the table.
    pub fn families(&self) -> impl Iterator<Item = (&'static Family, &BTreeMap<Vec<String>, Value>)> {
        families::ALL.iter().filter_map(|family| Some((*family, self.values.get(family.name)?)))
    }

    /// One sample, by the values of all its labels.
    pub fn get(&self, family: &'static Family, labels: &[&str]) -> Option<&Value> {
        let labels: Vec<String> = labels.iter().map(|text| (*text).to_owned()).collect();
        self.values.get(family.name)?.get(&labels)
    }

    /// One number.
    pub fn number(&self, family: &'static Family, labels: &[&str]) -> Option<f64> {
        match self.get(family, labels)? {
            Value::Number(number) => Some(*number),
            Value::Buckets(_) => None,
        }
    }
}
