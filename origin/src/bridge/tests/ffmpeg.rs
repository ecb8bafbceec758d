//! Real media: made, taken apart and decoded by ffmpeg.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use weir_media::codec::av1::write_leb128;
use weir_media::{Frame, FrameId, Kind, flv};

/// Runs ffmpeg to its end; what it printed and what it complained about.
pub(super) fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> (String, String) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-y", "-v", "error"]).args(arguments).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{status}: {stderr}");
    (String::from_utf8(stdout).unwrap(), stderr)
}

/// Two seconds of a moving picture at 320x180 and 25 frames a second, encoded as the arguments say.
pub(super) fn picture(path: &Path, arguments: &[&str]) {
    let source =
        ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=2,noise=alls=8:allf=t:all_seed=1", "-pix_fmt", "yuv420p"];
    run(source.iter().chain(arguments).copied().chain([path.to_str().unwrap()]));
}

/// The hash of each decoded frame, and what the decoder complained about.
pub(super) fn decoded(path: &Path) -> (Vec<String>, String) {
    let input = ["-i", path.to_str().unwrap(), "-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"];
    let (out, errors) = run(input);
    let hashes = out.lines().filter(|line| !line.starts_with('#'));
    (hashes.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect(), errors)
}

/// The frames of an FLV file.
pub(super) fn read_flv(path: &Path) -> Vec<Frame> {
    let file = std::fs::read(path).unwrap();
    let (mut frames, mut rest) = (Vec::new(), &file[13..]);
    while rest.len() >= 11 {
        let size = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let dts = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]])) * 1000;
        let kind = Kind::from_type(rest[0]).unwrap();
        let id = FrameId { epoch: 1, seq: frames.len() as u64 };
        frames.push(Frame::new(id, kind, dts, Bytes::copy_from_slice(&rest[11..11 + size])));
        rest = &rest[11 + size + 4..];
    }
    frames
}

/// Writes an FLV file.
pub(super) fn write_flv<'a>(path: &Path, frames: impl Iterator<Item = &'a Frame>) {
    let mut out = flv::FILE_HEADER.to_vec();
    frames.for_each(|frame| flv::write_tag(&mut out, frame));
    std::fs::write(path, out).unwrap();
}

/// The frames of an IVF file.
pub(super) fn read_ivf(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let (mut frames, mut rest) = (Vec::new(), &file[32..]);
    while rest.len() >= 12 {
        let size = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        frames.push(rest[12..12 + size].to_vec());
        rest = &rest[12 + size..];
    }
    frames
}

/// Writes an IVF file.
pub(super) fn write_ivf<'a>(path: &Path, four_cc: [u8; 4], frames: impl Iterator<Item = &'a [u8]>) {
    let mut out = b"DKIF\0\0\x20\0".to_vec();
    out.extend(four_cc);
    out.extend([64, 1, 180, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (i, frame) in frames.enumerate() {
        out.extend((frame.len() as u32).to_le_bytes());
        out.extend((i as u64).to_le_bytes());
        out.extend(frame);
    }
    std::fs::write(path, out).unwrap();
}

/// The units of a raw stream, without start codes.
pub(super) fn read_units(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let mut starts: Vec<usize> = (0..file.len() - 3).filter(|i| file[*i..*i + 3] == [0, 0, 1]).collect();
    starts.push(file.len());
    starts
        .windows(2)
        .map(|pair| {
            let unit = &file[pair[0] + 3..pair[1]];
            let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            unit[..end].to_vec()
        })
        .collect()
}

/// A temporal unit as raw streams and IVF hold it: with its delimiter.
pub(super) fn with_delimiter(unit: &[u8]) -> Vec<u8> {
    let mut out = vec![0x12];
    write_leb128(&mut out, 0);
    out.extend(unit);
    out
}
