//! A page in Prometheus' text format, version 0.0.4.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use tracing::error;
use weir_proto::metrics::{Buckets, Family, Kind, Page, Value};

/// Writes the page.
pub fn encode(page: &Page) -> String {
    let families: Vec<MetricFamily> = page.families().map(|(family, samples)| one(family, samples.iter())).collect();
    TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
        error!(%error, "the metrics cannot be written");
        String::new()
    })
}

fn one<'a>(family: &'static Family, samples: impl Iterator<Item = (&'a Vec<String>, &'a Value)>) -> MetricFamily {
    let mut out = MetricFamily::default();
    out.set_name(family.name.to_owned());
    out.set_help(family.help.to_owned());
    out.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge | Kind::Worst => MetricType::GAUGE,
        Kind::Histogram(_) => MetricType::HISTOGRAM,
    });
    out.set_metric(samples.map(|(labels, value)| sample(family, labels, value)).collect());
    out
}

fn sample(family: &'static Family, labels: &[String], value: &Value) -> Metric {
    let mut metric = Metric::default();
    let pair = |(name, value): (&'static str, &String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.clone());
        pair
    };
    metric.set_label(family.all_labels().zip(labels).map(pair).collect());
    match (family.kind, value) {
        (Kind::Counter, Value::Number(number)) => {
            let mut counter = Counter::default();
            counter.set_value(*number);
            metric.set_counter(counter);
        }
        (Kind::Histogram(bounds), Value::Buckets(buckets)) => metric.set_histogram(histogram(bounds, buckets)),
        (_, Value::Number(number)) => {
            let mut gauge = Gauge::default();
            gauge.set_value(*number);
            metric.set_gauge(gauge);
        }
        (_, Value::Buckets(_)) => {}
    }
    metric
}

/// The format wants each bucket to hold those below it too.
fn histogram(bounds: &[f64], buckets: &Buckets) -> Histogram {
    let mut sum = 0_u64;
    let cumulative = bounds.iter().zip(&buckets.counts).map(|(bound, count)| {
        sum = sum.saturating_add(*count);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(sum);
        bucket
    });
    let mut out = Histogram::default();
    out.set_bucket(cumulative.collect());
    out.set_sample_count(buckets.count());
    out.set_sample_sum(buckets.sum_us as f64 / 1e6);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_proto::metrics::{Observed, families};

    use super::*;

    #[test]
    fn a_page_is_written_as_the_format_wants_it() {
        let mut page = Page::default();
        page.set(&families::WORKER_UP, &["edge", "0"], 1.0);
        page.set(&families::STREAM_PLAYERS, &["v", "a", "q\"\\\n"], 12_345_678_901_234.0);
        page.set(&families::JOINS, &["rtmp"], 3.0);
        let observed = Observed::new(&families::FRAME_LATENCY);
        for millis in [1, 3, 30, 4_000] {
            observed.observe(Duration::from_millis(millis));
        }
        page.add_buckets(&families::FRAME_LATENCY, vec![], &observed.get());
        let wanted = "\
# HELP weir_worker_up Whether the slot has a worker that serves.
# TYPE weir_worker_up gauge
weir_worker_up{role=\"edge\",slot=\"0\"} 1
# HELP weir_joins_total Players that got their first media.
# TYPE weir_joins_total counter
weir_joins_total{protocol=\"rtmp\"} 3
# HELP weir_frame_latency_seconds From a frame's arrival at an edge worker to the round that writes it to players; one frame a round is looked at.
# TYPE weir_frame_latency_seconds histogram
weir_frame_latency_seconds_bucket{le=\"0.001\"} 1
weir_frame_latency_seconds_bucket{le=\"0.0025\"} 1
weir_frame_latency_seconds_bucket{le=\"0.005\"} 2
weir_frame_latency_seconds_bucket{le=\"0.01\"} 2
weir_frame_latency_seconds_bucket{le=\"0.025\"} 2
weir_frame_latency_seconds_bucket{le=\"0.05\"} 3
weir_frame_latency_seconds_bucket{le=\"0.1\"} 3
weir_frame_latency_seconds_bucket{le=\"0.2\"} 3
weir_frame_latency_seconds_bucket{le=\"0.35\"} 3
weir_frame_latency_seconds_bucket{le=\"0.5\"} 3
weir_frame_latency_seconds_bucket{le=\"1\"} 3
weir_frame_latency_seconds_bucket{le=\"2\"} 3
weir_frame_latency_seconds_bucket{le=\"+Inf\"} 4
weir_frame_latency_seconds_sum 4.034
weir_frame_latency_seconds_count 4
# HELP weir_stream_players Players of the stream.
# TYPE weir_stream_players gauge
weir_stream_players{vhost=\"v\",app=\"a\",stream=\"q\\\"\\\\\\n\"} 12345678901234
";
        assert_eq!(encode(&page), wanted);
        assert_eq!(weir_proto::metrics::TEXT_FORMAT, prometheus::TEXT_FORMAT);
    }
}
