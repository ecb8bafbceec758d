//! Frames of every codec over RTP and back: what is decoded is what was encoded.

use std::path::Path;

use weir_media::body::{self, Video, VideoCodec};
use weir_media::codec::{Units, av1, hevc};

use super::ffmpeg::{decoded, picture, read_flv, read_ivf, read_units, with_delimiter, write_flv, write_ivf};
use super::*;

const QUIET: Network = Network { seed: 1, lost: 0, twice: 0, late: 0 };
const BUSY: Network = Network { seed: 7, lost: 0, twice: 50, late: 60 };
const LOSSY: Network = Network { seed: 3, lost: 20, twice: 20, late: 30 };

fn x264(parameters: &str) -> Vec<&str> {
    vec!["-c:v", "libx264", "-preset", "veryfast", "-g", "15", "-b:v", "800k", "-x264-params", parameters]
}

/// Over the network and back into an FLV file, and what was asked for and dropped on the way.
fn over(network: Network, source: &[Frame], to: &Path) -> (usize, to_rtmp::Dropped) {
    let (packets, _) = packets(to_rtc::Options::default(), source);
    let (outputs, dropped) = outputs(to_rtmp::Options::default(), &network.carry(&packets));
    write_flv(to, frames(&outputs).iter());
    (asked(&outputs), dropped)
}

#[test]
fn h264_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.flv"), dir.path().join("to.flv"));
    for parameters in ["bframes=0:scenecut=0", "bframes=0:slices=4:repeat-headers=1:aud=1", "bframes=0:intra-refresh=1"]
    {
        picture(&from, &x264(parameters));
        let source = read_flv(&from);
        let (want, _) = decoded(&from);
        assert_eq!(want.len(), 50);
        for network in [QUIET, BUSY] {
            let (asked, dropped) = over(network, &source, &to);
            assert_eq!(decoded(&to), (want.clone(), String::new()), "{parameters}");
            assert_eq!((asked, dropped.gaps, dropped.malformed), (0, 0, 0), "{parameters}");
            assert_eq!(dropped.late > 0, network.twice > 0);
        }
    }
}

#[test]
fn what_is_lost_costs_frames_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.flv"), dir.path().join("to.flv"));
    picture(&from, &x264("bframes=0:scenecut=0"));
    let source = read_flv(&from);
    let (want, _) = decoded(&from);
    for seed in 0..6 {
        let (asked, dropped) = over(Network { seed, ..LOSSY }, &source, &to);
        let (got, errors) = decoded(&to);
        assert_eq!(errors, "", "seed {seed}");
        let mut rest = want.iter();
        assert!(got.iter().all(|frame| rest.any(|other| other == frame)), "seed {seed}: a broken picture");
        assert!(dropped.gaps > 0 && asked > 0 && got.len() < want.len() && got.len() > 5, "seed {seed}");
    }
}

#[test]
fn b_frames_are_left_out_so_that_the_rest_decodes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.flv"), dir.path().join("to.flv"));
    // P-frames do not refer back to B-frames without a pyramid, or where they refer to a single frame.
    for parameters in ["bframes=3:b-adapt=0:b-pyramid=none:ref=4", "bframes=3:b-adapt=0:ref=1:open-gop=1"] {
        picture(&from, &x264(parameters));
        let source = read_flv(&from);
        let (want, _) = decoded(&from);
        let (packets, dropped) = packets(to_rtc::Options::default(), &source);
        assert!(dropped.bframes > 25, "{dropped:?}");
        assert_eq!(dropped.references > 0, parameters.contains("ref=1"), "the second one has a pyramid");
        let stamps: Vec<u32> = packets.iter().filter(|packet| packet.marker).map(|packet| packet.timestamp).collect();
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
        let (outputs, _) = outputs(to_rtmp::Options::default(), &QUIET.carry(&packets));
        write_flv(&to, frames(&outputs).iter());
        let (got, _) = decoded(&to);
        assert_eq!(got.len() as u64 + dropped.bframes, want.len() as u64, "{parameters}");
        let mut rest = want.iter();
        assert!(got.iter().all(|frame| rest.any(|other| other == frame)), "{parameters}: a broken picture");
    }
    let keep = to_rtc::Options { keep_bframe: true, ..to_rtc::Options::default() };
    let (_, dropped) = packets(keep, &read_flv(&from));
    assert_eq!(dropped.bframes, 0);
}

#[test]
fn h265_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.h265"), dir.path().join("to.h265"));
    let x265 = "bframes=0:aud=1:repeat-headers=1:keyint=15:log-level=none";
    picture(&from, &["-c:v", "libx265", "-preset", "ultrafast", "-b:v", "800k", "-x265-params", x265]);
    let units = read_units(&from);
    let set = |kind| units.iter().filter(|unit| hevc::kind(unit) == kind).take(1).cloned().map(Bytes::from).collect();
    let (vps, sps, pps) = (set(hevc::unit::VPS), set(hevc::unit::SPS), set(hevc::unit::PPS));
    let config = hevc::Config { length: 4, vps, sps, pps };
    let mut source = vec![made(0, VideoCodec::Hevc, None, &config.write().unwrap())];
    for picture in units.split(|unit| hevc::kind(unit) == hevc::unit::AUD).filter(|units| !units.is_empty()) {
        let keyframe = picture.iter().any(|unit| hevc::is_irap(hevc::kind(unit)));
        // Parameter sets come from the configuration.
        let coded = picture.iter().filter(|unit| !(32..35).contains(&hevc::kind(unit)));
        let data: Vec<u8> = coded.flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect();
        source.push(made(source.len(), VideoCodec::Hevc, Some(keyframe), &data));
    }
    let want = decoded(&from);
    assert_eq!((want.0.len(), source.len()), (50, 51));
    for network in [QUIET, BUSY] {
        let (packets, _) = packets(to_rtc::Options::default(), &source);
        let (outputs, _) = outputs(to_rtmp::Options::default(), &network.carry(&packets));
        let mut raw = Vec::new();
        for frame in frames(&outputs).iter().filter(|frame| frame.kind == Kind::Video) {
            let video = Video::parse(&frame.body).unwrap();
            if video.config {
                let config = hevc::Config::parse(video.data).unwrap();
                let sets = [config.vps, config.sps, config.pps].concat();
                sets.iter().for_each(|set| raw.extend([&[0, 0, 0, 1][..], set].concat()));
            } else {
                Units::new(video.data, 4).for_each(|unit| raw.extend([&[0, 0, 0, 1][..], unit].concat()));
            }
        }
        std::fs::write(&to, raw).unwrap();
        assert_eq!(decoded(&to), want);
    }
}

/// A frame for the hub, 40 ms after the one before; a configuration where nothing is said of a keyframe.
fn made(seq: usize, codec: VideoCodec, keyframe: Option<bool>, data: &[u8]) -> Frame {
    let head = keyframe.map_or_else(|| body::video_config_head(codec), |key| body::video_head(codec, key, 0));
    frame(seq, Kind::Video, seq as i64 * 40_000, [&head[..], data].concat().into())
}

/// Codecs whose frames an IVF file holds.
fn ivf_comes_back(codec: VideoCodec, encoder: &[&str], key: impl Fn(&[u8]) -> bool, config: impl Fn(&[u8]) -> Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.ivf"), dir.path().join("to.ivf"));
    picture(&from, encoder);
    let units = read_ivf(&from);
    let mut source = vec![made(0, codec, None, &config(&units[0]))];
    for unit in &units {
        source.push(made(source.len(), codec, Some(key(unit)), unit));
    }
    let want = decoded(&from);
    assert_eq!(want.0.len(), 50);
    for network in [QUIET, BUSY, LOSSY] {
        let (packets, _) = packets(to_rtc::Options::default(), &source);
        let (outputs, dropped) = outputs(to_rtmp::Options::default(), &network.carry(&packets));
        let frames = frames(&outputs);
        let videos = frames.iter().filter(|frame| frame.kind == Kind::Video);
        let videos: Vec<Video<'_>> = videos.map(|frame| Video::parse(&frame.body).unwrap()).collect();
        assert!(videos[0].config && videos[1].keyframe && videos.iter().filter(|video| video.config).count() == 1);
        let data = videos.iter().filter(|video| !video.config).map(|video| match codec {
            VideoCodec::Av1 => with_delimiter(video.data),
            _ => video.data.to_vec(),
        });
        let data: Vec<Vec<u8>> = data.collect();
        let mut four_cc = codec.four_cc();
        four_cc.make_ascii_uppercase();
        write_ivf(
            &to,
            if four_cc == *b"VP08" {
                *b"VP80"
            } else if four_cc == *b"VP09" {
                *b"VP90"
            } else {
                four_cc
            },
            data.iter().map(|data| &data[..]),
        );
        let got = decoded(&to);
        if network.lost == 0 {
            assert_eq!(got, want);
        } else {
            let mut rest = want.0.iter();
            assert!(got.0.iter().all(|frame| rest.any(|other| other == frame)), "a broken picture");
            assert!(dropped.gaps > 0 && got.0.len() < 50);
        }
    }
}

#[test]
fn av1_comes_back_as_it_was() {
    let sequence = |unit: &[u8]| {
        av1::Obus(unit).find(|obu| obu.kind() == av1::unit::SEQUENCE_HEADER).map(|obu| obu.payload.to_vec())
    };
    let encoder = ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "15", "-b:v", "800k"];
    let config = |unit: &[u8]| av1::write_config(&sequence(unit).unwrap()).unwrap();
    ivf_comes_back(VideoCodec::Av1, &encoder, |unit| sequence(unit).is_some(), config);
}

#[test]
fn vp8_comes_back_as_it_was() {
    let encoder = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "15", "-b:v", "800k"];
    ivf_comes_back(VideoCodec::Vp8, &encoder, |frame| frame[0] & 1 == 0, |_| Vec::new());
}

#[test]
fn vp9_comes_back_as_it_was() {
    let encoder = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15", "-b:v", "800k"];
    let key = |frame: &[u8]| weir_media::codec::vpx::Vp9::keyframe(frame).is_some();
    ivf_comes_back(VideoCodec::Vp9, &encoder, key, |_| Vec::new());
}
