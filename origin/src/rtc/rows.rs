//! Who the WebRTC clients are and how they do, for operators; and disconnecting one.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use weir_media::StreamName;
use weir_proto::supervisor::{AudioFigures, ClientRow, Look, RtcFigures, Seen, StreamRow, VideoFigures};
use weir_wire::rtp::{Codec, Media};

use super::Rtc;
use super::session::{Role, Session};
use super::state::State;

impl State {
    fn row(&self, session: &Session, now: Instant, noted: Duration) -> Option<ClientRow> {
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
        let (received, sent) = session.moved();
        let mut rtc = RtcFigures {
            audio: codec(Media::Audio).unwrap_or_default(),
            video: codec(Media::Video).unwrap_or_default(),
            tcp: path.is_some_and(|path| path.is_tcp()),
            ..RtcFigures::default()
        };
        match &session.role {
            Role::Publisher(publisher) => {
                let quality = publisher.quality;
                rtc.loss = publisher.loss();
                (rtc.nacks, rtc.repairs, rtc.keyframe_requests) = (quality.nacks, quality.repaired, quality.plis);
            }
            Role::Player(player) => {
                let quality = player.quality;
                let lost = player.lanes.iter().filter_map(|lane| lane.sender.last()).map(|block| block.fraction_lost);
                rtc.loss = f64::from(lost.max().unwrap_or(0)) / 256.0;
                let trip = player.lanes.iter().filter_map(|lane| lane.sender.round_trip()).max();
                rtc.round_trip_ms = trip.unwrap_or_default().as_secs_f64() * 1000.0;
                (rtc.nacks, rtc.keyframe_requests) = (quality.nacks, quality.plis);
                rtc.repairs = player.lanes.iter().map(|lane| lane.repaired).sum();
            }
        }
        let alive = now.saturating_duration_since(session.opened);
        let bps = session.lately.bps(received + sent, noted, alive);
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
            received_bps: if sent == 0 { bps } else { 0 },
            sent_bps: if sent == 0 { 0 } else { bps },
            rtc: Some(rtc),
            ..ClientRow::default()
        })
    }
}

impl Rtc {
    /// Notes how many bytes each session moved so far.
    pub(crate) fn note(&self) {
        for (_, session) in &mut self.state.borrow_mut().sessions {
            let (received, sent) = session.moved();
            session.lately.note(received + sent);
        }
    }

    /// Adds what sessions do to the rows of their streams. `noted`: the time since [`Rtc::note`].
    pub(crate) fn add_rows(&self, rows: &mut BTreeMap<StreamName, StreamRow>, noted: Duration) {
        let (state, now) = (self.state.borrow(), Instant::now());
        for (_, session) in &state.sessions {
            let Some(stream) = state.streams.get(session.stream) else { continue };
            let row = rows.entry(stream.name.clone()).or_default();
            let alive = now.saturating_duration_since(session.opened);
            let (received, sent) = session.moved();
            let bps = session.lately.bps(received + sent, noted, alive);
            row.clients += 1;
            row.sent += sent;
            row.received += received;
            if let Role::Publisher(publisher) = &session.role {
                row.publisher = Some(session.number);
                row.received_bps += bps;
                row.alive_ms = u64::try_from(alive.as_millis()).unwrap_or(u64::MAX);
                for (codec, _) in publisher.tracks() {
                    of_codec(row, codec);
                }
            } else {
                row.sent_bps += bps;
            }
        }
        for (_, stream) in &state.streams {
            if let Some(row) = rows.get_mut(&stream.name) {
                row.sent += stream.sent;
            }
        }
    }

    /// Those that were asked for. `noted`: the time since [`Rtc::note`].
    pub(crate) fn look(&self, look: &Look, noted: Duration) -> Seen {
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
        let clients = part.into_iter().filter_map(|session| state.row(session, now, noted)).collect();
        Seen { token: look.token, clients, total, ..Seen::default() }
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

/// What is known of a track whose frames nobody here looks into.
fn of_codec(row: &mut StreamRow, codec: Codec) {
    match codec.media() {
        Media::Video => {
            let name = if codec == Codec::H265 { "HEVC" } else { codec.name() };
            row.video.get_or_insert_with(|| VideoFigures { codec: name.to_owned(), ..VideoFigures::default() });
        }
        Media::Audio => {
            let opus = || AudioFigures {
                codec: "Opus".to_owned(),
                sample_rate: codec.clock(),
                channels: 2,
                profile: String::new(),
            };
            // Players over RTMP may be sent AAC; what it is published in is told.
            row.audio = Some(opus());
        }
    }
}
