//! One client's connection, from its upgrade to its end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::SinkExt as _;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_stream::StreamExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tracing::info;
use weir_proto::origin::room_ask::Ask as Asked;
use weir_proto::origin::{RoomControl, RoomJoin, RoomPublish};
use weir_wire::signal::{Ask, MESSAGE_MAX, Refusal, Reply, Request, parse};

use super::outbox::{End, Outbox};
use super::rooms::{Pending, Seat, Standing};
use crate::hub::{Counted, add};
use crate::serve::Context;

/// Messages a second that a client may send, and how many at once.
const PACE: f64 = 20.0;
const BURST: f64 = 60.0;

/// How long a client may be connected without being in a room.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// How long a client may take to take one message, and to take the word of farewell.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// Bytes that a connection reads at a time; what most messages fit into.
const READ: usize = 2048;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Serves a client until either side ends it.
pub(in crate::serve) async fn serve(cx: &Context, io: Upgraded, (id, peer): (u64, SocketAddr)) {
    let stats = cx.hub.stats().clone();
    let _count = Counted::new(&stats, |stats| &stats.signal.sockets);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .read_buffer_size(READ)
        .write_buffer_size(0);
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(config)).await;
    let mut talk = Talk { cx, outbox: Rc::default(), seat: None, pace: Pace::new(Instant::now()) };
    info!(%peer, client = id, "signaling begins");
    match talk.go_on(&mut socket).await {
        Some(end) => {
            // Others are told of it while this one takes its time.
            talk.seat = None;
            info!(%peer, client = id, reason = end.label(), "signaling is ended");
            stats.signal.close(end);
            farewell(&mut socket, end).await;
        }
        None => info!(%peer, client = id, "signaling ends"),
    }
}

/// Says why, and gives the client a moment to take it: a reset would destroy what it has not read.
async fn farewell(socket: &mut Socket, end: End) {
    let (code, reason) = end.said();
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
    let gone = async {
        if socket.close(Some(frame)).await.is_err() {
            return;
        }
        let mut rest = [0; READ];
        while socket.get_mut().read(&mut rest).await.is_ok_and(|n| n > 0) {}
    };
    timeout(FAREWELL_WITHIN, gone).await.ok();
}

/// Takes messages at a bounded rate: so many a second, and a burst of them.
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// One more. False: it is too many.
    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PACE).min(BURST) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}

struct Talk<'a> {
    cx: &'a Context,
    outbox: Rc<Outbox>,
    seat: Option<Seat>,
    pace: Pace,
}

impl Talk<'_> {
    /// Until the connection is over. `None`: the client ended it, or it broke off.
    async fn go_on(&mut self, socket: &mut Socket) -> Option<End> {
        let every = self.cx.hub.config().edge.signal.ping;
        let mut ping = interval_at(Instant::now() + every, every);
        let join_by = Instant::now() + JOIN_WITHIN;
        let outbox = self.outbox.clone();
        let mut heard = true;
        loop {
            let in_room = self.seat.as_ref().is_some_and(|seat| seat.standing() == Standing::Joined);
            tokio::select! {
                biased;
                end = outbox.ended() => return Some(end),
                () = self.cx.hub.closing() => return Some(End::Draining),
                text = outbox.next() => {
                    let sent = tokio::select! {
                        sent = timeout(WRITE_WITHIN, socket.send(Message::text(text))) => sent,
                        end = outbox.ended() => return Some(end),
                    };
                    match sent {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return None,
                        Err(_) => return Some(End::Slow),
                    }
                }
                _ = ping.tick() => {
                    if !std::mem::take(&mut heard) {
                        return Some(End::Silent);
                    }
                    match timeout(WRITE_WITHIN, socket.send(Message::Ping(Bytes::new()))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return None,
                        Err(_) => return Some(End::Slow),
                    }
                }
                () = sleep_until(join_by), if !in_room => return Some(End::Idle),
                message = socket.next() => {
                    heard = true;
                    match message? {
                        Ok(message) => {
                            if let Err(end) = self.heard(&message) {
                                return Some(end);
                            }
                        }
                        Err(error) => return ended_by(&error),
                    }
                }
            }
        }
    }

    /// A message came.
    fn heard(&mut self, message: &Message) -> Result<(), End> {
        add(&self.cx.hub.stats().signal.received, 1);
        if !self.pace.take(Instant::now()) {
            return Err(End::Flood);
        }
        match message {
            Message::Text(text) => {
                self.asked(parse(text).map_err(|_| End::Malformed)?);
                Ok(())
            }
            Message::Binary(_) => Err(End::Binary),
            // Pings and the close frame are answered by the library.
            _ => Ok(()),
        }
    }

    fn asked(&mut self, request: Request) {
        let Request { tid, action, ask, claims } = request;
        let pending = Pending { tid: tid.clone(), action: action.clone() };
        if let Err(why) = ask.and_then(|ask| self.ask(claims, ask, pending)) {
            self.cx.hub.stats().signal.refuse(why);
            self.outbox.push(Reply::Refused { action, why }.text(&tid));
        }
    }

    fn ask(&mut self, claims: (Option<String>, Option<String>), ask: Ask, pending: Pending) -> Result<(), Refusal> {
        // A refused join leaves the seat behind; the next one may be for a room of another origin.
        let seat = self.seat.take_if(|seat| seat.standing() == Standing::Refused);
        drop(seat);
        let asked = match ask {
            Ask::Join { room, display, key } => {
                if self.seat.is_some() {
                    return Err(Refusal::AlreadyJoined);
                }
                let join = RoomJoin { room, display, key };
                let seat = self.cx.rooms.join(&self.cx.hub, &self.outbox, join, pending);
                self.seat = Some(seat.ok_or(Refusal::Unavailable)?);
                return Ok(());
            }
            // Scripts do not see the pings of WebSocket.
            Ask::Ping => {
                add(&self.cx.hub.stats().signal.sent, 1);
                self.outbox.push(Reply::Done.text(&pending.tid));
                return Ok(());
            }
            Ask::Publish => Asked::Publish(RoomPublish {}),
            Ask::Control { call, data } => Asked::Control(RoomControl { call, data }),
        };
        self.seat.as_ref().ok_or(Refusal::NotJoined)?.ask(claims, asked, pending)
    }
}

/// Why the server ends a connection that cannot be read on. `None`: it is over.
fn ended_by(error: &Error) -> Option<End> {
    match error {
        Error::Capacity(_) => Some(End::TooLong),
        Error::Utf8(_) => Some(End::Malformed),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(End::Protocol),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_send_a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let burst = (0..1000).take_while(|_| pace.take(start)).count();
        assert_eq!(burst, BURST as usize);
        let mut pace = Pace::new(start);
        let all = (0..10_000).all(|i| pace.take(start + Duration::from_secs_f64(f64::from(i) / PACE)));
        assert!(all, "a steady pace is no flood");
    }
}
