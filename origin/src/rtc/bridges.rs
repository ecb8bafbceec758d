//! What passes between sessions and the hub: frames that become packets, and packets that become frames.
//!
//! Both only while somebody needs it: frames are fetched while a session plays what comes from elsewhere, and made while
//! an edge pulls the stream.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tracing::warn;
use weir_media::{Frame, FrameId, Kind};
use weir_wire::relay::Record;
use weir_wire::rtp::{Media, ntp};

use super::log::Packet;
use super::state::{State, Wire};
use super::stats::Totals;
use super::stream::{Source, Stream};
use super::track::{Reference, Track};
use crate::bridge::audio::{self, Chunk, Coded, Target};
use crate::bridge::to_rtc::{self, ToRtc};
use crate::bridge::to_rtmp::{self, ToRtmp};

/// Frames go on being made for so long after the last edge has left, for the next one.
const LINGER: Duration = Duration::from_secs(10);

/// What a vhost wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    /// The hub's frames to sessions.
    pub(crate) to_rtc: Option<to_rtc::Options>,
    /// A session's packets to the hub.
    pub(crate) to_rtmp: Option<to_rtmp::Options>,
    /// Bits a second of transcoded sound.
    pub(crate) opus: u32,
    pub(crate) aac: u32,
}

/// A transcoder that is to be started: what it makes goes to [`State::transcoded`] under this number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) bridge: u64,
    pub(crate) stream: usize,
    pub(crate) target: Target,
}

/// Sound on its way to a transcoder.
#[derive(Debug, Default)]
struct Sound {
    to: Option<mpsc::Sender<Chunk>>,
    wanted: bool,
}

impl Sound {
    /// Gives it a chunk; false: there is no transcoder yet. A slow one loses sound.
    fn send(&self, chunk: Chunk) {
        if let Some(to) = &self.to {
            to.try_send(chunk).ok();
        }
    }
}

/// The hub's frames on their way to sessions.
#[derive(Debug)]
pub(crate) struct Inward {
    id: u64,
    machine: ToRtc,
    sound: Sound,
    /// Sequence numbers of sound and picture.
    next: (u64, u64),
    /// The first frame's time in the stream, here, and as NTP.
    begin: Option<(i64, Instant, u64)>,
    /// It was told that B-frames are missed.
    warned: bool,
    packets: Vec<to_rtc::Packet>,
}

/// A session's packets on their way to the hub.
#[derive(Debug)]
pub(crate) struct Outward {
    id: u64,
    machine: ToRtmp,
    /// Generations of the tracks of sound and picture that it is made of.
    tracks: [u64; 2],
    sound: Sound,
    /// Added to the machine's times.
    offset: i64,
}

/// What a session's publication in the hub has used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication {
    pub(crate) channel: u32,
    /// The next frame's name.
    pub(crate) next: FrameId,
    /// The newest frame's time, and when that was.
    pub(crate) newest: (i64, Instant),
    /// Edges pull it; else since when none does.
    pub(crate) listened: Option<Instant>,
    pub(crate) pulled: bool,
}

impl State {
    /// The next transcoder to start.
    pub(crate) fn poll_sound(&mut self) -> Option<Wanted> {
        self.wanted.pop_front()
    }

    /// The transcoder that was asked for.
    pub(crate) fn set_sound(&mut self, wanted: Wanted, to: mpsc::Sender<Chunk>) {
        let Some(stream) = self.streams.get_mut(wanted.stream) else { return };
        let inward = stream.inward.as_mut().filter(|b| b.id == wanted.bridge).map(|b| &mut b.sound);
        let outward = stream.outward.as_mut().filter(|b| b.id == wanted.bridge).map(|b| &mut b.sound);
        if let Some(sound) = inward.or(outward) {
            sound.to = Some(to);
        }
    }

    /// What a transcoder made.
    pub(crate) fn transcoded(&mut self, now: Instant, wanted: Wanted, coded: Coded) {
        let Some(stream) = self.streams.get_mut(wanted.stream) else { return };
        if let Some(inward) = stream.inward.as_mut().filter(|b| b.id == wanted.bridge) {
            inward.machine.opus(coded.pts_us, coded.data, &mut inward.packets);
            self.deliver(now, wanted.stream);
        } else if let Some(outward) = stream.outward.as_mut().filter(|b| b.id == wanted.bridge) {
            outward.machine.aac(coded.pts_us, &coded.config, &coded.data);
            self.publish_frames(now, wanted.stream);
        }
    }

    /// Fetches the hub's frames for players, or stops.
    pub(super) fn attend(&mut self, at: usize) {
        let channel = self.channel();
        let Some(stream) = self.streams.get_mut(at) else { return };
        let wished = stream.wishes.is_some_and(|wishes| wishes.to_rtc.is_some());
        let of_session = matches!(stream.source, Source::Session(_));
        match stream.subscription {
            None if wished && !of_session && stream.waiting > 0 => {
                stream.subscription = Some(channel);
                let name = stream.name.clone();
                self.by_channel.insert(channel, at);
                self.to_hub.push_back(Record::Subscribe { channel, name, have: None });
            }
            Some(channel) if of_session || stream.waiting == 0 => {
                stream.subscription = None;
                stream.close_bridges(&mut self.gone);
                if stream.source == Source::Hub {
                    stream.source = Source::None;
                    stream.clear_tracks();
                }
                self.by_channel.remove(&channel);
                self.to_hub.push_back(Record::Close { channel });
            }
            _ => {}
        }
    }

    /// The stream has no publisher any more.
    pub(super) fn idle(&mut self, channel: u32) {
        let Some(stream) = self.by_channel.get(&channel).and_then(|at| self.streams.get_mut(*at)) else { return };
        if stream.subscription == Some(channel) && stream.source == Source::Hub {
            stream.source = Source::None;
            stream.close_bridges(&mut self.gone);
            stream.clear_tracks();
        }
    }

    /// A frame of the hub.
    pub(super) fn frame(&mut self, now: Instant, channel: u32, frame: &Frame) {
        let Some(&at) = self.by_channel.get(&channel) else { return };
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Some(wishes) = stream.wishes else { return };
        let Some(options) = wishes.to_rtc else { return };
        // What stands in for other sound was made here, of a session that is gone.
        if stream.subscription != Some(channel) || matches!(stream.source, Source::Session(_)) || frame.is_alternative()
        {
            return;
        }
        stream.source = Source::Hub;
        let id = self.next_generation;
        let inward = stream.inward.get_or_insert_with(|| {
            self.next_generation += 1;
            let next = (0, 0);
            Inward {
                id,
                machine: ToRtc::new(options),
                sound: Sound::default(),
                next,
                begin: None,
                warned: false,
                packets: Vec::new(),
            }
        });
        if inward.begin.is_none() && frame.kind != Kind::Data && !frame.info.config {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            inward.begin = Some((frame.dts, now, ntp::from_unix(unix)));
        }
        let chunk = inward.machine.frame(frame, &mut inward.packets);
        if inward.machine.dropped().references > 0 && !std::mem::replace(&mut inward.warned, true) {
            warn!(
                stream = %stream.name,
                "rtc: the publisher's other frames refer to its B-frames, which players are not sent; it should send \
                 none (x264: bframes=0 or b-pyramid=none)"
            );
        }
        if let Some(chunk) = chunk {
            if !std::mem::replace(&mut inward.sound.wanted, true) {
                let target = Target::Opus(wishes.opus);
                self.wanted.push_back(Wanted { bridge: inward.id, stream: at, target });
            }
            inward.sound.send(chunk);
        }
        self.deliver(now, at);
    }

    /// Puts what the machine made into the tracks.
    fn deliver(&mut self, now: Instant, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Some(inward) = &mut stream.inward else { return };
        let packets = std::mem::take(&mut inward.packets);
        let Some((dts, begin, ntp)) = inward.begin else { return };
        let mut next = inward.next;
        for packet in packets {
            let number = if packet.media == Media::Audio { &mut next.0 } else { &mut next.1 };
            let index = *number;
            *number += 1;
            if stream.track(packet.media, 0).is_none_or(|track| track.codec != packet.codec) {
                let mut track = Track::new(self.next_generation, packet.codec, 0);
                self.next_generation += 1;
                // Timestamps count from the stream's zero, so both tracks' are known at one moment.
                let ticks = i128::from(dts) * i128::from(packet.codec.clock()) / 1_000_000;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "timestamps wrap")]
                let timestamp = ticks as u32;
                track.reference = Some(Reference { ntp, timestamp, at: begin });
                stream.set_track(track);
            }
            let media = packet.media;
            let packet = Packet {
                index,
                timestamp: packet.timestamp,
                marker: packet.marker,
                keyframe: packet.keyframe,
                arrived: now,
                audio_level: None,
                orientation: None,
                payload: packet.payload,
            };
            if let Some(track) = stream.track(media, 0) {
                track.push(packet);
            }
        }
        if let Some(inward) = &mut stream.inward {
            inward.next = next;
        }
        self.touch(at);
    }

    /// An edge began to pull a stream, or the last one left.
    pub(super) fn listened(&mut self, now: Instant, at: usize, subscribers: usize, wire: &dyn Wire) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Some(publication) = &mut stream.publication else { return };
        publication.pulled = subscribers > 0;
        publication.listened = Some(now);
        let Some(options) = stream.wishes.and_then(|wishes| wishes.to_rtmp) else { return };
        if publication.pulled && stream.outward.is_none() {
            let (newest, since) = publication.newest;
            let elapsed = i64::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or(0);
            stream.outward = Some(Outward {
                id: self.next_generation,
                machine: ToRtmp::new(options),
                tracks: [0; 2],
                sound: Sound::default(),
                offset: newest.saturating_add(elapsed),
            });
            self.next_generation += 1;
            stream.want_keyframe();
            self.ask(now, at, wire);
        }
    }

    /// A packet of a publisher's track, for the hub.
    pub(super) fn outward(&mut self, now: Instant, at: usize, generation: u64, packet: &Packet) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let idle = stream.publication.is_none_or(|publication| {
            let left = publication.listened.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            !publication.pulled && left > LINGER
        });
        if idle {
            stream.close_bridges(&mut self.gone);
            return;
        }
        let Some([_, picture]) = stream.outward.as_ref().map(|outward| outward.tracks) else { return };
        let better = stream.best_picture(now, picture).is_some_and(|best| best.generation == generation);
        let Some(track) = stream.tracks.iter().flatten().find(|track| track.generation == generation) else { return };
        let Some(outward) = &mut stream.outward else { return };
        let [sound, picture] = &mut outward.tracks;
        let current = if track.media() == Media::Audio { sound } else { picture };
        if *current != generation {
            // Another source, or another size of the picture: the best one that comes, from a key frame on.
            let held = stream.tracks.iter().flatten().any(|track| track.generation == *current);
            let begins = packet.keyframe || !held;
            if track.media() == Media::Video && !(better && begins) {
                if better {
                    track.want_keyframe();
                }
                return;
            }
            *current = generation;
            let clock = track.reference.map(|reference| (reference.ntp, reference.timestamp));
            outward.machine.restart(track.media(), clock);
        }
        let payload = packet.payload.clone();
        outward.machine.packet(now, track.codec, packet.index, packet.timestamp, packet.marker, payload);
        self.publish_frames(now, at);
    }

    /// The machine's timers.
    pub(super) fn outward_due(&mut self, now: Instant, at: usize) {
        let Some(outward) = self.streams.get_mut(at).and_then(|stream| stream.outward.as_mut()) else { return };
        if outward.machine.deadline().is_some_and(|due| due <= now) {
            outward.machine.timeout(now);
            self.publish_frames(now, at);
        }
    }

    /// Tells the hub what the machine made.
    fn publish_frames(&mut self, now: Instant, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let aac = stream.wishes.map_or(0, |wishes| wishes.aac);
        let (Some(outward), Some(publication)) = (&mut stream.outward, &mut stream.publication) else { return };
        let (mut keyframe, channel, offset) = (false, publication.channel, outward.offset);
        let mut frame = |kind, dts_us, body| {
            let dts = offset.saturating_add(dts_us).max(0);
            let frame = Frame::new(publication.next, kind, dts, body);
            publication.next.seq += 1;
            if dts >= publication.newest.0 {
                publication.newest = (dts, now);
            }
            frame
        };
        while let Some(output) = outward.machine.poll() {
            match output {
                to_rtmp::Output::Frame { kind, dts_us, body } => {
                    self.to_hub.push_back(Record::Frame { channel, frame: frame(kind, dts_us, body) });
                }
                to_rtmp::Output::Opus { dts_us, body } => {
                    let frame = frame(Kind::Audio, dts_us, body).as_alternative();
                    self.to_hub.push_back(Record::Frame { channel, frame });
                }
                to_rtmp::Output::Sound { pts_us, packet } => {
                    if !std::mem::replace(&mut outward.sound.wanted, true) {
                        self.wanted.push_back(Wanted { bridge: outward.id, stream: at, target: Target::Aac(aac) });
                    }
                    outward.sound.send(Chunk { source: audio::Source::Opus, pts_us, data: packet });
                }
                to_rtmp::Output::NeedKeyframe => keyframe = true,
            }
        }
        if keyframe {
            let [_, picture] = outward.tracks;
            let track = stream.tracks.iter().flatten().find(|track| track.generation == picture);
            track.into_iter().for_each(Track::want_keyframe);
            self.touch(at);
        }
    }
}

impl Stream {
    /// Adds what the bridges left out.
    pub(super) fn count_bridges(&self, totals: &mut Totals) {
        totals.bframes += self.inward.as_ref().map_or(0, |inward| inward.machine.dropped().bframes);
        totals.gaps += self.outward.as_ref().map_or(0, |outward| outward.machine.dropped().gaps);
    }

    /// Ends the bridges.
    pub(super) fn close_bridges(&mut self, totals: &mut Totals) {
        self.count_bridges(totals);
        self.inward = None;
        self.outward = None;
    }

    /// When the bridge to the hub wants its turn.
    pub(super) fn outward_deadline(&self) -> Option<Instant> {
        self.outward.as_ref().and_then(|outward| outward.machine.deadline())
    }

    /// A sender report of the publisher, for the bridge to the hub.
    pub(super) fn outward_report(&mut self, generation: u64, ntp: u64, timestamp: u32) {
        if let Some(outward) = &mut self.outward {
            let medium = [Media::Audio, Media::Video].into_iter().zip(outward.tracks);
            if let Some((media, _)) = medium.into_iter().find(|(_, track)| *track == generation) {
                outward.machine.sender_report(media, ntp, timestamp);
            }
        }
    }
}
