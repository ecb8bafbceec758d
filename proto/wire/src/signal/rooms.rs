//! The rooms of one origin: members and what they ask for in, answers and what others are told out.

use std::collections::VecDeque;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use super::{Ask, Event, Joined, Notice, Output, Participant, Refusal, Reply, check_name};

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rooms.
    pub rooms: usize,
    /// Members of one room.
    pub members: usize,
}

/// See the module. `M` names members, whichever edge they came to.
#[derive(Debug)]
pub struct Rooms<M> {
    limits: Limits,
    rooms: FxHashMap<Box<str>, Vec<Seat<M>>>,
    /// Which room a member is in.
    members: FxHashMap<M, Box<str>>,
    outputs: VecDeque<Output<M>>,
}

/// A member's place in a room; rooms keep them in the order in which they came.
#[derive(Debug)]
struct Seat<M> {
    member: M,
    participant: Participant,
    key: Box<str>,
}

fn participants<M>(room: &[Seat<M>]) -> Vec<Participant> {
    room.iter().map(|seat| seat.participant.clone()).collect()
}

impl<M: Copy + Eq + Hash> Rooms<M> {
    /// No rooms.
    pub fn new(limits: Limits) -> Self {
        Self { limits, rooms: FxHashMap::default(), members: FxHashMap::default(), outputs: VecDeque::new() }
    }

    /// Takes over other limits. Who is there stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Rooms, and members of all of them.
    pub fn count(&self) -> (usize, usize) {
        (self.rooms.len(), self.members.len())
    }

    /// What a member asks for. `claims` is the room and the name that it says it has; what it leaves out is not looked at.
    ///
    /// # Errors
    /// It is not done, and nothing has changed.
    pub fn handle(&mut self, member: M, claims: (Option<&str>, Option<&str>), ask: Ask) -> Result<Reply, Refusal> {
        match ask {
            Ask::Join { room, display, key } => self.join(member, &room, &display, &key).map(Reply::Joined),
            Ask::Publish => {
                let seat = self.seat(member, claims)?;
                seat.participant.publishing = true;
                self.tell(member, Event::Publish, String::new(), String::new());
                Ok(Reply::Done)
            }
            Ask::Control { call, data } => {
                self.seat(member, claims)?;
                self.tell(member, Event::Control, call, data);
                Ok(Reply::Done)
            }
        }
    }

    /// A member's connection is gone. One that is in no room may leave, too.
    pub fn leave(&mut self, member: M) {
        let Some(name) = self.members.remove(&member) else { return };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let Some(place) = room.iter().position(|seat| seat.member == member) else { return };
        let gone = room.remove(place);
        if room.is_empty() {
            self.rooms.remove(&name);
            return;
        }
        let to = room.iter().map(|seat| (seat.member, seat.participant.display.clone())).collect();
        let participants = participants(room);
        self.outputs.push_back(Output::Notice(Notice {
            to,
            event: Event::Leave,
            room: name,
            peer: gone.participant,
            participants,
            param: String::new(),
            data: String::new(),
        }));
    }

    /// What is to be done, in order; `None` when all is.
    pub fn poll(&mut self) -> Option<Output<M>> {
        self.outputs.pop_front()
    }

    fn join(&mut self, member: M, name: &str, display: &str, key: &str) -> Result<Joined, Refusal> {
        if self.members.contains_key(&member) {
            return Err(Refusal::AlreadyJoined);
        }
        check_name(name)?;
        check_name(display)?;
        let Some(room) = self.rooms.get_mut(name) else {
            if self.rooms.len() >= self.limits.rooms || self.limits.members == 0 {
                return Err(Refusal::TooManyRooms);
            }
            self.rooms.insert(name.into(), Vec::new());
            return Ok(self.seated(member, name, display, key));
        };
        if let Some(seat) = room.iter_mut().find(|seat| *seat.participant.display == *display) {
            if key.is_empty() || *seat.key != *key {
                return Err(Refusal::DisplayTaken);
            }
            // The same client by another connection, as after a change of networks: for the others nothing happened.
            let before = std::mem::replace(&mut seat.member, member);
            let me = seat.participant.clone();
            let participants = participants(room);
            self.members.remove(&before);
            self.members.insert(member, name.into());
            self.outputs.push_back(Output::Replaced(before));
            return Ok(Joined { room: name.into(), me, participants });
        }
        if room.len() >= self.limits.members {
            return Err(Refusal::RoomFull);
        }
        Ok(self.seated(member, name, display, key))
    }

    fn seated(&mut self, member: M, name: &str, display: &str, key: &str) -> Joined {
        let me = Participant { display: display.into(), publishing: false };
        let room = self.rooms.entry(name.into()).or_default();
        room.push(Seat { member, participant: me.clone(), key: key.into() });
        let participants = participants(room);
        self.members.insert(member, name.into());
        self.tell(member, Event::Join, String::new(), String::new());
        Joined { room: name.into(), me, participants }
    }

    fn seat(&mut self, member: M, claims: (Option<&str>, Option<&str>)) -> Result<&mut Seat<M>, Refusal> {
        let name = self.members.get(&member).ok_or(Refusal::NotJoined)?;
        let room = self.rooms.get_mut(name).ok_or(Refusal::NotJoined)?;
        let seat = room.iter_mut().find(|seat| seat.member == member).ok_or(Refusal::NotJoined)?;
        let (room, display) = claims;
        let is = |claim: Option<&str>, own: &str| claim.is_none_or(|claim| claim == own);
        if is(room, name) && is(display, &seat.participant.display) { Ok(seat) } else { Err(Refusal::NotYours) }
    }

    /// Tells the others in a member's room of it.
    fn tell(&mut self, member: M, event: Event, param: String, data: String) {
        let Some(name) = self.members.get(&member) else { return };
        let Some(room) = self.rooms.get(name) else { return };
        let Some(seat) = room.iter().find(|seat| seat.member == member) else { return };
        let others = room.iter().filter(|seat| seat.member != member);
        let to: Vec<_> = others.map(|seat| (seat.member, seat.participant.display.clone())).collect();
        if to.is_empty() {
            return;
        }
        self.outputs.push_back(Output::Notice(Notice {
            to,
            event,
            room: name.clone(),
            peer: seat.participant.clone(),
            participants: participants(room),
            param,
            data,
        }));
    }
}
