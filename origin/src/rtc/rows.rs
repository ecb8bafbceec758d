//! Who the WebRTC clients are and how they do, for operators; and disconnecting one.

use std::rc::Rc;
use std::time::Instant;

use weir_proto::supervisor::{ClientRow, Look, RtcFigures, Seen};
use weir_wire::rtp::{Codec, Media};

use super::Rtc;
use super::session::{Role, Session};
use super::state::State;

impl State {
    fn row(&self, session: &Session, now: Instant) -> Option<ClientRow> {
        let stream = self.streams.get(session.stream)?;
        let path = session.paths.selected();
        let codec = |media| {
            let of_publisher = |codec: Codec| (codec.media() == media).then(|| codec.name().to_owned());
            match &session.role {
                Role::Publisher(publisher) => publisher.tracks().find_map(|(codec, _)| of_publisher(codec)),
                Role::Player(player) => {
                    let lane = player.lanes.iter().find(|lane| lane.media == media)?;
                    lane.track(&stream.tracks).map(|track| track.codec.name().to_owned())
                }
            }
        };
        let (mut received, mut sent) = (0, 0);
        let mut rtc = RtcFigures {
            audio: codec(Media::Audio).unwrap_or_default(),
            video: codec(Media::Video).unwrap_or_default(),
            tcp: path.is_some_and(|path| path.is_tcp()),
            ..RtcFigures::default()
        };
        match &session.role {
            Role::Publisher(publisher) => {
                let quality = publisher.quality;
                received = quality.bytes;
                rtc.loss = publisher.loss();
                (rtc.nacks, rtc.repairs, rtc.keyframe_requests) = (quality.nacks, quality.repaired, quality.plis);
            }
            Role::Player(player) => {
                let quality = player.quality;
                sent = player.lanes.iter().map(|lane| lane.bytes).sum();
                let lost = player.lanes.iter().filter_map(|lane| lane.sender.last()).map(|block| block.fraction_lost);
                rtc.loss = f64::from(lost.max().unwrap_or(0)) / 256.0;
                let trip = player.lanes.iter().filter_map(|lane| lane.sender.round_trip()).max();
                rtc.round_trip_ms = trip.unwrap_or_default().as_secs_f64() * 1000.0;
                (rtc.nacks, rtc.keyframe_requests) = (quality.nacks, quality.plis);
                rtc.repairs = player.lanes.iter().map(|lane| lane.repaired).sum();
            }
        }
        let alive = now.saturating_duration_since(session.opened);
        Some(ClientRow {
            number: session.number,
            vhost: stream.name.vhost.to_string(),
            app: stream.name.app.to_string(),
            stream: stream.name.stream.to_string(),
            peer: path.map_or_else(String::new, |path| path.peer.to_string()),
            kind: session.kind().to_owned(),
            alive_ms: u64::try_from(alive.as_millis()).unwrap_or(u64::MAX),
            received,
            sent,
            rtc: Some(rtc),
            ..ClientRow::default()
        })
    }
}

impl Rtc {
    /// Those that were asked for.
    pub(crate) fn look(&self, look: &Look) -> Seen {
        let (state, now) = (self.state.borrow(), Instant::now());
        let mut all: Vec<&Session> = state.sessions.iter().map(|(_, session)| session).collect();
        let total = all.len() as u64;
        let part: Vec<&Session> = match look.number {
            Some(number) => all.into_iter().filter(|session| session.number == number).collect(),
            None => {
                all.sort_unstable_by_key(|session| session.number);
                all.into_iter().skip(look.start as usize).take(look.count as usize).collect()
            }
        };
        let clients = part.into_iter().filter_map(|session| state.row(session, now)).collect();
        Seen { token: look.token, clients, total }
    }

    /// Ends a session; false: there is none of this number.
    pub(crate) fn kick(self: &Rc<Self>, number: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let found = state.sessions.iter().find(|(_, session)| session.number == number).map(|(at, _)| at);
        if let Some(at) = found {
            state.close(Instant::now(), at, "disconnected by an operator", &self.sockets);
        }
        drop(state);
        self.settle();
        found.is_some()
    }
}
