//! Subscriptions over QUIC: each group of frames comes on a stream of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::{RecvStream, VarInt};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use weir_wire::relay::{Assembler, Decoder, Group, Record};

use super::Link;
use super::carrier::Lost;

/// How often held groups are looked at.
const TICK: Duration = Duration::from_millis(25);

/// Application error code of a group that is no longer wanted.
const NOT_WANTED: VarInt = VarInt::from_u32(1);

/// The groups of all subscriptions of one connection.
pub(super) struct Groups {
    link: Rc<Link>,
    hold: Duration,
    bound: usize,
    assemblers: RefCell<FxHashMap<u32, Assembler>>,
    /// Streams being read; told when their group is of no more use.
    open: RefCell<FxHashMap<(u32, u64), Rc<Notify>>>,
}

impl Groups {
    pub(super) fn new(link: Rc<Link>, hold: Duration, bound: usize) -> Rc<Self> {
        Rc::new(Self { link, hold, bound, assemblers: RefCell::default(), open: RefCell::default() })
    }

    /// Looks after deadlines until dropped.
    pub(super) async fn tick(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Instant::now();
            let channels: Vec<u32> = self.assemblers.borrow().keys().copied().collect();
            for channel in channels {
                if !self.link.channels.borrow().contains_key(&channel) {
                    self.assemblers.borrow_mut().remove(&channel);
                    continue;
                }
                self.with(channel, |a| a.handle_timeout(now));
            }
            self.link.batch_done();
        }
    }

    /// Reads one stream to its end.
    pub(super) async fn read(self: Rc<Self>, mut stream: RecvStream) -> Result<(), Lost> {
        let mut decoder = Decoder::new();
        let mut input = BytesMut::new();
        let (channel, index, joinable) = loop {
            match decoder.decode(&mut input)? {
                Some(Record::Group { channel, index, joinable }) => break (channel, index, joinable),
                Some(_) => return Err(Lost::NoHello),
                None => {}
            }
            if !fill(&mut stream, &mut input).await {
                return Ok(());
            }
        };
        if !self.link.channels.borrow().contains_key(&channel) {
            stream.stop(NOT_WANTED).ok();
            return Ok(());
        }
        let stop = Rc::new(Notify::new());
        self.open.borrow_mut().insert((channel, index), stop.clone());
        let hold = self.hold;
        let bound = self.bound;
        self.assemblers.borrow_mut().entry(channel).or_insert_with(|| Assembler::new(hold, bound));
        self.with(channel, |a| a.begin(Instant::now(), index, joinable));
        let read = self.frames(&mut stream, &mut decoder, &mut input, (channel, index), &stop).await;
        self.open.borrow_mut().remove(&(channel, index));
        self.with(channel, |a| a.finish(Instant::now(), index));
        self.link.batch_done();
        read
    }

    /// Reads a group's frames to its end, or until it is of no more use.
    async fn frames(
        &self,
        stream: &mut RecvStream,
        decoder: &mut Decoder,
        input: &mut BytesMut,
        (channel, index): (u32, u64),
        stop: &Notify,
    ) -> Result<(), Lost> {
        loop {
            while let Some(record) = decoder.decode(input)? {
                if let Record::Frame { frame, .. } = record {
                    self.with(channel, |a| a.frame(Instant::now(), index, frame));
                }
            }
            self.link.batch_done();
            tokio::select! {
                more = fill(stream, input) => if !more {
                    return Ok(());
                },
                () = stop.notified() => {
                    stream.stop(NOT_WANTED).ok();
                    return Ok(());
                }
            }
        }
    }

    /// Gives a subscription's assembler something, and does what it then says.
    fn with(&self, channel: u32, act: impl FnOnce(&mut Assembler)) {
        match self.assemblers.borrow_mut().get_mut(&channel) {
            Some(assembler) => act(assembler),
            None => return,
        }
        loop {
            let next = self.assemblers.borrow_mut().get_mut(&channel).map(Assembler::poll);
            match next {
                Some(Group::Frame(frame)) => self.link.dispatch(Record::Frame { channel, frame }),
                Some(Group::Stop(index)) => {
                    if let Some(stop) = self.open.borrow().get(&(channel, index)) {
                        stop.notify_one();
                    }
                }
                Some(Group::Wait(_)) | None => return,
            }
        }
    }
}

/// Reads more. False at the end, or when the origin broke the group off.
async fn fill(stream: &mut RecvStream, input: &mut BytesMut) -> bool {
    match stream.read_chunk(64 * 1024, true).await {
        Ok(Some(chunk)) => {
            input.extend_from_slice(&chunk.bytes);
            true
        }
        Ok(None) | Err(_) => false,
    }
}
