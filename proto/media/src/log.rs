//! The fan-out log: one stream in one output format, encoded once, read by every player at its own offset.
//!
//! Bytes lie in fixed-size blocks; a player is an offset. Offsets count from the log's creation and never go back.
//! Message boundaries are indexed, so that a player who lags can be moved forward without tearing a message.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::FrameId;

/// Size of a block. A round's bytes lie in one block nearly always, so a player gets one contiguous write.
pub const BLOCK: usize = 128 * 1024;

/// What a player gets before the bytes at a joining point: file header, metadata, sequence headers.
pub type Prelude = Rc<[u8]>;

#[derive(Debug)]
struct Mark {
    at: u64,
    dts: i64,
    id: FrameId,
}

#[derive(Debug)]
struct Join {
    at: u64,
    prelude: Prelude,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Log {
    blocks: VecDeque<Vec<u8>>,
    /// Offset of the first byte of the first block; a multiple of [`BLOCK`].
    first: u64,
    end: u64,
    marks: VecDeque<Mark>,
    joins: VecDeque<Join>,
    last_dts: i64,
}

impl Log {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one whole message. `prelude` is given where a player can join.
    pub fn append(&mut self, id: FrameId, dts: i64, prelude: Option<Prelude>, message: &[u8]) {
        self.marks.push_back(Mark { at: self.end, dts, id });
        if let Some(prelude) = prelude {
            self.joins.push_back(Join { at: self.end, prelude });
        }
        self.last_dts = dts;
        let mut rest = message;
        while !rest.is_empty() {
            let room = match self.blocks.back() {
                Some(block) if block.len() < BLOCK => BLOCK - block.len(),
                _ => {
                    self.blocks.push_back(Vec::with_capacity(BLOCK));
                    BLOCK
                }
            };
            let (head, tail) = rest.split_at(room.min(rest.len()));
            if let Some(block) = self.blocks.back_mut() {
                block.extend_from_slice(head);
            }
            self.end += head.len() as u64;
            rest = tail;
        }
    }

    /// Where the next message will begin.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The oldest message boundary that can still be read from.
    pub fn start(&self) -> u64 {
        self.marks.front().map_or(self.end, |m| m.at)
    }

    /// The bytes from `at` on, contiguous, as far as one block reaches; empty at the end and before [`Log::start`]'s
    /// block.
    pub fn read(&self, at: u64) -> &[u8] {
        let Some(distance) = at.checked_sub(self.first) else { return &[] };
        let Ok(distance) = usize::try_from(distance) else { return &[] };
        self.blocks.get(distance / BLOCK).and_then(|b| b.get(distance % BLOCK..)).unwrap_or(&[])
    }

    /// The bytes from `at` on as far as two blocks reach: where a round's bytes lie across a boundary, the second is not
    /// empty.
    pub fn read_on(&self, at: u64) -> [&[u8]; 2] {
        let first = self.read(at);
        [first, self.read(at.saturating_add(first.len() as u64))]
    }

    /// Whether the byte at `at` can still be read, or is the next to be written.
    pub fn holds(&self, at: u64) -> bool {
        (self.first..=self.end).contains(&at)
    }

    /// The newest point to join at, with what to send before it.
    pub fn newest_join(&self) -> Option<(u64, &Prelude)> {
        self.joins.back().map(|j| (j.at, &j.prelude))
    }

    /// The first point to join at, at `from` or later, with what to send before it.
    pub fn join_after(&self, from: u64) -> Option<(u64, &Prelude)> {
        let i = self.joins.partition_point(|j| j.at < from);
        self.joins.get(i).map(|j| (j.at, &j.prelude))
    }

    /// The boundary at `at` or the first one after it.
    pub fn boundary(&self, at: u64) -> u64 {
        let i = self.marks.partition_point(|m| m.at < at);
        self.marks.get(i).map_or(self.end, |m| m.at)
    }

    /// The message that ends at the boundary `at`, or lies around it; where it is not held any more, the one before the
    /// first that is. `None`: nothing is known of what was before.
    pub fn before(&self, at: u64) -> Option<FrameId> {
        let i = self.marks.partition_point(|m| m.at < at);
        match i.checked_sub(1).and_then(|i| self.marks.get(i)) {
            Some(mark) => Some(mark.id),
            None => self.marks.front().map(|m| FrameId { seq: m.id.seq.saturating_sub(1), ..m.id }),
        }
    }

    /// Where the first message after `id` begins, and whether it is the very next one. `None`: it has not come yet.
    pub fn after(&self, id: FrameId) -> Option<(u64, bool)> {
        let i = self.marks.partition_point(|m| m.id <= id);
        let mark = self.marks.get(i)?;
        let known = i.checked_sub(1).and_then(|i| self.marks.get(i)).is_some_and(|m| m.id == id);
        let next = mark.id.epoch == id.epoch && id.seq.checked_add(1) == Some(mark.id.seq);
        Some((mark.at, known || next))
    }

    /// How far a reader at `at` lags behind the end, in microseconds of media time.
    pub fn lag(&self, at: u64) -> i64 {
        if at >= self.end {
            return 0;
        }
        let i = self.marks.partition_point(|m| m.at <= at);
        self.marks.get(i.saturating_sub(1)).map_or(0, |m| self.last_dts.saturating_sub(m.dts))
    }

    /// Lets blocks go that lie wholly before both `slowest` (the smallest offset anybody reads at) and the newest
    /// joining point.
    pub fn trim(&mut self, slowest: u64) {
        let keep = self.joins.back().map_or(self.end, |j| j.at).min(slowest);
        while self.first + BLOCK as u64 <= keep && self.blocks.len() > 1 {
            self.drop_block();
        }
    }

    /// Lets the oldest block go whoever still reads it; readers in it are moved or closed. Returns the bytes gained,
    /// 0 when only the block being written is left.
    pub fn shed(&mut self) -> usize {
        if self.blocks.len() <= 1 {
            return 0;
        }
        self.drop_block();
        BLOCK
    }

    /// Nobody can join any more until the next point: the group outgrew its cache.
    pub fn clear_joins(&mut self) {
        self.joins.clear();
    }

    /// Memory of the blocks, in bytes.
    pub fn memory(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    fn drop_block(&mut self) {
        self.blocks.pop_front();
        self.first += BLOCK as u64;
        let gone = self.marks.partition_point(|m| m.at < self.first);
        self.marks.drain(..gone);
        let gone = self.joins.partition_point(|j| j.at < self.first);
        self.joins.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prelude(n: u8) -> Prelude {
        Rc::from([n].as_slice())
    }

    fn id(seq: u64) -> FrameId {
        FrameId { epoch: 1, seq }
    }

    fn read_all(log: &Log, mut at: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while at < log.end() {
            let part = log.read(at);
            assert!(!part.is_empty());
            out.extend_from_slice(part);
            at += part.len() as u64;
        }
        out
    }

    proptest! {
        #[test]
        fn what_was_appended_is_read_from_any_boundary(sizes in prop::collection::vec(0usize..300_000, 1..12)) {
            let mut log = Log::new();
            let mut all = Vec::new();
            let mut starts = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let body: Vec<u8> = (0..*size).map(|b| (b * 7 + i) as u8).collect();
                starts.push(log.end());
                log.append(id(i as u64), i as i64, None, &body);
                all.extend(body);
            }
            prop_assert_eq!(log.end(), all.len() as u64);
            for start in starts {
                prop_assert_eq!(log.boundary(start), start);
                prop_assert!(read_all(&log, start) == all[start as usize..]);
            }
        }
    }

    #[test]
    fn joining_points_and_boundaries() {
        let mut log = Log::new();
        log.append(id(1), 0, Some(prelude(1)), b"abc");
        log.append(id(2), 10, None, b"de");
        log.append(id(3), 20, Some(prelude(2)), b"fgh");
        assert_eq!(log.newest_join().map(|j| j.0), Some(5));
        assert_eq!(log.join_after(0).map(|j| j.0), Some(0));
        assert_eq!(log.join_after(1).map(|j| j.0), Some(5));
        assert_eq!(log.join_after(6).map(|j| j.0), None);
        assert_eq!((log.boundary(0), log.boundary(1), log.boundary(3), log.boundary(6)), (0, 3, 3, 8));
        assert_eq!((log.lag(0), log.lag(2), log.lag(3), log.lag(8)), (20, 20, 10, 0));
    }

    #[test]
    fn a_reader_of_another_log_finds_its_place() {
        let mut log = Log::new();
        assert_eq!((log.before(0), log.after(id(4))), (None, None));
        // Configuration of the past, then a group, of which the relay left one message out.
        for seq in [2, 10, 11, 13] {
            log.append(id(seq), 0, None, b"abc");
        }
        assert_eq!([0, 1, 3, 4, 12].map(|at| log.before(at).unwrap().seq), [1, 2, 2, 10, 13]);
        assert_eq!([9, 10, 11].map(|seq| log.after(id(seq))), [Some((3, true)), Some((6, true)), Some((9, true))]);
        assert_eq!([5, 12].map(|seq| log.after(id(seq))), [Some((3, false)), Some((9, true))]);
        assert_eq!([13, 99].map(|seq| log.after(id(seq))), [None, None]);
        log.append(FrameId { epoch: 2, seq: 14 }, 0, None, b"abc");
        assert_eq!(log.after(id(13)), Some((12, true)), "read here until then");
        assert_eq!(log.after(id(14)), Some((12, false)), "another publication");
    }

    #[test]
    fn any_times_are_borne() {
        let mut log = Log::new();
        for dts in [i64::MIN, i64::MAX, i64::MIN] {
            log.append(id(0), dts, None, b"abc");
            for at in 0..=log.end() + 1 {
                log.lag(at);
            }
        }
        log.append(id(0), i64::MAX, None, b"abc");
        assert_eq!(log.lag(0), i64::MAX);
    }

    #[test]
    fn trim_keeps_the_newest_group_and_the_slowest_reader() {
        let mut log = Log::new();
        let message = vec![7; BLOCK / 2];
        for i in 0..8 {
            log.append(id(0), i, (i == 4).then(|| prelude(0)), &message);
        }
        log.trim(0);
        assert_eq!(log.start(), 0);
        log.trim(BLOCK as u64);
        assert_eq!(log.start(), BLOCK as u64);
        log.trim(log.end());
        assert_eq!(log.start(), 2 * BLOCK as u64, "the joining point stays");
        assert_eq!(log.shed(), BLOCK);
        assert!(log.newest_join().is_none());
        assert!(log.read(0).is_empty());
        while log.shed() > 0 {}
        assert_eq!(log.memory(), BLOCK);
    }
}
