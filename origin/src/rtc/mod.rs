//! WebRTC: sessions over one UDP socket, forwarded packet by packet.
//!
//! `state` decides and is pure but for encryption; here is what it needs of the world: the socket, the time, the hub.

mod bridges;
mod candidates;
mod dtls;
mod lane;
mod log;
mod open;
mod path;
mod player;
mod publisher;
mod rows;
mod session;
mod socket;
mod state;
mod stats;
mod steer;
mod stream;
mod tcp;
mod track;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::{sleep, sleep_until};
use tracing::warn;
use weir_node::config::Config;
use weir_node::hooks::Lanes;
use weir_wire::sdp::Candidate;

use crate::bridge::audio::Pool;
use crate::bridge::{to_rtc, to_rtmp};
use crate::relay::Relay;
use bridges::Wishes;
pub(crate) use candidates::Asked;
use dtls::Identity;
pub(crate) use open::{NotClosed, Refused, Request};
use socket::{Buffers, Socket, Sockets};
use state::State;
use tcp::Connections;

/// Batches that are read before others on this thread have their turn.
const BATCHES: usize = 8;

/// Frames of sound that may wait for a transcoder's task, which takes them in the same turn of the runtime.
const CHUNKS_MAX: usize = 64;

/// Threads that transcode. One does 200 streams.
const THREADS_MAX: usize = 4;

/// The pause after an error of the socket; the loop never ends.
const PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Rtc {
    state: RefCell<State>,
    sockets: Sockets,
    listeners: RefCell<Vec<TcpListener>>,
    relay: Rc<Relay>,
    config: RefCell<Rc<Config>>,
    overloaded: Cell<bool>,
    callbacks: Lanes,
    /// This host's addresses.
    own: Vec<IpAddr>,
    port: u16,
    /// Threads that transcode sound, made when there is some.
    pool: RefCell<Option<Pool>>,
    /// The deadline that is waited for, and that there is an earlier one.
    armed: Cell<Option<Instant>>,
    earlier: Notify,
}

impl Rtc {
    /// Takes over the UDP sockets of this worker, and listeners for ICE over TCP.
    ///
    /// # Errors
    /// The sockets or the certificate failed.
    pub(crate) fn new(
        sockets: Vec<std::net::UdpSocket>,
        listeners: Vec<TcpListener>,
        relay: Rc<Relay>,
        config: Rc<Config>,
    ) -> anyhow::Result<Rc<Self>> {
        let addresses: Vec<_> = sockets.iter().map(std::net::UdpSocket::local_addr).collect::<Result<_, _>>()?;
        let sockets = sockets.into_iter().enumerate().map(|(n, socket)| Socket::new(n, socket));
        let this = Rc::new(Self {
            state: RefCell::new(State::new(Identity::new()?, config.rtc.stun_timeout)),
            sockets: Sockets { udp: sockets.collect::<Result<_, _>>()?, tcp: Connections::default() },
            listeners: RefCell::new(listeners),
            relay,
            config: RefCell::new(config),
            overloaded: Cell::new(false),
            callbacks: Lanes::default(),
            own: candidates::own(&addresses),
            port: addresses.first().map_or(0, std::net::SocketAddr::port),
            pool: RefCell::default(),
            armed: Cell::new(None),
            earlier: Notify::new(),
        });
        if let Some(warning) = candidates::warning(&this.candidates(&Asked::default())) {
            warn!("{warning}");
        }
        Ok(this)
    }

    /// Serves all sessions, for as long as the worker lives.
    pub(crate) async fn run(self: Rc<Self>) {
        for number in 0..self.sockets.udp.len() {
            spawn_local(self.clone().receive(number));
        }
        for listener in self.listeners.take() {
            spawn_local(self.clone().accept(listener));
        }
        self.relay.local().listen();
        loop {
            let deadline = self.state.borrow().deadline();
            self.armed.set(deadline);
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.state.borrow_mut().timeout(Instant::now(), &self.sockets),
                () = self.relay.local().told() => self.hear_hub(),
                () = self.earlier.notified() => {}
            }
            self.settle();
        }
    }

    /// Serves one socket.
    async fn receive(self: Rc<Self>, number: usize) {
        let Some(socket) = self.sockets.udp.get(number) else { return };
        let mut buffers = Buffers::new();
        loop {
            let read = match socket.readable().await {
                Ok(()) => self.read(socket, &mut buffers),
                Err(error) => Err(error),
            };
            self.settle();
            match read {
                Ok(false) => {}
                Ok(true) => tokio::task::yield_now().await,
                Err(error) => {
                    warn!(%error, "rtc: reading failed; trying on");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// True: there may be more.
    fn read(&self, socket: &Socket, buffers: &mut Buffers) -> io::Result<bool> {
        for _ in 0..BATCHES {
            let now = Instant::now();
            let mut state = self.state.borrow_mut();
            if !socket.read(buffers, |path, packet| state.datagram(now, path, packet, &self.sockets))? {
                return Ok(false);
            }
            state.flush(now, &self.sockets);
        }
        Ok(true)
    }

    /// Serves a listener for ICE over TCP.
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "rtc: accepting failed; trying on");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let this = self.clone();
            spawn_local(async move {
                let each = |path, packet: &mut [u8]| {
                    this.state.borrow_mut().datagram(Instant::now(), path, packet, &this.sockets);
                };
                let behind = |path| {
                    this.state.borrow_mut().flush(Instant::now(), &this.sockets);
                    this.settle();
                    this.state.borrow().knows(path)
                };
                this.sockets.tcp.serve(stream, peer, each, behind).await;
            });
        }
    }

    /// Does what the sessions want of the rest of the process.
    fn settle(self: &Rc<Self>) {
        self.tell_hub();
        self.start_transcoders();
        let deadline = self.state.borrow().deadline();
        if deadline.is_some_and(|at| self.armed.get().is_none_or(|armed| at < armed)) {
            self.armed.set(deadline);
            self.earlier.notify_one();
        }
    }

    /// Tells the hub what sessions want.
    fn tell_hub(&self) {
        loop {
            let Some(record) = self.state.borrow_mut().poll_hub() else { return };
            // Channels are this process's own numbers.
            if let Err(offence) = self.relay.tell(record) {
                warn!(%offence, "rtc: the hub was told nonsense");
            }
        }
    }

    /// Starts what the bridges ask for. Each transcoder is served by a task, which ends when its bridge does.
    fn start_transcoders(self: &Rc<Self>) {
        loop {
            let Some(wanted) = self.state.borrow_mut().poll_sound() else { return };
            let made = self.pool().and_then(|pool| Ok(pool.transcoder(wanted.target)?));
            let mut transcoder = match made {
                Ok(transcoder) => transcoder,
                Err(error) => {
                    warn!(%error, "rtc: sound cannot be transcoded");
                    continue;
                }
            };
            let (to, mut chunks) = mpsc::channel(CHUNKS_MAX);
            self.state.borrow_mut().set_sound(wanted, to);
            let this = self.clone();
            spawn_local(async move {
                loop {
                    tokio::select! {
                        chunk = chunks.recv() => match chunk {
                            Some(chunk) => transcoder.send(chunk),
                            None => break,
                        },
                        coded = transcoder.recv() => {
                            let Some(coded) = coded else { break };
                            let now = Instant::now();
                            let mut state = this.state.borrow_mut();
                            state.transcoded(now, wanted, coded);
                            state.flush(now, &this.sockets);
                            drop(state);
                            this.tell_hub();
                        }
                    }
                }
                let (dropped, failed) = (transcoder.dropped(), transcoder.failed());
                if dropped + failed > 0 {
                    warn!(dropped, failed, "rtc: frames of sound were lost while it was transcoded");
                }
            });
        }
    }

    fn pool(&self) -> anyhow::Result<std::cell::RefMut<'_, Pool>> {
        let mut pool = self.pool.borrow_mut();
        if pool.is_none() {
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            *pool = Some(Pool::new(threads.clamp(1, THREADS_MAX))?);
        }
        std::cell::RefMut::filter_map(pool, Option::as_mut).map_err(|_| anyhow::anyhow!("no threads"))
    }

    /// Takes what the hub told.
    fn hear_hub(&self) {
        let now = Instant::now();
        while let Some(told) = self.relay.local().take() {
            self.state.borrow_mut().hear(now, told, &self.sockets);
        }
        self.state.borrow_mut().flush(now, &self.sockets);
    }

    /// What is announced to a client.
    pub(crate) fn candidates(&self, asked: &Asked<'_>) -> Vec<Candidate> {
        let config = self.config.borrow();
        let configured = candidates::configured(&config.rtc.candidate, |name| std::env::var(name).ok());
        let mut found = candidates::candidates(&config.rtc, &configured, self.port, &self.own, asked);
        if config.rtc.tcp {
            let connections: Vec<_> = found.iter().map(|udp| Candidate { tcp: true, ..udp.clone() }).collect();
            found.extend(connections);
        }
        found
    }

    /// What a stream's vhost bridges.
    pub(crate) fn wishes(&self, vhost: &str) -> Wishes {
        let config = self.config.borrow();
        let rules = config.vhost(vhost).map(|(_, rules)| rules.rtc.clone()).unwrap_or_default();
        let to_rtc = to_rtc::Options { keep_bframe: rules.keep_bframe, ..Default::default() };
        let keyframe_every = Some(rules.pli_for_rtmp).filter(|every| !every.is_zero());
        let to_rtmp = to_rtmp::Options { keyframe_every, ..Default::default() };
        Wishes {
            to_rtc: rules.rtmp_to_rtc.then_some(to_rtc),
            to_rtmp: rules.rtc_to_rtmp.then_some(to_rtmp),
            opus: rules.opus_bitrate,
            aac: rules.aac_bitrate,
        }
    }

    /// Ends all sessions, so that their clients come again at once.
    pub(crate) fn leave(self: &Rc<Self>) {
        self.state.borrow_mut().close_all(Instant::now(), "the origin goes", &self.sockets);
        self.tell_hub();
    }

    /// Returns when callbacks were told of the sessions that ended, or after that time.
    pub(crate) async fn told(&self, within: Duration) {
        self.callbacks.told(within).await;
    }

    /// While it is, there are no new sessions, so that those that are there do not suffer.
    pub(crate) fn set_overloaded(&self, overloaded: bool) {
        self.overloaded.set(overloaded);
    }

    /// Takes over a changed configuration.
    pub(crate) fn configure(&self, config: Rc<Config>) {
        self.callbacks.keep(|vhost| config.vhosts.contains_key(vhost));
        self.config.replace(config);
    }
}
