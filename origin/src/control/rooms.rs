//! Signaling rooms: the clients of all edge workers, as each worker's call carries them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tracing::{info, warn};
use weir_node::config::Config;
use weir_proto::metrics::families;
use weir_proto::origin::room_ask::Ask as Asked;
use weir_proto::origin::room_told::Told;
use weir_proto::origin::{
    RoomAsk, RoomEvent, RoomJoined, RoomNotice, RoomParticipant, RoomReplaced, RoomReply, RoomTold,
};
use weir_proto::supervisor::Snapshot;
use weir_wire::signal::{self, Ask, Event, Limits, Notice, Output, Participant, Reply};

/// What may wait for an edge that does not read. One that is further behind has lost its call, and its clients come anew.
pub(super) const TOLD_MAX: usize = 1024;

/// What may wait for the hub's thread. Calls wait then, and nothing else does: questions have a queue of their own.
const CALLS_MAX: usize = 64;

type Sender = mpsc::Sender<Result<RoomTold, Status>>;

/// The way back to an edge. Dropped, its call is over at both ends.
#[derive(Debug)]
pub(crate) struct Line {
    told: Sender,
    /// Whoever carries the call waits for its end.
    _open: oneshot::Sender<Infallible>,
}

/// A member: which call its edge has, and its number there.
type Member = (u64, u64);

/// What happens to an edge worker's call.
#[derive(Debug)]
pub(crate) enum Call {
    /// It begins.
    Begun(u64, Line),
    /// One of its clients asks for something.
    Asked(u64, RoomAsk),
    /// It is over.
    Over(u64),
}

/// Brings what a call carries to the hub's thread, until it ends: by the edge, or given up there.
pub(super) async fn carry<A>(rooms: mpsc::Sender<Call>, caller: impl fmt::Display, mut asks: A, told: Sender)
where
    A: Stream<Item = Result<RoomAsk, Status>> + Unpin,
{
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let call = NEXT.fetch_add(1, Ordering::Relaxed);
    info!(edge = %caller, call, "its clients' rooms are carried");
    let (open, mut given_up) = oneshot::channel();
    if rooms.send(Call::Begun(call, Line { told, _open: open })).await.is_err() {
        return;
    }
    loop {
        let ask = tokio::select! {
            ask = asks.next() => ask,
            _ = &mut given_up => None,
        };
        let Some(Ok(ask)) = ask else { break };
        if rooms.send(Call::Asked(call, ask)).await.is_err() {
            return;
        }
    }
    info!(edge = %caller, call, "its clients' rooms are not carried any more");
    rooms.send(Call::Over(call)).await.ok();
}

/// The rooms, and the calls that carry their members.
#[derive(Debug)]
pub(crate) struct Rooms {
    machine: RefCell<signal::Rooms<Member>>,
    calls: RefCell<FxHashMap<u64, Line>>,
    /// Members of each call.
    members: RefCell<BTreeSet<Member>>,
    lost: Cell<bool>,
}

fn limits(config: &Config) -> Limits {
    Limits { rooms: config.origin.rooms as usize, members: config.origin.room_members as usize }
}

impl Rooms {
    /// No rooms yet, and where edges' calls are heard.
    pub(crate) fn start(config: &Config) -> (Rc<Self>, mpsc::Sender<Call>) {
        let rooms = Rc::new(Self {
            machine: RefCell::new(signal::Rooms::new(limits(config))),
            calls: RefCell::default(),
            members: RefCell::default(),
            lost: Cell::new(false),
        });
        let (sender, mut calls) = mpsc::channel(CALLS_MAX);
        let this = rooms.clone();
        spawn_local(async move {
            while let Some(call) = calls.recv().await {
                this.handle(call);
            }
        });
        (rooms, sender)
    }

    /// Takes over other limits.
    pub(crate) fn configure(&self, config: &Config) {
        self.machine.borrow_mut().set_limits(limits(config));
    }

    /// Adds what only /metrics shows.
    pub(crate) fn report(&self, snapshot: &mut Snapshot) {
        let (rooms, members) = self.machine.borrow().count();
        snapshot.gauge(&families::ROOMS, &[], rooms as f64);
        snapshot.gauge(&families::ROOM_MEMBERS, &[], members as f64);
    }

    fn handle(&self, call: Call) {
        match call {
            Call::Begun(call, line) => {
                self.calls.borrow_mut().insert(call, line);
            }
            Call::Asked(call, ask) => self.asked(call, ask),
            Call::Over(call) => self.over(call),
        }
        self.tell();
    }

    fn asked(&self, call: u64, ask: RoomAsk) {
        // What was on its way when the call was given up.
        if !self.calls.borrow().contains_key(&call) {
            return;
        }
        let member = (call, ask.member);
        let wanted = match ask.ask {
            Some(Asked::Join(join)) => Ask::Join { room: join.room, display: join.display, key: join.key },
            Some(Asked::Publish(_)) => Ask::Publish,
            Some(Asked::Control(control)) => Ask::Control { call: control.call, data: control.data },
            Some(Asked::Leave(_)) | None => {
                self.members.borrow_mut().remove(&member);
                return self.machine.borrow_mut().leave(member);
            }
        };
        let claims = (ask.room.as_deref(), ask.display.as_deref());
        let handled = self.machine.borrow_mut().handle(Instant::now(), member, claims, wanted);
        let mut reply = RoomReply { member: ask.member, ..RoomReply::default() };
        match handled {
            Ok(Reply::Joined(joined)) => {
                self.members.borrow_mut().insert(member);
                reply.joined = Some(RoomJoined {
                    room: joined.room.into(),
                    me: Some(participant(&joined.me)),
                    participants: joined.participants.iter().map(participant).collect(),
                });
            }
            Ok(_) => {}
            Err(why) => reply.refusal = why.code().to_owned(),
        }
        self.send(call, Told::Reply(reply));
    }

    fn over(&self, call: u64) {
        self.calls.borrow_mut().remove(&call);
        let mut members = self.members.borrow_mut();
        let theirs: Vec<Member> = members.range((call, 0)..=(call, u64::MAX)).copied().collect();
        for member in theirs {
            members.remove(&member);
            self.machine.borrow_mut().leave(member);
        }
    }

    /// Tells what the machine wants told. A call that takes no more is given up, which others are told of in turn.
    fn tell(&self) {
        loop {
            let next = self.machine.borrow_mut().poll();
            match next {
                Some(Output::Notice(notice)) => self.notice(&notice),
                Some(Output::Replaced(member @ (call, number))) => {
                    self.members.borrow_mut().remove(&member);
                    self.send(call, Told::Replaced(RoomReplaced { member: number }));
                }
                None if self.lost.take() => self.give_up(),
                None => return,
            }
        }
    }

    /// One message for each call that has members in the room.
    fn notice(&self, notice: &Notice<Member>) {
        let mut by_call: BTreeMap<u64, (Vec<u64>, Vec<String>)> = BTreeMap::new();
        for ((call, number), display) in &notice.to {
            let (members, displays) = by_call.entry(*call).or_default();
            members.push(*number);
            displays.push(display.to_string());
        }
        let event = match notice.event {
            Event::Join => RoomEvent::Join,
            Event::Publish => RoomEvent::Publish,
            Event::Control => RoomEvent::Control,
            Event::Leave => RoomEvent::Leave,
        };
        let participants: Vec<RoomParticipant> = notice.participants.iter().map(participant).collect();
        for (call, (members, displays)) in by_call {
            let told = RoomNotice {
                members,
                displays,
                event: event.into(),
                room: notice.room.to_string(),
                peer: Some(participant(&notice.peer)),
                participants: participants.clone(),
                param: notice.param.clone(),
                data: notice.data.clone(),
            };
            self.send(call, Told::Notice(told));
        }
    }

    fn send(&self, call: u64, told: Told) {
        let mut calls = self.calls.borrow_mut();
        let Some(line) = calls.get(&call) else { return };
        if let Err(error) = line.told.try_send(Ok(RoomTold { told: Some(told) })) {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                warn!(call, "an edge does not take what its clients are told; they have to come anew");
            }
            calls.remove(&call);
            self.lost.set(true);
        }
    }

    /// The members of calls that are no more leave.
    fn give_up(&self) {
        let calls = self.calls.borrow();
        let mut gone: Vec<u64> = self.members.borrow().iter().map(|(call, _)| *call).collect();
        gone.dedup();
        gone.retain(|call| !calls.contains_key(call));
        drop(calls);
        gone.into_iter().for_each(|call| self.over(call));
    }
}

fn participant(participant: &Participant) -> RoomParticipant {
    RoomParticipant { display: participant.display.to_string(), publishing: participant.publishing }
}

#[cfg(test)]
mod tests {
    use tokio_stream::wrappers::ReceiverStream;
    use weir_proto::origin::{RoomControl, RoomJoin};

    use super::*;

    fn join(rooms: &Rooms, call: u64, member: u64, display: &str) {
        let join = RoomJoin { room: "live".to_owned(), display: display.to_owned(), key: String::new() };
        let ask = RoomAsk { member, ask: Some(Asked::Join(join)), ..RoomAsk::default() };
        rooms.handle(Call::Asked(call, ask));
    }

    fn alert(rooms: &Rooms, call: u64, member: u64) {
        let control = RoomControl { call: "alert".to_owned(), data: String::new() };
        let ask = RoomAsk { member, ask: Some(Asked::Control(control)), ..RoomAsk::default() };
        rooms.handle(Call::Asked(call, ask));
    }

    fn told(receiver: &mut mpsc::Receiver<Result<RoomTold, Status>>) -> Vec<Told> {
        std::iter::from_fn(|| receiver.try_recv().ok()).filter_map(|told| told.unwrap().told).collect()
    }

    #[test]
    fn members_leave_with_their_call_and_an_edge_that_does_not_read_loses_it() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let (rooms, _calls) = Rooms::start(&Config::default());
            let mut edges: Vec<_> = (0..3)
                .map(|call| {
                    let (sender, receiver) = mpsc::channel(if call == 1 { 8 } else { 64 });
                    let (open, _) = oneshot::channel();
                    rooms.handle(Call::Begun(call, Line { told: sender, _open: open }));
                    receiver
                })
                .collect();
            join(&rooms, 0, 1, "a");
            join(&rooms, 0, 2, "b");
            join(&rooms, 1, 1, "c");
            join(&rooms, 2, 1, "d");
            assert_eq!(rooms.machine.borrow().count(), (1, 4));
            let [first, second, third] = &mut edges[..] else { panic!() };
            told(first);
            told(third);
            // Both members of an edge are told by one message.
            alert(&rooms, 1, 1);
            let Ok([Told::Notice(notice)]) = <[Told; 1]>::try_from(told(first)) else { panic!() };
            assert_eq!((notice.members, notice.displays), (vec![1, 2], vec!["a".to_owned(), "b".to_owned()]));
            told(third);
            // The second edge reads nothing more: it has its own answers, and then no place for another message.
            (0..8).for_each(|_| alert(&rooms, 0, 1));
            assert_eq!(rooms.machine.borrow().count(), (1, 3));
            let gone = told(third).into_iter().find_map(|told| match told {
                Told::Notice(notice) if notice.event() == RoomEvent::Leave => notice.peer,
                _ => None,
            });
            assert_eq!(gone.unwrap().display, "c");
            assert!(told(second).len() == 8 && second.is_closed());
            // What it still asks is not heard.
            join(&rooms, 1, 9, "e");
            rooms.handle(Call::Over(1));
            rooms.handle(Call::Over(0));
            assert_eq!(rooms.machine.borrow().count(), (1, 1));
            rooms.handle(Call::Over(2));
            assert_eq!(rooms.machine.borrow().count(), (0, 0));
        });
    }

    #[test]
    fn a_call_that_is_given_up_ends_for_its_edge_too() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let (rooms, calls) = Rooms::start(&Config::default());
            let (told, mut hears) = mpsc::channel(1);
            let (asks, asked) = mpsc::channel(8);
            let carried = spawn_local(carry(calls, "edge/0", ReceiverStream::new(asked), told));
            // Its edge reads none of the answers.
            for member in [1, 2] {
                let join = RoomJoin { room: "live".to_owned(), display: member.to_string(), key: String::new() };
                asks.send(Ok(RoomAsk { member, ask: Some(Asked::Join(join)), ..RoomAsk::default() })).await.unwrap();
            }
            tokio::time::timeout(std::time::Duration::from_secs(5), carried).await.unwrap().unwrap();
            assert!(hears.recv().await.is_some() && hears.recv().await.is_none(), "it is told that it is over");
            assert_eq!(rooms.machine.borrow().count(), (0, 0));
        });
    }
}
