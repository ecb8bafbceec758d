//! A session that is sent a stream.

use std::time::{Duration, Instant};

use weir_wire::rtp::rtcp::{self, Packet as Feedback};
use weir_wire::srtp::Protect;

use super::lane::{Batch, Lane};
use super::track::Track;

/// Packets that a player may have sent again at once, and in a second from then on. What is more is lost to it: a
/// player whose network loses everything must not cost others their bandwidth.
const REPAIRS_BURST: f64 = 1000.0;
const REPAIRS_A_SECOND: f64 = 1000.0;

/// How often a player is told the sender's clock.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a player asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quality {
    /// Packets asked for again, and key frames asked for.
    pub(crate) nacks: u64,
    pub(crate) plis: u64,
    /// Repairs that were not sent because there were too many.
    pub(crate) denied: u64,
}

/// See the module.
pub(crate) struct Player {
    pub(crate) lanes: Vec<Lane>,
    cname: String,
    tokens: f64,
    tokens_at: Instant,
    report_at: Instant,
    pub(crate) quality: Quality,
}

impl Player {
    pub(crate) fn new(lanes: Vec<Lane>, cname: String, now: Instant) -> Self {
        Self {
            lanes,
            cname,
            tokens: REPAIRS_BURST,
            tokens_at: now,
            report_at: now + REPORT_EVERY / 4,
            quality: Quality::default(),
        }
    }

    /// Adds what the tracks have for it.
    pub(crate) fn fill(&mut self, tracks: &[Option<Track>], now: Instant, protect: &Protect, batch: &mut Batch) {
        for lane in &mut self.lanes {
            lane.fill(tracks, now, protect, batch);
        }
    }

    /// RTCP of the player. Repairs go to `batch`; tracks note that a key frame is asked for.
    pub(crate) fn feedback(
        &mut self,
        feedback: Feedback<'_>,
        tracks: &[Option<Track>],
        now: Instant,
        protect: &Protect,
        batch: &mut Batch,
    ) {
        match feedback {
            Feedback::Nack { media, lost, .. } => {
                let Some(lane) = self.lanes.iter_mut().find(|lane| lane.ssrc == media) else { return };
                let since = now.saturating_duration_since(self.tokens_at).as_secs_f64();
                self.tokens = (self.tokens + since * REPAIRS_A_SECOND).min(REPAIRS_BURST);
                self.tokens_at = now;
                for sequence in lost {
                    self.quality.nacks += 1;
                    if self.tokens < 1.0 {
                        self.quality.denied += 1;
                        continue;
                    }
                    self.tokens -= 1.0;
                    lane.repair(sequence, tracks, now, protect, batch);
                }
            }
            Feedback::Pli { media, .. } => self.wants_keyframe(media, tracks),
            // A request that is told again is heard again; the source is not asked more often for that.
            Feedback::Fir { requests, .. } => requests.for_each(|(media, _)| self.wants_keyframe(media, tracks)),
            Feedback::ReceiverReport { blocks, .. } | Feedback::SenderReport { blocks, .. } => {
                for block in blocks {
                    let Some(lane) = self.lanes.iter_mut().find(|lane| lane.ssrc == block.ssrc) else { continue };
                    let ntp = lane.report(tracks, now).map_or(0, |(ntp, _)| ntp);
                    lane.sender.block(ntp, &block);
                }
            }
            // Only the picture's packets are numbered.
            Feedback::TransportCc(arrivals) => {
                self.lanes.iter_mut().any(|lane| lane.arrivals(now, arrivals));
            }
            _ => {}
        }
    }

    fn wants_keyframe(&mut self, media: u32, tracks: &[Option<Track>]) {
        if let Some(lane) = self.lanes.iter().find(|lane| lane.ssrc == media) {
            self.quality.plis += 1;
            if let Some(track) = lane.track(tracks) {
                track.want_keyframe();
            }
        }
    }

    /// When [`Player::reports`] has something.
    pub(crate) fn deadline(&self) -> Instant {
        self.report_at
    }

    /// The compound packet that is due.
    pub(crate) fn reports(&mut self, tracks: &[Option<Track>], now: Instant) -> Option<Vec<u8>> {
        if self.report_at > now {
            return None;
        }
        self.report_at = now + REPORT_EVERY;
        let mut compound = Vec::new();
        for lane in &self.lanes {
            if let Some((ntp, rtp)) = lane.report(tracks, now) {
                rtcp::sender_report(&mut compound, lane.ssrc, &lane.sender.info(ntp, rtp), &[]);
                rtcp::cname(&mut compound, lane.ssrc, &self.cname);
            }
        }
        (!compound.is_empty()).then_some(compound)
    }

    /// The compound packet that says that it is over.
    pub(crate) fn goodbye(&self) -> Vec<u8> {
        let sources: Vec<u32> = self.lanes.iter().map(|lane| lane.ssrc).collect();
        let mut compound = Vec::new();
        rtcp::bye(&mut compound, &sources);
        compound
    }
}
