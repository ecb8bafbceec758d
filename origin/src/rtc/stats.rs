//! What is counted of sessions, for /metrics.

use std::time::Duration;

use weir_proto::metrics::families;
use weir_proto::supervisor::Snapshot;

use super::Rtc;
use super::session::{Role, Session};
use super::state::State;

/// What sessions did in their lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) asked_by_players: u64,
    pub(crate) asked_of_publishers: u64,
    pub(crate) repaired_to_players: u64,
    pub(crate) repaired_by_publishers: u64,
    pub(crate) keyframes_by_players: u64,
    pub(crate) keyframes_of_publishers: u64,
    pub(crate) bframes: u64,
    pub(crate) gaps: u64,
}

impl Totals {
    /// Adds a session's.
    pub(crate) fn add(&mut self, session: &Session) {
        match &session.role {
            Role::Player(player) => {
                self.asked_by_players += player.quality.nacks;
                self.keyframes_by_players += player.quality.plis;
                self.repaired_to_players += player.lanes.iter().map(|lane| lane.repaired).sum::<u64>();
            }
            Role::Publisher(publisher) => {
                self.asked_of_publishers += publisher.quality.nacks;
                self.keyframes_of_publishers += publisher.quality.plis;
                self.repaired_by_publishers += publisher.quality.repaired;
            }
        }
    }
}

/// What is true of the sessions now.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    publishers: u64,
    players: u64,
    /// Of players that said so: shares lost in 1/256 and round trips, and how many.
    lost: (f64, u32),
    trips: (Duration, u32),
}

impl State {
    fn totals(&self) -> (Totals, Now) {
        let (mut totals, mut now) = (self.gone, Now::default());
        for (_, stream) in &self.streams {
            stream.count_bridges(&mut totals);
        }
        for (_, session) in &self.sessions {
            totals.add(session);
            match &session.role {
                Role::Publisher(_) => now.publishers += 1,
                Role::Player(player) => {
                    now.players += 1;
                    let blocks = player.lanes.iter().filter_map(|lane| lane.sender.last());
                    if let Some(share) = blocks.map(|block| block.fraction_lost).max() {
                        now.lost = (now.lost.0 + f64::from(share) / 256.0, now.lost.1 + 1);
                    }
                    if let Some(trip) = player.lanes.iter().filter_map(|lane| lane.sender.round_trip()).max() {
                        now.trips = (now.trips.0 + trip, now.trips.1 + 1);
                    }
                }
            }
        }
        (totals, now)
    }
}

impl Rtc {
    /// Adds what is counted here to the worker's report, and returns how many play and how many sessions there are.
    pub(crate) fn report(&self, out: &mut Snapshot) -> (u64, u64) {
        self.callbacks.stats().fill(out);
        let state = self.state.borrow();
        let (totals, now) = state.totals();
        let counts = state.counts;
        let sockets = self.sockets.udp.iter().map(|socket| socket.counts());
        let tcp = self.sockets.tcp.counts();
        let (mut packets, mut bytes) = ((tcp.received, tcp.sent), (tcp.bytes_in, tcp.bytes_out));
        let mut dropped = tcp.dropped;
        for socket in sockets {
            packets = (packets.0 + socket.received, packets.1 + socket.sent);
            bytes = (bytes.0 + socket.bytes_in, bytes.1 + socket.bytes_out);
            dropped += socket.dropped;
        }
        for (kind, open, opened) in
            [("publish", now.publishers, counts.publishers), ("play", now.players, counts.players)]
        {
            out.gauge(&families::SESSIONS, &["rtc", kind], open as f64);
            out.count(&families::SESSIONS_OPENED, &["rtc", kind], opened);
        }
        let mut both = |family, (inward, outward)| {
            out.count(family, &["in"], inward);
            out.count(family, &["out"], outward);
        };
        both(&families::RTC_PACKETS, packets);
        both(&families::RTC_BYTES, bytes);
        both(&families::RTC_NACKS, (totals.asked_by_players, totals.asked_of_publishers));
        both(&families::RTC_REPAIRS, (totals.repaired_by_publishers, totals.repaired_to_players));
        both(&families::RTC_KEYFRAME_REQUESTS, (totals.keyframes_by_players, totals.keyframes_of_publishers));
        out.count(&families::RTC_SEND_DROPS, &[], dropped);
        out.count(&families::RTC_REJECTED, &["stray"], counts.strays);
        out.count(&families::RTC_REJECTED, &["forged"], counts.forged);
        out.count(&families::RTC_FAILED, &[], counts.failed);
        out.count(&families::RTC_BFRAMES, &[], totals.bframes);
        out.count(&families::RTC_GAPS, &[], totals.gaps);
        let mean = |(sum, count): (f64, u32)| if count > 0 { sum / f64::from(count) } else { 0.0 };
        out.gauge(&families::RTC_PLAYER_LOSS, &[], mean(now.lost));
        out.gauge(&families::RTC_PLAYER_RTT, &[], mean((now.trips.0.as_secs_f64(), now.trips.1)));
        (now.players, now.players + now.publishers)
    }
}
