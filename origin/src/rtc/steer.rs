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
    /// Generations of the tracks, from the smallest up.
    order: Vec<u64>,
    decide_at: Instant,
    /// Generation of the track that is to be sent, and since when.
    wanted: u64,
    since: Instant,
}

impl Steer {
    /// `tells`: the player says when packets arrive.
    pub(crate) fn new(tracks: &[&Track], tells: bool, now: Instant) -> Self {
        let mut order = Vec::new();
        let layers = ascending(&mut order, tracks);
        let fits = |track: &&Track| track.rate(now) > 0 && (!tells || track.usual() <= AT_FIRST);
        let first = layers.iter().rposition(fits).unwrap_or(0);
        Self {
            estimate: tells.then(|| Estimate::new(now, AT_FIRST)),
            layers: Layers::new(now, first),
            decide_at: now + DECIDE_EVERY,
            wanted: layers.get(first).map_or(0, |track| track.generation),
            order,
            since: now,
        }
    }

    /// The track that is to be sent from its next key frame on, and since when that is so.
    pub(crate) fn choose(&mut self, tracks: &[&Track], now: Instant) -> (u64, Instant) {
        let gone = !tracks.iter().any(|track| track.generation == self.wanted);
        if now >= self.decide_at || gone {
            self.decide_at = now + DECIDE_EVERY;
            let layers = ascending(&mut self.order, tracks);
            if let Some(at) = layers.iter().position(|track| track.generation == self.wanted) {
                self.layers.stands_at(at);
            }
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

/// Puts the layers in order from the smallest up, by what they usually need. (SDP tells their order by no rule that all
/// follow.) As they were before, unless one needs clearly more now than what was above it.
fn ascending<'a>(order: &mut Vec<u64>, tracks: &[&'a Track]) -> Vec<&'a Track> {
    let place = |track: &&Track| order.iter().position(|generation| *generation == track.generation);
    let mut layers = tracks.to_vec();
    layers.sort_by_key(|track| (place(track).is_none(), place(track), track.usual()));
    for end in 1..layers.len() {
        for at in (1..=end).rev() {
            match layers.get(at - 1..=at) {
                Some([below, above]) if below.needs_more_than(above) => layers.swap(at - 1, at),
                _ => break,
            }
        }
    }
    *order = layers.iter().map(|track| track.generation).collect();
    layers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_wire::rtp::Codec;

    use super::super::log::Packet;
    use super::*;

    /// A second of a track at 25 packets a second, so many bytes each.
    fn second(tracks: &mut [(Track, usize)], start: Instant, at: u64) -> Instant {
        let mut now = start;
        for frame in at * 25..(at + 1) * 25 {
            now = start + Duration::from_millis(frame * 40);
            for (track, bytes) in tracks.iter_mut() {
                track.push(Packet {
                    index: frame,
                    timestamp: u32::try_from(frame).unwrap() * 3600,
                    marker: true,
                    keyframe: false,
                    arrived: now,
                    audio_level: None,
                    orientation: None,
                    payload: Bytes::from(vec![0; *bytes]),
                });
            }
        }
        now
    }

    fn tracks(bytes: [usize; 2]) -> Vec<(Track, usize)> {
        (1..).zip(bytes).map(|(generation, bytes)| (Track::new(generation, Codec::Vp8, 0), bytes)).collect()
    }

    fn refer(tracks: &[(Track, usize)]) -> Vec<&Track> {
        tracks.iter().map(|(track, _)| track).collect()
    }

    #[test]
    fn sizes_that_need_about_the_same_are_not_changed_to_and_fro() {
        let (start, mut all) = (Instant::now(), tracks([1000, 1000]));
        let now = second(&mut all, start, 0);
        let mut steer = Steer::new(&refer(&all), false, now);
        let mut chosen = vec![steer.choose(&refer(&all), now).0];
        for at in 1..60 {
            let more = if at % 8 < 4 { 0 } else { 1 };
            all[more].1 = 1200;
            all[1 - more].1 = 1000;
            let now = second(&mut all, start, at);
            chosen.push(steer.choose(&refer(&all), now).0);
        }
        chosen.dedup();
        assert_eq!(chosen.len(), 1, "{chosen:?}");
    }

    /// Which of them is the smaller one is what they need, and that changes.
    #[test]
    fn a_size_that_is_sent_stays_where_others_outgrow_it() {
        let (start, mut all) = (Instant::now(), tracks([500, 2500]));
        for at in 0..2 {
            second(&mut all, start, at);
        }
        let now = second(&mut all, start, 2);
        let mut steer = Steer::new(&refer(&all), true, now);
        assert_eq!(steer.choose(&refer(&all), now).0, 2);
        all[0].1 = 10_000;
        // Later it tries what is above now.
        for at in 3..8 {
            let now = second(&mut all, start, at);
            assert_eq!(steer.choose(&refer(&all), now).0, 2, "second {at}");
        }
    }
}
