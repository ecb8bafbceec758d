//! Packets of a WebRTC publisher into frames for the hub.
//!
//! Pure: packets, sender reports and time in; frames, sound for the transcoder and wishes for keyframes out.

mod clock;
mod jitter;
mod picture;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_media::codec::aac;
use weir_media::{Kind, body};
use weir_wire::amf::{self, Value};
use weir_wire::rtp::payload::Look;
use weir_wire::rtp::{Codec, Media};

use self::clock::Clock;
use self::jitter::{Jitter, Next};
use self::picture::{Made, Picture};

/// Packets that wait for a missing one.
const HELD_MAX: usize = 2048;

/// Packets of a frame: 9.6 MB of them.
const FRAME_PACKETS_MAX: usize = 8192;

/// Sound does not wait as long: senders seldom repeat it.
const AUDIO_WAIT: Duration = Duration::from_millis(100);

/// A keyframe that does not come is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a vhost wants of the bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long a missing packet of the picture is waited for.
    pub(crate) wait: Duration,
    /// A keyframe at least so often, so that players over RTMP need not wait longer for their first picture; none: only
    /// where one is needed.
    pub(crate) keyframe_every: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { wait: Duration::from_millis(300), keyframe_every: Some(Duration::from_secs(6)) }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Publish this frame.
    Frame {
        /// What the body is.
        kind: Kind,
        /// Decoding time in microseconds from the first packet; never goes back within a kind.
        dts_us: i64,
        /// FLV tag body.
        body: Bytes,
    },
    /// Publish this frame of sound in place of [`Output::Frame`]'s for players that take Opus.
    Opus {
        /// As there.
        dts_us: i64,
        /// FLV tag body.
        body: Bytes,
    },
    /// Give this to the transcoder, and what it makes of it to [`ToRtmp::aac`].
    Sound {
        /// Presentation time in microseconds from the first packet.
        pts_us: i64,
        /// A packet of Opus.
        packet: Bytes,
    },
    /// Ask the publisher for a keyframe.
    NeedKeyframe,
}

/// What was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Packets that came too late or twice.
    pub(crate) late: u64,
    /// Gaps that were given up.
    pub(crate) gaps: u64,
    /// Packets between a gap and the next keyframe.
    pub(crate) waiting: u64,
    /// Frames that were malformed.
    pub(crate) malformed: u64,
}

/// Turns one publisher's packets into frames.
#[derive(Debug)]
pub(crate) struct ToRtmp {
    options: Options,
    clock: Clock,
    audio: Jitter<(u32, Bytes)>,
    video: Jitter<Packet>,
    /// The frame under way: packets of one timestamp.
    frame: Vec<Packet>,
    picture: Option<Picture>,
    /// No frame is whole until the next keyframe begins.
    waiting: bool,
    /// When the last keyframe came, and when one was last asked for.
    keyframe: Option<Instant>,
    asked: Option<Instant>,
    /// AudioSpecificConfig that was announced.
    sound: Option<Bytes>,
    /// The configuration of Opus was given out.
    opus_announced: bool,
    dropped: Dropped,
    out: VecDeque<Output>,
}

#[derive(Debug)]
struct Packet {
    arrival: Instant,
    codec: Codec,
    timestamp: u32,
    marker: bool,
    payload: Bytes,
}

impl ToRtmp {
    /// For one publisher.
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            clock: Clock::new(),
            audio: Jitter::new(AUDIO_WAIT, HELD_MAX),
            video: Jitter::new(options.wait, HELD_MAX),
            frame: Vec::new(),
            picture: None,
            waiting: true,
            keyframe: None,
            asked: None,
            sound: None,
            opus_announced: false,
            dropped: Dropped::default(),
            out: VecDeque::new(),
        }
    }

    /// What was left out so far.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Another source takes the place of the one before: its numbers and timestamps have nothing to do with that one's.
    /// `clock` is what it reported last, if it did: NTP time in units of 2^-32 s, and the timestamp that belongs to it.
    pub(crate) fn restart(&mut self, media: Media, clock: Option<(u64, u32)>) {
        self.clock.restart(media, clock);
        match media {
            Media::Audio => self.audio = Jitter::new(AUDIO_WAIT, HELD_MAX),
            Media::Video => {
                self.video = Jitter::new(self.options.wait, HELD_MAX);
                self.give_up();
            }
        }
    }

    /// A packet that came in. `seq` is its sequence number, extended so that it does not wrap, of one numbering a kind
    /// until [`ToRtmp::restart`]. `timestamp` is as sent. What came by
    /// retransmission is given as the packet that was lost.
    pub(crate) fn packet(
        &mut self,
        now: Instant,
        codec: Codec,
        seq: u64,
        timestamp: u32,
        marker: bool,
        payload: Bytes,
    ) {
        // Without payload: padding, to probe for bandwidth. It has a number all the same.
        let taken = match codec.media() {
            Media::Audio => self.audio.push(now, seq, (timestamp, payload)),
            Media::Video => self.video.push(now, seq, Packet { arrival: now, codec, timestamp, marker, payload }),
        };
        if !taken {
            self.dropped.late += 1;
        }
        self.timeout(now);
    }

    /// What a sender report says: NTP time in units of 2^-32 s, and the RTP timestamp that belongs to it.
    pub(crate) fn sender_report(&mut self, media: Media, ntp: u64, rtp: u32) {
        self.clock.report(media, ntp, rtp);
    }

    /// A frame of the transcoder, with its AudioSpecificConfig and the presentation time of its first sample.
    pub(crate) fn aac(&mut self, pts_us: i64, config: &Bytes, frame: &[u8]) {
        if self.sound.as_ref() != Some(config) {
            self.sound = Some(config.clone());
            self.metadata(pts_us);
            self.put(Kind::Audio, pts_us, [&body::aac_head(true)[..], config].concat());
        }
        self.put(Kind::Audio, pts_us, [&body::aac_head(false)[..], frame].concat());
    }

    /// The packet as it came, behind its configuration: what a packet says of channels is the encoder's choice (RFC 7587
    /// 4.1), so stereo, which every decoder makes of all.
    fn opus(&mut self, dts_us: i64, packet: &[u8]) {
        let mut put = |config: bool, data: &[u8]| {
            let body = [&body::opus_head(config)[..], data].concat().into();
            self.out.push_back(Output::Opus { dts_us, body });
        };
        if !std::mem::replace(&mut self.opus_announced, true) {
            put(true, &body::opus_config(2));
        }
        put(false, packet);
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Instant) {
        while let Some(next) = self.audio.pop(now) {
            match next {
                Next::Packet((_, packet)) if packet.is_empty() => {}
                Next::Packet((timestamp, packet)) => {
                    let pts_us = self.clock.time(now, Media::Audio, timestamp);
                    self.opus(pts_us, &packet);
                    self.out.push_back(Output::Sound { pts_us, packet });
                }
                Next::Lost => self.dropped.gaps += 1,
            }
        }
        while let Some(next) = self.video.pop(now) {
            match next {
                Next::Packet(packet) => self.video(now, packet),
                Next::Lost => {
                    self.dropped.gaps += 1;
                    self.give_up();
                }
            }
        }
        if self.ask_at().is_some_and(|at| at <= now) {
            self.asked = Some(now);
            self.out.push_back(Output::NeedKeyframe);
        }
    }

    /// When [`ToRtmp::timeout`] is to be called if nothing comes in.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.audio.deadline(), self.video.deadline(), self.ask_at()].into_iter().flatten().min()
    }

    /// What is to be done next; to be asked after each call until there is nothing.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When the next keyframe is to be asked for: at once if none of the packets can be used without one.
    fn ask_at(&self) -> Option<Instant> {
        let picture = self.picture.as_ref()?;
        let again = self.asked.map(|asked| asked + ASK_AGAIN);
        let due = match (self.waiting, self.keyframe, self.options.keyframe_every) {
            (false, Some(keyframe), Some(every)) => keyframe + every,
            (true, _, _) => picture.since,
            _ => return None,
        };
        Some(again.map_or(due, |again| again.max(due)))
    }

    fn give_up(&mut self) {
        self.frame.clear();
        self.waiting = true;
    }

    fn video(&mut self, now: Instant, packet: Packet) {
        if self.picture.as_ref().is_none_or(|picture| picture.codec != packet.codec) {
            self.picture = Some(Picture::new(packet.codec, now));
            self.give_up();
        }
        if packet.payload.is_empty() {
            return;
        }
        // A frame whose marker is missing ends where another begins.
        if self.frame.last().is_some_and(|last| last.timestamp != packet.timestamp) {
            self.complete(now);
        }
        if self.waiting {
            if !Look::at(packet.codec, &packet.payload).keyframe {
                self.dropped.waiting += 1;
                return;
            }
            self.waiting = false;
        }
        let marker = packet.marker;
        if self.frame.len() >= FRAME_PACKETS_MAX {
            self.dropped.malformed += 1;
            self.give_up();
            return;
        }
        self.frame.push(packet);
        if marker {
            self.complete(now);
        }
    }

    /// The frame under way is whole.
    fn complete(&mut self, now: Instant) {
        let (Some(picture), Some(first)) = (&mut self.picture, self.frame.first()) else { return };
        let (arrival, timestamp) = (first.arrival, first.timestamp);
        let made = picture.frame(self.frame.iter().map(|packet| &packet.payload[..]));
        self.frame.clear();
        match made {
            Ok(Made { config, frame: Some((keyframe, frame)) }) => {
                let dts = self.clock.time(arrival, Media::Video, timestamp);
                if let Some(config) = config {
                    self.metadata(dts);
                    self.put(Kind::Video, dts, config);
                }
                if keyframe {
                    self.keyframe = Some(now);
                }
                self.put(Kind::Video, dts, frame);
            }
            Ok(_) => {}
            Err(_) => {
                self.dropped.malformed += 1;
                self.give_up();
            }
        }
    }

    fn put(&mut self, kind: Kind, dts_us: i64, body: Vec<u8>) {
        self.out.push_back(Output::Frame { kind, dts_us, body: body.into() });
    }

    /// `onMetaData` (E.5 of the FLV specification) of what is known so far. Codecs are named when both are known: by one
    /// alone, players take it that there is no other track.
    fn metadata(&mut self, dts: i64) {
        let mut list = Vec::new();
        let mut add = |name: &str, value| list.push((name.to_owned(), value));
        if let Some(picture) = self.picture.as_ref().filter(|picture| picture.announced()) {
            let size = picture.size();
            add("width", Value::Number(size.width.into()));
            add("height", Value::Number(size.height.into()));
            if self.sound.is_some() {
                add("videocodecid", Value::Number(picture.codec_id().into()));
            }
        }
        if let Some(config) = self.sound.as_ref().and_then(|config| aac::Config::parse(config)) {
            if self.picture.as_ref().is_some_and(Picture::announced) {
                add("audiocodecid", Value::Number(10.0));
            }
            add("audiosamplerate", Value::Number(config.rate.into()));
            add("audiosamplesize", Value::Number(16.0));
            add("stereo", Value::Boolean(config.channels > 1));
        }
        add("encoder", Value::string(concat!("weir/", env!("CARGO_PKG_VERSION"))));
        let mut out = Vec::new();
        amf::write(&mut out, &Value::string("onMetaData"));
        amf::write(&mut out, &Value::EcmaArray(list));
        self.put(Kind::Data, dts, out);
    }
}
