//! The rooms of one origin: members and what they ask for in, answers and what others are told out.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Instant;

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

/// Messages a second that the members of a room may be sent by what they tell each other, and how many at once. One of
/// fifty costs as many as it has readers.
const PACE: f64 = 1000.0;
const BURST: f64 = 5000.0;

/// See the module. `M` names members, whichever edge they came to.
#[derive(Debug)]
pub struct Rooms<M> {
    limits: Limits,
    rooms: FxHashMap<Box<str>, Room<M>>,
    /// Which room a member is in.
    members: FxHashMap<M, Box<str>>,
    outputs: VecDeque<Output<M>>,
}

/// Who is there, in the order in which they came, and how much they may still tell each other.
#[derive(Debug)]
struct Room<M> {
    seats: Vec<Seat<M>>,
    left: f64,
    at: Instant,
}

impl<M> Room<M> {
    /// Something is told to all but one. False: it is too much.
    fn tells(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * PACE).min(BURST), now);
        let readers = self.seats.len().saturating_sub(1) as f64;
        let fits = readers <= self.left;
        if fits {
            self.left -= readers;
        }
        fits
    }
}

/// A member's place in a room.
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
    /// What members tell each other is bounded by the messages that it makes.
    ///
    /// # Errors
    /// It is not done, and nothing has changed.
    pub fn handle(
        &mut self,
        now: Instant,
        member: M,
        claims: (Option<&str>, Option<&str>),
        ask: Ask,
    ) -> Result<Reply, Refusal> {
        match ask {
            Ask::Join { room, display, key } => self.join(now, member, &room, &display, &key).map(Reply::Joined),
            Ask::Ping => Ok(Reply::Done),
            Ask::Publish => {
                self.may_tell(now, member, claims)?;
                let seat = self.seat(member, claims)?;
                seat.participant.publishing = true;
                self.tell(member, Event::Publish, String::new(), String::new());
                Ok(Reply::Done)
            }
            Ask::Control { call, data } => {
                self.may_tell(now, member, claims)?;
                self.tell(member, Event::Control, call, data);
                Ok(Reply::Done)
            }
        }
    }

    /// A member's connection is gone. One that is in no room may leave, too.
    pub fn leave(&mut self, member: M) {
        let Some(name) = self.members.remove(&member) else { return };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let seats = &mut room.seats;
        let Some(place) = seats.iter().position(|seat| seat.member == member) else { return };
        let gone = seats.remove(place);
        if seats.is_empty() {
            self.rooms.remove(&name);
            return;
        }
        let to = seats.iter().map(|seat| (seat.member, seat.participant.display.clone())).collect();
        let participants = participants(seats);
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

    fn join(&mut self, now: Instant, member: M, name: &str, display: &str, key: &str) -> Result<Joined, Refusal> {
        if self.members.contains_key(&member) {
            return Err(Refusal::AlreadyJoined);
        }
        check_name(name)?;
        check_name(display)?;
        let Some(room) = self.rooms.get_mut(name) else {
            if self.rooms.len() >= self.limits.rooms || self.limits.members == 0 {
                return Err(Refusal::TooManyRooms);
            }
            self.rooms.insert(name.into(), Room { seats: Vec::new(), left: BURST, at: now });
            return self.seated(member, name, display, key);
        };
        if let Some(seat) = room.seats.iter_mut().find(|seat| *seat.participant.display == *display) {
            if key.is_empty() || *seat.key != *key {
                return Err(Refusal::DisplayTaken);
            }
            // The same client by another connection, as after a change of networks: for the others nothing happened.
            let before = std::mem::replace(&mut seat.member, member);
            let me = seat.participant.clone();
            let participants = participants(&room.seats);
            self.members.remove(&before);
            self.members.insert(member, name.into());
            self.outputs.push_back(Output::Replaced(before));
            return Ok(Joined { room: name.into(), me, participants });
        }
        if room.seats.len() >= self.limits.members {
            return Err(Refusal::RoomFull);
        }
        self.seated(member, name, display, key)
    }

    fn seated(&mut self, member: M, name: &str, display: &str, key: &str) -> Result<Joined, Refusal> {
        let me = Participant { display: display.into(), publishing: false };
        let room = self.rooms.get_mut(name).ok_or(Refusal::Unavailable)?;
        room.seats.push(Seat { member, participant: me.clone(), key: key.into() });
        let participants = participants(&room.seats);
        self.members.insert(member, name.into());
        self.tell(member, Event::Join, String::new(), String::new());
        Ok(Joined { room: name.into(), me, participants })
    }

    /// Whether a member is who it says it is, and its room may be told more.
    fn may_tell(&mut self, now: Instant, member: M, claims: (Option<&str>, Option<&str>)) -> Result<(), Refusal> {
        self.seat(member, claims)?;
        let name = self.members.get(&member).ok_or(Refusal::NotJoined)?;
        let room = self.rooms.get_mut(name).ok_or(Refusal::NotJoined)?;
        if room.tells(now) { Ok(()) } else { Err(Refusal::TooFast) }
    }

    fn seat(&mut self, member: M, claims: (Option<&str>, Option<&str>)) -> Result<&mut Seat<M>, Refusal> {
        let name = self.members.get(&member).ok_or(Refusal::NotJoined)?;
        let room = self.rooms.get_mut(name).ok_or(Refusal::NotJoined)?;
        let seat = room.seats.iter_mut().find(|seat| seat.member == member).ok_or(Refusal::NotJoined)?;
        let (room, display) = claims;
        let is = |claim: Option<&str>, own: &str| claim.is_none_or(|claim| claim == own);
        if is(room, name) && is(display, &seat.participant.display) { Ok(seat) } else { Err(Refusal::NotYours) }
    }

    /// Tells the others in a member's room of it.
    fn tell(&mut self, member: M, event: Event, param: String, data: String) {
        let Some(name) = self.members.get(&member) else { return };
        let Some(Room { seats: room, .. }) = self.rooms.get(name) else { return };
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
