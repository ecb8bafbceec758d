//! Subscriptions over QUIC: each group of frames comes on a stream of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::{ReadError, RecvStream, VarInt};
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
            if !matches!(fill(&mut stream, &mut input).await, Ok(true)) {
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
        let whole = matches!(read, Ok(true)) && input.is_empty() && !decoder.in_frame();
        self.with(channel, |a| a.finish(Instant::now(), index, whole));
        self.link.batch_done();
        read.map(|_| ())
    }

    /// Reads a group's frames until its stream ends, or it is of no more use. True when the origin finished it.
    async fn frames(
        &self,
        stream: &mut RecvStream,
        decoder: &mut Decoder,
        input: &mut BytesMut,
        (channel, index): (u32, u64),
        stop: &Notify,
    ) -> Result<bool, Lost> {
        loop {
            while let Some(record) = decoder.decode(input)? {
                if let Record::Frame { frame, .. } = record {
                    self.with(channel, |a| a.frame(Instant::now(), index, frame));
                }
            }
            self.link.batch_done();
            tokio::select! {
                more = fill(stream, input) => match more {
                    Ok(true) => {}
                    Ok(false) => return Ok(true),
                    Err(_) => return Ok(false),
                },
                () = stop.notified() => {
                    stream.stop(NOT_WANTED).ok();
                    return Ok(false);
                }
            }
        }
    }

    /// Gives a subscription's assembler something, and does what it then says.
    fn with(&self, channel: u32, act: impl FnOnce(&mut Assembler)) {
        match self.assemblers.borrow_mut().get_mut(&channel) {
            Some(assembler) => {
                let before = assembler.skips();
                act(assembler);
                self.link.skipped(assembler.skips() - before);
            }
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

/// Reads more. False when the origin finished the stream, an error when it, or the connection, broke off.
async fn fill(stream: &mut RecvStream, input: &mut BytesMut) -> Result<bool, ReadError> {
    let chunk = stream.read_chunk(64 * 1024, true).await?;
    if let Some(chunk) = &chunk {
        input.extend_from_slice(&chunk.bytes);
    }
    Ok(chunk.is_some())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;
    use std::rc::Weak;

    use bytes::Bytes;
    use quinn::{Connection, Endpoint, SendStream};
    use tokio::task::spawn_local;
    use tokio::time::{sleep, timeout};
    use weir_media::{Frame, FrameId, Kind};
    use weir_node::cert::{make_ca, make_node};
    use weir_node::config::Tls;
    use weir_node::quic;
    use weir_node::tls::ClusterTls;
    use weir_wire::relay::encode;

    use super::super::Target;
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const SOON: Duration = Duration::from_secs(10);
    const CHANNEL: u32 = 1;

    fn certificate(dir: &Path, name: &str) -> ClusterTls {
        let made = make_node(dir, &[name.to_owned()]).unwrap();
        let text = |path: &Path| path.display().to_string();
        ClusterTls::load(&Tls { ca: text(&dir.join("ca.pem")), cert: text(&made.cert), key: text(&made.key) }).unwrap()
    }

    /// The origin's end of a connection and the edge's.
    async fn connected() -> (Connection, Connection) {
        let dir = tempfile::tempdir().unwrap();
        make_ca(dir.path()).unwrap();
        let server = quic::server_config(&certificate(dir.path(), "origin-1")).unwrap();
        let server = Endpoint::server(server, ANY).unwrap();
        let mut client = Endpoint::client(ANY).unwrap();
        client.set_default_client_config(quic::client_config(&certificate(dir.path(), "edge-1")).unwrap());
        let connecting = client.connect(server.local_addr().unwrap(), "origin-1").unwrap();
        let accepted = async { server.accept().await.unwrap().await.unwrap() };
        let (edge, origin) = timeout(SOON, async { tokio::join!(connecting, accepted) }).await.unwrap();
        (origin, edge.unwrap())
    }

    async fn group(origin: &Connection, index: u64, joinable: bool) -> SendStream {
        let mut stream = origin.open_uni().await.unwrap();
        let mut bytes = BytesMut::new();
        encode(&mut bytes, &Record::Group { channel: CHANNEL, index, joinable });
        encode(&mut bytes, &frame(index));
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    fn frame(seq: u64) -> Record {
        let body = Bytes::from_static(&[0x27, 1, 0, 0, 0, 1]);
        Record::Frame { channel: CHANNEL, frame: Frame::new(FrameId { epoch: 1, seq }, Kind::Video, 0, body) }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Ends {
        Finished,
        Reset,
        InAFrame,
    }

    /// Ends a group behind which its further part waits. True when the edge stops that part.
    async fn part_is_stopped(ends: Ends) -> bool {
        let (origin, edge) = connected().await;
        let link = Link::new(Weak::new(), 0, 1 << 20);
        link.channels.borrow_mut().insert(CHANNEL, Target::Stream(Weak::new()));
        let groups = Groups::new(link, SOON * 2, 1 << 20);
        let reading = groups.clone();
        spawn_local(async move {
            while let Ok(stream) = edge.accept_uni().await {
                spawn_local(reading.clone().read(stream));
            }
        });
        let mut first = group(&origin, 0, true).await;
        let part = group(&origin, 1, false).await;
        let both = async {
            while groups.open.borrow().len() < 2 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, both).await.expect("the groups did not begin");
        match ends {
            Ends::Finished => first.finish().unwrap(),
            Ends::Reset => first.reset(VarInt::from_u32(2)).unwrap(),
            Ends::InAFrame => {
                let mut bytes = BytesMut::new();
                encode(&mut bytes, &frame(1));
                first.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
                first.finish().unwrap();
            }
        }
        let ended = async {
            while groups.open.borrow().contains_key(&(CHANNEL, 0)) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, ended).await.expect("the end was not seen");
        let left_out = groups.assemblers.borrow()[&CHANNEL].skips() > 0;
        if left_out {
            let stopped = timeout(SOON, part.stopped()).await.expect("the part was not stopped");
            assert_eq!(stopped, Ok(Some(NOT_WANTED)));
        }
        left_out
    }

    #[test]
    fn a_part_goes_on_only_behind_a_group_that_was_finished() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let runtime = runtime.unwrap();
        for ends in [Ends::Finished, Ends::Reset, Ends::InAFrame] {
            let stopped = runtime.block_on(part_is_stopped(ends));
            assert_eq!(stopped, ends != Ends::Finished, "{ends:?}");
        }
        runtime.shutdown_background();
    }
}
