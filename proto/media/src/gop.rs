//! What a newcomer needs: the codec configuration, and the frames since the last point that a decoder can start at.

use std::collections::VecDeque;

use crate::{Frame, Kind};

/// The configuration frames that are in force, in the order in which a player wants them: metadata, audio, video.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configs {
    frames: Vec<Frame>,
}

/// More tracks than any encoder sends; further ones are not remembered.
const CONFIGS_MAX: usize = 64;

/// Bytes of all bodies together: a sequence header has some hundred, metadata some thousand. What does not fit is passed on
/// to those who are there and not remembered for those who come.
const CONFIGS_BYTES: usize = 256 * 1024;

impl Configs {
    /// Takes a configuration frame in. False if it repeats what is in force.
    pub fn update(&mut self, frame: &Frame) -> bool {
        debug_assert!(frame.info.config);
        let others: usize = self.frames.iter().filter(|f| !same_place(f, frame)).map(|f| f.body.len()).sum();
        if others.saturating_add(frame.body.len()) > CONFIGS_BYTES {
            // The one that it replaces is not in force any more.
            self.frames.retain(|f| !same_place(f, frame));
            return true;
        }
        if let Some(old) = self.frames.iter_mut().find(|f| same_place(f, frame)) {
            let changed = old.body != frame.body;
            *old = frame.clone();
            return changed;
        }
        if self.frames.len() < CONFIGS_MAX {
            let at = self.frames.partition_point(|f| rank(f) <= rank(frame));
            self.frames.insert(at, frame.clone());
        }
        true
    }

    /// Whether `frame` repeats what is in force, byte for byte.
    pub fn repeats(&self, frame: &Frame) -> bool {
        self.frames.iter().any(|f| same_place(f, frame) && f.body == frame.body)
    }

    /// The frames, in sending order.
    pub fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Whether there is sound that stands in for the usual one ([`Frame::is_alternative`]).
    pub fn has_alternative(&self) -> bool {
        self.frames.iter().any(Frame::is_alternative)
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

fn same_place(a: &Frame, b: &Frame) -> bool {
    a.kind == b.kind && a.info.slot == b.info.slot
}

fn rank(frame: &Frame) -> (u8, u16) {
    let kind = match frame.kind {
        Kind::Data => 0,
        Kind::Audio => 1,
        Kind::Video => 2,
    };
    (kind, frame.info.slot)
}

/// Bounds of a [`Gop`]. Past any of them the group is let go and newcomers wait for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GopLimits {
    /// Sum of the bodies, in bytes.
    pub bytes: usize,
    /// Number of frames.
    pub frames: usize,
    /// Time from the first to the last frame, in microseconds.
    pub duration: i64,
}

/// A group starts each second where there is no video, so that such a stream can be joined, too.
const AUDIO_GROUP: i64 = 1_000_000;

/// Sound alone for so long means that there is no video (any more).
const VIDEO_GONE: i64 = 3_000_000;

/// The newest group of a stream with the configuration that was in force at its start.
///
/// A group starts at a video key frame, or once a second while there is only sound. Everything that follows frames
/// (hubs, the publisher's edge, the fan-out logs) finds groups through this type, so all agree where they start.
#[derive(Clone, Debug)]
pub struct Gop {
    limits: GopLimits,
    current: Configs,
    start: Configs,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// False while there is no whole group: nothing came yet, or it outgrew its limits.
    joinable: bool,
    group_dts: Option<i64>,
    video_dts: Option<i64>,
}

impl Gop {
    /// An empty one.
    pub fn new(limits: GopLimits) -> Self {
        Self {
            limits,
            current: Configs::default(),
            start: Configs::default(),
            frames: VecDeque::new(),
            bytes: 0,
            joinable: false,
            group_dts: None,
            video_dts: None,
        }
    }

    /// Takes the next frame in. True if it starts a group.
    pub fn push(&mut self, frame: &Frame) -> bool {
        let starts = self.starts_group(frame);
        if starts {
            self.clear_frames();
            self.start = self.current.clone();
            self.group_dts = Some(frame.dts);
            self.joinable = true;
        }
        if frame.info.config {
            self.current.update(frame);
        }
        if self.joinable {
            self.bytes += frame.body.len();
            self.frames.push_back(frame.clone());
            if self.over_limits(frame.dts) {
                self.clear_frames();
            }
        }
        starts
    }

    /// The configuration to send before [`Gop::frames`].
    pub fn start_configs(&self) -> &Configs {
        if self.joinable { &self.start } else { &self.current }
    }

    /// The configuration that is in force now.
    pub fn configs(&self) -> &Configs {
        &self.current
    }

    /// The newest group from its start; empty while there is none to join.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Whether a newcomer can start with [`Gop::frames`].
    pub fn joinable(&self) -> bool {
        self.joinable
    }

    /// Bytes of the bodies held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether neither frame nor configuration came yet.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.current.is_empty()
    }

    /// Forgets the frames but not the configuration: newcomers wait for the next group.
    pub fn clear_frames(&mut self) {
        self.frames.clear();
        self.bytes = 0;
        self.joinable = false;
    }

    fn starts_group(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            Kind::Video if frame.info.config => false,
            Kind::Video => {
                self.video_dts = Some(frame.dts);
                frame.info.keyframe
            }
            Kind::Audio if !frame.info.config => {
                let sound_alone = self.video_dts.is_none_or(|v| frame.dts.saturating_sub(v) > VIDEO_GONE);
                sound_alone
                    && self.group_dts.is_none_or(|g| frame.dts.saturating_sub(g) >= AUDIO_GROUP || frame.dts < g)
            }
            _ => false,
        }
    }

    fn over_limits(&self, dts: i64) -> bool {
        self.bytes > self.limits.bytes
            || self.frames.len() > self.limits.frames
            || self.group_dts.is_some_and(|g| dts.saturating_sub(g) > self.limits.duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameId;
    use bytes::Bytes;
    use proptest::prelude::*;

    const LIMITS: GopLimits = GopLimits { bytes: 1000, frames: 10, duration: 5_000_000 };

    fn frame(seq: u64, kind: Kind, dts_ms: i64, body: &'static [u8]) -> Frame {
        Frame::new(FrameId { epoch: 1, seq }, kind, dts_ms * 1000, Bytes::from_static(body))
    }
    const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 1];
    const INTER: &[u8] = &[0x27, 1, 0, 0, 0, 2];
    const HEAD: &[u8] = &[0x17, 0, 0, 0, 0, 3];
    const SOUND: &[u8] = &[0xaf, 1, 4];

    #[test]
    fn configuration_that_is_too_large_is_not_remembered() {
        let config = |seq, slot: u16, size| {
            let mut config = frame(seq, Kind::Video, 0, HEAD);
            config.info.slot = slot;
            config.body = Bytes::from(vec![0x17; size]);
            config
        };
        let mut configs = Configs::default();
        for slot in 0..1000 {
            configs.update(&config(1, slot, 100_000));
        }
        let kept = |configs: &Configs| configs.iter().map(|f| (f.id.seq, f.info.slot)).collect::<Vec<_>>();
        assert_eq!(kept(&configs), [(1, 0), (1, 1)]);
        configs.update(&config(2, 1, 150_000));
        assert_eq!(kept(&configs), [(1, 0), (2, 1)]);
        configs.update(&config(3, 1, CONFIGS_BYTES));
        assert_eq!(kept(&configs), [(1, 0)], "neither the new one nor the old");
    }

    #[test]
    fn a_group_starts_at_each_keyframe_with_the_configuration_of_that_moment() {
        let mut gop = Gop::new(LIMITS);
        assert!(!gop.push(&frame(1, Kind::Video, 0, HEAD)));
        assert!(!gop.joinable());
        assert!(gop.push(&frame(2, Kind::Video, 0, KEY)));
        assert!(!gop.push(&frame(3, Kind::Video, 40, INTER)));
        assert!(!gop.push(&frame(4, Kind::Video, 80, &[0x17, 0, 0, 0, 0, 9])));
        assert_eq!(gop.start_configs().iter().next().unwrap().id.seq, 1, "the change lies inside the group");
        assert_eq!(gop.frames().count(), 3);
        assert!(gop.push(&frame(5, Kind::Video, 80, KEY)));
        assert_eq!(gop.frames().count(), 1);
        assert_eq!(gop.start_configs().iter().next().unwrap().id.seq, 4);
    }

    #[test]
    fn sound_alone_starts_a_group_each_second() {
        let mut gop = Gop::new(LIMITS);
        let starts: Vec<i64> =
            (0..150).map(|i| i * 23).filter(|&ms| gop.push(&frame(1, Kind::Audio, ms, SOUND))).collect();
        assert_eq!(starts, [0, 1012, 2024, 3036]);
    }

    #[test]
    fn sound_beside_video_starts_none() {
        let mut gop = Gop::new(LIMITS);
        gop.push(&frame(1, Kind::Video, 0, KEY));
        assert!(!gop.push(&frame(2, Kind::Audio, 2500, SOUND)));
        assert!(gop.push(&frame(3, Kind::Audio, 3100, SOUND)), "three seconds without a picture");
    }

    #[test]
    fn every_limit_lets_the_group_go() {
        let mut frames = Gop::new(LIMITS);
        let mut bytes = Gop::new(LIMITS);
        let mut time = Gop::new(LIMITS);
        for gop in [&mut frames, &mut bytes, &mut time] {
            gop.push(&frame(1, Kind::Video, 0, KEY));
        }
        for seq in 0..10 {
            frames.push(&frame(seq, Kind::Video, 1, INTER));
        }
        let big = Frame::new(FrameId::default(), Kind::Video, 1, Bytes::from(vec![0x27; 1000]));
        bytes.push(&big);
        time.push(&frame(2, Kind::Video, 5001, INTER));
        for gop in [&mut frames, &mut bytes, &mut time] {
            assert!(!gop.joinable());
            assert_eq!((gop.frames().count(), gop.bytes()), (0, 0));
            assert!(gop.push(&frame(9, Kind::Video, 6000, KEY)), "and the next one counts again");
            assert!(gop.joinable());
        }
    }

    proptest! {
        /// Times of frames are whatever a peer says; they neither overflow nor lift a limit.
        #[test]
        fn any_times_are_borne(
            frames in prop::collection::vec(
                (prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>(), -9_000_000..9_000_000i64], 0..4usize),
                0..40,
            ),
        ) {
            let mut gop = Gop::new(LIMITS);
            for (seq, (dts, what)) in (0..).zip(frames) {
                let (kind, body) =
                    [(Kind::Video, KEY), (Kind::Video, INTER), (Kind::Video, HEAD), (Kind::Audio, SOUND)][what];
                let frame = Frame::new(FrameId { epoch: 1, seq }, kind, dts, Bytes::from_static(body));
                let starts = gop.push(&frame);
                prop_assert!(starts || what != 0, "a key frame starts a group whatever its time");
                prop_assert!(gop.joinable() == (gop.frames().count() > 0) && gop.frames().count() <= LIMITS.frames);
                prop_assert_eq!(gop.bytes(), gop.frames().map(|f| f.body.len()).sum::<usize>());
                if let Some(first) = gop.frames().next() {
                    prop_assert!(i128::from(dts) - i128::from(first.dts) <= i128::from(LIMITS.duration));
                }
            }
        }
    }

    #[test]
    fn configuration_is_ordered_and_replaced_by_slot() {
        let mut configs = Configs::default();
        assert!(configs.update(&frame(1, Kind::Video, 0, HEAD)));
        assert!(configs.update(&frame(2, Kind::Audio, 0, &[0xaf, 0, 1])));
        assert!(configs.update(&frame(3, Kind::Data, 0, b"\x02\x00\x0aonMetaData")));
        assert!(!configs.update(&frame(4, Kind::Video, 0, HEAD)), "the same again");
        assert!(configs.update(&frame(5, Kind::Video, 0, b"\x96\x00vp09\x05x")), "another track");
        let order: Vec<u64> = configs.iter().map(|f| f.id.seq).collect();
        assert_eq!(order, [3, 2, 4, 5]);
    }
}
