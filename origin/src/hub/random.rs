//! Thousands of random words of random edges; whatever they say, the hub's own rules hold.

use std::collections::HashMap;
use std::time::Duration;

use super::tests::{INTER, KEY, SOUND, SOUND_HEAD, VIDEO_HEAD, frame, name, rules};
use super::*;

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What the edges know: a publication's next name, a subscription's newest frame.
#[derive(Default)]
struct World {
    publishing: HashMap<Port, FrameId>,
    /// What was granted and lost, to be resumed.
    orphans: Vec<FrameId>,
    newest: HashMap<Port, FrameId>,
    names: HashMap<Port, StreamName>,
}

impl World {
    fn hear(&mut self, output: Output) {
        match output {
            Output::Send(peer, Record::Claimed { channel, first, .. }) => {
                self.publishing.insert(Port { peer, channel }, first);
            }
            Output::Open(port) => {
                assert!(self.newest.insert(port, FrameId::default()).is_none(), "opened twice");
            }
            Output::Frame { to, frame, .. } => {
                let newest = self.newest.get_mut(&to).expect("a frame for nobody");
                assert!(frame.id > *newest, "{:?} after {newest:?}", frame.id);
                *newest = frame.id;
            }
            Output::Shut(port) => {
                self.newest.remove(&port);
                if let Some(next) = self.publishing.remove(&port) {
                    self.orphans.push(next);
                }
            }
            _ => {}
        }
    }
}

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Frame { .. } => "frame",
        Output::Send(_, Record::Claimed { .. }) => "granted",
        Output::Send(_, Record::Refused { refusal: Refusal::Stale, .. }) => "stale",
        Output::Log(Event::Published { resumed: true, .. }) => "resumed",
        Output::Log(Event::Ended { .. }) => "ended",
        _ => "other",
    }
}

fn check(hub: &Hub) {
    let mut publications = 0;
    let mut subscriptions = 0;
    for (peer, channels) in &hub.peers {
        assert!(!channels.is_empty(), "a peer with nothing");
        for (channel, what) in channels {
            let port = Port { peer: *peer, channel: *channel };
            match what {
                Channel::Publication(name) => {
                    publications += 1;
                    assert_eq!(hub.streams[name].publisher.unwrap().port, port, "one publisher a stream");
                }
                Channel::Subscription(name) => {
                    subscriptions += 1;
                    assert_eq!(hub.streams[name].subscribers.iter().filter(|s| s.port == port).count(), 1);
                }
            }
        }
    }
    assert_eq!((publications, subscriptions), (hub.publication_count(), hub.subscription_count()));
    assert_eq!(subscriptions, hub.streams.values().map(|s| s.subscribers.len()).sum::<usize>());
    assert_eq!(publications, hub.streams.values().filter(|s| s.publisher.is_some()).count());
    let mut graces = 0;
    for (name, stream) in &hub.streams {
        assert!(stream.is_live() || !stream.subscribers.is_empty(), "a stream left behind");
        assert!(stream.publisher.is_none() || stream.grace_until.is_none());
        if let Some(until) = stream.grace_until {
            graces += 1;
            assert!(hub.graces.contains(&(until, name.clone())));
        }
    }
    assert_eq!(graces, hub.graces.len());
    assert_eq!(hub.live_count(), hub.streams.values().filter(|s| s.is_live()).count());
}

fn say(hub: &mut Hub, world: &World, dice: &mut Dice, now: Instant, wall: u64) {
    let peer = dice.roll(4);
    let channel = dice.roll(8) as u32;
    let port = Port { peer, channel };
    let stream = name(["a", "b", "c", "d", "e"][dice.roll(5) as usize]);
    let record = match dice.roll(10) {
        0 => {
            let resume = match dice.roll(3) {
                0 => world.orphans.get(dice.roll(world.orphans.len() as u64 + 1) as usize).copied(),
                _ => None,
            };
            Record::Claim { channel, name: stream, key: dice.roll(2), resume }
        }
        1 => {
            let have = world.newest.values().nth(dice.roll(40) as usize).map(|id| (*id, dice.roll(1 << 20) as i64));
            // An edge knows its own past of that stream only.
            let have = have.filter(|_| dice.roll(4) == 0 && world.names.get(&port) == Some(&stream));
            Record::Subscribe { channel, name: stream, have }
        }
        2 => Record::Close { channel },
        3 if dice.roll(20) == 0 => return hub.peer_gone(now, peer),
        _ => {
            let id = world.publishing.get(&port).copied().unwrap_or_else(|| FrameId { epoch: wall, seq: dice.roll(9) });
            let seq = (id.seq + 1).saturating_sub(dice.roll(3));
            let body = [KEY, INTER, INTER, SOUND, VIDEO_HEAD, SOUND_HEAD][dice.roll(6) as usize];
            Record::Frame { channel, frame: frame((id.epoch, seq), dice.roll(1 << 16) as i64, body) }
        }
    };
    // Opening what is open is the only offence among these.
    let opens = matches!(record, Record::Claim { .. } | Record::Subscribe { .. });
    let taken = hub.peers.get(&peer).is_some_and(|c| c.contains_key(&channel));
    let done = hub.record(now, wall, peer, record);
    assert_eq!(done.is_err(), opens && taken);
}

#[test]
fn whatever_edges_say_the_rules_hold() {
    for (seed, takeover) in [(1, Takeover::Refuse), (2, Takeover::Replace), (3, Takeover::SameKey)] {
        let mut dice = Dice(seed);
        let mut hub = Hub::new(rules(takeover, 4));
        let mut world = World::default();
        let (mut now, mut wall) = (Instant::now(), 1_000_000);
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for _ in 0..20_000 {
            say(&mut hub, &world, &mut dice, now, wall);
            if dice.roll(5) == 0 {
                let step = dice.roll(2_000_000);
                now += Duration::from_micros(step);
                // A wall clock may be set back.
                wall += if dice.roll(10) == 0 { 0 } else { step };
                hub.handle_timeout(now);
                assert!(hub.deadline().is_none_or(|at| at > now));
            }
            while let Some(output) = hub.poll() {
                *seen.entry(kind(&output)).or_default() += 1;
                if let Output::Frame { to, .. } = &output
                    && let Some(Channel::Subscription(name)) = hub.peers.get(&to.peer).and_then(|c| c.get(&to.channel))
                {
                    world.names.insert(*to, name.clone());
                }
                if let Output::Send(_, Record::Claimed { first, .. }) = &output {
                    world.orphans.retain(|o| o.epoch != first.epoch);
                }
                world.hear(output);
            }
            for (port, next) in &mut world.publishing {
                if let Some(Channel::Publication(name)) = hub.peers.get(&port.peer).and_then(|c| c.get(&port.channel)) {
                    next.seq = next.seq.max(hub.streams[name].last.seq);
                }
            }
            check(&hub);
        }
        for (kind, least) in [("frame", 2000), ("granted", 150), ("resumed", 10), ("ended", 20), ("stale", 5)] {
            assert!(seen.get(kind).is_some_and(|n| *n >= least), "seed {seed} did too little: {seen:?}");
        }
        for peer in 0..4 {
            hub.peer_gone(now, peer);
        }
        hub.handle_timeout(now + Duration::from_secs(60));
        while let Some(output) = hub.poll() {
            world.hear(output);
        }
        check(&hub);
        assert!(hub.streams.is_empty() && hub.peers.is_empty() && hub.graces.is_empty(), "left behind");
        assert!(world.publishing.is_empty() && world.newest.is_empty(), "not told of the end");
    }
}
