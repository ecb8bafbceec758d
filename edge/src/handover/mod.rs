//! Clients that go on in another worker process: their sockets, protocol states and places in the streams.
//!
//! A client's own task decides when: between two messages to it, with nothing half done. It freezes, says what it is
//! ([`weir_proto::session`]) and waits for the other process's word; with a no it goes on here as if nothing had been.

mod arrive;
mod depart;

pub(crate) use arrive::listen;
pub(crate) use depart::{Departing, carry, depart, give, open_way};

use weir_media::{FrameId, StreamName};
use weir_proto::session;

use crate::fanout::Moving;

pub(crate) fn name_of(name: &StreamName) -> session::Name {
    let text = |text: &str| text.to_owned();
    session::Name { vhost: text(&name.vhost), app: text(&name.app), stream: text(&name.stream) }
}

pub(crate) fn name(name: &session::Name) -> StreamName {
    StreamName { vhost: name.vhost.as_str().into(), app: name.app.as_str().into(), stream: name.stream.as_str().into() }
}

/// A player as it is said to the other process.
pub(crate) fn player_of(name: &StreamName, moving: Moving, live: bool) -> session::Player {
    session::Player {
        name: Some(name_of(name)),
        unsent: moving.unsent,
        control: moving.control,
        intro: moving.intro,
        last: moving.last.map(|id| session::FrameId { epoch: id.epoch, seq: id.seq }),
        paused: moving.paused,
        sent: moving.sent,
        live,
    }
}

/// And as it is understood there.
pub(crate) fn moving(player: session::Player) -> Moving {
    Moving {
        unsent: player.unsent,
        control: player.control,
        intro: player.intro,
        last: player.last.map(|id| FrameId { epoch: id.epoch, seq: id.seq }),
        paused: player.paused,
        sent: player.sent,
    }
}
