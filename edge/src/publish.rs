//! The states of a publication: claimed at the origin, carried over the loss of it. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weir_media::FrameId;
use weir_wire::relay::Refusal;

/// How long a new publisher waits for its claim to be granted.
const CLAIM_WITHIN: Duration = Duration::from_secs(8);

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
    /// Nothing more until something happens or this time comes.
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
    /// The link is lost; frames are named and kept.
    Orphaned,
    /// Claimed again.
    Reclaiming,
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publish {
    state: State,
    link: bool,
    next: FrameId,
    actions: VecDeque<Action>,
}

impl Publish {
    pub(crate) fn new(now: Instant, link: bool) -> Self {
        let mut actions = VecDeque::new();
        if link {
            actions.push_back(Action::Claim(None));
        }
        Self { state: State::Claiming { until: now + CLAIM_WITHIN }, link, next: FrameId::default(), actions }
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
        match self.state {
            State::Claiming { .. } => self.actions.push_back(Action::Claim(None)),
            State::Orphaned => {
                self.state = State::Reclaiming;
                self.actions.push_back(Action::Claim(Some(self.next)));
            }
            _ => {}
        }
    }

    pub(crate) fn link_down(&mut self) {
        self.link = false;
        if matches!(self.state, State::Live | State::Reclaiming) {
            self.state = State::Orphaned;
        }
    }

    pub(crate) fn claimed(&mut self, first: FrameId, base: i64) {
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
        // An origin that is going away is a lost link: its successor is claimed.
        if refusal == Refusal::Closing && !matches!(self.state, State::Claiming { .. } | State::Ended) {
            self.state = State::Orphaned;
            return;
        }
        self.end(Ended::Refused(refusal, reason));
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let State::Claiming { until } = self.state
            && until <= now
        {
            self.end(Ended::Unreachable);
        }
    }

    pub(crate) fn poll(&mut self) -> Action {
        let wait = match self.state {
            State::Claiming { until } => Some(until),
            _ => None,
        };
        self.actions.pop_front().unwrap_or(Action::Wait(wait))
    }

    fn end(&mut self, why: Ended) {
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
}
