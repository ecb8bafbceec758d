//! The plan's vocabulary: what it is told, what it answers, and how patient it is.

use std::fmt;
use std::time::Duration;

use weir_node::worker::Role;

/// A moment: the time since an origin that stays the same as long as the plan lives.
pub type Time = Duration;

/// Most incarnations of one slot at a time: the current one and draining ones. A slot that has them waits.
pub const INCARNATIONS_MAX: usize = 4;

/// A place for one worker, with its own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// What its workers are for.
    pub role: Role,
    /// Its number among the slots of the role.
    pub index: u32,
}

impl SlotId {
    /// The edge slot `index`.
    pub fn edge(index: u32) -> Self {
        Self { role: Role::Edge, index }
    }

    /// The origin slot `index`.
    pub fn origin(index: u32) -> Self {
        Self { role: Role::Origin, index }
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.index)
    }
}

/// One worker process: the incarnation is counted over all slots and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    /// Its slot.
    pub slot: SlotId,
    /// Its number.
    pub incarnation: u64,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.slot, self.incarnation)
    }
}

/// How patient the plan is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From spawn to ready; then it is killed.
    pub start: Duration,
    /// Without a report; then its slot is lent.
    pub silent: Duration,
    /// Without a report; then it is killed.
    pub hung: Duration,
    /// From an order to leave at once, or from the end of a drain, to the kill.
    pub stop: Duration,
    /// From a kill to the next, and to giving up when stopping.
    pub reap: Duration,
    /// What a draining worker is given.
    pub drain: Duration,
    /// What the next slot waits for a worker that hands its clients over.
    pub hand_over: Duration,
    /// From a loan's message to its repetition.
    pub ack: Duration,
    /// How long the sockets of a new slot wait for its first worker before they are lent.
    pub cold: Duration,
    /// After a sibling refused a loan.
    pub refused: Duration,
    /// How long a worker serves until its slot's deaths are forgotten; also the span in which they are counted.
    pub stable: Duration,
    /// Between two attempts in a faulted slot.
    pub faulted: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            silent: Duration::from_secs(3),
            hung: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            reap: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            hand_over: Duration::from_secs(5),
            ack: Duration::from_secs(2),
            cold: Duration::from_secs(1),
            refused: Duration::from_secs(1),
            stable: Duration::from_secs(60),
            faulted: Duration::from_secs(60),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// How many slots of each role are wanted. Their sockets are bound.
    Desired {
        /// Edge slots.
        edges: u32,
        /// Origin slots.
        origins: u32,
    },
    /// The worker's link is up.
    Attached(WorkerId),
    /// The worker's link is down.
    Detached(WorkerId),
    /// The worker accepts from its sockets.
    Ready(WorkerId),
    /// The worker's loop runs.
    Report {
        /// Who reports.
        worker: WorkerId,
        /// Clients it has.
        connections: u64,
    },
    /// A worker answered a loan or its return.
    Ack {
        /// Of the action.
        token: u64,
        /// False: it could not.
        done: bool,
    },
    /// The worker's process is no more, or could not be started at all.
    Exited(WorkerId),
    /// Replace every worker, one after the other, while its clients stay.
    Replace,
    /// Drain that slot's worker; the slot gets another one.
    Drain(SlotId),
    /// Time passed.
    Tick,
    /// Stop everything: workers drain, or close their clients at once. A stop that is under way only becomes
    /// more urgent.
    Stop {
        /// Whether they drain.
        graceful: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this worker with its slot's sockets.
    Spawn(WorkerId),
    /// Ask it to close its clients and leave.
    Stop(WorkerId),
    /// End it.
    Kill(WorkerId),
    /// Ask it to stop accepting and to leave when its clients have, at the latest after `within`.
    Drain {
        /// Who.
        worker: WorkerId,
        /// Time given.
        within: Duration,
    },
    /// Ask `from` to stop accepting, to let its clients go on in `to`, and to leave, at the latest after `within`.
    HandOver {
        /// Who leaves.
        from: WorkerId,
        /// Who takes its clients.
        to: WorkerId,
        /// Time given.
        within: Duration,
    },
    /// Give `to` the sockets of `slot` too.
    Lend {
        /// Whose sockets.
        slot: SlotId,
        /// To whom.
        to: WorkerId,
        /// To come back in [`Input::Ack`].
        token: u64,
    },
    /// Tell `from` to stop accepting for `slot`.
    Return {
        /// Whose sockets.
        slot: SlotId,
        /// From whom.
        from: WorkerId,
        /// To come back in [`Input::Ack`].
        token: u64,
    },
    /// Every wanted slot has a ready worker for the first time.
    NotifyReady,
    /// The stop began.
    NotifyStopping,
    /// Close the listening sockets: nobody will accept from them again, and clients are to hear it at once.
    CloseListeners,
    /// All workers are gone but `abandoned` ones, which not even a kill ended.
    Exit {
        /// Number of processes left.
        abandoned: usize,
    },
    /// For the log.
    Note(Note),
}

/// What an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A worker died.
    Died {
        /// Which.
        worker: WorkerId,
        /// Time until the slot is tried again.
        again_in: Duration,
        /// Whether the slot is given up on but for slow attempts.
        faulted: bool,
    },
    /// A worker was not ready in time and is killed.
    StartTooLong(WorkerId),
    /// A worker stopped reporting and is killed.
    Hung(WorkerId),
    /// A worker did not leave in time and is killed.
    LeaveTooLong(WorkerId),
    /// Every worker was replaced.
    Replaced,
    /// The worker that was to replace this slot's one did not get ready; the workers that were not replaced yet stay.
    ReplaceFailed {
        /// Its slot.
        slot: SlotId,
    },
    /// A worker accepts for a sibling slot.
    Lent {
        /// Whose sockets.
        slot: SlotId,
        /// To whom.
        to: WorkerId,
    },
    /// A worker accepts for its own slot again.
    Returned {
        /// Whose sockets.
        slot: SlotId,
        /// From whom.
        from: WorkerId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died { worker, again_in, faulted: false } if again_in.is_zero() => {
                write!(f, "{worker} died; starting its slot again")
            }
            Self::Died { worker, again_in, faulted: false } => {
                write!(f, "{worker} died; starting its slot again in {again_in:.1?}")
            }
            Self::Died { worker, again_in, faulted: true } => {
                write!(f, "{worker} died, too often: its slot is faulted; trying again in {again_in:.1?}")
            }
            Self::StartTooLong(worker) => write!(f, "{worker} was not ready in time; killing it"),
            Self::Hung(worker) => write!(f, "{worker} does not report any more; killing it"),
            Self::LeaveTooLong(worker) => write!(f, "{worker} did not leave in time; killing it"),
            Self::Replaced => write!(f, "every worker was replaced"),
            Self::ReplaceFailed { slot } => {
                write!(f, "the new worker of {slot} did not get ready; the workers stay as they are")
            }
            Self::Lent { slot, to } => write!(f, "{to} accepts for {slot} too"),
            Self::Returned { slot, from } => write!(f, "{from} no longer accepts for {slot}"),
        }
    }
}

/// What [`Plan::poll`](super::Plan::poll) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Do this, then poll again.
    Do(Action),
    /// Nothing to do until something happens, or until this moment.
    Wait(Option<Time>),
}
