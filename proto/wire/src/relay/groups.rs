use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use weir_media::Frame;

use super::cost;

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
/// behind it, the older is stopped and the newer goes on: a congested link skips instead of lagging. Where a group
/// broke off, its later parts are of no use either, and the next one that can be joined goes on.
#[derive(Debug)]
pub struct Assembler {
    hold: Duration,
    bound: usize,
    /// Index of the group that is passed on.
    current: u64,
    /// Frames before the current group are missing: only one that can be joined is passed on.
    broken: bool,
    /// All from the current one on that have begun. What waits in them has not been passed on.
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
    ended: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// Frames at its end are missing.
    BrokenOff,
}

impl Assembler {
    /// `bound` limits what waits behind the current group, in bytes: bodies, and [`super::FRAME_COST`] for each.
    pub fn new(hold: Duration, bound: usize) -> Self {
        Self {
            hold,
            bound,
            current: 0,
            broken: false,
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
        let fresh = || Pending { began: now, frames: VecDeque::new(), joinable, ended: None };
        self.groups.entry(index).or_insert_with(fresh);
        self.advance(now);
    }

    /// A frame of a group came. Those of a group that was stopped or did not begin are for nobody.
    pub fn frame(&mut self, now: Instant, index: u64, frame: Frame) {
        let Some(group) = self.groups.get_mut(&index).filter(|g| g.ended.is_none()) else { return };
        if index == self.current {
            self.ready.push_back(Group::Frame(frame));
            return;
        }
        self.bytes += cost(&frame);
        group.frames.push_back(frame);
        while self.bytes > self.bound {
            self.skip(now);
        }
    }

    /// A group's stream ended: `whole` when the origin finished it, false when it broke off (a reset, a lost link, an
    /// error in what it carried), so that its last frames did not come.
    pub fn finish(&mut self, now: Instant, index: u64, whole: bool) {
        if let Some(group) = self.groups.get_mut(&index) {
            group.ended.get_or_insert(if whole { End::Whole } else { End::BrokenOff });
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

    /// How often frames were left out: a group broke off, or was left for a newer one.
    pub fn skips(&self) -> u64 {
        self.skips
    }

    /// Passes on what can be, group after group.
    fn advance(&mut self, now: Instant) {
        while let Some(group) = self.groups.get_mut(&self.current) {
            let useless = self.broken && !group.joinable;
            if !useless {
                self.broken = false;
                for frame in group.frames.drain(..) {
                    self.bytes -= cost(&frame);
                    self.ready.push_back(Group::Frame(frame));
                }
                match group.ended {
                    None => break,
                    Some(End::Whole) => {}
                    Some(End::BrokenOff) => {
                        self.broken = true;
                        self.skips += 1;
                    }
                }
            }
            if let Some(left) = self.groups.remove(&self.current) {
                self.leave(self.current, left);
            }
            self.current = self.current.saturating_add(1);
            self.deadline = None;
        }
        if self.deadline.is_none() {
            let newer = self.newer().next().map(|(_, group)| group.began);
            self.deadline = newer.map(|began| (began + self.hold).max(now));
        }
    }

    /// The groups behind the current one.
    fn newer(&self) -> impl DoubleEndedIterator<Item = (u64, &Pending)> {
        let behind = (Bound::Excluded(self.current), Bound::Unbounded);
        self.groups.range(behind).map(|(&index, group)| (index, group))
    }

    fn skip(&mut self, now: Instant) {
        // The newest that has waited for so long: groups may be shorter than the hold.
        let joinable = || self.newer().filter(|(_, g)| g.joinable);
        let next = joinable().rfind(|(_, g)| g.began + self.hold <= now).or_else(|| joinable().next());
        let Some((next, _)) = next else {
            self.deadline = Some(now + self.hold);
            return self.bound_parts();
        };
        let newer = self.groups.split_off(&next);
        for (index, group) in std::mem::replace(&mut self.groups, newer) {
            self.leave(index, group);
        }
        // What broke off is counted already.
        self.skips += u64::from(!self.broken);
        self.current = next;
        self.deadline = None;
        self.advance(now);
    }

    /// Lets the parts that wait behind the current group go when they are too much: nothing newer can be joined.
    fn bound_parts(&mut self) {
        if self.bytes <= self.bound {
            return;
        }
        for (&index, group) in self.groups.range_mut((Bound::Excluded(self.current), Bound::Unbounded)) {
            self.bytes -= bytes_of(group);
            group.frames.clear();
            if group.ended.replace(End::BrokenOff).is_none() {
                self.ready.push_back(Group::Stop(index));
            }
        }
    }

    /// What waits in a group that was taken out is not passed on, and no more of it is wanted.
    fn leave(&mut self, index: u64, group: Pending) {
        self.bytes -= bytes_of(&group);
        if group.ended.is_none() {
            self.ready.push_back(Group::Stop(index));
        }
    }
}

fn bytes_of(group: &Pending) -> usize {
    group.frames.iter().map(cost).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use weir_media::{FrameId, Kind};

    use super::*;
    use crate::relay::FRAME_COST;

    const HOLD: Duration = Duration::from_millis(250);

    #[expect(clippy::disallowed_methods, reason = "a test starts its own clock")]
    fn start() -> Instant {
        Instant::now()
    }

    /// What a test's frame is counted as.
    const ONE: usize = FRAME_COST + 2;

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
        let mut a = Assembler::new(HOLD, 10 * ONE);
        a.begin(now, 1, true);
        a.frame(now, 1, frame(3));
        a.begin(now, 0, true);
        a.frame(now, 0, frame(1));
        assert_eq!(drain(&mut a), (vec![1], vec![], Some(now + HOLD)));
        a.frame(now, 0, frame(2));
        a.finish(now, 0, true);
        assert_eq!(drain(&mut a), (vec![2, 3], vec![], None));
        a.frame(now, 1, frame(4));
        assert_eq!(drain(&mut a).0, [4]);
    }

    #[test]
    fn a_late_group_is_left_after_the_hold_for_one_that_can_be_joined() {
        let now = start();
        let mut a = Assembler::new(HOLD, 10 * ONE);
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
        let mut a = Assembler::new(HOLD, 10 * ONE);
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
        let mut a = Assembler::new(HOLD, ONE);
        a.begin(now, 0, true);
        a.begin(now, 1, true);
        a.frame(now, 1, frame(1));
        a.frame(now, 1, frame(2));
        assert_eq!(drain(&mut a).0, [1, 2]);
    }

    #[test]
    fn after_a_group_that_broke_off_only_one_that_can_be_joined_goes_on() {
        let now = start();
        // Its further part came before it broke off, after it, or never.
        for part in ["before", "after", "never"] {
            let mut a = Assembler::new(HOLD, 10 * ONE);
            a.begin(now, 0, true);
            a.frame(now, 0, frame(1));
            if part == "before" {
                a.begin(now, 1, false);
                a.frame(now, 1, frame(9));
                a.begin(now, 2, true);
                a.frame(now, 2, frame(20));
            }
            a.finish(now, 0, false);
            if part == "after" {
                a.begin(now, 1, false);
                a.frame(now, 1, frame(9));
            }
            if part != "before" {
                a.begin(now, 2, true);
                a.frame(now, 2, frame(20));
            }
            let (mut frames, mut stops, wait) = drain(&mut a);
            if part == "never" {
                assert_eq!((&frames[..], wait), (&[1][..], Some(now + HOLD)), "group 1 may be one to join");
                a.handle_timeout(now + HOLD);
                let later = drain(&mut a);
                frames.extend(later.0);
                stops.extend(later.1);
            }
            assert_eq!(frames, [1, 20], "{part}");
            assert_eq!(stops, if part == "never" { vec![] } else { vec![1] }, "{part}");
            a.frame(now, 1, frame(10));
            a.finish(now, 1, true);
            a.frame(now, 2, frame(21));
            assert_eq!(drain(&mut a).0, [21], "{part}");
            assert_eq!(a.bytes, 0);
            assert_eq!(a.skips(), 1);
        }
    }

    #[test]
    fn a_group_that_broke_off_before_its_turn_is_passed_on_as_far_as_it_came() {
        let now = start();
        let mut a = Assembler::new(HOLD, 10 * ONE);
        a.begin(now, 1, false);
        a.frame(now, 1, frame(2));
        a.finish(now, 1, false);
        a.begin(now, 2, false);
        a.frame(now, 2, frame(9));
        a.begin(now, 3, true);
        a.frame(now, 3, frame(20));
        a.begin(now, 0, true);
        a.frame(now, 0, frame(1));
        a.finish(now, 0, true);
        assert_eq!(drain(&mut a), (vec![1, 2, 20], vec![2], None));
    }

    #[test]
    fn parts_that_wait_and_cannot_be_joined_are_bounded_too() {
        let now = start();
        let mut a = Assembler::new(HOLD, 50 * ONE);
        a.begin(now, 0, true);
        a.begin(now, 1, false);
        for seq in 0..1000 {
            a.frame(now, 1, frame(seq));
            assert!(a.bytes <= 50 * ONE);
        }
        assert_eq!(drain(&mut a).1, [1]);
        a.frame(now, 0, frame(1));
        a.finish(now, 0, true);
        a.begin(now, 2, false);
        a.begin(now, 3, true);
        a.frame(now, 3, frame(5000));
        assert_eq!(drain(&mut a), (vec![1, 5000], vec![2], None), "the current group is not hurt, what follows is");
    }

    #[test]
    fn any_index_is_borne() {
        let now = start();
        let mut a = Assembler::new(HOLD, 10 * ONE);
        a.begin(now, u64::MAX - 1, true);
        a.begin(now, u64::MAX, true);
        a.begin(now, u64::MAX, false);
        a.frame(now, u64::MAX, frame(1));
        a.handle_timeout(now + HOLD);
        a.finish(now, u64::MAX, true);
        a.begin(now, u64::MAX, true);
        a.frame(now, u64::MAX, frame(2));
        a.handle_timeout(now + HOLD * 9);
        a.begin(now, 0, true);
        assert_eq!(drain(&mut a).0, [1, 2]);
    }

    proptest! {
        /// Frames of two groups follow each other only where the later one can be joined or all of the earlier came,
        /// whatever breaks off, comes late or is too much.
        #[test]
        fn no_frame_is_passed_on_behind_a_gap(
            shape in prop::collection::vec((any::<bool>(), prop::option::of(0..6u64)), 6),
            order in prop::collection::vec((0..6usize, 0..60u64), 0..120),
            bound in 2..20 * ONE,
        ) {
            let now = start();
            let mut a = Assembler::new(HOLD, bound);
            // A group: begin, six frames, end; or its end earlier, as broken off, after so many frames.
            let mut step = [0u64; 6];
            let mut clock = now;
            let mut frames = Vec::new();
            for (group, ms) in order {
                clock += Duration::from_millis(ms);
                a.handle_timeout(clock);
                let (joinable, cut) = shape[group];
                let (index, last) = (group as u64, cut.unwrap_or(6) + 1);
                match step[group] {
                    0 => a.begin(clock, index, joinable),
                    n if n < last => a.frame(clock, index, frame(index * 10 + n)),
                    n if n == last => a.finish(clock, index, cut.is_none()),
                    _ => {}
                }
                step[group] += 1;
                frames.extend(drain(&mut a).0);
            }
            for pair in frames.windows(2) {
                let (before, seq) = (pair[0], pair[1]);
                let follows = seq == before + 1 || seq % 10 == 1 && {
                    let between = (before / 10 + 1)..seq / 10;
                    let whole = |i: u64| shape[i as usize].1.is_none() && step[i as usize] > 7;
                    shape[(seq / 10) as usize].0 || between.is_empty() && before % 10 == 6 && whole(before / 10)
                };
                prop_assert!(follows, "{seq} behind {before} of {shape:?}");
            }
            let held: usize = a.groups.values().map(bytes_of).sum();
            prop_assert_eq!(held, a.bytes);
            prop_assert!(a.bytes <= bound);
        }

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
                    9 => a.finish(now, group, true),
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
