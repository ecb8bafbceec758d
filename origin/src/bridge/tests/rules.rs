//! What the two machines do at their borders.

use proptest::prelude::*;
use weir_media::body;
use weir_media::codec::avc;
use weir_wire::amf::{Limits, Reader};
use weir_wire::rtp::payload::PAYLOAD_MAX;
use weir_wire::rtp::{Codec, Media};

use super::*;
use crate::bridge::audio::{Chunk, Source};

const SPS: &[u8] = &[
    0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x61, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03,
    0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
const IDR: &[u8] = &[0x65, 0x88, 0x84];
const P: &[u8] = &[0x41, 0x9a, 0x21];
const B: &[u8] = &[0x01, 0x9e, 0x41];

fn config() -> Frame {
    let sets = |set: &'static [u8]| vec![Bytes::from_static(set)];
    let record = avc::Config { length: 4, sps: sets(SPS), pps: sets(PPS) }.write().unwrap();
    frame(0, Kind::Video, 0, [&body::video_config_head(body::VideoCodec::Avc)[..], &record].concat().into())
}

fn coded(dts_ms: i64, composition_ms: i32, unit: &[u8]) -> Frame {
    let head = body::video_head(body::VideoCodec::Avc, unit == IDR, composition_ms);
    let length = (unit.len() as u32).to_be_bytes();
    frame(0, Kind::Video, dts_ms * 1000, [&head[..], &length, unit].concat().into())
}

fn stamps(frames: &[Frame]) -> (Vec<u32>, to_rtc::Dropped) {
    let (packets, dropped) = packets(to_rtc::Options::default(), frames);
    (packets.iter().filter(|packet| packet.marker).map(|packet| packet.timestamp).collect(), dropped)
}

#[test]
fn nothing_before_the_first_keyframe() {
    let (stamps, dropped) = stamps(&[coded(0, 0, IDR), config(), coded(40, 0, P), coded(80, 0, IDR), coded(120, 0, P)]);
    assert_eq!((stamps, dropped.early), (vec![7200, 10_800], 2));
    let another = Frame { id: FrameId { epoch: 2, seq: 0 }, ..coded(160, 0, P) };
    let (_, dropped) = packets(to_rtc::Options::default(), &[config(), coded(0, 0, IDR), another]);
    assert_eq!(dropped.early, 1, "another life of the publication");
}

#[test]
fn keyframes_bring_their_parameter_sets() {
    let (packets, _) = packets(to_rtc::Options::default(), &[config(), coded(0, 0, IDR), coded(40, 0, P)]);
    let sizes = [SPS, PPS, IDR].map(|unit| [&(unit.len() as u16).to_be_bytes()[..], unit].concat()).concat();
    assert_eq!(packets[0].payload, [&[0x78][..], &sizes].concat());
    assert!(packets[0].keyframe && packets[0].marker && !packets[1].keyframe);
    assert_eq!((packets[1].payload.as_ref(), packets.len()), (P, 2));
}

#[test]
fn b_frames_by_time_and_by_slice() {
    // I P B B P: shown as I B B P.
    let frames =
        [config(), coded(0, 80, IDR), coded(40, 160, P), coded(80, 40, B), coded(120, 40, P), coded(160, 160, P)];
    let (got, dropped) = stamps(&frames);
    assert_eq!((got, dropped.bframes), (vec![7200, 18_000, 28_800], 2));
    let (got, dropped) = stamps(&[config(), coded(0, 0, IDR), coded(40, 0, B), coded(80, 0, P)]);
    assert_eq!((got, dropped.bframes), (vec![0, 7200], 1), "composition times left out by the muxer");
    let (got, _) = stamps(&[config(), coded(0, i32::MAX, IDR), coded(40, i32::MIN, IDR), coded(9000, 0, P)]);
    assert_eq!(got, [450_000, 450_001, 810_000], "composition times that cannot be");
}

#[test]
fn sound_goes_to_the_transcoder_or_through() {
    let mut bridge = ToRtc::new(to_rtc::Options::default());
    let mut out = Vec::new();
    let mut give = |dts: i64, body: &'static [u8]| {
        let sound = bridge.frame(&frame(0, Kind::Audio, dts, Bytes::from_static(body)), &mut out);
        (sound, core::mem::take(&mut out))
    };
    assert_eq!(give(0, b"\xaf\x01early"), (None, vec![]));
    assert_eq!(give(0, b"\xaf\0\x12\x10"), (None, vec![]));
    let chunk = |source, data| Some(Chunk { source, pts_us: 23_000, data: Bytes::from_static(data) });
    assert_eq!(give(23_000, b"\xaf\x01aac").0, chunk(Source::Aac(Bytes::from_static(&[0x12, 0x10])), b"aac"));
    assert_eq!(give(23_000, b"\x2fmp3").0, chunk(Source::Mp3, b"mp3"));
    let (sound, packets) = give(20_500, b"\x91Opusx");
    assert_eq!((sound, packets[0].timestamp, packets[0].media), (None, 984, Media::Audio));
    assert_eq!(packets[0].payload.as_ref(), b"x");
    assert_eq!(give(0, b"\x3fspeex"), (None, vec![]));
    assert_eq!((bridge.dropped().unknown, bridge.dropped().early), (1, 1));
}

/// A packet of H.264 that comes after so many milliseconds.
fn arrival(ms: u64, seq: u64, timestamp: u32, marker: bool, payload: &'static [u8]) -> Arrival {
    let (media, codec) = (Media::Video, Codec::H264);
    (ms, seq, Packet { media, codec, timestamp, marker, keyframe: false, payload: Bytes::from_static(payload) })
}

#[test]
fn a_keyframe_is_asked_for_until_it_comes() {
    let options = to_rtmp::Options { keyframe_every: None, ..to_rtmp::Options::default() };
    let lone = [arrival(0, 1, 0, true, P), arrival(1900, 2, 90_000, true, P)];
    let (got, dropped) = outputs(options, &lone);
    assert_eq!((asked(&got), frames(&got).len(), dropped.waiting), (6, 0, 2), "at once and each 500 ms");
    let whole = [arrival(0, 1, 0, false, SPS), arrival(0, 2, 0, false, PPS), arrival(0, 3, 0, true, IDR)];
    let (got, _) = outputs(options, &whole);
    assert_eq!(asked(&got), 0);
    let kinds: Vec<Kind> = frames(&got).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [Kind::Data, Kind::Video, Kind::Video]);
    let every = to_rtmp::Options { keyframe_every: Some(Duration::from_millis(700)), ..options };
    assert_eq!(asked(&outputs(every, &whole).0), 1);
}

#[test]
fn a_keyframe_without_parameter_sets_is_none() {
    let (got, dropped) = outputs(to_rtmp::Options::default(), &[arrival(0, 1, 0, true, IDR)]);
    assert_eq!((frames(&got).len(), dropped.malformed, asked(&got) > 0), (0, 1, true));
}

#[test]
fn what_players_are_told() {
    let start = Instant::now();
    let mut bridge = ToRtmp::new(to_rtmp::Options::default());
    let config = Bytes::from_static(&[0x11, 0x90]);
    bridge.aac(0, &config, b"one");
    bridge.aac(21_333, &config, b"two");
    for (seq, payload) in [SPS, PPS, IDR].into_iter().enumerate() {
        bridge.packet(start, Codec::H264, seq as u64, 0, seq == 2, Bytes::from_static(payload));
    }
    let got: Vec<Output> = core::iter::from_fn(|| bridge.poll()).collect();
    let frames = frames(&got);
    let bodies: Vec<&[u8]> = frames.iter().map(|frame| &frame.body[..]).collect();
    assert_eq!(bodies[1..4], [&b"\xaf\0\x11\x90"[..], b"\xaf\x01one", b"\xaf\x01two"]);
    assert!(frames[5].info.config && frames[6].info.keyframe);
    let mut reader = Reader::new(bodies[4], Limits::default());
    assert_eq!(reader.read().unwrap().as_str(), Some("onMetaData"));
    let list = reader.read().unwrap();
    let number = |name| list.get(name).and_then(weir_wire::amf::Value::as_number);
    assert_eq!((number("width"), number("height"), number("videocodecid")), (Some(640.0), Some(360.0), Some(7.0)));
    assert_eq!((number("audiosamplerate"), number("audiocodecid")), (Some(48_000.0), Some(10.0)));
}

#[test]
fn lost_sound_is_not_waited_for_long() {
    let sound = |ms: u64, seq, timestamp| {
        let packet = arrival(ms, seq, timestamp, false, b"x").2;
        (ms, seq, Packet { media: Media::Audio, codec: Codec::Opus, ..packet })
    };
    let (got, dropped) =
        outputs(to_rtmp::Options::default(), &[sound(0, 5, 0), sound(40, 7, 1920), sound(60, 8, 2880)]);
    let (mut transcoded, mut passed) = (Vec::new(), Vec::new());
    for output in &got {
        match output {
            Output::Sound { pts_us, .. } => transcoded.push(*pts_us),
            Output::Opus { dts_us, .. } => passed.push(*dts_us),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((transcoded, dropped.gaps), (vec![0, 40_000, 60_000], 1));
    assert_eq!(passed, [0, 0, 40_000, 60_000], "the configuration, and then as it came");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes: no panic, times forward, and no more than was given.
    #[test]
    fn any_packets(
        list in prop::collection::vec((0..400_u64, 0..40_u64, 0..6_usize, any::<u32>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let codecs = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9, Codec::Opus];
        let arrivals: Vec<Arrival> = list.into_iter().map(|(ms, seq, codec, timestamp, marker, payload)| {
            let codec = codecs[codec];
            (ms, seq, Packet { media: codec.media(), codec, timestamp, marker, keyframe: false, payload: payload.into() })
        }).collect();
        let (got, _) = outputs(to_rtmp::Options::default(), &arrivals);
        frames(&got);
    }

    #[test]
    fn any_frames(bodies in prop::collection::vec((0..3_usize, any::<i64>(), prop::collection::vec(any::<u8>(), 0..60)), 0..40)) {
        let kinds = [Kind::Video, Kind::Audio, Kind::Data];
        let mut bridge = ToRtc::new(to_rtc::Options::default());
        let mut out = Vec::new();
        bridge.frame(&config(), &mut out);
        for (kind, dts, mut body) in bodies {
            if let (true, Some(first)) = (kind == 0, body.first_mut()) {
                // Mostly something that looks like video.
                *first = if *first & 1 == 0 { 0x17 } else { 0x80 | *first };
            }
            let _ = bridge.frame(&frame(0, kinds[kind], dts, body.into()), &mut out);
        }
        prop_assert!(out.iter().all(|packet| packet.payload.len() <= PAYLOAD_MAX));
    }
}
