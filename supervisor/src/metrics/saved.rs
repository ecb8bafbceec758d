//! Numbers on their way into another image of the supervisor.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_proto::metrics::{Merge, SavedCounted};

use super::Metrics;
use crate::plan::{SlotId, WorkerId};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    past: SavedCounted,
    /// Role, slot and incarnation of a worker that lives, and what it counted.
    live: Vec<(String, u32, u64, SavedCounted)>,
    pairs: Vec<(String, String)>,
    reloads: [u64; 2],
    last_reload_refused: bool,
}

impl Metrics {
    /// What [`restore`](Self::restore) needs.
    pub fn save(&self) -> Value {
        let (past, live, pairs) = self.merge.save();
        let live = live.into_iter().map(|(id, counted)| {
            let WorkerId { slot: SlotId { role, index }, incarnation } = id;
            (role.to_string(), index, incarnation, counted)
        });
        let (reloads, last_reload_refused) = (self.reloads, self.last_reload_refused);
        let saved = Saved { past, live: live.collect(), pairs, reloads, last_reload_refused };
        serde_json::to_value(saved).unwrap_or_default()
    }

    /// Goes on with the numbers of a supervisor that had run for so long. Numbers that cannot be read are lost; nothing else
    /// is.
    pub fn restore(&mut self, saved: Value, uptime: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.started = now.saturating_sub(uptime);
        let saved: Saved = serde_json::from_value(saved).unwrap_or_default();
        let live = saved.live.into_iter().filter_map(|(role, index, incarnation, counted)| {
            let slot = SlotId { role: role.parse().ok()?, index };
            Some((WorkerId { slot, incarnation }, counted))
        });
        self.merge = Merge::restore((saved.past, live.collect(), saved.pairs));
        (self.reloads, self.last_reload_refused) = (saved.reloads, saved.last_reload_refused);
    }
}

#[cfg(test)]
mod tests {
    use weir_proto::metrics::families;
    use weir_proto::supervisor::Report;

    use super::*;

    #[test]
    fn counters_do_not_go_back_with_the_image() {
        let worker = |incarnation| WorkerId { slot: SlotId::edge(0), incarnation };
        let report = |bytes_in| Report { bytes_in, ..Report::default() };
        let mut old = Metrics::new(SystemTime::now());
        old.report(worker(1), &report(100));
        old.ended(worker(1));
        old.report(worker(2), &report(30));
        old.reloaded(true);
        let mut new = Metrics::new(SystemTime::now());
        new.restore(old.save(), Duration::from_secs(60));
        let received = |metrics: &Metrics| {
            let text = super::super::encode(&metrics.page(0));
            let line = text.lines().find(|line| line.starts_with(families::RECEIVED_BYTES.name)).unwrap().to_owned();
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert_eq!(received(&old), 130.0);
        assert_eq!(received(&new), 130.0);
        new.report(worker(2), &report(35));
        new.ended(worker(2));
        assert_eq!(received(&new), 135.0);
        assert!(old.started - new.started >= Duration::from_secs(59));
        new.restore(Value::Null, Duration::ZERO);
    }

    #[test]
    fn moments_before_and_after_the_start_have_their_time() {
        let metrics = Metrics::new(UNIX_EPOCH + Duration::from_secs(1000));
        let (then, hour) = (metrics.clock.0, Duration::from_secs(3600));
        assert_eq!(metrics.unix_time(then + hour), Duration::from_secs(4600));
        let before = then.checked_sub(Duration::from_secs(100)).unwrap_or(then);
        assert_eq!(metrics.unix_time(before), Duration::from_secs(1000) - (then - before));
    }
}
