//! Sound that other programs wrote, and other programs' ears.

use std::path::Path;

use weir_media::body::aac_head;

use super::ffmpeg::{read_flv, run, write_flv};
use super::*;
use crate::bridge::audio::{Chunk, Pipeline, Source, Target};

/// Three seconds of a tone as the arguments say.
fn tone(path: &Path, arguments: &[&str]) {
    let source = ["-f", "lavfi", "-i", "sine=frequency=440:duration=3:sample_rate=48000", "-af", "volume=2"];
    run(source.iter().chain(arguments).copied().chain([path.to_str().unwrap()]));
}

/// The frequency that passes zero so often, and the loudness, of a file's sound from its second second on.
fn heard(path: &Path) -> (f64, f64) {
    let raw = path.with_extension("raw");
    let (_, errors) = run([
        "-i",
        path.to_str().unwrap(),
        "-ss",
        "1",
        "-t",
        "1",
        "-af",
        "pan=mono|c0=c0",
        "-ar",
        "48000",
        "-f",
        "f32le",
        raw.to_str().unwrap(),
    ]);
    assert_eq!(errors, "");
    let pcm: Vec<f32> =
        std::fs::read(raw).unwrap().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert!(pcm.len() > 47_000, "{}", pcm.len());
    let seconds = pcm.len() as f64 / 48_000.0;
    let crossings = pcm.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    let power: f64 = pcm.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    (crossings as f64 / seconds, (power / pcm.len() as f64).sqrt())
}

fn transcoded(target: Target, chunks: impl Iterator<Item = Chunk>) -> Vec<crate::bridge::audio::Coded> {
    let mut pipeline = Pipeline::new(target).unwrap();
    let (mut out, mut failed) = (Vec::new(), 0);
    chunks.for_each(|chunk| failed += u32::from(pipeline.push(&chunk, &mut out).is_err()));
    assert_eq!(failed, 0);
    out
}

/// Opus packets as AAC in an FLV file.
fn as_aac(path: &Path, packets: impl Iterator<Item = (i64, Bytes)>) {
    let out =
        transcoded(Target::Aac(96_000), packets.map(|(pts_us, data)| Chunk { source: Source::Opus, pts_us, data }));
    let mut bridge = ToRtmp::new(to_rtmp::Options::default());
    let mut outputs = Vec::new();
    for coded in &out {
        bridge.aac(coded.pts_us.max(0), &coded.config, &coded.data);
        outputs.extend(core::iter::from_fn(|| bridge.poll()));
    }
    let frames = frames(&outputs);
    assert!(frames[1].body.starts_with(&aac_head(true)) && frames[1].info.config);
    write_flv(path, frames.iter());
}

#[test]
fn sound_over_webrtc_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.flv"), dir.path().join("to.flv"));
    let cases: [&[&str]; 5] = [
        &["-c:a", "aac", "-ar", "48000", "-ac", "2"],
        &["-c:a", "aac", "-ar", "44100", "-ac", "2"],
        &["-c:a", "aac", "-ar", "22050", "-ac", "1"],
        &["-c:a", "libmp3lame", "-ar", "44100", "-ac", "2"],
        &["-c:a", "libmp3lame", "-ar", "44100", "-ac", "1", "-b:a", "48k"],
    ];
    for arguments in cases {
        tone(&from, arguments);
        let (want, volume) = heard(&from);
        assert!((want - 440.0).abs() < 2.0);
        let mut bridge = ToRtc::new(to_rtc::Options::default());
        let mut packets = Vec::new();
        let chunks: Vec<Chunk> = read_flv(&from).iter().filter_map(|frame| bridge.frame(frame, &mut packets)).collect();
        assert!(chunks.len() > 60 && packets.is_empty(), "{arguments:?}");
        for coded in transcoded(Target::Opus(64_000), chunks.into_iter()) {
            bridge.opus(coded.pts_us, coded.data, &mut packets);
        }
        assert!(packets.windows(2).all(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp) == 960));
        as_aac(&to, packets.iter().enumerate().map(|(i, packet)| (i as i64 * 20_000, packet.payload.clone())));
        let (got, loudness) = heard(&to);
        assert!((got - 440.0).abs() < 2.0, "{arguments:?}: {got} Hz");
        assert!((loudness / volume - 1.0).abs() < 0.1, "{arguments:?}: {loudness} of {volume}");
    }
}

#[test]
fn opus_of_another_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.ogg"), dir.path().join("to.flv"));
    for (application, duration) in [("audio", 20), ("voip", 20), ("lowdelay", 10), ("audio", 60)] {
        let text = duration.to_string();
        let arguments = ["-c:a", "libopus", "-application", application, "-frame_duration", &text, "-b:a", "48k"];
        tone(&from, &arguments);
        let packets = ogg_packets(&std::fs::read(&from).unwrap());
        assert!(packets.len() as i64 > 2900 / duration);
        let timed = packets.into_iter().enumerate().map(|(i, packet)| (i as i64 * duration * 1000, packet));
        as_aac(&to, timed);
        let (got, _) = heard(&to);
        assert!((got - 440.0).abs() < 2.0, "{application} {duration}: {got} Hz");
    }
}

/// The packets of a logical Ogg stream behind its two headers (RFC 3533 6, RFC 7845 3).
fn ogg_packets(mut file: &[u8]) -> Vec<Bytes> {
    let (mut packets, mut packet) = (Vec::new(), Vec::new());
    while file.len() > 27 {
        let count = usize::from(file[26]);
        let (lacing, mut body) = file[27..].split_at(count);
        for size in lacing {
            let (piece, rest) = body.split_at(usize::from(*size));
            packet.extend_from_slice(piece);
            body = rest;
            if *size < 255 {
                packets.push(Bytes::from(core::mem::take(&mut packet)));
            }
        }
        file = body;
    }
    packets.split_off(2)
}
