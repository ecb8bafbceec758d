//! What workers tell operators of their streams.

use std::fmt::Write as _;

use prost::Message as _;
use weir_media::{Gop, StreamName, describe};
use weir_proto::supervisor::{AudioFigures, StreamRow, VideoFigures};

use crate::link::MESSAGE_MAX;

/// Streams that one worker tells of at once, and bytes of these; more are left out.
const STREAMS_MAX: usize = 20_000;
const BYTES_MAX: usize = MESSAGE_MAX / 2;

/// Leaves out what is too much for one answer.
pub fn cut(rows: &mut Vec<StreamRow>) {
    let mut bytes = 0;
    let fit = rows.iter().take(STREAMS_MAX).take_while(|row| {
        // What is written before each takes some bytes too.
        bytes += row.encoded_len() + 8;
        bytes <= BYTES_MAX
    });
    let fit = fit.count();
    rows.truncate(fit);
}

/// The id of a vhost, or of a stream with its app, in the API: as SRS writes them, but the same on every host and after each
/// start.
pub fn id_of(parts: &[&str]) -> String {
    // FNV-1a: whoever finds two names with one id has found two names that only he uses.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut id = "vid-".to_owned();
    write!(id, "{hash:016x}").ok();
    id
}

/// A row under its stream's name.
pub fn named(name: &StreamName, row: StreamRow) -> StreamRow {
    let StreamName { vhost, app, stream } = name;
    StreamRow { vhost: vhost.to_string(), app: app.to_string(), stream: stream.to_string(), ..row }
}

/// Adds what a stream is made of, if that is not known yet.
pub fn describe(row: &mut StreamRow, gop: &Gop) {
    if row.video.is_none() {
        row.video = describe::picture(gop).map(|picture| VideoFigures {
            codec: picture.codec.to_owned(),
            profile: picture.profile,
            level: picture.level,
            width: picture.size.width,
            height: picture.size.height,
        });
    }
    if row.audio.is_none() {
        row.audio = describe::sound(gop).map(|sound| AudioFigures {
            codec: sound.codec.to_owned(),
            sample_rate: sound.rate,
            channels: sound.channels.into(),
            profile: sound.profile.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_fits_into_a_message() {
        let row = |bytes: usize| StreamRow { stream: "s".repeat(bytes), ..StreamRow::default() };
        let mut few = vec![row(400); 1000];
        cut(&mut few);
        assert_eq!(few.len(), 1000);
        let mut short = vec![row(1); STREAMS_MAX + 1];
        cut(&mut short);
        assert_eq!(short.len(), STREAMS_MAX);
        let mut long = vec![row(4000); 5000];
        cut(&mut long);
        let bytes: usize = long.iter().map(prost::Message::encoded_len).sum();
        assert!((BYTES_MAX - 40_000..BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn ids_are_of_all_parts() {
        assert_eq!(id_of(&["v", "live", "s"]), id_of(&["v", "live", "s"]));
        assert_ne!(id_of(&["v", "live", "s"]), id_of(&["v", "lives", ""]));
        assert_ne!(id_of(&["v"]), id_of(&["v", ""]));
        assert_eq!(id_of(&["__defaultVhost__"]).len(), 20);
    }
}
