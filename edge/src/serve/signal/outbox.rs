//! What waits for one client, and why its connection ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

/// What may wait for a client that does not read: messages, and bytes of all of them. One that is further behind is closed.
const MESSAGES_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It sent what is no message of the protocol.
    Malformed,
    /// It sent bytes that are no text.
    Binary,
    /// A message was too long.
    TooLong,
    /// It does not speak WebSocket as it should.
    Protocol,
    /// It sends too much.
    Flood,
    /// It does not read.
    Slow,
    /// It gave no sign of life.
    Silent,
    /// It is in no room, for long.
    Idle,
    /// The origin that held its room is lost.
    RoomLost,
    /// The same client came by another connection.
    Replaced,
    /// The worker goes.
    Draining,
}

impl End {
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Binary,
        Self::TooLong,
        Self::Protocol,
        Self::Flood,
        Self::Slow,
        Self::Silent,
        Self::Idle,
        Self::RoomLost,
        Self::Replaced,
        Self::Draining,
    ];

    /// The name in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Binary => "binary",
            Self::TooLong => "too_long",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::RoomLost => "room_lost",
            Self::Replaced => "replaced",
            Self::Draining => "draining",
        }
    }

    /// The status code of the close frame (RFC 6455, 7.4), and its text, of at most 123 bytes.
    pub(super) fn said(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (1007, "not a message of the form {\"tid\":\"...\",\"msg\":{\"action\":\"...\"}}"),
            Self::Binary => (1003, "only text messages are understood"),
            Self::TooLong => (1009, "the message is too long"),
            Self::Protocol => (1002, "this is not WebSocket"),
            Self::Flood => (1008, "too many messages"),
            Self::Slow => (1008, "you do not read what you are told"),
            Self::Silent => (1008, "you gave no sign of life"),
            Self::Idle => (1008, "join a room"),
            Self::RoomLost => (1012, "the room's server is lost; connect and join again"),
            Self::Replaced => (4000, "you came by another connection"),
            Self::Draining => (1012, "this server goes; connect and join again"),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: RefCell<VecDeque<String>>,
    bytes: Cell<usize>,
    end: Cell<Option<End>>,
    filled: Notify,
    ended: Notify,
}

impl Outbox {
    /// One more message.
    pub(super) fn push(&self, text: String) {
        let bytes = self.bytes.get() + text.len();
        if self.waiting.borrow().len() >= MESSAGES_MAX || bytes > BYTES_MAX {
            return self.end(End::Slow);
        }
        self.bytes.set(bytes);
        self.waiting.borrow_mut().push_back(text);
        self.filled.notify_one();
    }

    /// The connection is to be closed. The first reason stays.
    pub(super) fn end(&self, why: End) {
        if self.end.get().is_none() {
            self.end.set(Some(why));
        }
        self.ended.notify_one();
    }

    /// The next message, when there is one.
    pub(super) async fn next(&self) -> String {
        loop {
            if let Some(text) = self.pop() {
                return text;
            }
            self.filled.notified().await;
        }
    }

    fn pop(&self) -> Option<String> {
        let text = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get().saturating_sub(text.len()));
        Some(text)
    }

    /// Why the connection is to be closed, when it is.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return end;
            }
            self.ended.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_closed_and_costs_no_more() {
        for text in ["x".repeat(BYTES_MAX / 4), "x".to_owned()] {
            let outbox = Outbox::default();
            (0..2 * MESSAGES_MAX).for_each(|_| outbox.push(text.clone()));
            assert_eq!(outbox.end.get(), Some(End::Slow));
            assert!(outbox.bytes.get() <= BYTES_MAX && outbox.waiting.borrow().len() <= MESSAGES_MAX);
        }
        let outbox = Outbox::default();
        for _ in 0..2 * MESSAGES_MAX {
            outbox.push("x".to_owned());
            assert!(outbox.pop().is_some());
        }
        assert_eq!((outbox.end.get(), outbox.bytes.get()), (None, 0));
        outbox.end(End::Replaced);
        outbox.end(End::Slow);
        assert_eq!(outbox.end.get(), Some(End::Replaced));
    }

    #[test]
    fn each_end_has_its_own_name_and_fits_a_frame() {
        let labels: std::collections::BTreeSet<_> = End::ALL.iter().map(|end| end.label()).collect();
        assert_eq!(labels.len(), End::ALL.len());
        assert!(End::ALL.iter().all(|end| end.said().1.len() <= 123));
    }
}
