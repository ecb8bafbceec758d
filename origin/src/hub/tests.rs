use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use weir_media::Kind;
use weir_node::config::Config;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);
const WALL: u64 = 1_700_000_000_000_000;

pub(super) const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 1];
pub(super) const INTER: &[u8] = &[0x27, 1, 0, 0, 0, 2];
pub(super) const SOUND: &[u8] = &[0xaf, 1, 4];
pub(super) const VIDEO_HEAD: &[u8] = &[0x17, 0, 0, 0, 0, 3];
pub(super) const SOUND_HEAD: &[u8] = &[0xaf, 0, 5];

pub(super) fn name(stream: &str) -> StreamName {
    StreamName { vhost: "__defaultVhost__".into(), app: "live".into(), stream: stream.into() }
}

pub(super) fn rules(takeover: Takeover, streams: u32) -> Rules {
    let mut config = Config::default();
    let vhost = config.vhosts.values_mut().next().unwrap();
    vhost.publish.takeover = takeover;
    vhost.publish.grace = GRACE;
    config.origin.streams = streams;
    Rules::new(&Rc::new(config))
}

/// A hub at some time, and short words for what edges say.
struct Bench {
    hub: Hub,
    now: Instant,
    wall: u64,
}

impl Bench {
    fn new(takeover: Takeover) -> Self {
        Self { hub: Hub::new(rules(takeover, 100)), now: Instant::now(), wall: WALL }
    }

    /// What the hub answers to a record.
    fn say(&mut self, peer: PeerId, record: Record) -> Vec<Output> {
        self.hub.record(self.now, self.wall, peer, record).unwrap();
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.hub.poll()).collect()
    }

    fn later(&mut self, by: Duration) -> Vec<Output> {
        self.now += by;
        self.wall += by.as_micros() as u64;
        self.hub.handle_timeout(self.now);
        self.drain()
    }

    fn gone(&mut self, peer: PeerId) -> Vec<Output> {
        self.hub.peer_gone(self.now, peer);
        self.drain()
    }

    fn claim(&mut self, peer: PeerId, channel: u32, key: u64, resume: Option<FrameId>) -> Vec<Output> {
        self.say(peer, Record::Claim { channel, name: name("a"), key, resume })
    }

    /// Claims and must be granted.
    fn publish(&mut self, peer: PeerId, channel: u32) -> (FrameId, i64) {
        granted(&self.claim(peer, channel, 0, None)).unwrap()
    }

    fn subscribe(&mut self, peer: PeerId, channel: u32, have: Option<(FrameId, i64)>) -> Vec<Output> {
        self.say(peer, Record::Subscribe { channel, name: name("a"), have })
    }

    fn frame(&mut self, peer: PeerId, channel: u32, id: (u64, u64), ms: i64, body: &'static [u8]) -> Vec<Output> {
        self.say(peer, Record::Frame { channel, frame: frame(id, ms, body) })
    }

    fn state(&self) -> Option<State> {
        self.hub.state(&name("a"))
    }
}

pub(super) fn frame((epoch, seq): (u64, u64), ms: i64, body: &'static [u8]) -> Frame {
    let kind = if body[0] == 0xaf { Kind::Audio } else { Kind::Video };
    Frame::new(FrameId { epoch, seq }, kind, ms * 1000, Bytes::from_static(body))
}

fn granted(outputs: &[Output]) -> Option<(FrameId, i64)> {
    outputs.iter().find_map(|o| match o {
        Output::Send(_, Record::Claimed { first, base, .. }) => Some((*first, *base)),
        _ => None,
    })
}

fn refused(outputs: &[Output]) -> Option<(PeerId, Refusal)> {
    outputs.iter().find_map(|o| match o {
        Output::Send(peer, Record::Refused { refusal, .. }) => Some((*peer, *refusal)),
        _ => None,
    })
}

/// Sequence numbers that a peer is sent, and whether each starts a group.
fn frames(outputs: &[Output], to: PeerId) -> Vec<(u64, bool)> {
    let of = |o: &Output| match o {
        Output::Frame { to: port, frame, starts_group } if port.peer == to => Some((frame.id.seq, *starts_group)),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

/// `true` for Live, `false` for Idle, as told to a peer.
fn told(outputs: &[Output], to: PeerId) -> Vec<bool> {
    let of = |o: &Output| match o {
        Output::Send(peer, Record::Live { .. }) if *peer == to => Some(true),
        Output::Send(peer, Record::Idle { .. }) if *peer == to => Some(false),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

#[test]
fn a_second_publisher_is_refused() {
    let mut b = Bench::new(Takeover::Refuse);
    b.publish(1, 1);
    let out = b.claim(2, 1, 0, None);
    assert_eq!(refused(&out), Some((2, Refusal::Busy)));
    assert_eq!(b.hub.publication_count(), 1);
    assert!(refused(&b.claim(1, 2, 0, None)).is_some(), "nor one of the same edge");
}

#[test]
fn takeover_replace_tells_the_first_one() {
    let mut b = Bench::new(Takeover::Replace);
    let (first, _) = b.publish(1, 7);
    b.subscribe(3, 1, None);
    let out = b.claim(2, 9, 5, None);
    assert_eq!(refused(&out), Some((1, Refusal::TakenOver)));
    let old = Port { peer: 1, channel: 7 };
    let shut = out.iter().position(|o| *o == Output::Shut(old)).unwrap();
    assert!(out.iter().position(|o| matches!(o, Output::Send(1, _))).unwrap() > shut);
    let (second, _) = granted(&out).unwrap();
    assert!(second.epoch > first.epoch);
    assert_eq!(told(&out, 3), [true]);
    // What the first one still sends is for nobody, and its closing ends nothing.
    assert!(frames(&b.frame(1, 7, (first.epoch, 1), 0, KEY), 3).is_empty());
    assert!(b.say(1, Record::Close { channel: 7 }).is_empty());
    assert_eq!(frames(&b.frame(2, 9, (second.epoch, 1), 0, KEY), 3), [(1, true)]);
}

#[test]
fn takeover_same_key_asks_for_the_key() {
    let mut b = Bench::new(Takeover::SameKey);
    b.claim(1, 1, 77, None);
    assert_eq!(refused(&b.claim(2, 1, 78, None)), Some((2, Refusal::Busy)));
    assert_eq!(refused(&b.claim(2, 1, 77, None)), Some((1, Refusal::TakenOver)));
}

#[test]
fn streams_are_limited_and_those_waited_for_keep_no_publisher_out() {
    let mut b = Bench::new(Takeover::Refuse);
    b.hub.configure(rules(Takeover::Refuse, 2));
    let subscribe = |i: u32| Record::Subscribe { channel: i, name: name(&format!("no{i}")), have: None };
    let claim = |i: u32| Record::Claim { channel: i, name: name(&format!("s{i}")), key: 0, resume: None };
    for i in 0..2 {
        assert_eq!(refused(&b.say(1, subscribe(i))), None);
    }
    assert_eq!(refused(&b.say(1, subscribe(2))), Some((1, Refusal::Full)));
    assert!(granted(&b.say(2, claim(0))).is_some());
    assert!(granted(&b.say(2, claim(1))).is_some());
    assert_eq!(refused(&b.say(2, claim(2))), Some((2, Refusal::Full)));
    assert_eq!(b.hub.stream_count(), 4, "nothing of the refused is kept");
    // A player of what is live gets it, however many there are.
    assert_eq!(refused(&b.say(3, Record::Subscribe { channel: 1, name: name("s0"), have: None })), None);
    // A publisher in its grace still counts; a stream that was waited for counts only once it is published.
    b.say(2, Record::Close { channel: 0 });
    let waited = Record::Claim { channel: 9, name: name("no0"), key: 0, resume: None };
    assert_eq!(refused(&b.say(2, waited.clone())), Some((2, Refusal::Full)));
    b.later(GRACE);
    assert!(granted(&b.say(2, waited)).is_some());
}

#[test]
fn an_overloaded_origin_takes_no_new_streams_and_keeps_those_it_has() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.hub.set_overloaded(true);
    let claim = |stream: &str, resume| Record::Claim { channel: 5, name: name(stream), key: 0, resume };
    assert_eq!(refused(&b.say(1, claim("b", None))), Some((1, Refusal::Full)));
    assert_eq!(b.hub.stream_count(), 1);
    // A publisher that is lost may come back, and one of an origin that was started anew.
    b.gone(1);
    assert!(granted(&b.claim(2, 1, 0, None)).is_some());
    assert!(granted(&b.say(2, claim("c", Some(first)))).is_some());
    assert_eq!(refused(&b.subscribe(3, 1, None)), None);
    b.hub.set_overloaded(false);
    assert!(granted(&b.say(3, claim("b", None))).is_some());
}

#[test]
fn an_epoch_is_above_the_last_and_at_least_the_wall_clock() {
    let mut b = Bench::new(Takeover::Replace);
    let (first, base) = b.publish(1, 1);
    assert_eq!((first, base), (FrameId { epoch: WALL, seq: 1 }, 0));
    let (second, _) = b.publish(1, 2);
    assert_eq!(second, FrameId { epoch: WALL + 1, seq: 1 }, "in the same microsecond");
    b.wall -= 1_000_000;
    assert_eq!(b.publish(1, 3).0.epoch, WALL + 2, "the clock was set back");
    b.wall += 9_000_000;
    assert_eq!(b.publish(1, 4).0.epoch, WALL + 8_000_000);
}

#[test]
fn time_goes_on_over_the_grace_and_a_takeover() {
    let mut b = Bench::new(Takeover::Replace);
    let (first, _) = b.publish(1, 1);
    b.frame(1, 1, (first.epoch, 1), 0, KEY);
    b.later(SECOND);
    b.frame(1, 1, (first.epoch, 2), 1000, INTER);
    b.later(2 * SECOND);
    let (second, base) = b.publish(2, 1);
    assert_eq!(base, 3_000_000, "taken over");
    b.frame(2, 1, (second.epoch, 1), 3000, KEY);
    b.gone(2);
    b.later(4 * SECOND);
    assert_eq!(b.publish(1, 2).1, 7_000_000, "within the grace");
}

#[test]
fn time_goes_on_after_the_grace_while_somebody_waits_and_begins_anew_otherwise() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.subscribe(3, 1, None);
    b.frame(1, 1, (first.epoch, 1), 500, KEY);
    b.gone(1);
    b.later(GRACE);
    b.later(5 * SECOND);
    let (second, base) = b.publish(1, 1);
    assert_eq!(base, 10_500_000);
    assert!(second.epoch > first.epoch);
    b.gone(3);
    b.gone(1);
    b.later(GRACE);
    assert_eq!(b.publish(1, 1).1, 0, "forgotten");
}

#[test]
fn the_same_epoch_resumes_silently_even_before_the_old_link_is_missed() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.subscribe(3, 1, None);
    b.frame(1, 1, (first.epoch, 1), 0, KEY);
    b.frame(1, 1, (first.epoch, 2), 40, INTER);
    let out = b.claim(2, 1, 0, Some(FrameId { epoch: first.epoch, seq: 4 }));
    assert_eq!(granted(&out).unwrap().0, FrameId { epoch: first.epoch, seq: 4 });
    assert_eq!(refused(&out), None);
    assert_eq!(told(&out, 3), [true]);
    // Its group comes again: what is known is dropped.
    let mut seen = Vec::new();
    for (seq, body) in [(1, KEY), (2, INTER), (3, INTER), (4, INTER)] {
        seen.extend(frames(&b.frame(2, 1, (first.epoch, seq), 40, body), 3));
    }
    assert_eq!(seen, [(3, false), (4, false)]);
    assert!(b.gone(1).is_empty(), "the old link's end is nobody's");
    assert!(b.state().unwrap().live);
}

#[test]
fn a_stale_resume_is_refused() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.gone(1);
    b.later(SECOND);
    b.publish(2, 1);
    let out = b.claim(1, 1, 0, Some(first));
    assert_eq!(refused(&out), Some((1, Refusal::Stale)));
    assert!(b.state().unwrap().live);
    let mut fresh = Bench::new(Takeover::Refuse);
    fresh.subscribe(3, 1, Some((FrameId { epoch: WALL, seq: 9 }, 0)));
    let old = Some(FrameId { epoch: WALL - 1, seq: 5 });
    assert_eq!(refused(&fresh.claim(1, 1, 0, old)), Some((1, Refusal::Stale)), "an edge knows of a newer one");
}

#[test]
fn a_newer_epoch_resumes_over_an_older_publisher_who_is_told() {
    let mut b = Bench::new(Takeover::Refuse);
    b.publish(1, 1);
    let out = b.claim(2, 1, 0, Some(FrameId { epoch: WALL + 5, seq: 8 }));
    assert_eq!(refused(&out), Some((1, Refusal::TakenOver)));
    assert!(granted(&out).is_some());
}

#[test]
fn a_fresh_origin_takes_what_is_sent_again() {
    let mut b = Bench::new(Takeover::Refuse);
    let epoch = WALL - 1_000_000;
    let have = (FrameId { epoch, seq: 12 }, 480_000);
    assert_eq!(told(&b.subscribe(3, 1, Some(have)), 3), [false]);
    let out = b.claim(1, 1, 0, Some(FrameId { epoch, seq: 14 }));
    assert_eq!(granted(&out).unwrap().0, FrameId { epoch, seq: 14 });
    assert_eq!(told(&out, 3), [true]);
    let mut seen = Vec::new();
    for (seq, ms, body) in [(2, 0, VIDEO_HEAD), (10, 400, KEY), (11, 440, INTER), (12, 480, INTER), (13, 520, INTER)] {
        seen.extend(frames(&b.frame(1, 1, (epoch, seq), ms, body), 3));
    }
    assert_eq!(seen, [(13, false)], "the rest it has");
    // A new subscriber gets all of the group, although an edge has some of it.
    let out = b.subscribe(4, 1, None);
    assert_eq!(frames(&out, 4), [(2, false), (10, true), (11, false), (12, false), (13, false)]);
    let out = b.subscribe(5, 1, Some(have));
    assert_eq!(frames(&out, 5), [(13, false)], "and one who has it gets the rest");
}

#[test]
fn a_fresh_origin_goes_on_where_an_edge_says_that_the_stream_was() {
    let mut b = Bench::new(Takeover::Refuse);
    let have = (FrameId { epoch: WALL + 1_000, seq: 12 }, 480_000);
    b.subscribe(3, 1, Some(have));
    b.subscribe(4, 1, Some((FrameId { epoch: 5, seq: 1 }, 9_000_000)));
    b.later(Duration::from_micros(20));
    let (first, base) = b.publish(1, 1);
    assert_eq!((first.epoch, base), (WALL + 1_001, 480_020));
}

#[test]
fn nonsense_numbers_do_no_harm() {
    let mut b = Bench::new(Takeover::Refuse);
    b.subscribe(3, 1, Some((FrameId { epoch: u64::MAX, seq: u64::MAX }, i64::MAX)));
    b.subscribe(3, 2, Some((FrameId { epoch: 7, seq: u64::MAX }, i64::MIN)));
    let top = Some(FrameId { epoch: u64::MAX, seq: u64::MAX });
    assert_eq!(refused(&b.claim(1, 1, 0, top)), Some((1, Refusal::Stale)));
    let (first, base) = b.publish(1, 2);
    assert_eq!((first.epoch, base), (WALL, 0));
    assert!(frames(&b.frame(1, 2, (first.epoch, 1), i64::MAX / 1000, KEY), 3).is_empty());
    assert!(frames(&b.frame(1, 2, (first.epoch, 1), -1, KEY), 3).is_empty());
    let empty = Frame::new(FrameId { epoch: WALL, seq: 1 }, Kind::Audio, 0, Bytes::new());
    assert!(frames(&b.say(1, Record::Frame { channel: 2, frame: empty }), 3).is_empty());
    assert_eq!(frames(&b.frame(1, 2, (first.epoch, u64::MAX), 1, KEY), 3).len(), 2);
    b.gone(1);
    b.later(SECOND);
    b.publish(1, 3);
}

#[test]
fn frames_of_strangers_and_other_epochs_are_dropped() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.subscribe(3, 1, None);
    for (peer, channel) in [(1, 2), (2, 1), (3, 1)] {
        assert!(b.frame(peer, channel, (first.epoch, 1), 0, KEY).is_empty());
    }
    for epoch in [first.epoch - 1, first.epoch + 1, 0, u64::MAX] {
        assert!(b.frame(1, 1, (epoch, 1), 0, KEY).is_empty());
    }
    assert_eq!(frames(&b.frame(1, 1, (first.epoch, 1), 0, KEY), 3), [(1, true)]);
    assert!(b.frame(1, 1, (first.epoch, 1), 0, KEY).is_empty(), "twice");
}

#[test]
fn configuration_that_is_repeated_by_a_new_publisher_is_sent_only_if_it_changed() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.subscribe(3, 1, None);
    assert_eq!(frames(&b.frame(1, 1, (first.epoch, 1), 0, VIDEO_HEAD), 3).len(), 1);
    assert_eq!(frames(&b.frame(1, 1, (first.epoch, 2), 0, SOUND_HEAD), 3).len(), 1);
    b.frame(1, 1, (first.epoch, 3), 0, KEY);
    b.gone(1);
    let (second, _) = b.publish(1, 1);
    assert!(frames(&b.frame(1, 1, (second.epoch, 1), 0, VIDEO_HEAD), 3).is_empty());
    assert_eq!(frames(&b.frame(1, 1, (second.epoch, 2), 0, &[0xaf, 0, 99]), 3), [(2, false)]);
    b.frame(1, 1, (second.epoch, 3), 0, KEY);
    let again = b.frame(1, 1, (second.epoch, 4), 0, VIDEO_HEAD);
    assert_eq!(frames(&again, 3).len(), 1, "in mid-stream a publisher knows why it says it again");
    // A newcomer gets what is in force, in the order of names.
    let out = b.subscribe(4, 1, None);
    let ids: Vec<FrameId> = out
        .iter()
        .filter_map(|o| match o {
            Output::Frame { frame, .. } => Some(frame.id),
            _ => None,
        })
        .collect();
    let of = |epoch: u64, seq: u64| FrameId { epoch, seq };
    assert_eq!(ids, [of(first.epoch, 1), of(second.epoch, 2), of(second.epoch, 3), of(second.epoch, 4)]);
}

#[test]
fn configuration_goes_out_in_the_order_of_its_names() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    // Players want sound before pictures, but a reader takes what is older than its newest for a repetition.
    for (seq, body) in [(1, VIDEO_HEAD), (2, SOUND_HEAD), (3, KEY)] {
        b.frame(1, 1, (first.epoch, seq), 0, body);
    }
    assert_eq!(frames(&b.subscribe(3, 1, None), 3), [(1, false), (2, false), (3, true)]);
}

#[test]
fn the_grace_is_unnoticed_but_for_a_live() {
    let mut b = Bench::new(Takeover::Refuse);
    b.publish(1, 1);
    b.subscribe(3, 1, None);
    let out = b.gone(1);
    assert!(told(&out, 3).is_empty() && frames(&out, 3).is_empty());
    assert!(b.state().unwrap().live);
    assert_eq!(b.hub.deadline(), Some(b.now + GRACE));
    assert!(b.later(GRACE - SECOND).is_empty());
    let out = b.claim(2, 1, 0, None);
    assert_eq!(told(&out, 3), [true]);
    assert_eq!(b.hub.deadline(), None);
    assert!(b.later(2 * GRACE).is_empty());
}

#[test]
fn after_the_grace_it_is_idle_and_once_nobody_waits_forgotten() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.frame(1, 1, (first.epoch, 1), 0, KEY);
    b.subscribe(3, 1, None);
    b.say(1, Record::Close { channel: 1 });
    assert_eq!(told(&b.later(GRACE), 3), [false]);
    assert_eq!(b.state(), Some(State { live: false, epoch: first.epoch, subscribers: 1 }));
    let out = b.subscribe(4, 1, None);
    assert_eq!((told(&out, 4), frames(&out, 4)), (vec![false], vec![]), "its frames are gone");
    b.gone(3);
    b.say(4, Record::Close { channel: 1 });
    assert_eq!(b.state(), None);
    assert_eq!(b.hub.stream_count(), 0);
}

#[test]
fn without_a_grace_it_is_idle_at_once() {
    let mut config = Config::default();
    config.vhosts.values_mut().next().unwrap().publish.grace = Duration::ZERO;
    let mut b = Bench::new(Takeover::Refuse);
    b.hub.configure(Rules::new(&Rc::new(config)));
    b.publish(1, 1);
    b.subscribe(3, 1, None);
    assert_eq!(told(&b.gone(1), 3), [false]);
    assert_eq!(b.hub.deadline(), None);
}

#[test]
fn a_publisher_who_comes_back_after_the_grace_is_whole_again() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    b.subscribe(3, 1, None);
    for (seq, body) in [(1, VIDEO_HEAD), (2, KEY), (3, INTER)] {
        b.frame(1, 1, (first.epoch, seq), 0, body);
    }
    b.gone(1);
    assert_eq!(told(&b.later(GRACE), 3), [false]);
    assert!(granted(&b.claim(1, 1, 0, Some(FrameId { epoch: first.epoch, seq: 5 }))).is_some());
    for (seq, body) in [(1, VIDEO_HEAD), (2, KEY), (3, INTER), (4, INTER)] {
        b.frame(1, 1, (first.epoch, seq), 0, body);
    }
    let out = b.subscribe(4, 1, None);
    assert_eq!(frames(&out, 4), [(1, false), (2, true), (3, false), (4, false)], "a newcomer gets configuration too");
}

#[test]
fn subscribers_of_what_is_not_there_wait() {
    let mut b = Bench::new(Takeover::Refuse);
    let out = b.subscribe(3, 8, None);
    assert_eq!(told(&out, 3), [false]);
    assert!(out.contains(&Output::Open(Port { peer: 3, channel: 8 })));
    assert_eq!(b.state(), Some(State { live: false, epoch: 0, subscribers: 1 }));
    assert_eq!(told(&b.claim(1, 1, 0, None), 3), [true]);
}

#[test]
fn a_subscription_to_what_is_live_begins_with_the_group() {
    let mut b = Bench::new(Takeover::Refuse);
    let (first, _) = b.publish(1, 1);
    for (seq, ms, body) in [(1, 0, VIDEO_HEAD), (2, 0, KEY), (3, 40, INTER), (4, 80, KEY), (5, 90, SOUND)] {
        b.frame(1, 1, (first.epoch, seq), ms, body);
    }
    let out = b.subscribe(3, 8, None);
    assert!(matches!(out[0], Output::Open(Port { peer: 3, channel: 8 })));
    assert_eq!(out[1], Output::Send(3, Record::Live { channel: 8, epoch: first.epoch }));
    assert_eq!(frames(&out, 3), [(1, false), (4, true), (5, false)]);
}

#[test]
fn a_channel_is_one_thing() {
    let mut b = Bench::new(Takeover::Replace);
    b.publish(1, 1);
    b.subscribe(1, 2, None);
    for channel in [1, 2] {
        let claim = Record::Claim { channel, name: name("b"), key: 0, resume: None };
        let subscribe = Record::Subscribe { channel, name: name("b"), have: None };
        for record in [claim, subscribe] {
            assert_eq!(b.hub.record(b.now, b.wall, 1, record), Err(Offence::ChannelOpen(channel)));
        }
    }
    assert!(b.drain().is_empty());
    assert_eq!((b.hub.publication_count(), b.hub.subscription_count(), b.hub.stream_count()), (1, 1, 1));
    // Of another peer it is another channel, and after its end it may be used again.
    b.subscribe(2, 1, None);
    b.say(1, Record::Close { channel: 2 });
    b.subscribe(1, 2, None);
    assert_eq!(b.hub.subscription_count(), 2);
}

#[test]
fn a_peer_has_so_many_channels_and_says_what_edges_say() {
    let mut b = Bench::new(Takeover::Refuse);
    for channel in 0..CHANNELS_MAX as u32 {
        b.subscribe(1, channel, None);
    }
    let more = Record::Subscribe { channel: u32::MAX, name: name("a"), have: None };
    assert_eq!(b.hub.record(b.now, b.wall, 1, more.clone()), Err(Offence::TooManyChannels));
    assert_eq!(b.hub.record(b.now, b.wall, 2, more), Ok(()), "another peer may");
    assert_eq!(b.hub.record(b.now, b.wall, 1, Record::Idle { channel: 0 }), Err(Offence::NotAnEdges));
    b.gone(1);
    b.gone(2);
    assert_eq!((b.hub.subscription_count(), b.hub.stream_count()), (0, 0));
}

#[test]
fn a_peer_that_is_gone_leaves_nothing() {
    let mut b = Bench::new(Takeover::Refuse);
    b.publish(1, 1);
    b.subscribe(1, 2, None);
    b.say(1, Record::Subscribe { channel: 3, name: name("b"), have: None });
    b.subscribe(2, 1, None);
    let out = b.gone(1);
    let shut = out.iter().filter(|o| matches!(o, Output::Shut(_))).count();
    assert_eq!(shut, 3);
    assert_eq!(b.hub.state(&name("b")), None);
    assert_eq!(b.state().unwrap().subscribers, 1);
    b.gone(2);
    assert!(b.hub.peers.is_empty());
    b.later(GRACE);
    assert_eq!((b.hub.stream_count(), b.hub.graces.len()), (0, 0));
}

#[test]
fn who_missed_part_of_a_group_that_is_not_held_goes_on_at_the_next_one() {
    let mut config = Config::default();
    config.origin.gop.frames = 4;
    let mut b = Bench::new(Takeover::Refuse);
    b.hub.configure(Rules::new(&Rc::new(config)));
    let (first, _) = b.publish(1, 1);
    for seq in 1..=20 {
        b.frame(1, 1, (first.epoch, seq), seq as i64 * 40, if seq == 1 { KEY } else { INTER });
    }
    let have = |seq| Some((FrameId { epoch: first.epoch, seq }, seq as i64 * 40_000));
    b.subscribe(3, 1, None);
    b.subscribe(4, 1, have(3));
    b.subscribe(5, 1, have(20));
    let out = b.frame(1, 1, (first.epoch, 21), 840, INTER);
    assert!(frames(&out, 3).is_empty() && frames(&out, 4).is_empty(), "no decoder can start there");
    assert_eq!(frames(&out, 5), [(21, false)], "who missed nothing goes on");
    let out = b.frame(1, 1, (first.epoch, 22), 880, VIDEO_HEAD);
    assert_eq!((frames(&out, 3).len(), frames(&out, 4).len()), (1, 1), "configuration is for all");
    let out = b.frame(1, 1, (first.epoch, 23), 920, KEY);
    assert_eq!((frames(&out, 3), frames(&out, 4)), (vec![(23, true)], vec![(23, true)]));
    assert_eq!(frames(&b.frame(1, 1, (first.epoch, 24), 960, INTER), 4), [(24, false)]);
}
