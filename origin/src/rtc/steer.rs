//! Which of a publisher's simulcast layers a player is sent: what its path carries, and at most that.

use std::time::{Duration, Instant};

use weir_wire::rtp::estimate::Estimate;
use weir_wire::rtp::layers::Layers;
use weir_wire::rtp::rtcp::TransportCc;

use super::track::Track;

/// A player of whose path nothing is known yet begins with the best layer that needs no more bits a second.
const AT_FIRST: u64 = 1_500_000;

/// How often the choice is thought over.
const DECIDE_EVERY: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(crate) struct Steer {
    /// The path, where the player tells of it.
    estimate: Option<Estimate>,
    layers: Layers,
    decide_at: Instant,
    /// Generation of the track that is to be sent, and since when.
    wanted: u64,
    since: Instant,
}

impl Steer {
    /// `tells`: the player says when packets arrive.
    pub(crate) fn new(tracks: &[&Track], tells: bool, now: Instant) -> Self {
        let layers = ascending(tracks);
        let fits = |track: &&Track| track.rate(now) > 0 && (!tells || track.usual() <= AT_FIRST);
        let first = layers.iter().rposition(fits).unwrap_or(0);
        Self {
            estimate: tells.then(|| Estimate::new(now, AT_FIRST)),
            layers: Layers::new(now, first),
            decide_at: now + DECIDE_EVERY,
            wanted: layers.get(first).map_or(0, |track| track.generation),
            since: now,
        }
    }

    /// The track that is to be sent from its next key frame on, and since when that is so.
    pub(crate) fn choose(&mut self, tracks: &[&Track], now: Instant) -> (u64, Instant) {
        let gone = !tracks.iter().any(|track| track.generation == self.wanted);
        if now >= self.decide_at || gone {
            self.decide_at = now + DECIDE_EVERY;
            let layers = ascending(tracks);
            let rates: Vec<u64> = layers.iter().map(|track| track.rate(now)).collect();
            let at = match &self.estimate {
                Some(estimate) => self.layers.choose(now, &rates, Some(estimate.capacity(now))),
                // Nobody says what the path carries: the best there is.
                None => rates.iter().rposition(|rate| *rate > 0).unwrap_or(0),
            };
            if let Some(track) = layers.get(at).filter(|track| track.generation != self.wanted) {
                (self.wanted, self.since) = (track.generation, now);
            }
        }
        (self.wanted, self.since)
    }

    /// The number that a packet of so many bytes is sent with, where the player tells of it.
    pub(crate) fn sent(&mut self, now: Instant, bytes: usize) -> Option<u16> {
        self.estimate.as_mut().map(|estimate| estimate.sent(now, bytes))
    }

    /// What the player tells of packets.
    pub(crate) fn feedback(&mut self, now: Instant, feedback: TransportCc<'_>) {
        if let Some(estimate) = &mut self.estimate {
            estimate.feedback(now, feedback);
        }
    }
}

/// The layers from the smallest up, by what they usually need. (SDP tells their order by no rule that all follow.)
fn ascending<'a>(tracks: &[&'a Track]) -> Vec<&'a Track> {
    let mut layers = tracks.to_vec();
    layers.sort_by_key(|track| track.usual());
    layers
}
