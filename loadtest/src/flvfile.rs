//! The file that is published.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_media::Kind;
use weir_media::flv::TagInfo;

/// A whole FLV file, in memory.
#[derive(Debug)]
pub(crate) struct FlvFile {
    /// Sequence headers and metadata, sent once.
    pub(crate) configs: Vec<Tag>,
    /// Everything else, in order of time.
    pub(crate) tags: Vec<Tag>,
    /// From one start to the next.
    pub(crate) duration: Duration,
    /// The time between two pictures.
    pub(crate) period: Duration,
}

#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    /// From the first one on.
    pub(crate) time: Duration,
    pub(crate) body: Vec<u8>,
}

const FILE_HEADER: usize = 9;
const TAG_HEADER: usize = 11;
const TAG_TRAILER: usize = 4;

impl FlvFile {
    /// # Errors
    /// It cannot be read, or is no FLV with at least two frames.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{}", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.starts_with(b"FLV"), "this is not FLV");
        let mut rest = bytes.get(FILE_HEADER + TAG_TRAILER..).unwrap_or_default();
        let (mut configs, mut tags) = (Vec::new(), Vec::<Tag>::new());
        // What is cut off at the end is left out.
        while let Some((header, more)) = rest.split_first_chunk::<TAG_HEADER>() {
            let &[kind, a, b, c, t1, t2, t3, t0, ..] = header;
            let size = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((body, more)) = more.split_at_checked(size) else { break };
            rest = more.get(TAG_TRAILER..).unwrap_or_default();
            let Some(kind) = Kind::from_type(kind) else { continue };
            let time = Duration::from_millis(u32::from_be_bytes([t0, t1, t2, t3]).into());
            let config = TagInfo::parse(kind, body).config;
            let list = if config { &mut configs } else { &mut tags };
            if !body.is_empty() {
                list.push(Tag { kind, time, body: body.to_vec() });
            }
        }
        // What ends the stream says nothing in a loop.
        tags.retain(|tag| !matches!((tag.kind, tag.body.as_slice()), (Kind::Video, [0x17 | 0x27, 2, ..])));
        tags.sort_by_key(|tag| tag.time);
        ensure!(tags.len() > 1, "there are no frames in it");
        let start = tags.first().map_or(Duration::ZERO, |tag| tag.time);
        tags.iter_mut().for_each(|tag| tag.time -= start);
        let video: Vec<Duration> = tags.iter().filter(|t| t.kind == Kind::Video).map(|t| t.time).collect();
        let timed = if video.len() > 1 { video } else { tags.iter().map(|tag| tag.time).collect() };
        let span = timed.last().copied().unwrap_or_default();
        let period = span.div_f64((timed.len() - 1) as f64).max(Duration::from_millis(1));
        let last = tags.last().map_or(Duration::ZERO, |tag| tag.time);
        Ok(Self { configs, duration: last.max(span + period), tags, period })
    }
}

#[cfg(test)]
mod tests {
    use weir_media::{Frame, FrameId, flv};

    use super::*;

    #[test]
    fn configuration_is_set_apart_and_times_begin_at_nothing() {
        let mut file = flv::FILE_HEADER.to_vec();
        let mut add = |kind, millis: i64, body: &[u8]| {
            let body = bytes::Bytes::copy_from_slice(body);
            flv::write_tag(&mut file, &Frame::new(FrameId::default(), kind, millis * 1000, body));
        };
        add(Kind::Video, 0, &[0x17, 0, 0, 0, 0, 1]);
        add(Kind::Audio, 0, &[0xaf, 0, 0x12, 0x10]);
        add(Kind::Video, 100, &[0x17, 1, 0, 0, 0, 1]);
        add(Kind::Audio, 110, &[0xaf, 1, 7]);
        add(Kind::Video, 140, &[0x27, 1, 0, 0, 0, 2]);
        add(Kind::Video, 180, &[0x17, 2, 0, 0, 0]);
        let parsed = FlvFile::parse(&file).unwrap();
        assert_eq!(parsed.configs.len(), 2);
        let times: Vec<u128> = parsed.tags.iter().map(|tag| tag.time.as_millis()).collect();
        assert_eq!(times, [0, 10, 40]);
        assert_eq!((parsed.period.as_millis(), parsed.duration.as_millis()), (40, 80));
        assert!(FlvFile::parse(&file[..40]).is_err() && FlvFile::parse(b"MP4").is_err());
    }
}
