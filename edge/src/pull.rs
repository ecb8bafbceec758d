//! The states of a pull: when this worker subscribes to a stream, and what its players are told. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Subscribe at the origin.
    Subscribe,
    /// End the subscription.
    Unsubscribe,
    /// Tell the players that the stream has a publisher.
    Live,
    /// Tell the players that it has none, and forget its frames.
    Idle,
    /// Nobody plays it and nothing is left to wait for: forget the stream.
    Forget,
    /// Nothing more until something happens or this time comes.
    Wait(Option<Instant>),
}

/// See the module.
///
/// A lost link is not an end: players stay, and an origin that comes back without memory says `idle` until the
/// publisher's edge has come back too. So for a while after the link is up an `idle` is only remembered.
#[derive(Debug)]
pub(crate) struct Pull {
    linger: Duration,
    recovery: Duration,
    link: bool,
    subscribed: bool,
    players: usize,
    /// What the players were told.
    live: Option<bool>,
    /// No player since.
    unused_since: Option<Instant>,
    /// An `idle` before this time may be an origin without memory.
    recovers_until: Option<Instant>,
    idle_heard: bool,
    forgotten: bool,
    actions: VecDeque<Action>,
}

impl Pull {
    /// `linger`: how long a stream is kept after its last player. `recovery`: how long an origin that came back is
    /// given to hear of its publishers.
    pub(crate) fn new(now: Instant, linger: Duration, recovery: Duration, link: bool) -> Self {
        Self {
            linger,
            recovery,
            link,
            subscribed: false,
            players: 0,
            live: None,
            unused_since: Some(now),
            recovers_until: None,
            idle_heard: false,
            forgotten: false,
            actions: VecDeque::new(),
        }
    }

    /// A player came from another process, where it was told that there is a publisher. True: that counts until the
    /// origin has said something.
    pub(crate) fn presume_live(&mut self, now: Instant) -> bool {
        if self.live.is_none() {
            self.live = Some(true);
            self.recovers_until = Some(now + self.recovery);
            return true;
        }
        false
    }

    pub(crate) fn player_joined(&mut self) {
        self.players += 1;
        self.unused_since = None;
        self.forgotten = false;
        self.subscribe();
    }

    pub(crate) fn player_left(&mut self, now: Instant) {
        self.players = self.players.saturating_sub(1);
        if self.players == 0 {
            self.unused_since = Some(now);
        }
    }

    pub(crate) fn link_up(&mut self, now: Instant) {
        self.link = true;
        if self.live == Some(true) {
            self.recovers_until = Some(now + self.recovery);
        }
        self.idle_heard = false;
        self.subscribe();
    }

    pub(crate) fn link_down(&mut self) {
        self.link = false;
        self.subscribed = false;
        self.recovers_until = None;
        self.idle_heard = false;
    }

    /// The origin says that there is a publisher.
    pub(crate) fn heard_live(&mut self) {
        self.recovers_until = None;
        self.idle_heard = false;
        self.tell(true);
    }

    /// The origin says that there is none.
    pub(crate) fn heard_idle(&mut self) {
        if self.recovers_until.is_some() {
            self.idle_heard = true;
        } else {
            self.tell(false);
        }
    }

    /// The origin closed the subscription; it is asked again at the next player or link.
    pub(crate) fn refused(&mut self) {
        self.subscribed = false;
        self.tell(false);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.recovers_until.is_some_and(|t| t <= now) {
            self.recovers_until = None;
            if std::mem::take(&mut self.idle_heard) {
                self.tell(false);
            }
        }
        if self.unused_since.is_some_and(|t| t + self.linger <= now) && !self.forgotten {
            self.forgotten = true;
            if std::mem::take(&mut self.subscribed) {
                self.actions.push_back(Action::Unsubscribe);
            }
            self.actions.push_back(Action::Forget);
        }
    }

    pub(crate) fn poll(&mut self) -> Action {
        let wait = || {
            let unused = self.unused_since.filter(|_| !self.forgotten).map(|t| t + self.linger);
            [unused, self.recovers_until].into_iter().flatten().min()
        };
        self.actions.pop_front().unwrap_or_else(|| Action::Wait(wait()))
    }

    fn subscribe(&mut self) {
        if self.link && !self.subscribed && !self.forgotten && (self.players > 0 || self.live.is_some()) {
            self.subscribed = true;
            self.actions.push_back(Action::Subscribe);
        }
    }

    fn tell(&mut self, live: bool) {
        if self.live.replace(live) != Some(live) {
            self.actions.push_back(if live { Action::Live } else { Action::Idle });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(5);
    const RECOVERY: Duration = Duration::from_secs(7);

    fn drain(pull: &mut Pull) -> (Vec<Action>, Option<Instant>) {
        let mut actions = Vec::new();
        loop {
            match pull.poll() {
                Action::Wait(t) => return (actions, t),
                action => actions.push(action),
            }
        }
    }

    #[test]
    fn a_player_from_another_process_is_not_told_twice() {
        let now = Instant::now();
        let mut pull = Pull::new(now, LINGER, RECOVERY, true);
        assert!(pull.presume_live(now));
        pull.player_joined();
        assert_eq!(drain(&mut pull).0, [Action::Subscribe]);
        let mut other = Pull::new(now, LINGER, RECOVERY, true);
        other.presume_live(now);
        other.player_joined();
        drain(&mut other);
        pull.heard_live();
        assert_eq!(drain(&mut pull).0, [], "it knows");
        // An origin that was replaced as well may not know the publisher yet.
        other.heard_idle();
        assert_eq!(drain(&mut other).0, []);
        other.handle_timeout(now + RECOVERY);
        assert_eq!(drain(&mut other).0, [Action::Idle]);
        assert!(!other.presume_live(now), "it is known that it has none");
    }

    #[test]
    fn one_subscription_from_the_first_player_until_some_time_after_the_last() {
        let now = Instant::now();
        let mut pull = Pull::new(now, LINGER, RECOVERY, true);
        pull.player_joined();
        pull.player_joined();
        assert_eq!(drain(&mut pull), (vec![Action::Subscribe], None));
        pull.heard_live();
        pull.player_left(now);
        assert_eq!(drain(&mut pull), (vec![Action::Live], None));
        pull.player_left(now);
        assert_eq!(drain(&mut pull), (vec![], Some(now + LINGER)));
        pull.player_joined();
        pull.handle_timeout(now + LINGER);
        assert_eq!(drain(&mut pull), (vec![], None), "somebody came back in time");
        pull.player_left(now + LINGER);
        pull.handle_timeout(now + 2 * LINGER);
        assert_eq!(drain(&mut pull), (vec![Action::Unsubscribe, Action::Forget], None));
    }

    #[test]
    fn a_lost_link_is_not_an_end() {
        let now = Instant::now();
        let mut pull = Pull::new(now, LINGER, RECOVERY, true);
        pull.player_joined();
        pull.heard_live();
        drain(&mut pull);
        pull.link_down();
        assert_eq!(drain(&mut pull), (vec![], None));
        pull.link_up(now);
        pull.heard_idle();
        assert_eq!(drain(&mut pull), (vec![Action::Subscribe], Some(now + RECOVERY)));
        pull.heard_live();
        pull.handle_timeout(now + RECOVERY);
        assert_eq!(drain(&mut pull), (vec![], None), "the publisher's edge came back: players notice nothing");
    }

    #[test]
    fn a_publisher_that_does_not_come_back_ends_it() {
        let now = Instant::now();
        let mut pull = Pull::new(now, LINGER, RECOVERY, true);
        pull.player_joined();
        pull.heard_live();
        pull.link_down();
        pull.link_up(now);
        pull.heard_idle();
        drain(&mut pull);
        pull.handle_timeout(now + RECOVERY);
        assert_eq!(drain(&mut pull), (vec![Action::Idle], None));
        pull.heard_idle();
        assert_eq!(drain(&mut pull), (vec![], None), "told once");
    }

    #[test]
    fn without_a_link_the_subscription_waits() {
        let now = Instant::now();
        let mut pull = Pull::new(now, LINGER, RECOVERY, false);
        pull.player_joined();
        assert_eq!(drain(&mut pull), (vec![], None));
        pull.link_up(now);
        assert_eq!(drain(&mut pull), (vec![Action::Subscribe], None));
        pull.heard_idle();
        assert_eq!(drain(&mut pull), (vec![Action::Idle], None), "never live: known at once");
    }
}
