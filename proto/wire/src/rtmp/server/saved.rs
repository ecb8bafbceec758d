//! A connection in mid-stream, as it travels to another process.
use core::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Asked, Base, Phase, Role, Server};
use crate::rtmp::Limits;
use crate::rtmp::chunk::SavedReader;
use crate::rtmp::link::Link;

/// A [`Server`] between two inputs. As with every message of its kind, fields are only ever added.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Saved {
    #[prost(message, optional, tag = "1")]
    reader: Option<SavedReader>,
    #[prost(uint32, tag = "2")]
    link_chunk_size_out: u32,
    #[prost(uint64, tag = "3")]
    received: u64,
    #[prost(uint64, tag = "4")]
    acknowledged: u64,
    #[prost(uint32, tag = "5")]
    peer_window: u32,
    #[prost(uint32, tag = "6")]
    window: u32,
    /// Milliseconds that are left until the deadline.
    #[prost(uint64, optional, tag = "7")]
    deadline_ms: Option<u64>,
    /// 0: none, 1: publisher, 2: player.
    #[prost(uint32, tag = "8")]
    role: u32,
    #[prost(message, optional, tag = "9")]
    base: Option<SavedBase>,
    #[prost(bool, tag = "10")]
    reconnects: bool,
    #[prost(bool, tag = "11")]
    fc_publish: bool,
    #[prost(fixed32, optional, tag = "12")]
    client: Option<u32>,
    #[prost(uint32, tag = "13")]
    chunk_size_out: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SavedBase {
    #[prost(string, tag = "1")]
    vhost: String,
    #[prost(string, tag = "2")]
    app: String,
    #[prost(string, tag = "3")]
    query: String,
}

impl Server {
    /// Whether it can be saved: not while the handshake or the shell's answer to a request is missing, or something is
    /// still to be polled.
    pub fn is_settled(&self) -> bool {
        let settled = matches!(self.phase, Phase::Open) && !self.awaits_answer();
        settled && self.held.is_empty() && self.events.is_empty() && self.link.is_flushed()
    }

    /// What [`restore`](Self::restore) needs; `None` while it [is not settled](Self::is_settled).
    pub fn save(&self, now: Instant) -> Option<Saved> {
        if !self.is_settled() {
            return None;
        }
        let left = |at: Instant| u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
        let text = |text: &str| text.to_owned();
        Some(Saved {
            reader: Some(self.link.reader.save()),
            link_chunk_size_out: self.link.chunk_size_out,
            received: self.link.received,
            acknowledged: self.link.acknowledged,
            peer_window: self.link.peer_window,
            window: self.link.window,
            deadline_ms: self.deadline.map(left),
            role: match self.role {
                Role::None => 0,
                Role::Publisher => 1,
                Role::Player => 2,
            },
            base: self.base.as_ref().map(|base| SavedBase {
                vhost: text(&base.vhost),
                app: text(&base.app),
                query: text(&base.query),
            }),
            reconnects: self.reconnects,
            fc_publish: self.fc_publish,
            client: self.client.map(u32::from),
            chunk_size_out: self.chunk_size_out,
        })
    }

    /// The connection goes on here. `None`: `saved` is none that could have been saved, or it is beyond `limits`.
    pub fn restore(saved: Saved, now: Instant, limits: Limits) -> Option<Self> {
        let base = |base: SavedBase| {
            let fits = base.vhost.len() <= limits.name && base.app.len() <= limits.name;
            let (vhost, app, query) = (base.vhost.into(), base.app.into(), base.query.into());
            fits.then(|| Box::new(Base { vhost, app, query }))
        };
        let base = match saved.base {
            Some(saved) => Some(base(saved)?),
            None => None,
        };
        // A day: what is later cannot be told from never.
        let left = |ms: u64| now + Duration::from_millis(ms.min(86_400_000));
        Some(Self {
            link: Link::restore(
                saved.reader?,
                &limits,
                [saved.link_chunk_size_out, saved.peer_window, saved.window],
                [saved.received, saved.acknowledged],
            )?,
            phase: Phase::Open,
            now,
            started: now,
            deadline: saved.deadline_ms.map(left),
            asked: Asked::Nothing,
            role: match saved.role {
                0 => Role::None,
                1 => Role::Publisher,
                2 => Role::Player,
                _ => return None,
            },
            base,
            reconnects: saved.reconnects,
            fc_publish: saved.fc_publish,
            client: saved.client.map(Ipv4Addr::from),
            chunk_size_out: saved.chunk_size_out,
            held: bytes::BytesMut::new(),
            events: std::collections::VecDeque::new(),
            limits,
        })
    }
}
