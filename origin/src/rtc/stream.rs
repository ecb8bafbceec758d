//! A stream as its sessions see it: the tracks of its source, and who is sent them.

use std::time::Instant;

use weir_media::StreamName;
use weir_wire::rtp::{Codec, Media};

use super::bridges::{Inward, Outward, Publication, Wishes};
use super::track::Track;

/// Where the packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody publishes here.
    None,
    /// A session.
    Session(usize),
    /// The hub's frames, packetised.
    Hub,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) source: Source,
    /// Sound, then the picture in all its sizes.
    pub(crate) tracks: Vec<Option<Track>>,
    pub(crate) players: Vec<usize>,
    /// Sessions that play it, connected or not.
    pub(crate) waiting: usize,
    pub(crate) wishes: Option<Wishes>,
    /// The session's publication in the hub, and the channel of the subscription to the hub's frames.
    pub(crate) publication: Option<Publication>,
    pub(crate) subscription: Option<u32>,
    pub(crate) inward: Option<Inward>,
    pub(crate) outward: Option<Outward>,
    /// Bytes to players that left.
    pub(crate) sent: u64,
    /// Packets came since players were last served.
    pub(crate) dirty: bool,
}

impl Stream {
    pub(crate) fn new(name: StreamName) -> Self {
        Self {
            name,
            source: Source::None,
            tracks: Vec::new(),
            players: Vec::new(),
            waiting: 0,
            wishes: None,
            publication: None,
            subscription: None,
            inward: None,
            outward: None,
            sent: 0,
            dirty: false,
        }
    }

    /// A track of the source.
    pub(crate) fn track(&mut self, media: Media, layer: usize) -> Option<&mut Track> {
        self.tracks.get_mut(place(media, layer)).and_then(Option::as_mut)
    }

    /// Puts a track in its place.
    pub(crate) fn set_track(&mut self, track: Track) {
        let at = place(track.media(), track.layer);
        if self.tracks.len() <= at {
            self.tracks.resize_with(at + 1, || None);
        }
        if let Some(place) = self.tracks.get_mut(at) {
            *place = Some(track);
        }
    }

    /// The picture in the best of the sizes that come: the one of that generation, unless another is clearly better.
    pub(crate) fn best_picture(&self, now: Instant, current: u64) -> Option<&Track> {
        let pictures = || self.tracks.iter().flatten().filter(|track| track.media() == Media::Video);
        let best = pictures().max_by_key(|track| if track.rate(now) > 0 { track.usual() + 1 } else { 0 })?;
        let current = pictures().find(|track| track.generation == current && track.rate(now) > 0);
        Some(current.filter(|current| !best.needs_more_than(current)).unwrap_or(best))
    }

    /// Somebody needs a key frame, whatever the size.
    pub(crate) fn want_keyframe(&self) {
        self.tracks.iter().flatten().for_each(Track::want_keyframe);
    }

    /// Forgets the source's packets.
    pub(crate) fn clear_tracks(&mut self) {
        self.tracks.clear();
    }

    /// What its source sends.
    pub(crate) fn codecs(&self) -> Vec<Codec> {
        self.tracks.iter().flatten().filter(|track| track.layer == 0).map(|track| track.codec).collect()
    }

    /// Whether nobody needs it.
    pub(crate) fn is_unused(&self) -> bool {
        !matches!(self.source, Source::Session(_)) && self.waiting == 0
    }
}

/// Where a track stands among a stream's.
fn place(media: Media, layer: usize) -> usize {
    match media {
        Media::Audio => 0,
        Media::Video => 1 + layer,
    }
}
