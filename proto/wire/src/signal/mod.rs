//! Signaling of rooms: who is in a room, who of them publishes, and what they tell each other. The messages are those of
//! SRS's signaling server, JSON over WebSocket; `edge/SIGNALING.md` describes them.
//!
//! [`parse`] reads what a client sends, [`Rooms`] decides, and [`Reply`] and [`Notice`] are what clients get.

mod message;
mod rooms;

#[cfg(test)]
mod tests;

pub use message::{Ask, Malformed, Request, parse};
pub use rooms::{Limits, Rooms};

use serde::Serialize;

/// The longest message of a client, in bytes of UTF-8; that of SRS.
pub const MESSAGE_MAX: usize = 16 * 1024;

/// The longest name of a room or a participant, in bytes of UTF-8.
pub const NAME_MAX: usize = 128;

/// The longest `tid`, `action`, `call` or `key`, in bytes of UTF-8.
pub const WORD_MAX: usize = 64;

/// Who is in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Participant {
    /// The name that it joined by; its stream's name.
    pub display: Box<str>,
    /// Whether it said that it publishes.
    pub publishing: bool,
}

/// What happened to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It came.
    Join,
    /// It publishes from now on, or anew.
    Publish,
    /// It tells the others something.
    Control,
    /// It went.
    Leave,
}

/// What all others in a room are told of one participant. `M` names members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice<M> {
    /// Who is told, with the name of each.
    pub to: Vec<(M, Box<str>)>,
    /// What happened.
    pub event: Event,
    /// Where.
    pub room: Box<str>,
    /// To whom.
    pub peer: Participant,
    /// Who is in the room since, in the order in which they came.
    pub participants: Vec<Participant>,
    /// The `call` of a control; else empty.
    pub param: String,
    /// The `data` of a control; else empty.
    pub data: String,
}

/// What the machine wants done, besides answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<M> {
    /// Members are to be told.
    Notice(Notice<M>),
    /// Another connection came with the same name and key and took this one's place: it is to be closed.
    Replaced(M),
}

/// The answer to a join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Joined {
    /// Where.
    pub room: Box<str>,
    /// Who joined, as the others see it.
    #[serde(rename = "self")]
    pub me: Participant,
    /// Who is in the room, in the order in which they came, with who joined.
    pub participants: Vec<Participant>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a join.
    Joined(Joined),
    /// To anything else that was done: `null`.
    Done,
    /// To what was not done.
    Refused {
        /// What was asked for, as the client called it.
        action: String,
        /// Why it was not done.
        why: Refusal,
    },
}

/// Why a request is not served. The connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Somebody else in the room has this name.
    #[error("somebody else in this room has this name")]
    DisplayTaken,
    /// The connection is in a room already.
    #[error("this connection is in a room already")]
    AlreadyJoined,
    /// Only who is in a room may do this.
    #[error("join a room first")]
    NotJoined,
    /// It names another room or participant than those of the connection.
    #[error("this is neither your room nor your name")]
    NotYours,
    /// See [`Limits::members`].
    #[error("the room is full")]
    RoomFull,
    /// See [`Limits::rooms`].
    #[error("there are as many rooms as there may be")]
    TooManyRooms,
    /// See [`check_name`].
    #[error(
        "a name has 1 to {NAME_MAX} bytes and no slash, backslash, question mark, hash, per cent or control character"
    )]
    BadName,
    /// More is told in the room than it may be; see [`Rooms::handle`].
    #[error("too much is told in this room; wait a little")]
    TooFast,
    /// No such action.
    #[error("there is no such action; there are join, publish, control and ping")]
    UnknownAction,
    /// A field is missing, too long, or of another type.
    #[error("a field is missing, too long, or not a string")]
    BadField,
    /// The server that holds the room is not reached.
    #[error("the room's server is not reached; try again")]
    Unavailable,
}

impl Refusal {
    /// All of them, by their codes.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::DisplayTaken, "display_taken"),
        (Self::AlreadyJoined, "already_joined"),
        (Self::NotJoined, "not_joined"),
        (Self::NotYours, "not_yours"),
        (Self::RoomFull, "room_full"),
        (Self::TooManyRooms, "too_many_rooms"),
        (Self::TooFast, "too_fast"),
        (Self::BadName, "bad_name"),
        (Self::UnknownAction, "unknown_action"),
        (Self::BadField, "bad_field"),
        (Self::Unavailable, "unavailable"),
    ];

    /// The word by which programs tell it from the others.
    pub fn code(self) -> &'static str {
        Self::ALL.iter().find(|(why, _)| *why == self).map_or("unavailable", |(_, code)| code)
    }

    /// The refusal of a code; one that this version does not know is [`Unavailable`](Self::Unavailable).
    pub fn of_code(code: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == code).map_or(Self::Unavailable, |(why, _)| *why)
    }
}

/// Checks the name of a room or participant. It becomes a part of a stream's path, and other people read it: characters
/// that URLs or the direction of text give a meaning are none of it.
///
/// # Errors
/// [`Refusal::BadName`].
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    let means = |c| matches!(c, '/' | '\\' | '?' | '#' | '%');
    let bad = name.is_empty()
        || name.len() > NAME_MAX
        || name.trim() != name
        || matches!(name, "." | "..")
        || name.chars().any(|c| c.is_control() || turns(c) || means(c));
    if bad { Err(Refusal::BadName) } else { Ok(()) }
}
