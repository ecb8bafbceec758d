use std::collections::VecDeque;

use bytes::BytesMut;
use rustc_hash::FxHashMap;
use weir_media::{Frame, Kind};

use super::cost;
use super::record::{Record, encode, encode_frame_head, encode_frame_part};

/// Records other than frames that may wait on one connection: every channel changes its state three times.
pub const CONTROL_MAX: usize = 65_536;

/// Tracks whose configuration is kept over a skip; more than any encoder sends.
const CONFIGS_MAX: usize = 64;

/// What happens when a channel's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A subscription: the queue is dropped and the reader goes on at the next group.
    Skip,
    /// A publication: nothing is dropped; the caller stops reading its publisher until there is room.
    Hold,
}

/// The queue is above its bound; see [`Policy::Hold`]. The frame was taken in all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What waits to be written to one connection: small records first, then frames round-robin over the channels, each
/// bounded in bytes, so that one stuck stream neither grows nor delays the others.
#[derive(Debug)]
pub struct OutQueue {
    bound: usize,
    control: VecDeque<Record>,
    channels: FxHashMap<u32, Channel>,
    /// Channels with something to send, in turn.
    turn: VecDeque<u32>,
    bytes: usize,
    skips: u64,
    overflowed: bool,
}

#[derive(Debug)]
struct Channel {
    policy: Policy,
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Bytes of the front frame's body that are written.
    sent: usize,
    /// After a skip, or at the start of a subscription in mid-group.
    until_group: bool,
    /// Lies in `turn`.
    queued: bool,
    /// The channel ends when its frames are written, with this record.
    last: Option<Record>,
    /// The channel ends without a word when its half-written frame is complete.
    forgotten: bool,
}

impl OutQueue {
    /// `bound` limits each channel's frames, in bytes: their bodies, and [`super::FRAME_COST`] for each.
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            control: VecDeque::new(),
            channels: FxHashMap::default(),
            turn: VecDeque::new(),
            bytes: 0,
            skips: 0,
            overflowed: false,
        }
    }

    /// Queues a record that goes before all waiting frames. Not for ending a channel: see [`OutQueue::close`].
    ///
    /// Above [`CONTROL_MAX`] the peer does not read what it is told: see [`OutQueue::overflowed`].
    pub fn control(&mut self, record: Record) {
        if self.overflowed {
            return;
        }
        self.control.push_back(record);
        if self.control.len() > CONTROL_MAX {
            *self = Self { skips: self.skips, overflowed: true, ..Self::new(self.bound) };
        }
    }

    /// More than [`CONTROL_MAX`] records waited. All that waited was let go and nothing more is taken in, since no
    /// record may be missing from what the peer reads: the connection is to be closed.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Opens a channel. A number is used once in a connection's life.
    pub fn open(&mut self, channel: u32, policy: Policy) {
        if self.overflowed {
            return;
        }
        let fresh = Channel {
            policy,
            frames: VecDeque::new(),
            bytes: 0,
            sent: 0,
            until_group: false,
            queued: false,
            last: None,
            forgotten: false,
        };
        self.channels.insert(channel, fresh);
    }

    /// Queues a frame. `starts_group` says that a reader may go on at it after a skip.
    ///
    /// # Errors
    /// [`Full`] on a [`Policy::Hold`] channel above its bound: stop reading the publisher.
    pub fn frame(&mut self, channel: u32, frame: Frame, starts_group: bool) -> Result<(), Full> {
        let Some(c) = self.channels.get_mut(&channel) else { return Ok(()) };
        if c.forgotten || c.last.is_some() {
            return Ok(());
        }
        let skipping = c.until_group;
        if c.until_group {
            if !starts_group && !frame.info.config {
                return Ok(());
            }
            c.until_group = !starts_group;
        }
        if c.policy == Policy::Skip && c.bytes > self.bound {
            let before = c.bytes;
            c.skip();
            self.bytes -= before - c.bytes;
            self.skips += u64::from(!skipping);
            c.until_group = !starts_group;
            if c.until_group && !frame.info.config {
                return Ok(());
            }
        }
        c.bytes += cost(&frame);
        self.bytes += cost(&frame);
        c.frames.push_back(frame);
        if !c.queued {
            c.queued = true;
            self.turn.push_back(channel);
        }
        if c.policy == Policy::Hold && c.bytes > self.bound { Err(Full) } else { Ok(()) }
    }

    /// Whether a [`Policy::Hold`] channel has room again: it is below half its bound. True for unknown channels.
    pub fn has_room(&self, channel: u32) -> bool {
        self.channels.get(&channel).is_none_or(|c| c.bytes <= self.bound / 2)
    }

    /// Ends a channel with `record` after its waiting frames.
    pub fn close(&mut self, channel: u32, record: Record) {
        match self.channels.get_mut(&channel) {
            Some(c) if !c.frames.is_empty() => c.last = Some(record),
            _ => {
                self.channels.remove(&channel);
                self.control(record);
            }
        }
    }

    /// Forgets a channel and what waits on it, except a half-written frame, which the other end waits for.
    pub fn forget(&mut self, channel: u32) {
        let Some(c) = self.channels.get_mut(&channel) else { return };
        let keep = usize::from(c.sent > 0);
        self.bytes -= c.frames.iter().skip(keep).map(cost).sum::<usize>();
        c.frames.truncate(keep);
        c.bytes = c.frames.front().map_or(0, cost);
        c.last = None;
        c.forgotten = true;
        if keep == 0 {
            self.channels.remove(&channel);
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.turn.is_empty()
    }

    /// What waits, in bytes as the bound counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often a subscription's queue was dropped.
    pub fn skips(&self) -> u64 {
        self.skips
    }

    /// Moves about `budget` bytes of records into `out`, fairly.
    pub fn fill(&mut self, out: &mut BytesMut, budget: usize) {
        while let Some(record) = self.control.pop_front() {
            encode(out, &record);
        }
        while out.len() < budget {
            let Some(channel) = self.turn.pop_front() else { return };
            let Some(c) = self.channels.get_mut(&channel) else { continue };
            let Some(frame) = c.frames.front() else {
                c.queued = false;
                continue;
            };
            c.sent += match c.sent {
                0 => encode_frame_head(out, channel, frame),
                sent => encode_frame_part(out, channel, frame, sent),
            };
            if c.sent >= frame.body.len() {
                c.sent = 0;
                c.bytes -= cost(frame);
                self.bytes -= cost(frame);
                c.frames.pop_front();
            }
            if !c.frames.is_empty() {
                self.turn.push_back(channel);
                continue;
            }
            c.queued = false;
            if let Some(last) = c.last.take() {
                self.channels.remove(&channel);
                encode(out, &last);
            } else if c.forgotten {
                self.channels.remove(&channel);
            }
        }
    }
}

impl Channel {
    /// Drops what waits. What is half written must be finished, and the newest configuration of each track is kept,
    /// since a group needs it; older configuration is not, or a publisher who sends nothing else fills the memory.
    fn skip(&mut self) {
        let half = (self.sent > 0).then(|| self.frames.pop_front()).flatten();
        let mut tracks: Vec<(Kind, u16)> = Vec::new();
        let mut kept: VecDeque<Frame> = VecDeque::new();
        for frame in self.frames.drain(..).rev().filter(|frame| frame.info.config) {
            let track = (frame.kind, frame.info.slot);
            if tracks.len() < CONFIGS_MAX && !tracks.contains(&track) {
                tracks.push(track);
                kept.push_front(frame);
            }
        }
        self.frames = half.into_iter().chain(kept).collect();
        self.bytes = self.frames.iter().map(cost).sum();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_media::{FrameId, Kind};

    use super::*;
    use crate::relay::{Decoder, FRAME_COST};

    fn frame(seq: u64, size: usize) -> Frame {
        let mut body = vec![0x27; size];
        body[1] = 1;
        Frame::new(FrameId { epoch: 1, seq }, Kind::Video, 0, Bytes::from(body))
    }

    fn drain(queue: &mut OutQueue) -> Vec<(u32, u64)> {
        let mut out = BytesMut::new();
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        while !queue.is_empty() {
            queue.fill(&mut out, 1);
            while let Some(record) = decoder.decode(&mut out).unwrap() {
                match record {
                    Record::Frame { channel, frame } => seen.push((channel, frame.id.seq)),
                    Record::Close { channel } => seen.push((channel, 0)),
                    _ => {}
                }
            }
        }
        assert_eq!(queue.bytes(), 0);
        seen
    }

    #[test]
    fn channels_take_turns_even_inside_a_large_frame() {
        let mut q = OutQueue::new(1 << 20);
        q.open(1, Policy::Hold);
        q.open(2, Policy::Hold);
        q.frame(1, frame(1, 300_000), false).unwrap();
        q.frame(2, frame(2, 10), false).unwrap();
        q.frame(2, frame(3, 10), false).unwrap();
        assert_eq!(drain(&mut q), [(2, 2), (2, 3), (1, 1)]);
    }

    #[test]
    fn a_stuck_subscription_skips_to_the_next_group_and_finishes_what_it_began() {
        let mut q = OutQueue::new(250_000);
        q.open(1, Policy::Skip);
        for seq in 1..=3 {
            q.frame(1, frame(seq, 100_000), seq == 1).unwrap();
        }
        let mut out = BytesMut::new();
        q.fill(&mut out, 1); // the first part of frame 1 is on the wire
        q.frame(1, frame(4, 100_000), false).unwrap();
        q.frame(1, frame(5, 100), false).unwrap();
        q.frame(1, frame(6, 100), true).unwrap();
        q.frame(1, frame(7, 100), false).unwrap();
        assert_eq!(q.skips(), 1);
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        loop {
            while let Some(Record::Frame { frame, .. }) = decoder.decode(&mut out).unwrap() {
                seen.push(frame.id.seq);
            }
            if q.is_empty() {
                break;
            }
            q.fill(&mut out, 1);
        }
        assert_eq!(seen, [1, 6, 7]);
        assert_eq!(q.bytes(), 0);
    }

    #[test]
    fn of_configuration_a_stuck_subscription_keeps_the_newest_of_each_track() {
        let mut q = OutQueue::new(1000);
        q.open(1, Policy::Skip);
        let config = |seq: u64, kind: Kind| {
            let mut body = vec![0; 600];
            body[0] = if kind == Kind::Audio { 0xaf } else { 0x17 };
            Frame::new(FrameId { epoch: 1, seq }, kind, 0, Bytes::from(body))
        };
        for seq in 1..=1000 {
            q.frame(1, config(seq, if seq == 1 { Kind::Audio } else { Kind::Video }), false).unwrap();
            assert!(q.bytes() <= 1000 + 2 * (600 + FRAME_COST), "{} bytes wait", q.bytes());
        }
        q.frame(1, frame(1001, 10), true).unwrap();
        let seen: Vec<u64> = drain(&mut q).into_iter().map(|(_, seq)| seq).collect();
        assert_eq!((seen.first(), seen.last()), (Some(&1), Some(&1001)), "{seen:?}");
        assert!(seen.contains(&1000) && seen.is_sorted() && seen.len() <= 5, "{seen:?}");
        assert_eq!(q.skips(), 1);
    }

    #[test]
    fn a_publication_is_held_not_dropped() {
        let mut q = OutQueue::new(1000 + FRAME_COST);
        q.open(1, Policy::Hold);
        q.frame(1, frame(1, 900), true).unwrap();
        assert_eq!(q.frame(1, frame(2, 900), false), Err(Full));
        assert!(!q.has_room(1));
        q.close(1, Record::Close { channel: 1 });
        assert_eq!(drain(&mut q), [(1, 1), (1, 2), (1, 0)], "closed after its frames");
        assert!(q.has_room(1));
    }

    #[test]
    fn tiny_frames_are_counted_as_what_they_cost() {
        let most = 100_000 / FRAME_COST;
        let mut held = OutQueue::new(100_000);
        held.open(1, Policy::Hold);
        let taken = (1..).take_while(|&seq| held.frame(1, frame(seq, 2), seq == 1).is_ok()).count();
        assert!((most - most / 10..=most).contains(&taken), "{taken} frames of two bytes");
        let mut skipped = OutQueue::new(100_000);
        skipped.open(1, Policy::Skip);
        for seq in 0..100_000 {
            skipped.frame(1, frame(seq, 2), false).unwrap();
            assert!(skipped.channels[&1].frames.len() <= most + 1);
        }
        assert_eq!(skipped.skips(), 1);
    }

    #[test]
    fn of_records_that_are_not_read_no_more_than_the_limit_wait_and_the_caller_learns_it() {
        let mut q = OutQueue::new(1000);
        q.open(1, Policy::Hold);
        q.frame(1, frame(1, 100), true).unwrap();
        for channel in 0..CONTROL_MAX as u32 {
            q.control(Record::Idle { channel });
        }
        assert!(!q.overflowed());
        let mut out = BytesMut::new();
        q.fill(&mut out, 1);
        assert_eq!(out.len(), CONTROL_MAX * 8, "all of them are written");
        for channel in 0..CONTROL_MAX as u32 {
            q.control(Record::Idle { channel });
        }
        // What ends a channel counts, too.
        q.close(2, Record::Close { channel: 2 });
        assert!(q.overflowed());
        q.open(3, Policy::Hold);
        for n in 0..1000 {
            q.control(Record::Idle { channel: n });
            q.frame(1, frame(2, 100), false).unwrap();
            q.frame(3, frame(2, 100), false).unwrap();
        }
        assert!(q.overflowed() && q.is_empty() && q.bytes() == 0, "nothing waits on a connection that is to be closed");
    }

    #[test]
    fn forgetting_keeps_only_a_half_written_frame() {
        let mut q = OutQueue::new(1 << 20);
        q.open(1, Policy::Skip);
        q.frame(1, frame(1, 100_000), true).unwrap();
        q.frame(1, frame(2, 10), false).unwrap();
        let mut out = BytesMut::new();
        q.fill(&mut out, 1);
        q.forget(1);
        q.fill(&mut out, 1 << 20);
        let mut decoder = Decoder::new();
        assert!(matches!(decoder.decode(&mut out), Ok(Some(Record::Frame { .. }))));
        assert!(q.is_empty() && q.bytes() == 0 && out.is_empty());
    }
}
