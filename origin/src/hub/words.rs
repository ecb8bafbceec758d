//! What the hub is told and what it answers.

use std::rc::Rc;
use std::time::Duration;

use weir_media::{Epoch, Frame, GopLimits, StreamName};
use weir_node::config::{Config, Takeover};
use weir_wire::relay::Record;

use super::CHANNELS_MAX;

/// A connection of an edge worker.
pub(crate) type PeerId = u64;

/// One end of a publication or subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) peer: PeerId,
    pub(crate) channel: u32,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a record to a peer, before frames that wait.
    Send(PeerId, Record),
    /// A subscription begins: frames will follow on it.
    Open(Port),
    /// Send a frame of a subscription; `starts_group` says that a reader can start at it.
    Frame { to: Port, frame: Frame, starts_group: bool },
    /// A publication or subscription has ended: nothing more goes out on it.
    Shut(Port),
    /// Something an operator cares about.
    Log(Event),
    /// The state of this stream changed.
    Changed(StreamName),
}

/// See [`Output::Log`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Published { name: StreamName, epoch: Epoch, peer: PeerId, resumed: bool },
    Unpublished { name: StreamName, peer: PeerId },
    TakenOver { name: StreamName },
    Ended { name: StreamName },
    Refused { name: StreamName, reason: &'static str },
}

/// What no edge does: its connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Offence {
    #[error("the edge opened channel {0}, which is open")]
    ChannelOpen(u32),
    #[error("the edge opened more than {CHANNELS_MAX} channels")]
    TooManyChannels,
    #[error("the edge sent a record that only origins send")]
    NotAnEdges,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) live: bool,
    pub(crate) epoch: Epoch,
    pub(crate) subscribers: usize,
}

/// Rules and bounds, from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(super) gop: GopLimits,
    /// Streams that are live, and again so many that are only waited for.
    pub(super) streams: usize,
    vhosts: Rc<Config>,
}

impl Rules {
    pub(crate) fn new(config: &Rc<Config>) -> Self {
        let gop = &config.origin.gop;
        Self {
            gop: GopLimits {
                bytes: gop.bytes,
                frames: gop.frames as usize,
                duration: i64::try_from(gop.duration.as_micros()).unwrap_or(i64::MAX),
            },
            streams: config.origin.streams as usize,
            vhosts: config.clone(),
        }
    }

    /// Grace and takeover of a stream; a vhost that is not served has neither.
    pub(super) fn of(&self, name: &StreamName) -> (Duration, Takeover) {
        self.vhosts
            .vhost(&name.vhost)
            .map_or((Duration::ZERO, Takeover::Refuse), |(_, v)| (v.publish.grace, v.publish.takeover))
    }
}
