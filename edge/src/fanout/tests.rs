//! The fan-out against real sockets.

use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpListener;
use weir_media::{FrameId, GopLimits, Kind, flv};

use super::*;

pub(super) const LIMITS: GopLimits = GopLimits { bytes: 64 << 20, frames: 100_000, duration: 3600 * 1_000_000 };
pub(super) const PATIENCE: Patience = Patience { skip: 10_000_000, close: 30_000_000 };

/// A stream with one format, fed by hand.
pub(super) struct Rig {
    pub(super) gop: Gop,
    pub(super) fan: FanOut,
    pub(super) seq: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        let gop = Gop::new(LIMITS);
        let fan = FanOut::new(Format::Flv, &gop);
        Self { gop, fan, seq: 0 }
    }

    pub(super) fn frame(&mut self, dts_ms: i64, body: Vec<u8>) -> Frame {
        self.seq += 1;
        let frame = Frame::new(FrameId { epoch: 1, seq: self.seq }, Kind::Video, dts_ms * 1000, Bytes::from(body));
        let starts = self.gop.push(&frame);
        self.fan.push(&frame, starts, &self.gop);
        frame
    }

    pub(super) fn config(&mut self) -> Frame {
        self.frame(0, vec![0x17, 0, 0, 0, 0, 9])
    }

    pub(super) fn key(&mut self, dts_ms: i64, size: usize) -> Frame {
        self.frame(dts_ms, [&[0x17, 1, 0, 0, 0][..], &vec![1; size]].concat())
    }

    pub(super) fn inter(&mut self, dts_ms: i64, size: usize) -> Frame {
        self.frame(dts_ms, [&[0x27, 1, 0, 0, 0][..], &vec![2; size]].concat())
    }

    pub(super) fn walk(&mut self, patience: Patience) -> Vec<Blocked> {
        let (mut walk, mut blocked) = (Walk::default(), Vec::new());
        while !self.fan.walk(&mut walk, patience, &mut blocked) {}
        blocked
    }

    pub(super) async fn player(&mut self, start: Start) -> (usize, Rc<Handle>, Peer) {
        let (server, peer) = pair().await;
        let handle = Rc::new(Handle::default());
        let (key, _) = self.fan.join(server, handle.clone(), start);
        (key, handle, peer)
    }
}

pub(super) fn start(intro: &[u8]) -> Start {
    Start { front: Vec::new(), intro: intro.to_vec(), cached: true }
}

/// The client's end.
pub(super) struct Peer(std::net::TcpStream);

impl Peer {
    /// What came so far.
    pub(super) fn read(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut part = vec![0; 1 << 16];
        loop {
            match self.0.read(&mut part) {
                Ok(0) => return out,
                Ok(n) => out.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::TimedOut => return out,
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// A connection with small buffers.
pub(super) async fn pair() -> (Rc<TcpStream>, Peer) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    SockRef::from(&listener).set_send_buffer_size(16 * 1024).unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    server.writable().await.unwrap();
    (Rc::new(server), Peer(client))
}

pub(super) fn tags(frames: &[&Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        flv::write_tag(&mut out, frame);
    }
    out
}

pub(super) fn at(frame: &Frame, dts_ms: i64) -> Frame {
    Frame { dts: dts_ms * 1000, ..frame.clone() }
}

pub(super) fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.unwrap() });
}

#[test]
fn a_join_gets_headers_and_the_group_and_then_what_comes() {
    on_runtime(async {
        let mut rig = Rig::new();
        let config = rig.config();
        rig.key(0, 50);
        let key = rig.key(2000, 50);
        let inter = rig.inter(2040, 50);
        let (_, handle, mut peer) = rig.player(start(b"HEAD")).await;
        assert!(handle.started());
        assert_eq!(peer.read(), [b"HEAD".to_vec(), tags(&[&at(&config, 2000), &key, &inter])].concat());
        let next = rig.inter(2080, 50);
        assert!(rig.walk(PATIENCE).is_empty());
        assert_eq!(peer.read(), tags(&[&next]));
    });
}

#[test]
fn without_the_cache_a_join_waits_for_the_next_keyframe() {
    on_runtime(async {
        let mut rig = Rig::new();
        let config = rig.config();
        rig.key(0, 50);
        let (_, handle, mut peer) = rig.player(Start { cached: false, ..start(b"HEAD") }).await;
        rig.inter(40, 50);
        rig.walk(PATIENCE);
        assert!(!handle.started());
        assert_eq!(peer.read(), b"");
        let key = rig.key(80, 50);
        rig.walk(PATIENCE);
        assert_eq!(peer.read(), [b"HEAD".to_vec(), tags(&[&at(&config, 80), &key])].concat());
    });
}

/// Fills a player's socket with one long message; it is left in the middle of it.
pub(super) async fn stuck(rig: &mut Rig) -> (usize, Rc<Handle>, Peer, Frame) {
    rig.config();
    let long = rig.key(0, 8 << 20);
    let (key, handle, peer) = rig.player(start(b"")).await;
    (key, handle, peer, long)
}

#[test]
fn a_slow_player_finishes_its_message_and_goes_on_at_the_newest_keyframe() {
    on_runtime(async {
        let mut rig = Rig::new();
        let (key, handle, mut peer, long) = stuck(&mut rig).await;
        rig.inter(5000, 50);
        rig.walk(PATIENCE);
        let newest = rig.key(11_000, 50);
        rig.walk(PATIENCE);
        assert_eq!(rig.fan.take_counts().0, 1);
        let config = rig.gop.configs().iter().next().unwrap().clone();
        let wanted = tags(&[&config, &long, &at(&config, 11_000), &newest]);
        let mut seen = Vec::new();
        let socket = rig.fan.players[key].socket().clone();
        while seen.len() < wanted.len() {
            seen.extend(peer.read());
            socket.writable().await.unwrap();
            rig.fan.writable(key, &socket, PATIENCE);
            assert_eq!(handle.closed(), None);
        }
        assert!(seen == wanted, "{} bytes of {}", seen.len(), wanted.len());
    });
}

#[test]
fn a_player_that_does_not_read_is_closed_and_costs_no_memory() {
    on_runtime(async {
        let mut rig = Rig::new();
        let (_, handle, _peer, _) = stuck(&mut rig).await;
        for second in 1..=31 {
            rig.key(second * 1000, 200_000);
            rig.walk(PATIENCE);
        }
        assert_eq!(handle.closed(), Some(CloseReason::TooSlow));
        assert_eq!(rig.fan.len(), 0);
        // Who waits for its socket is told, so that nothing keeps the connection open.
        tokio::time::timeout(Duration::from_secs(1), handle.left()).await.unwrap();
        rig.key(32_000, 100);
        rig.walk(PATIENCE);
        assert!(rig.fan.memory() < 1 << 20, "{}", rig.fan.memory());
    });
}

#[test]
fn what_is_a_players_own_waits_for_a_message_boundary() {
    on_runtime(async {
        let mut rig = Rig::new();
        let (key, _, mut peer, long) = stuck(&mut rig).await;
        rig.fan.control(key, b"PONG");
        let config = rig.gop.configs().iter().next().unwrap().clone();
        let wanted = [tags(&[&config, &long]), b"PONG".to_vec()].concat();
        let socket = rig.fan.players[key].socket().clone();
        let mut seen = Vec::new();
        while seen.len() < wanted.len() {
            seen.extend(peer.read());
            socket.writable().await.unwrap();
            rig.fan.writable(key, &socket, PATIENCE);
        }
        assert!(seen == wanted);
        rig.fan.control(key, &[0; 4097]);
        assert_eq!(rig.fan.len(), 0, "answers are bounded");
    });
}

#[test]
fn pause_stops_at_a_boundary_and_unpause_goes_on_without_going_back() {
    on_runtime(async {
        let mut rig = Rig::new();
        let config = rig.config();
        rig.key(0, 50);
        let (key, handle, mut peer) = rig.player(start(b"")).await;
        peer.read();
        rig.fan.pause(key, true);
        assert!(handle.stopped());
        let missed = rig.inter(40, 50);
        rig.walk(PATIENCE);
        assert_eq!(peer.read(), b"");
        rig.fan.pause(key, false);
        assert_eq!(peer.read(), tags(&[&missed]), "the same group goes on where it was");
        rig.fan.pause(key, true);
        rig.inter(80, 50);
        let newest = rig.key(1000, 50);
        let last = rig.inter(1040, 50);
        rig.walk(PATIENCE);
        assert_eq!(peer.read(), b"");
        rig.fan.pause(key, false);
        assert_eq!(peer.read(), tags(&[&at(&config, 1000), &newest, &last]), "else the newest does");
    });
}

#[test]
fn shedding_closes_only_who_stands_in_what_is_gone() {
    on_runtime(async {
        let mut rig = Rig::new();
        let (_, slow, _peer, _) = stuck(&mut rig).await;
        let (_, other, mut other_peer) = rig.player(Start { cached: false, ..start(b"") }).await;
        while rig.fan.shed() > 0 {}
        assert_eq!(slow.closed(), Some(CloseReason::TooSlow));
        assert_eq!(other.closed(), None);
        rig.key(1000, 50);
        rig.walk(PATIENCE);
        assert!(!other_peer.read().is_empty());
    });
}

#[test]
fn a_player_that_left_is_taken_out() {
    on_runtime(async {
        let mut rig = Rig::new();
        rig.config();
        rig.key(0, 50);
        let (_, handle, peer) = rig.player(start(b"")).await;
        drop(peer);
        for i in 1..50 {
            rig.inter(i * 40, 1000);
            rig.walk(PATIENCE);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(handle.closed(), Some(CloseReason::Gone));
        assert_eq!(rig.fan.len(), 0);
    });
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

struct Client {
    key: usize,
    handle: Rc<Handle>,
    peer: Peer,
    socket: Rc<TcpStream>,
    seen: Vec<u8>,
    paused: bool,
}

/// Whole tags in order of time; the last may be unfinished where the player was closed or did not read on.
fn check_tags(seen: &[u8], whole: bool) {
    let (mut rest, mut last) = (seen, 0);
    while let Some(head) = rest.get(..11) {
        let size = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let time = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        assert_eq!((head[0], &head[8..11]), (9, &[0; 3][..]), "a torn message");
        assert!(time >= last, "{time} after {last}");
        let Some(tag) = rest.get(..size + flv::TAG_OVERHEAD) else { break };
        assert!(tag.ends_with(&(size as u32 + 11).to_be_bytes()), "a torn message");
        (rest, last) = (&rest[tag.len()..], time);
    }
    assert!(!whole || rest.is_empty(), "{} bytes behind the last message", rest.len());
}

/// Whatever players do, and however slowly they read, no message is ever torn.
#[test]
fn players_at_random_get_whole_messages_in_order() {
    for seed in 0..8 {
        on_runtime(async move {
            let mut dice = Dice(seed);
            let mut rig = Rig::new();
            let mut clients: Vec<Client> = Vec::new();
            let patience = Patience { skip: 800_000, close: 4_000_000 };
            rig.config();
            for step in 0..300 {
                let size = 100 + dice.roll(60_000) as usize;
                if step % 10 == 0 {
                    rig.key(step * 40, size)
                } else {
                    rig.inter(step * 40, size)
                };
                if clients.len() < 6 && dice.roll(4) == 0 {
                    let (server, peer) = pair().await;
                    let handle = Rc::new(Handle::default());
                    let cached = dice.roll(2) == 0;
                    let begin = Start { cached, ..start(b"") };
                    let (key, _) = rig.fan.join(server.clone(), handle.clone(), begin);
                    clients.push(Client { key, handle, peer, socket: server, seen: Vec::new(), paused: false });
                }
                rig.walk(patience);
                if dice.roll(60) == 0 {
                    rig.fan.shed();
                }
                for client in &mut clients {
                    if client.handle.closed().is_some() {
                        continue;
                    }
                    match dice.roll(12) {
                        0 => {
                            client.paused = !client.paused;
                            rig.fan.pause(client.key, client.paused);
                        }
                        // Most read seldom, and then all there is.
                        1 => {
                            client.seen.extend(client.peer.read());
                            tokio::task::yield_now().await;
                            rig.fan.writable(client.key, &client.socket, patience);
                        }
                        _ => {}
                    }
                }
            }
            for mut client in clients {
                let key = client.key;
                for _ in 0..2000 {
                    client.seen.extend(client.peer.read());
                    if client.handle.closed().is_some()
                        || rig.fan.players[key].cursor().is_none_or(|at| at == rig.fan.log.end())
                    {
                        break;
                    }
                    client.socket.writable().await.unwrap();
                    rig.fan.writable(key, &client.socket, PATIENCE);
                }
                client.seen.extend(client.peer.read());
                check_tags(&client.seen, client.handle.closed().is_none());
            }
        });
    }
}

#[test]
fn one_that_finishes_gets_all_there_is_by_then_and_nothing_more() {
    on_runtime(async {
        let mut rig = Rig::new();
        let config = rig.config();
        let key = rig.key(0, 100);
        let (player, handle, mut peer) = rig.player(start(b"")).await;
        assert_eq!(peer.read(), tags(&[&config, &key]));
        // No round has written these yet.
        let waiting = [rig.inter(40, 100), rig.inter(80, 100)];
        rig.fan.finish(player);
        rig.inter(120, 100);
        rig.walk(PATIENCE);
        assert_eq!(peer.read(), tags(&[&waiting[0], &waiting[1]]));
        assert!(handle.stopped());
    });
}

#[test]
fn one_that_asks_without_reading_is_let_go_at_once_even_while_its_socket_is_full() {
    on_runtime(async {
        let mut rig = Rig::new();
        rig.config();
        rig.key(0, 8 << 20);
        let (player, handle, _peer) = rig.player(start(b"")).await;
        for _ in 0..64 {
            rig.fan.control(player, &[0; 64]);
            assert_eq!((handle.closed(), rig.fan.len()), (None, 1));
        }
        rig.fan.control(player, &[0; 64]);
        assert_eq!((handle.closed(), rig.fan.len()), (Some(CloseReason::Flood), 0));
    });
}
