use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use weir_media::Frame;

/// Groups that may wait behind the one being read.
const GROUPS_MAX: usize = 64;

/// What [`Assembler::poll`] tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Group {
    /// The next frame of the subscription.
    Frame(Frame),
    /// This group's stream is of no more use: stop it.
    Stop(u64),
    /// Nothing more until a record comes or this time does.
    Wait(Option<Instant>),
}

/// Puts the groups of one subscription, each on a QUIC stream of its own, back into order.
///
/// The oldest unfinished group is passed on as it arrives. When a newer one that can be joined has waited for `hold`
/// behind it, the older is stopped and the newer goes on: a congested link skips instead of lagging.
#[derive(Debug)]
pub struct Assembler {
    hold: Duration,
    bound: usize,
    /// Index of the group that is passed on.
    current: u64,
    groups: BTreeMap<u64, Pending>,
    ready: VecDeque<Group>,
    bytes: usize,
    deadline: Option<Instant>,
    skips: u64,
}

#[derive(Debug)]
struct Pending {
    began: Instant,
    frames: VecDeque<Frame>,
    joinable: bool,
    finished: bool,
}

impl Assembler {
    /// `bound` limits what waits behind the current group, in bytes.
    pub fn new(hold: Duration, bound: usize) -> Self {
        Self {
            hold,
            bound,
            current: 0,
            groups: BTreeMap::new(),
            ready: VecDeque::new(),
            bytes: 0,
            deadline: None,
            skips: 0,
        }
    }

    /// A stream announced its group.
    pub fn begin(&mut self, now: Instant, index: u64, joinable: bool) {
        if index < self.current || self.groups.len() >= GROUPS_MAX {
            self.ready.push_back(Group::Stop(index));
            return;
        }
        self.groups.insert(index, Pending { began: now, frames: VecDeque::new(), joinable, finished: false });
        if index > self.current {
            self.deadline.get_or_insert(now + self.hold);
        }
    }

    /// A frame of a group came.
    pub fn frame(&mut self, now: Instant, index: u64, frame: Frame) {
        if index == self.current {
            self.ready.push_back(Group::Frame(frame));
        } else if let Some(group) = self.groups.get_mut(&index) {
            self.bytes += frame.body.len();
            group.frames.push_back(frame);
            if self.bytes > self.bound {
                self.skip(now);
            }
        }
    }

    /// A group's stream ended, whole or broken off.
    pub fn finish(&mut self, now: Instant, index: u64) {
        if let Some(group) = self.groups.get_mut(&index) {
            group.finished = true;
        }
        self.advance(now);
    }

    /// The time that [`Group::Wait`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|d| d <= now) {
            self.skip(now);
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Group {
        self.ready.pop_front().unwrap_or(Group::Wait(self.deadline))
    }

    /// How often a group was left for a newer one.
    pub fn skips(&self) -> u64 {
        self.skips
    }

    fn advance(&mut self, now: Instant) {
        while self.groups.get(&self.current).is_some_and(|g| g.finished) {
            self.groups.remove(&self.current);
            self.current += 1;
            self.release();
            self.deadline = None;
        }
        if self.deadline.is_none()
            && let Some((_, newer)) = self.groups.range(self.current + 1..).next()
        {
            self.deadline = Some((newer.began + self.hold).max(now));
        }
    }

    /// Passes on what waited in the group that has become the current one.
    fn release(&mut self) {
        if let Some(group) = self.groups.get_mut(&self.current) {
            for frame in group.frames.drain(..) {
                self.bytes -= frame.body.len();
                self.ready.push_back(Group::Frame(frame));
            }
        }
    }

    fn skip(&mut self, now: Instant) {
        // The newest that has waited for so long: groups may be shorter than the hold.
        let newer = || self.groups.range(self.current + 1..).filter(|(_, g)| g.joinable);
        let next = newer().rfind(|(_, g)| g.began + self.hold <= now).or_else(|| newer().next()).map(|(&i, _)| i);
        let Some(next) = next else {
            self.deadline = Some(now + self.hold);
            return;
        };
        let newer = self.groups.split_off(&next);
        for (index, group) in std::mem::replace(&mut self.groups, newer) {
            self.bytes -= group.frames.iter().map(|f| f.body.len()).sum::<usize>();
            if !group.finished {
                self.ready.push_back(Group::Stop(index));
            }
        }
        self.skips += 1;
        self.current = next;
        self.deadline = None;
        self.release();
        self.advance(now);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use weir_media::{FrameId, Kind};

    use super::*;

    const HOLD: Duration = Duration::from_millis(250);

    #[expect(clippy::disallowed_methods, reason = "a test starts its own clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn frame(seq: u64) -> Frame {
        Frame::new(FrameId { epoch: 1, seq }, Kind::Video, 0, Bytes::from_static(&[0x27, 1]))
    }

    fn drain(a: &mut Assembler) -> (Vec<u64>, Vec<u64>, Option<Instant>) {
        let (mut frames, mut stops) = (Vec::new(), Vec::new());
        loop {
            match a.poll() {
                Group::Frame(f) => frames.push(f.id.seq),
                Group::Stop(i) => stops.push(i),
                Group::Wait(t) => return (frames, stops, t),
            }
        }
    }

    #[test]
    fn groups_come_out_in_order() {
        let now = start();
        let mut a = Assembler::new(HOLD, 1000);
        a.begin(now, 1, true);
        a.frame(now, 1, frame(3));
        a.begin(now, 0, true);
        a.frame(now, 0, frame(1));
        assert_eq!(drain(&mut a), (vec![1], vec![], Some(now + HOLD)));
        a.frame(now, 0, frame(2));
        a.finish(now, 0);
        assert_eq!(drain(&mut a), (vec![2, 3], vec![], None));
        a.frame(now, 1, frame(4));
        assert_eq!(drain(&mut a).0, [4]);
    }

    #[test]
    fn a_late_group_is_left_after_the_hold_for_one_that_can_be_joined() {
        let now = start();
        let mut a = Assembler::new(HOLD, 1000);
        a.begin(now, 0, true);
        a.begin(now, 1, false);
        a.frame(now, 1, frame(9));
        a.handle_timeout(now + HOLD);
        let (frames, stops, wait) = drain(&mut a);
        assert_eq!((frames, stops), (vec![], vec![]), "the rest of a split group is no place to join");
        a.begin(now, 2, true);
        a.frame(now, 2, frame(10));
        a.handle_timeout(wait.unwrap());
        assert_eq!(drain(&mut a), (vec![10], vec![0, 1], None));
        a.frame(now, 0, frame(5));
        a.begin(now, 1, false);
        assert_eq!(drain(&mut a), (vec![], vec![1], None), "what was left stays left");
        assert_eq!(a.skips(), 1);
    }

    #[test]
    fn groups_shorter_than_the_hold_are_left_together() {
        let now = start();
        let mut a = Assembler::new(HOLD, 1000);
        a.begin(now, 0, true);
        for index in 1..=6 {
            a.begin(now + HOLD / 2 * index, index.into(), true);
        }
        // By now groups 1 to 4 have waited for the hold.
        let later = now + HOLD * 3;
        a.handle_timeout(later);
        assert_eq!(drain(&mut a), (vec![], vec![0, 1, 2, 3], Some(now + HOLD / 2 * 5 + HOLD)));
        assert_eq!(a.skips(), 1);
    }

    #[test]
    fn too_much_waiting_skips_at_once() {
        let now = start();
        let mut a = Assembler::new(HOLD, 3);
        a.begin(now, 0, true);
        a.begin(now, 1, true);
        a.frame(now, 1, frame(1));
        a.frame(now, 1, frame(2));
        assert_eq!(drain(&mut a).0, [1, 2]);
    }

    proptest! {
        /// Whatever the order in which streams deliver, frames come out in order, and all of them if none is late.
        #[test]
        fn any_interleaving(order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle()) {
            let now = start();
            let mut a = Assembler::new(HOLD, 1 << 20);
            // Four groups of ten events each: begin, eight frames, finish; events of a group stay in order.
            let mut step = [0u64; 4];
            for slot in order {
                let group = (slot % 4) as u64;
                let at = &mut step[slot % 4];
                match *at {
                    0 => a.begin(now, group, true),
                    9 => a.finish(now, group),
                    n => a.frame(now, group, frame(group * 8 + n)),
                }
                *at += 1;
            }
            let (frames, stops, wait) = drain(&mut a);
            prop_assert_eq!(frames, (1..=32).collect::<Vec<_>>());
            prop_assert!(stops.is_empty() && wait.is_none() && a.bytes == 0);
        }
    }
}
