//! The way to the rooms: one call to each origin that holds a room of this worker's clients carries what all of them ask
//! and are told.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::info;
use weir_media::StreamName;
use weir_proto::origin::room_ask::Ask as Asked;
use weir_proto::origin::room_told::Told;
use weir_proto::origin::{
    RoomAsk, RoomEvent, RoomJoin, RoomJoined, RoomLeave, RoomNotice, RoomParticipant, RoomReply, RoomTold,
};
use weir_wire::signal::{Event, Joined, Notice, Participant, Refusal, Reply};

use super::outbox::{End, Outbox};
use crate::hub::{Hub, Stats, add};
use crate::relay::Link;

/// How long an origin may take to begin a call.
const CALL_WITHIN: Duration = Duration::from_secs(3);

/// What may wait to be asked of an origin.
const ASKS_MAX: usize = 1024;

/// Requests of one client that may wait for their answers.
const PENDING_MAX: usize = 64;

/// The calls of this worker.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// By the origin's place in the directory.
    calls: RefCell<FxHashMap<usize, Rc<Call>>>,
    next: Cell<u64>,
}

#[derive(Debug)]
struct Call {
    asks: mpsc::Sender<RoomAsk>,
    clients: RefCell<FxHashMap<u64, Rc<Client>>>,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) tid: String,
    pub(super) action: String,
}

#[derive(Debug)]
struct Client {
    outbox: Rc<Outbox>,
    pending: RefCell<VecDeque<Pending>>,
    standing: Cell<Standing>,
}

/// Whether a client is in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It asked to join.
    Asked,
    Joined,
    Refused,
}

/// A client's place in a call; it leaves its room with it.
pub(super) struct Seat {
    call: Rc<Call>,
    number: u64,
    client: Rc<Client>,
}

impl Rooms {
    /// Asks for a client to join. `None`: the room's origin is not reached.
    pub(super) fn join(
        self: &Rc<Self>,
        hub: &Hub,
        outbox: &Rc<Outbox>,
        join: RoomJoin,
        pending: Pending,
    ) -> Option<Seat> {
        let link = hub.link_for(&place(&join.room))?;
        let call = self.call(link, hub.stats())?;
        self.next.set(self.next.get() + 1);
        let number = self.next.get();
        let client = Rc::new(Client {
            outbox: outbox.clone(),
            pending: RefCell::default(),
            standing: Cell::new(Standing::Asked),
        });
        call.clients.borrow_mut().insert(number, client.clone());
        let seat = Seat { call, number, client };
        seat.ask((None, None), Asked::Join(join), pending).ok()?;
        Some(seat)
    }

    fn call(self: &Rc<Self>, link: &Rc<Link>, stats: &Rc<Stats>) -> Option<Rc<Call>> {
        let index = link.index();
        if let Some(call) = self.calls.borrow().get(&index) {
            return Some(call.clone());
        }
        let mut control = link.rpc()?;
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        let call = Rc::new(Call { asks, clients: RefCell::default() });
        self.calls.borrow_mut().insert(index, call.clone());
        let (this, link, stats, mine) = (self.clone(), link.clone(), stats.clone(), call.clone());
        spawn_local(async move {
            let carried = async {
                let begun = timeout(CALL_WITHIN, control.rooms(ReceiverStream::new(receiver))).await;
                match begun {
                    Ok(Ok(told)) => mine.hear(told.into_inner(), &stats).await,
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("the origin did not answer in time"),
                }
            };
            let over = tokio::select! {
                over = carried => over,
                () = link.unreached() => Status::unavailable("the origin is not reached"),
            };
            info!(origin = index, reason = over.message(), "the rooms of an origin are lost");
            this.calls.borrow_mut().remove(&index);
            for client in mine.clients.borrow().values() {
                client.outbox.end(End::RoomLost);
            }
        });
        Some(call)
    }
}

/// The stream whose origin holds a room.
fn place(room: &str) -> StreamName {
    StreamName { vhost: "".into(), app: room.into(), stream: "".into() }
}

impl Seat {
    /// Whether the client is in its room.
    pub(super) fn standing(&self) -> Standing {
        self.client.standing.get()
    }

    /// Asks for something; the answer comes into the client's outbox.
    ///
    /// # Errors
    /// Too much waits already.
    pub(super) fn ask(
        &self,
        (room, display): (Option<String>, Option<String>),
        ask: Asked,
        pending: Pending,
    ) -> Result<(), Refusal> {
        if self.client.pending.borrow().len() >= PENDING_MAX {
            return Err(Refusal::Unavailable);
        }
        let ask = RoomAsk { member: self.number, room, display, ask: Some(ask) };
        self.call.asks.try_send(ask).map_err(|_| Refusal::Unavailable)?;
        self.client.pending.borrow_mut().push_back(pending);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.call.clients.borrow_mut().remove(&self.number);
        let leave = RoomAsk { member: self.number, ask: Some(Asked::Leave(RoomLeave {})), ..RoomAsk::default() };
        if let Err(mpsc::error::TrySendError::Full(leave)) = self.call.asks.try_send(leave) {
            let asks = self.call.asks.clone();
            spawn_local(async move { asks.send(leave).await.ok() });
        }
    }
}

impl Call {
    /// Hears what clients are told, until the call is over; why it is.
    async fn hear(&self, mut told: Streaming<RoomTold>, stats: &Stats) -> Status {
        loop {
            match told.message().await {
                Ok(Some(told)) => match told.told {
                    Some(Told::Reply(reply)) => self.reply(reply, stats),
                    Some(Told::Notice(notice)) => self.notice(notice, stats),
                    Some(Told::Replaced(replaced)) => {
                        if let Some(client) = self.clients.borrow().get(&replaced.member) {
                            client.outbox.end(End::Replaced);
                        }
                    }
                    None => {}
                },
                Ok(None) => return Status::unavailable("the origin ended the call"),
                Err(status) => return status,
            }
        }
    }

    fn reply(&self, reply: RoomReply, stats: &Stats) {
        let clients = self.clients.borrow();
        // Who has left has no answer to wait for.
        let Some(client) = clients.get(&reply.member) else { return };
        let Some(Pending { tid, action }) = client.pending.borrow_mut().pop_front() else { return };
        let answer = match reply.joined {
            _ if !reply.refusal.is_empty() => {
                let why = Refusal::of_code(&reply.refusal);
                stats.signal.refuse(why);
                if client.standing.get() == Standing::Asked {
                    client.standing.set(Standing::Refused);
                }
                Reply::Refused { action, why }
            }
            Some(RoomJoined { room, me, participants }) => {
                client.standing.set(Standing::Joined);
                Reply::Joined(Joined { room: room.into(), me: participant(me), participants: all(participants) })
            }
            None => Reply::Done,
        };
        add(&stats.signal.sent, 1);
        client.outbox.push(answer.text(&tid));
    }

    fn notice(&self, told: RoomNotice, stats: &Stats) {
        let event = match told.event() {
            RoomEvent::Join => Event::Join,
            RoomEvent::Publish => Event::Publish,
            RoomEvent::Control => Event::Control,
            RoomEvent::Leave => Event::Leave,
            RoomEvent::Unspecified => return,
        };
        let displays = told.displays.into_iter().map(String::into_boxed_str);
        let notice = Notice {
            to: told.members.into_iter().zip(displays).collect(),
            event,
            room: told.room.into(),
            peer: participant(told.peer),
            participants: all(told.participants),
            param: told.param,
            data: told.data,
        };
        let clients = self.clients.borrow();
        for (number, text) in notice.texts() {
            let Some(client) = clients.get(number) else { continue };
            add(&stats.signal.sent, 1);
            client.outbox.push(text);
        }
    }
}

fn participant(participant: Option<RoomParticipant>) -> Participant {
    let RoomParticipant { display, publishing } = participant.unwrap_or_default();
    Participant { display: display.into(), publishing }
}

fn all(participants: Vec<RoomParticipant>) -> Vec<Participant> {
    participants.into_iter().map(|one| participant(Some(one))).collect()
}
