//! The bridge with real media, and over a network that loses, delays and repeats.

mod ffmpeg;
mod picture;
mod rules;
mod sound;

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_media::{Frame, FrameId, Kind};

use super::to_rtc::{self, Packet, ToRtc};
use super::to_rtmp::{self, Output, ToRtmp};

/// A small generator of numbers; the same seed gives the same ones.
struct Random(u64);

impl Random {
    /// Below `most`.
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// What a network does, each in so many of a thousand packets.
#[derive(Clone, Copy, Default)]
struct Network {
    seed: u64,
    lost: u64,
    twice: u64,
    /// The most that a packet is late, in milliseconds.
    late: u64,
}

/// A packet on its way: when it comes, in milliseconds, and its number.
type Arrival = (u64, u64, Packet);

fn packets(options: to_rtc::Options, frames: &[Frame]) -> (Vec<Packet>, to_rtc::Dropped) {
    let mut bridge = ToRtc::new(options);
    let mut out = Vec::new();
    for frame in frames {
        assert_eq!(bridge.frame(frame, &mut out), None, "no sound here");
    }
    (out, bridge.dropped())
}

impl Network {
    fn carry(self, packets: &[Packet]) -> Vec<Arrival> {
        let mut random = Random(self.seed);
        let mut arrivals = Vec::new();
        for (seq, packet) in packets.iter().enumerate() {
            let sent = u64::from(packet.timestamp) / u64::from(packet.codec.clock() / 1000);
            if random.below(1000) < self.lost {
                continue;
            }
            let copies = if random.below(1000) < self.twice { 2 } else { 1 };
            for _ in 0..copies {
                arrivals.push((sent + random.below(self.late + 1), seq as u64 + 1000, packet.clone()));
            }
        }
        arrivals.sort_by_key(|(at, _, _)| *at);
        // The first one has to be the first, or those before it are no more than late.
        if let Some(first) = arrivals.iter().position(|(_, seq, _)| *seq == 1000) {
            arrivals[..=first].rotate_right(1);
        }
        arrivals
    }
}

/// What a publisher's bridge makes of them; the time goes on for a second after the last.
fn outputs(options: to_rtmp::Options, arrivals: &[Arrival]) -> (Vec<Output>, to_rtmp::Dropped) {
    let start = Instant::now();
    let mut bridge = ToRtmp::new(options);
    let mut out = Vec::new();
    let wait = |bridge: &mut ToRtmp, until: Instant, out: &mut Vec<Output>| {
        while let Some(at) = bridge.deadline().filter(|at| *at <= until) {
            bridge.timeout(at);
            out.extend(core::iter::from_fn(|| bridge.poll()));
        }
    };
    let mut last = start;
    for (at, seq, packet) in arrivals {
        last = last.max(start + Duration::from_millis(*at));
        wait(&mut bridge, last, &mut out);
        bridge.packet(last, packet.codec, *seq, packet.timestamp, packet.marker, packet.payload.clone());
        out.extend(core::iter::from_fn(|| bridge.poll()));
    }
    wait(&mut bridge, last + Duration::from_secs(1), &mut out);
    (out, bridge.dropped())
}

/// The frames among the outputs, whose times go forward within their kind.
fn frames(outputs: &[Output]) -> Vec<Frame> {
    let mut newest = [i64::MIN; 3];
    let mut frames = Vec::new();
    for output in outputs {
        let Output::Frame { kind, dts_us, body } = output else { continue };
        let newest = &mut newest[(*kind as usize) % 3];
        assert!(*dts_us >= *newest, "time went back");
        *newest = *dts_us;
        frames.push(frame(frames.len(), *kind, *dts_us, body.clone()));
    }
    frames
}

fn frame(seq: usize, kind: Kind, dts: i64, body: Bytes) -> Frame {
    Frame::new(FrameId { epoch: 1, seq: seq as u64 }, kind, dts, body)
}

/// Keyframes that were asked for.
fn asked(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| **output == Output::NeedKeyframe).count()
}
