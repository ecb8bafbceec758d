use std::collections::VecDeque;

use super::*;
use crate::rtp::layers::Layers;
use crate::rtp::rtcp::{Packet, parse};
use crate::rtp::twcc::Recorder;

fn start() -> Instant {
    // A test may know what time it is; the estimate is told.
    #[expect(clippy::disallowed_methods)]
    Instant::now()
}

const STEP: Duration = Duration::from_millis(1);

/// One way, without a queue.
const WAY: Duration = Duration::from_millis(25);

/// A path with a bottleneck, and a receiver that gives feedback at its end.
struct Path {
    start: Instant,
    now: Instant,
    estimate: Estimate,
    recorder: Recorder,
    /// Bits a second.
    capacity: f64,
    /// What the bottleneck's buffer holds.
    buffer: Duration,
    /// Of a thousand packets that arrive at all.
    lost: u64,
    random: u64,
    /// The bottleneck is busy until then.
    busy: Instant,
    /// On the way: when they arrive.
    packets: VecDeque<(Instant, u16)>,
    feedback: VecDeque<(Instant, Vec<u8>)>,
    longest: Duration,
}

impl Path {
    fn new(initial: u64, capacity: f64) -> Self {
        let start = start();
        Self {
            start,
            now: start,
            estimate: Estimate::new(start, initial),
            recorder: Recorder::new(),
            capacity,
            buffer: Duration::from_millis(600),
            lost: 0,
            random: 1,
            busy: start,
            packets: VecDeque::new(),
            feedback: VecDeque::new(),
            longest: Duration::ZERO,
        }
    }

    fn random(&mut self) -> u64 {
        // The generator of Lehmer, 1951, in 64 bits.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// A frame leaves, as one burst.
    fn frame(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let size = left.min(1_200);
            left -= size;
            let number = self.estimate.sent(self.now, size);
            self.busy = self.busy.max(self.now);
            let waits = self.busy - self.now;
            if waits > self.buffer || self.random() % 1_000 < self.lost {
                continue;
            }
            self.longest = self.longest.max(waits);
            self.busy += Duration::from_secs_f64(size as f64 * 8.0 / self.capacity);
            self.packets.push_back((self.busy + WAY, number));
        }
    }

    /// A millisecond goes by.
    fn step(&mut self) {
        self.now += STEP;
        while let Some((_, number)) = self.packets.pop_front_if(|(at, _)| *at <= self.now) {
            self.recorder.packet(self.now, number);
        }
        let mut out = Vec::new();
        if self.recorder.poll(self.now, 1, 2, &mut out) {
            self.feedback.push_back((self.now + WAY, out));
        }
        while let Some((_, compound)) = self.feedback.pop_front_if(|(at, _)| *at <= self.now) {
            for packet in parse(&compound) {
                let Packet::TransportCc(feedback) = packet else { panic!() };
                self.estimate.feedback(self.now, feedback);
            }
        }
    }

    fn bps(&self) -> f64 {
        self.estimate.capacity(self.now).bps as f64
    }

    fn seconds(&self) -> f64 {
        self.now.duration_since(self.start).as_secs_f64()
    }

    /// A sender that follows the estimate, up to 4 Mbit/s, at thirty frames a second. The least and the greatest
    /// estimate of the last `watched` seconds.
    fn follow(&mut self, seconds: u64, watched: u64) -> (f64, f64) {
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        self.longest = Duration::ZERO;
        for n in 0..seconds * 1_000 {
            if n % 33 == 0 {
                self.frame((self.bps().min(4e6) / 8.0 * 0.033) as usize);
            }
            self.step();
            if n >= (seconds - watched) * 1_000 {
                (least, most) = (least.min(self.bps()), most.max(self.bps()));
            }
        }
        (least, most)
    }
}

#[test]
fn a_capacity_that_falls_and_rises_again() {
    let mut path = Path::new(300_000, 2e6);
    let (least, most) = path.follow(20, 10);
    assert!(least > 1.4e6 && most < 2.3e6, "after ten seconds, {least} to {most}");
    path.capacity = 5e5;
    let (least, most) = path.follow(4, 1);
    assert!(least > 2.5e5 && most < 6e5, "after three seconds, {least} to {most}");
    let (least, most) = path.follow(30, 30);
    assert!(least > 2.5e5 && most < 6.5e5, "and so it stays, {least} to {most}");
    assert!(path.longest < Duration::from_millis(400));
    path.capacity = 2e6;
    let (least, most) = path.follow(40, 10);
    assert!(least > 1.4e6 && most < 2.3e6, "within thirty seconds, {least} to {most}");
}

#[test]
fn losses_that_are_the_path_s_own() {
    let mut path = Path::new(300_000, 2e6);
    path.lost = 50;
    let (least, most) = path.follow(60, 20);
    assert!(least > 1.4e6 && most < 2.5e6, "{least} to {most}");
    assert!((0.03..0.07).contains(&path.estimate.loss()), "{}", path.estimate.loss());
}

#[test]
fn a_path_that_does_not_queue_but_lose() {
    let mut path = Path::new(300_000, 1e6);
    path.buffer = Duration::from_millis(25);
    let (least, most) = path.follow(60, 30);
    assert!(least > 6e5 && most < 1.4e6, "{least} to {most}");
}

#[test]
fn what_is_sent_limits_what_is_known_and_keyframes_are_no_queue() {
    let mut path = Path::new(300_000, 2e6);
    for n in 0..30_000_u64 {
        if n % 33 == 0 {
            // 800 kbit/s; each second second begins with a frame of ten times the size.
            path.frame(if n % 1_980 == 0 { 28_600 } else { 2_860 });
        }
        path.step();
        assert!(!path.estimate.capacity(path.now).congested, "at {} s", path.seconds());
    }
    let capacity = path.estimate.capacity(path.now);
    assert!(capacity.limited && (8e5..1.6e6).contains(&(capacity.bps as f64)), "{capacity:?}");
}

#[test]
fn layers_follow_the_path() {
    const RATES: [u64; 3] = [150_000, 500_000, 1_500_000];
    let mut path = Path::new(300_000, 2.5e6);
    let mut layers = Layers::new(path.now, 0);
    let mut run = |path: &mut Path, seconds: u64| {
        let (mut changes, mut shares, mut last) = (Vec::new(), [0_u64; 3], layers.current());
        for n in 0..seconds * 1_000 {
            if n % 33 == 0 {
                let layer = layers.choose(path.now, &RATES, Some(path.estimate.capacity(path.now)));
                shares[layer] += 1;
                if layer != last {
                    changes.push((path.seconds(), layer));
                    last = layer;
                }
                let frame = (RATES[layer] as f64 / 8.0 * 0.033) as usize;
                path.frame(if n % 1_980 == 0 { 6 * frame } else { frame });
            }
            path.step();
        }
        (changes, shares.map(|share| 100 * share / shares.iter().sum::<u64>()))
    };
    let (changes, _) = run(&mut path, 30);
    assert_eq!(changes.iter().map(|(_, layer)| *layer).collect::<Vec<_>>(), [1, 2]);
    assert!(changes[1].0 < 25.0, "the best within 25 seconds: {changes:?}");
    path.capacity = 7e5;
    let (changes, shares) = run(&mut path, 120);
    assert!(changes[0].0 < 31.0 && changes[0].1 < 2, "down within a second: {changes:?}");
    assert!(changes.len() <= 16 && shares[2] < 5 && shares[1] > 75, "{changes:?} {shares:?}");
    path.capacity = 2.5e6;
    let (changes, _) = run(&mut path, 120);
    assert_eq!(changes.last().map(|(_, layer)| *layer), Some(2), "{changes:?}");
}

#[test]
fn a_receiver_whose_clock_jumps() {
    let mut path = Path::new(300_000, 2e6);
    path.now += Duration::from_secs(100);
    let (before, _) = path.follow(20, 10);
    // One that began with the path, a hundred seconds ago: what arrives now seems to have taken as much longer.
    let mut other = Recorder::new();
    other.packet(path.start, path.estimate.next.wrapping_sub(1));
    path.recorder = other;
    let (least, _) = path.follow(5, 5);
    assert!(least > before * 0.8, "{before} {least}");
}

#[test]
fn memory() {
    assert!(size_of::<Estimate>() + size_of::<[Sent; HISTORY]>() <= 5 * 1024);
}

/// Whatever a receiver says, the estimate stays within its bounds.
#[test]
fn fuzz_feedback() {
    let start = start();
    let check = bolero::check!().with_test_time(Duration::from_secs(2)).with_type::<Vec<(u8, u16, Vec<u8>)>>();
    check.for_each(|steps| {
        let (mut estimate, mut now) = (Estimate::new(start, 300_000), start);
        for (packets, wait, body) in steps {
            for n in 0..*packets {
                estimate.sent(now, usize::from(n) * 300);
            }
            now += Duration::from_millis(u64::from(*wait));
            let mut compound = vec![0x8f, 205, 0, 2 + (body.len() / 4) as u8, 0, 0, 0, 1, 0, 0, 0, 2];
            compound.extend(body);
            for packet in parse(&compound) {
                if let Packet::TransportCc(feedback) = packet {
                    estimate.feedback(now, feedback);
                }
            }
            let capacity = estimate.capacity(now);
            assert!((BPS.0 as u64..=BPS.1 as u64).contains(&capacity.bps));
            assert!((0.0..=1.0).contains(&estimate.loss()));
        }
    });
}
