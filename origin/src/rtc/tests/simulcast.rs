//! A picture that comes in several sizes, and players whose paths carry them or not.

use std::time::{Duration, Instant};

use weir_wire::rtp::rtcp;
use weir_wire::rtp::twcc::Recorder;

use super::SECOND;
use super::peer::{Client, TWCC, World};

/// How each size is sent: its name, packets a frame and bytes a packet. 60, 240 and 920 kbit/s.
const SIZES: [(u8, usize, usize); 3] = [(b'q', 1, 300), (b'h', 1, 1200), (b'f', 4, 1150)];

const FRAME: Duration = Duration::from_millis(40);

/// A source of all sizes, which begins a group where it is asked to.
struct Source {
    client: Client,
    sent: [u64; 3],
    frame: u32,
    asked: [bool; 3],
    on: [bool; 3],
}

impl Source {
    fn new(world: &mut World) -> Self {
        let mut client = world.publisher_in_sizes("river", SIZES.map(|(rid, ..)| rid));
        world.connect(&mut client);
        Self { client, sent: [0; 3], frame: 0, asked: [true; 3], on: [true; 3] }
    }

    /// The timestamp of the frame under way: each size counts from somewhere else.
    fn timestamp(&self, size: usize) -> u32 {
        (u32::try_from(size).unwrap() * 1_000_000_000).wrapping_add(self.frame * 3600)
    }

    fn frame(&mut self, world: &mut World) {
        for got in world.take(&mut self.client) {
            (0..3).filter(|size| got.asks(ssrc(*size))).for_each(|size| self.asked[size] = true);
        }
        for (size, (rid, packets, bytes)) in SIZES.into_iter().enumerate() {
            if !self.on[size] {
                continue;
            }
            let key = std::mem::take(&mut self.asked[size]) || self.frame == 0;
            for packet in 0..packets {
                let mut payload = vec![rid; bytes];
                payload[0] = if key { 0x65 } else { 0x41 };
                // Where in the picture the slice begins.
                payload[1] = if packet == 0 { 0x88 } else { 0x08 };
                let place = (self.sent[size], self.timestamp(size), ssrc(size));
                self.client.sized(world, rid, place, packet + 1 == packets, &payload);
                self.sent[size] += 1;
            }
        }
        if self.frame.is_multiple_of(25) {
            let ntp = 0xe000_0000_0000_0000 + (u64::from(self.frame) << 32) / 25;
            for size in 0..3 {
                let info = rtcp::SenderInfo { ntp, rtp: self.timestamp(size), packets: 0, octets: 0 };
                let mut compound = Vec::new();
                rtcp::sender_report(&mut compound, ssrc(size), &info, &[]);
                self.client.rtcp(world, compound);
            }
        }
        self.frame += 1;
        world.state.flush(world.now, &world.wire);
        world.pass(FRAME);
    }
}

fn ssrc(size: usize) -> u32 {
    12 + u32::try_from(size).unwrap()
}

/// Whether numbers count without a gap and times never go back.
fn assert_even(got: &[(u16, u32, u8)]) {
    for pair in got.windows(2) {
        let ((a, from, _), (b, to, _)) = (pair[0], pair[1]);
        assert_eq!(b, a.wrapping_add(1), "a gap");
        let step = to.wrapping_sub(from);
        assert!(step % 3600 < 2 || step % 3600 > 3598 || step <= 200, "a frame of another time: {step}");
        assert!(step <= 4 * 25 * 3600, "back, or far ahead: {step}");
    }
}

#[test]
fn a_player_that_tells_nothing_gets_the_best_that_comes() {
    let mut world = World::new();
    let mut source = Source::new(&mut world);
    (0..50).for_each(|_| source.frame(&mut world));
    let mut player = world.player("river");
    world.connect(&mut player);
    let mut got = Vec::new();
    let mut at = [0; 3];
    for second in 0..12 {
        source.on[2] = !(4..8).contains(&second);
        for _ in 0..25 {
            source.frame(&mut world);
            got.extend(world.take(&mut player).iter().filter_map(|packet| packet.picture(101)));
        }
        match second {
            3 => at[0] = got.len(),
            7 => at[1] = got.len(),
            _ => {}
        }
    }
    at[2] = got.len();
    assert_even(&got);
    let sizes = |from: usize, to: usize| got[from..to].iter().map(|(.., size)| *size).collect::<Vec<u8>>();
    assert!(sizes(0, at[0]).iter().all(|size| *size == b'f'), "{:?}", sizes(0, at[0]));
    assert_eq!(sizes(at[1] - 20, at[1]), [b'h'; 20], "the next best while that pauses");
    assert_eq!(sizes(at[2] - 20, at[2]), [b'f'; 20], "and the best again");
    let told = got[at[2] - 1].1.wrapping_sub(got[0].1);
    assert!(told.abs_diff(12 * 90_000) < 90_000, "the player's clock went {told} ticks in 12 s");
}

/// A path of so many bits a second with a queue: when a packet that is sent now is through.
struct Path {
    bps: u64,
    free: Instant,
}

impl Path {
    fn through(&mut self, now: Instant, bytes: usize) -> Instant {
        self.free = self.free.max(now) + Duration::from_micros(bytes as u64 * 8_000_000 / self.bps);
        self.free
    }
}

#[test]
fn a_player_gets_the_size_that_its_path_carries() {
    for (bps, size) in [(150_000, b'q'), (500_000, b'h'), (5_000_000, b'f')] {
        let mut world = World::new();
        let mut source = Source::new(&mut world);
        (0..50).for_each(|_| source.frame(&mut world));
        let mut player = world.player_that_tells("river");
        world.connect(&mut player);
        let (mut path, mut arrivals) = (Path { bps, free: world.now }, Recorder::new());
        let (mut got, mut late) = (Vec::new(), Vec::<(Instant, u16)>::new());
        for _ in 0..25 * 30 {
            source.frame(&mut world);
            for packet in world.take(&mut player) {
                got.extend(packet.picture(101));
                if let Some(number) = packet.number(TWCC) {
                    late.push((path.through(world.now, packet.bytes()), number));
                }
            }
            late.retain(|(at, number)| {
                let here = *at <= world.now;
                if here {
                    arrivals.packet(*at, *number);
                }
                !here
            });
            let mut feedback = Vec::new();
            while arrivals.poll(world.now, 1, player.video_ssrc, &mut feedback) {
                player.rtcp(&mut world, std::mem::take(&mut feedback));
            }
        }
        assert_even(&got);
        let lately = &got[got.len() - 50..];
        let fitting = lately.iter().filter(|(.., got)| *got == size).count();
        let all: String = got.iter().map(|(.., size)| char::from(*size)).collect();
        assert!(fitting >= 45, "{bps} bit/s: {fitting} of 50, {all}");
        assert!(path.free.saturating_duration_since(world.now) < SECOND, "its queue is drained");
    }
}
