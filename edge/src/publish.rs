//! The states of a publication: claimed at the origin, carried over the loss of it. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weir_media::FrameId;
use weir_wire::relay::Refusal;

/// How long a new publisher waits for its claim to be granted.
const CLAIM_WITHIN: Duration = Duration::from_secs(8);

/// A claim that was refused for a reason that passes is sent again after this time.
const CLAIM_AGAIN: Duration = Duration::from_millis(200);

/// How often that is done while the origin says that somebody publishes, and it may be this publisher's own claim on a
/// link that was lost. Together 3 s: QUIC notices a lost link within 2 s.
const BUSY_MAX: u32 = 15;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Claim the stream at the origin; with what it was granted as before, if it was.
    Claim(Option<FrameId>),
    /// The claim is granted: number from this frame, time from this base.
    Granted(FrameId, i64),
    /// The origin is back: send configuration and group again, then go on.
    Replay,
    /// End the client's publication.
    End(Ended),
    /// Nothing more until something happens or this time comes: then [`Publish::handle_timeout`] is to be called. A
    /// time that has passed asks for it at once.
    Wait(Option<Instant>),
}

/// Why a publication ends other than by its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The origin said no.
    Refused(Refusal, String),
    /// No origin answered in time.
    Unreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first claim; no frame was named yet.
    Claiming {
        until: Instant,
    },
    /// Frames go to the origin.
    Live,
    /// The link is lost, or its origin is going away; frames are named and kept.
    Orphaned,
    /// Claimed again.
    Reclaiming,
    Ended,
}

/// When the claim is sent again, if the link is not lost before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    /// [`CLAIM_AGAIN`] after the next [`Publish::handle_timeout`], which tells the time.
    Asked,
    At(Instant),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publish {
    state: State,
    link: bool,
    next: FrameId,
    created: Instant,
    again: Again,
    /// A claim was sent on this link and not answered yet.
    asked: bool,
    /// A claim was sent on a former link and never answered: it may have been granted.
    unheard: bool,
    /// How often the origin said on this link that somebody publishes.
    busy: u32,
    actions: VecDeque<Action>,
}

impl Publish {
    pub(crate) fn new(now: Instant, link: bool) -> Self {
        let mut publish = Self {
            state: State::Claiming { until: now + CLAIM_WITHIN },
            link,
            next: FrameId::default(),
            created: now,
            again: Again::Never,
            asked: false,
            unheard: false,
            busy: 0,
            actions: VecDeque::new(),
        };
        if link {
            publish.claim();
        }
        publish
    }

    /// One that was granted in another process, and goes on here with `next`.
    pub(crate) fn arriving(now: Instant, link: bool, next: FrameId) -> Self {
        let mut publish = Self { state: State::Orphaned, next, ..Self::new(now, false) };
        if link {
            publish.link_up();
        }
        publish
    }

    /// What it would go on with in another process; `None` before the grant and after the end.
    pub(crate) fn departing(&self) -> Option<FrameId> {
        match self.state {
            State::Live | State::Orphaned | State::Reclaiming => Some(self.next),
            State::Claiming { .. } | State::Ended => None,
        }
    }

    /// The name of the next frame; `None` while no claim was granted. `true` if it is to be sent now.
    pub(crate) fn next_frame(&mut self) -> Option<(FrameId, bool)> {
        let send = match self.state {
            State::Live => true,
            State::Orphaned | State::Reclaiming => false,
            State::Claiming { .. } | State::Ended => return None,
        };
        let id = self.next;
        self.next.seq += 1;
        Some((id, send))
    }

    pub(crate) fn link_up(&mut self) {
        self.link = true;
        self.claim();
    }

    pub(crate) fn link_down(&mut self) {
        self.link = false;
        self.again = Again::Never;
        self.unheard |= self.asked;
        self.asked = false;
        self.busy = 0;
        if matches!(self.state, State::Live | State::Reclaiming) {
            self.state = State::Orphaned;
        }
    }

    pub(crate) fn claimed(&mut self, first: FrameId, base: i64) {
        self.asked = false;
        match self.state {
            State::Claiming { .. } => {
                self.state = State::Live;
                self.next = first;
                self.actions.push_back(Action::Granted(first, base));
            }
            State::Reclaiming => {
                self.state = State::Live;
                self.actions.push_back(Action::Replay);
            }
            _ => {}
        }
    }

    pub(crate) fn refused(&mut self, refusal: Refusal, reason: String) {
        self.asked = false;
        let passes = match refusal {
            // An origin that is going away is a lost link: its successor is claimed.
            Refusal::Closing => true,
            Refusal::Busy => self.may_be_own_claim(),
            _ => false,
        };
        if !passes {
            return self.end(Ended::Refused(refusal, reason));
        }
        if matches!(self.state, State::Live | State::Reclaiming) {
            self.state = State::Orphaned;
        }
        // Where the link is lost already, it is claimed on the next one.
        if self.link && self.again == Again::Never && self.state != State::Ended {
            self.again = Again::Asked;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let State::Claiming { until } = self.state
            && until <= now
        {
            return self.end(Ended::Unreachable);
        }
        match self.again {
            Again::Asked => self.again = Again::At(now + CLAIM_AGAIN),
            Again::At(at) if at <= now => self.claim(),
            _ => {}
        }
    }

    pub(crate) fn poll(&mut self) -> Action {
        let until = match self.state {
            State::Claiming { until } => Some(until),
            _ => None,
        };
        let again = match self.again {
            Again::Never => None,
            Again::Asked => Some(self.created),
            Again::At(at) => Some(at),
        };
        let wait = Action::Wait(until.into_iter().chain(again).min());
        self.actions.pop_front().unwrap_or(wait)
    }

    fn claim(&mut self) {
        self.again = Again::Never;
        let resume = match self.state {
            State::Claiming { .. } => None,
            State::Orphaned => {
                self.state = State::Reclaiming;
                Some(self.next)
            }
            _ => return,
        };
        self.asked = true;
        self.actions.push_back(Action::Claim(resume));
    }

    /// Whether who publishes is likely this publication itself, on a link whose loss the origin did not notice yet.
    fn may_be_own_claim(&mut self) -> bool {
        if !self.unheard || !matches!(self.state, State::Claiming { .. }) {
            return false;
        }
        self.busy += 1;
        self.busy <= BUSY_MAX
    }

    fn end(&mut self, why: Ended) {
        self.again = Again::Never;
        if self.state != State::Ended {
            self.state = State::Ended;
            self.actions.push_back(Action::End(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: FrameId = FrameId { epoch: 7, seq: 1 };

    fn live(now: Instant) -> Publish {
        let mut p = Publish::new(now, true);
        assert_eq!(p.poll(), Action::Claim(None));
        assert_eq!(p.next_frame(), None);
        p.claimed(FIRST, 0);
        assert_eq!(p.poll(), Action::Granted(FIRST, 0));
        p
    }

    #[test]
    fn names_go_on_over_the_loss_of_an_origin() {
        let mut p = live(Instant::now());
        assert_eq!(p.next_frame(), Some((FIRST, true)));
        p.link_down();
        assert_eq!(p.next_frame(), Some((FrameId { epoch: 7, seq: 2 }, false)));
        p.link_up();
        assert_eq!(p.poll(), Action::Claim(Some(FrameId { epoch: 7, seq: 3 })));
        assert_eq!(p.next_frame(), Some((FrameId { epoch: 7, seq: 3 }, false)));
        p.claimed(FrameId { epoch: 7, seq: 3 }, 0);
        assert_eq!(p.poll(), Action::Replay);
        assert_eq!(p.next_frame(), Some((FrameId { epoch: 7, seq: 4 }, true)));
        assert_eq!(p.poll(), Action::Wait(None));
    }

    #[test]
    fn one_that_comes_from_another_process_claims_what_it_had() {
        let now = Instant::now();
        let mut there = live(now);
        there.next_frame();
        let next = there.departing().unwrap();
        for link in [true, false] {
            let mut here = Publish::arriving(now, link, next);
            here.link_up();
            assert_eq!(here.poll(), Action::Claim(Some(FrameId { epoch: 7, seq: 2 })));
            assert_eq!(here.next_frame(), Some((FrameId { epoch: 7, seq: 2 }, false)), "named and kept");
            here.claimed(FrameId { epoch: 7, seq: 2 }, 0);
            assert_eq!((here.poll(), here.poll()), (Action::Replay, Action::Wait(None)));
        }
        assert_eq!(Publish::new(now, true).departing(), None);
    }

    #[test]
    fn a_new_publisher_waits_for_a_link_but_not_for_ever() {
        let now = Instant::now();
        let mut p = Publish::new(now, false);
        assert_eq!(p.poll(), Action::Wait(Some(now + CLAIM_WITHIN)));
        p.link_up();
        assert_eq!(p.poll(), Action::Claim(None));
        p.link_down();
        p.handle_timeout(now + CLAIM_WITHIN);
        assert_eq!(p.poll(), Action::End(Ended::Unreachable));
        p.link_up();
        assert_eq!(p.poll(), Action::Wait(None), "ended once");
    }

    #[test]
    fn refusals_end_it_but_an_origin_that_leaves_does_not() {
        let mut p = live(Instant::now());
        p.refused(Refusal::Closing, String::new());
        p.link_down();
        p.link_up();
        assert_eq!(p.poll(), Action::Claim(Some(FIRST)));
        p.refused(Refusal::Stale, "newer".to_owned());
        assert_eq!(p.poll(), Action::End(Ended::Refused(Refusal::Stale, "newer".to_owned())));
        assert_eq!(p.next_frame(), None);
    }

    /// Waits as the caller does until something else is to be done; returns it and when that was.
    fn next_action(p: &mut Publish, mut now: Instant) -> (Action, Instant) {
        for _ in 0..100 {
            match p.poll() {
                Action::Wait(Some(at)) => {
                    now = now.max(at);
                    p.handle_timeout(now);
                }
                other => return (other, now),
            }
        }
        panic!("it waits for nothing again and again");
    }

    #[test]
    fn an_origin_that_is_going_away_and_stays_is_claimed_again_after_a_pause() {
        let start = Instant::now();
        let mut p = live(start);
        let mut now = start + Duration::from_secs(3600);
        p.next_frame();
        for _ in 0..3 {
            p.refused(Refusal::Closing, String::new());
            let (action, at) = next_action(&mut p, now);
            assert_eq!(action, Action::Claim(Some(FrameId { epoch: 7, seq: p.next.seq })));
            assert_eq!(at, now + CLAIM_AGAIN, "after a pause from when it was said");
            assert!(!p.next_frame().unwrap().1, "named and kept");
            now = at;
        }
        p.claimed(FIRST, 0);
        assert_eq!(next_action(&mut p, now), (Action::Replay, now));
        assert_eq!(next_action(&mut p, now), (Action::Wait(None), now));
        assert!(p.next_frame().unwrap().1);
    }

    #[test]
    fn an_origin_that_goes_away_is_claimed_once_whatever_the_order() {
        let now = Instant::now();
        // Refused, then the link drops, at once or in the pause; or the refusal comes when the link is lost.
        for order in ["refused down up", "refused tick down up", "down refused up", "down up refused"] {
            let mut p = live(now);
            for event in order.split(' ') {
                match event {
                    "refused" => p.refused(Refusal::Closing, String::new()),
                    "tick" => p.handle_timeout(now),
                    "down" => p.link_down(),
                    _ => p.link_up(),
                }
                if !p.link {
                    assert_eq!(p.poll(), Action::Wait(None), "no claim while there is no link: {order}");
                }
            }
            assert_eq!(next_action(&mut p, now).0, Action::Claim(Some(FIRST)), "{order}");
            if order == "down up refused" {
                // It was the answer to that claim.
                assert_eq!(next_action(&mut p, now), (Action::Claim(Some(FIRST)), now + CLAIM_AGAIN));
            }
            assert_eq!(next_action(&mut p, now), (Action::Wait(None), now), "{order}");
        }
    }

    #[test]
    fn a_new_publisher_waits_for_the_successor_of_an_origin_that_is_going_away() {
        let start = Instant::now();
        let mut p = Publish::new(start, true);
        let mut now = start;
        let mut claims = 0;
        let ended = loop {
            match next_action(&mut p, now) {
                (Action::Claim(None), at) => {
                    assert_eq!(at, start + CLAIM_AGAIN * claims);
                    p.refused(Refusal::Closing, String::new());
                    claims += 1;
                    now = at;
                }
                other => break other,
            }
        };
        assert_eq!(ended, (Action::End(Ended::Unreachable), start + CLAIM_WITHIN));
    }

    #[test]
    fn busy_with_its_own_unheard_claim_is_asked_again_but_not_for_ever() {
        let start = Instant::now();
        let mut p = Publish::new(start, true);
        assert_eq!(p.poll(), Action::Claim(None));
        p.link_down();
        p.link_up();
        assert_eq!(p.poll(), Action::Claim(None));
        let mut now = start + Duration::from_secs(1);
        let back = now;
        let busy = || "already published".to_owned();
        loop {
            p.refused(Refusal::Busy, busy());
            let (action, at) = next_action(&mut p, now);
            if action != Action::Claim(None) {
                assert_eq!(action, Action::End(Ended::Refused(Refusal::Busy, busy())));
                break;
            }
            assert_eq!(at, now + CLAIM_AGAIN);
            now = at;
        }
        assert_eq!(now, back + Duration::from_secs(3));
        assert_eq!(p.poll(), Action::Wait(None));
    }

    #[test]
    fn busy_with_its_own_unheard_claim_is_granted_when_the_origin_has_noticed() {
        let now = Instant::now();
        let mut p = Publish::new(now, true);
        p.link_down();
        p.link_up();
        assert_eq!((p.poll(), p.poll()), (Action::Claim(None), Action::Claim(None)));
        p.refused(Refusal::Busy, String::new());
        assert_eq!(next_action(&mut p, now), (Action::Claim(None), now + CLAIM_AGAIN));
        p.claimed(FIRST, 0);
        assert_eq!(p.poll(), Action::Granted(FIRST, 0));
        p.refused(Refusal::Busy, String::new());
        assert!(matches!(p.poll(), Action::End(_)), "its own claim was heard");
    }

    #[test]
    fn busy_ends_it_where_no_claim_of_its_own_can_be_the_reason() {
        let now = Instant::now();
        // Never had a link before; had one, but the claim on it was answered.
        for heard in [false, true] {
            let mut p = Publish::new(now, true);
            assert_eq!(p.poll(), Action::Claim(None));
            if heard {
                p.refused(Refusal::Closing, String::new());
                p.link_down();
                p.link_up();
                assert_eq!(p.poll(), Action::Claim(None));
            }
            p.refused(Refusal::Busy, String::new());
            assert_eq!(p.poll(), Action::End(Ended::Refused(Refusal::Busy, String::new())));
        }
    }
}
