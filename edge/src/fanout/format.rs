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
            Self::Rtmp { chunk_size } => {
                let csid = match frame.kind {
                    Kind::Video => chunk::CSID_VIDEO,
                    Kind::Audio | Kind::Data => chunk::CSID_AUDIO,
                };
                let time = frame.timestamp_ms();
                chunk::write_message(out, csid, frame.kind as u8, MESSAGE_STREAM, time, &frame.body, chunk_size);
            }
        }
    }

    /// What goes before a group that begins at `dts`: the configuration, at that time.
    pub(crate) fn prelude(self, configs: &Configs, dts: i64) -> Prelude {
        let mut out = Vec::new();
        for config in configs.iter() {
            self.encode(&mut out, &Frame { dts, ..config.clone() });
        }
        Rc::from(out)
    }
}
