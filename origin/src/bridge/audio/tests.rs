use std::f32::consts::TAU;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::codec::{Encode, Pcm, decoder, encoder};
use super::*;

/// Pairs of a tone of 440 Hz on the left and 1 kHz on the right.
fn tone(pairs: usize) -> Vec<f32> {
    (0..pairs).flat_map(|i| [440.0, 1000.0].map(|hertz| 0.3 * (TAU * hertz * i as f32 / RATE as f32).sin())).collect()
}

/// Frames of a codec with a tone in them, and the pairs in each.
fn encoded(target: Target, pairs: usize) -> (Vec<Bytes>, Bytes, usize) {
    let mut encoder = encoder(target).unwrap();
    let size = encoder.frame();
    let frames = tone(pairs).chunks_exact(size * CHANNELS).map(|frame| encoder.encode(frame).unwrap()).collect();
    (frames, encoder.config(), size)
}

/// How far the left of `pairs` is from a tone of 440 Hz, as signal to noise in decibels, at whatever phase.
fn snr(pairs: &[f32], hertz: f32) -> f32 {
    let left: Vec<f32> = pairs.iter().step_by(CHANNELS).copied().collect();
    let wave = |i: usize| (TAU * hertz * i as f32 / RATE as f32).sin_cos();
    let (mut sin, mut cos, mut total) = (0.0, 0.0, 0.0);
    for (i, sample) in left.iter().enumerate() {
        let (s, c) = wave(i);
        (sin, cos, total) = (sin + sample * s, cos + sample * c, total + sample * sample);
    }
    let half = left.len() as f32 / 2.0;
    let signal = (sin * sin + cos * cos) / half;
    10.0 * (signal / (total - signal).max(f32::MIN_POSITIVE)).log10()
}

fn decoded(source: &Source, frames: impl Iterator<Item = Bytes>) -> Vec<f32> {
    let mut decoder = decoder(source).unwrap();
    let mut pcm = Pcm::default();
    frames.for_each(|frame| decoder.decode(&frame, &mut pcm).unwrap());
    assert_eq!(pcm.rate, RATE);
    pcm.samples
}

fn through(target: Target, chunks: impl Iterator<Item = Chunk>) -> Vec<Coded> {
    let mut pipeline = Pipeline::new(target).unwrap();
    let mut out = Vec::new();
    chunks.for_each(|chunk| pipeline.push(&chunk, &mut out).unwrap());
    out
}

fn opus(frames: &[Bytes]) -> impl Iterator<Item = Chunk> {
    frames.iter().enumerate().map(|(i, data)| Chunk {
        source: Source::Opus,
        pts_us: 5_000_000 + i as i64 * 20_000,
        data: data.clone(),
    })
}

fn continuous(out: &[Coded], frame: i64) -> bool {
    out.windows(2).all(|pair| {
        let step = pair[1].pts_us - pair[0].pts_us;
        (step - frame).abs() <= 1
    })
}

#[test]
fn opus_to_aac_is_the_same_tone() {
    let (frames, _, _) = encoded(Target::Opus(96_000), 96_000);
    let out = through(Target::Aac(128_000), opus(&frames));
    assert_eq!(&out[0].config[..], [0x11, 0x90], "LC, 48 kHz, two channels");
    assert_eq!(out[0].pts_us, 5_000_000 - 21_333);
    assert!(continuous(&out, 21_333) && out.len() == 93);
    let pcm = decoded(&Source::Aac(out[0].config.clone()), out.iter().map(|coded| coded.data.clone()));
    let ratio = snr(&pcm[48_000..], 440.0);
    assert!(ratio > 20.0, "{ratio} dB");
    assert_eq!(out, through(Target::Aac(128_000), opus(&frames)), "the same again");
}

#[test]
fn aac_to_opus_is_the_same_tone() {
    let (frames, config, size) = encoded(Target::Aac(128_000), 96_000);
    let source = Source::Aac(config);
    // Times in whole milliseconds, as RTMP has them.
    let chunks = frames.iter().enumerate().map(|(i, data)| {
        let pts_us = (i * size) as i64 * 1000 / 48 / 1000 * 1000;
        Chunk { source: source.clone(), pts_us, data: data.clone() }
    });
    let out = through(Target::Opus(64_000), chunks);
    assert_eq!(out[0].pts_us, -6_500);
    assert!(continuous(&out, 20_000) && out.len() > 95);
    let pcm = decoded(&Source::Opus, out.iter().map(|coded| coded.data.clone()));
    let ratio = snr(&pcm[48_000..], 440.0);
    assert!(ratio > 20.0, "{ratio} dB");
}

#[test]
fn gaps_and_jumps() {
    let (frames, _, _) = encoded(Target::Opus(96_000), 96_000);
    let all = through(Target::Aac(64_000), opus(&frames)).len();
    let lost = opus(&frames).enumerate().filter(|(i, _)| !matches!(i, 20 | 50..54)).map(|(_, chunk)| chunk);
    let out = through(Target::Aac(64_000), lost);
    assert!(continuous(&out, 21_333) && out.len() == all, "what is missing is made up for");
    let twice = opus(&frames).flat_map(|chunk| [chunk.clone(), chunk]);
    let out = through(Target::Aac(64_000), twice);
    assert!(continuous(&out, 21_333) && out.len() <= all + 1, "what is too much is left out: {}", out.len());
    let jump =
        opus(&frames).enumerate().map(|(i, chunk)| Chunk { pts_us: chunk.pts_us + i as i64 / 50 * 7_000_000, ..chunk });
    let out = through(Target::Aac(64_000), jump);
    let steps = out.windows(2).filter(|pair| pair[1].pts_us - pair[0].pts_us > 6_900_000).count();
    assert_eq!(steps, 1, "time jumps along");
}

#[test]
fn a_clock_that_drifts_is_followed() {
    // A tenth of a percent too fast: 50 ms in 50 s.
    let (frames, _, _) = encoded(Target::Opus(32_000), 48_000 * 50);
    let chunks = opus(&frames).enumerate().map(|(i, chunk)| Chunk { pts_us: chunk.pts_us + i as i64 * 20, ..chunk });
    let out = through(Target::Aac(64_000), chunks);
    let last = out.last().unwrap().pts_us - out[0].pts_us;
    let want = 50_050_000 - 2 * 21_333;
    assert!((last - want).abs() < 45_000, "{last}");
}

#[test]
fn damaged_frames_end_nothing() {
    let (frames, config, _) = encoded(Target::Aac(128_000), 48_000);
    let source = Source::Aac(config);
    let mut pipeline = Pipeline::new(Target::Opus(64_000)).unwrap();
    let (mut out, mut failed) = (Vec::new(), 0);
    for (i, data) in frames.iter().enumerate() {
        let data = if i % 10 == 5 { data.slice(..data.len() / 3) } else { data.clone() };
        let chunk = Chunk { source: source.clone(), pts_us: i as i64 * 21_333, data };
        failed += u32::from(pipeline.push(&chunk, &mut out).is_err());
    }
    assert!(failed >= 4 && out.len() > 40, "{failed} failed, {} came", out.len());
    let long = Chunk { source, pts_us: 0, data: vec![0; CHUNK_MAX + 1].into() };
    assert!(matches!(pipeline.push(&long, &mut out), Err(Error::Long(_))));
    let none = Chunk { source: Source::Aac(Bytes::from_static(&[0xff])), pts_us: 0, data: Bytes::from_static(&[1]) };
    assert!(matches!(pipeline.push(&none, &mut out), Err(Error::Decode { .. })));
}

#[tokio::test]
async fn a_pool_gives_each_its_own() {
    let pool = Pool::new(2).unwrap();
    let (frames, _, _) = encoded(Target::Opus(96_000), 48_000);
    let want = through(Target::Aac(128_000), opus(&frames));
    let mut transcoders: Vec<Transcoder> = (0..5).map(|_| pool.transcoder(Target::Aac(128_000)).unwrap()).collect();
    for chunk in opus(&frames) {
        transcoders.iter().for_each(|transcoder| transcoder.send(chunk.clone()));
    }
    for transcoder in &mut transcoders {
        let mut got = Vec::new();
        while got.len() < want.len() {
            got.push(tokio::time::timeout(Duration::from_secs(20), transcoder.recv()).await.unwrap().unwrap());
        }
        assert!(got == want && transcoder.try_recv().is_none() && transcoder.dropped() == 0);
    }
}

/// A codec with a fault.
struct Faulty;

impl Encode for Faulty {
    fn frame(&self) -> usize {
        960
    }

    fn delay(&self) -> usize {
        0
    }

    fn config(&self) -> Bytes {
        Bytes::new()
    }

    fn encode(&mut self, _pairs: &[f32]) -> Result<Bytes, Error> {
        panic!("a fault, as the test wants it")
    }
}

#[tokio::test]
async fn a_codec_that_panics_ends_no_other() {
    let pool = Pool::new(1).unwrap();
    let (frames, _, _) = encoded(Target::Opus(96_000), 48_000);
    let (mut faulty, mut sound) =
        (pool.run(Pipeline::with(Box::new(Faulty))), pool.transcoder(Target::Aac(64_000)).unwrap());
    for chunk in opus(&frames) {
        faulty.send(chunk.clone());
        sound.send(chunk);
    }
    let limit = Duration::from_secs(20);
    assert_eq!(tokio::time::timeout(limit, faulty.recv()).await.unwrap(), None);
    assert_eq!(faulty.failed(), 1);
    assert!(tokio::time::timeout(limit, sound.recv()).await.unwrap().is_some());
}

#[test]
fn what_waits_too_long_is_dropped() {
    let pool = Pool::new(1).unwrap();
    let transcoder = pool.transcoder(Target::Aac(128_000)).unwrap();
    let (frames, _, _) = encoded(Target::Opus(96_000), 48_000);
    let start = Instant::now();
    // Nobody fetches: at the latest the frames that are ready are too many.
    while transcoder.dropped() == 0 {
        opus(&frames).for_each(|chunk| transcoder.send(chunk));
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever a peer sends: a decoder may fail, and none may panic.
    #[test]
    fn any_bytes(
        list in prop::collection::vec((0..3_usize, any::<i64>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
        bits in 0..4000_usize,
    ) {
        let (frames, config, _) = encoded(Target::Aac(64_000), 4 * 1024);
        let (packets, _, _) = encoded(Target::Opus(64_000), 4 * 960);
        let mut pipeline = Pipeline::new(Target::Opus(32_000)).unwrap();
        let mut out = Vec::new();
        for (i, (kind, pts_us, bytes)) in list.into_iter().enumerate() {
            let source = [Source::Aac(config.clone()), Source::Mp3, Source::Opus][kind].clone();
            let _ = pipeline.push(&Chunk { source: source.clone(), pts_us, data: bytes.into() }, &mut out);
            // And what is nearly sound.
            let real = if kind == 2 { &packets } else { &frames };
            let mut damaged = real[i % real.len()].to_vec();
            if let Some(byte) = damaged.get_mut(bits / 8) {
                *byte ^= 1 << (bits % 8);
            }
            let _ = pipeline.push(&Chunk { source, pts_us, data: damaged.into() }, &mut out);
            out.clear();
        }
    }
}
