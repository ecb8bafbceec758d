//! What a source sends: one track of sound or picture, for all its players.

use std::time::{Duration, Instant};

use weir_wire::rtp::{Codec, Media};

use super::log::{Log, Packet};

/// How soon a publisher is asked for a key frame again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Which time of the sender's clock a timestamp is (RFC 3550 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// NTP, 32.32 fixed point.
    pub(crate) ntp: u64,
    pub(crate) timestamp: u32,
    /// When that was heard.
    pub(crate) at: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Track {
    /// Differs from every earlier track's of this process: players notice that another one took the place.
    pub(crate) generation: u64,
    pub(crate) codec: Codec,
    pub(crate) log: Log,
    pub(crate) reference: Option<Reference>,
    /// Somebody waits for a key frame.
    wanted: bool,
    asked: Option<Instant>,
}

impl Track {
    pub(crate) fn new(generation: u64, codec: Codec) -> Self {
        Self { generation, codec, log: Log::default(), reference: None, wanted: false, asked: None }
    }

    pub(crate) fn media(&self) -> Media {
        self.codec.media()
    }

    /// Takes a packet in; false: it came before.
    pub(crate) fn push(&mut self, packet: Packet) -> bool {
        if packet.keyframe {
            self.wanted = false;
        }
        self.log.push(packet)
    }

    /// Somebody needs a key frame.
    pub(crate) fn want_keyframe(&mut self) {
        self.wanted = self.media() == Media::Video;
    }

    /// Whether the source is to be asked now.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        let due = self.wanted && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// When [`Track::ask`] may say yes.
    pub(crate) fn ask_at(&self) -> Option<Instant> {
        self.wanted.then(|| self.asked.map(|at| at + ASK_AGAIN))?
    }
}
