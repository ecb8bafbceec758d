use std::rc::Rc;

use weir_media::{Configs, Frame, Kind, Prelude, flv};
use weir_wire::rtmp::chunk;

/// How frames are written in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// RTMP chunks: full headers, one message stream, chunks of this size.
    Rtmp {
        /// What `connect`'s answer announced.
        chunk_size: u32,
        /// The player takes Opus where that is there beside AAC.
        opus: bool,
    },
    /// FLV tags.
    Flv,
}

/// createStream answers 1 to every client, so all players of a stream get the same bytes.
const MESSAGE_STREAM: u32 = 1;

impl Format {
    /// Appends one frame. `onMetaData` speaks of the whole stream and has the time 0: with another one ffmpeg takes it
    /// for a track of subtitles.
    pub(crate) fn encode(self, out: &mut Vec<u8>, frame: &Frame) {
        if frame.kind == Kind::Data && frame.info.config && frame.dts != 0 {
            return self.encode(out, &Frame { dts: 0, ..frame.clone() });
        }
        match self {
            Self::Flv => flv::write_tag(out, frame),
            Self::Rtmp { chunk_size, .. } => {
                let csid = match frame.kind {
                    Kind::Video => chunk::CSID_VIDEO,
                    Kind::Audio | Kind::Data => chunk::CSID_AUDIO,
                };
                let time = frame.timestamp_ms();
                chunk::write_message(out, csid, frame.kind as u8, MESSAGE_STREAM, time, &frame.body, chunk_size);
            }
        }
    }

    /// Whether players are sent a frame where this configuration is in force.
    pub(crate) fn takes(self, frame: &Frame, configs: &Configs) -> bool {
        match self {
            Self::Rtmp { opus: true, .. } if frame.kind == Kind::Audio && configs.has_alternative() => {
                frame.is_alternative()
            }
            _ => !frame.is_alternative(),
        }
    }

    /// What goes before a group that begins at `dts`: the configuration, at that time.
    pub(crate) fn prelude(self, configs: &Configs, dts: i64) -> Prelude {
        let mut out = Vec::new();
        for config in configs.iter().filter(|config| self.takes(config, configs)) {
            self.encode(&mut out, &Frame { dts, ..config.clone() });
        }
        Rc::from(out)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_media::body::{aac_head, opus_config, opus_head};
    use weir_media::{FrameId, Gop, GopLimits};

    use super::super::FanOut;
    use super::*;

    const RTMP: Format = Format::Rtmp { chunk_size: 60_000, opus: false };
    const WITH_OPUS: Format = Format::Rtmp { chunk_size: 60_000, opus: true };

    /// A group with sound in AAC and, where that is wished, the same in Opus beside it.
    fn group(opus: bool) -> Vec<Frame> {
        let alternative = |body: Vec<u8>| (Kind::Audio, body, true);
        let bodies = [
            alternative([&opus_head(true)[..], &opus_config(2)].concat()),
            (Kind::Video, vec![0x17, 1, 0, 0, 0, 1], false),
            (Kind::Audio, [&aac_head(true)[..], &[0x12, 0x10]].concat(), false),
            alternative([&opus_head(false)[..], b"opus 1"].concat()),
            (Kind::Audio, [&aac_head(false)[..], b"aac 1"].concat(), false),
            alternative([&opus_head(false)[..], b"opus 2"].concat()),
        ];
        let frames = (0..).zip(bodies).map(|(seq, (kind, body, alternative))| {
            let frame = Frame::new(FrameId { epoch: 1, seq }, kind, 0, Bytes::from(body));
            if alternative { frame.as_alternative() } else { frame }
        });
        frames.filter(|frame| opus || !frame.is_alternative()).collect()
    }

    /// What a log holds behind what goes before its group, and that.
    fn written(format: Format, frames: &[Frame], at_once: bool) -> (Vec<u8>, Vec<u8>) {
        let mut gop = Gop::new(GopLimits { bytes: 10_000, frames: 100, duration: 10_000_000 });
        let mut fan = FanOut::new(format, &gop);
        for frame in frames {
            let starts = gop.push(frame);
            fan.push(frame, starts, &gop);
        }
        if at_once {
            fan = FanOut::new(format, &gop);
        }
        let (at, prelude) = fan.log.newest_join().unwrap();
        (prelude.to_vec(), fan.log.read(at).to_vec())
    }

    #[test]
    fn who_takes_opus_gets_it_in_place_of_aac() {
        let encode = |format: Format, frames: &[&Frame]| {
            let mut out = Vec::new();
            frames.iter().for_each(|frame| format.encode(&mut out, frame));
            out
        };
        for at_once in [false, true] {
            let both = group(true);
            let [config, picture, aac_config, opus_1, aac, opus_2] = &both[..] else { panic!() };
            let expected = (encode(RTMP, &[]), encode(RTMP, &[picture, aac_config, aac]));
            assert_eq!(written(RTMP, &both, at_once), expected);
            let expected = (encode(RTMP, &[config]), encode(RTMP, &[picture, opus_1, opus_2]));
            assert_eq!(written(WITH_OPUS, &both, at_once), expected);
            assert_eq!(written(Format::Flv, &both, at_once).1, encode(Format::Flv, &[picture, aac_config, aac]));
            let usual = group(false);
            assert_eq!(written(WITH_OPUS, &usual, at_once), written(RTMP, &usual, at_once), "where there is none");
        }
    }

    #[test]
    fn places_in_the_log_are_the_same_for_all() {
        let mut gop = Gop::new(GopLimits { bytes: 10_000, frames: 100, duration: 10_000_000 });
        let mut fans = [RTMP, WITH_OPUS].map(|format| FanOut::new(format, &gop));
        for frame in group(true) {
            let starts = gop.push(&frame);
            fans.iter_mut().for_each(|fan| fan.push(&frame, starts, &gop));
        }
        for fan in fans {
            for seq in 1..5 {
                let (_, next) = fan.log.after(FrameId { epoch: 1, seq }).unwrap();
                assert!(next, "what follows the frame {seq} is the next");
            }
        }
    }
}
