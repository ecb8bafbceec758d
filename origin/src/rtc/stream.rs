//! A stream as its sessions see it: the tracks of its source, and who is sent them.

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
    /// Sound and picture.
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
    /// Packets came since players were last served.
    pub(crate) dirty: bool,
}

impl Stream {
    pub(crate) fn new(name: StreamName) -> Self {
        Self {
            name,
            source: Source::None,
            tracks: vec![None, None],
            players: Vec::new(),
            waiting: 0,
            wishes: None,
            publication: None,
            subscription: None,
            inward: None,
            outward: None,
            dirty: false,
        }
    }

    /// The track of a medium.
    pub(crate) fn track(&mut self, media: Media) -> Option<&mut Track> {
        self.tracks.iter_mut().flatten().find(|track| track.media() == media)
    }

    /// Puts a track in its medium's place.
    pub(crate) fn set_track(&mut self, track: Track) {
        let at = match track.media() {
            Media::Audio => 0,
            Media::Video => 1,
        };
        if let Some(place) = self.tracks.get_mut(at) {
            *place = Some(track);
        }
    }

    /// Forgets the source's packets.
    pub(crate) fn clear_tracks(&mut self) {
        self.tracks.fill_with(|| None);
    }

    /// What its source sends.
    pub(crate) fn codecs(&self) -> Vec<Codec> {
        self.tracks.iter().flatten().map(|track| track.codec).collect()
    }

    /// Whether nobody needs it.
    pub(crate) fn is_unused(&self) -> bool {
        !matches!(self.source, Source::Session(_)) && self.waiting == 0
    }
}
