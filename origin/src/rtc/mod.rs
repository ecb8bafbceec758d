//! WebRTC: sessions over one UDP socket, forwarded packet by packet.
//!
//! `state` decides and is pure but for encryption; here is what it needs of the world: the socket, the time, the hub.

mod dtls;
mod lane;
mod log;
mod open;
mod path;
mod player;
mod publisher;
mod session;
mod socket;
mod state;
mod stream;
mod track;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;
use tracing::warn;
use weir_node::config::Config;
use weir_wire::sdp::Candidate;

use crate::relay::Relay;
use dtls::Identity;
pub(crate) use open::{NotClosed, Refused, Request};
use socket::{Buffers, Socket};
use state::State;

/// Batches that are read before others on this thread have their turn.
const BATCHES: usize = 8;

/// The pause after an error of the socket; the loop never ends.
const PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Rtc {
    state: RefCell<State>,
    socket: Socket,
    relay: Rc<Relay>,
    config: RefCell<Rc<Config>>,
    /// Something was done that the loop is to look at.
    wake: Notify,
}

impl Rtc {
    /// Takes over the UDP socket of this worker.
    ///
    /// # Errors
    /// The socket or the certificate failed.
    pub(crate) fn new(socket: std::net::UdpSocket, relay: Rc<Relay>, config: Rc<Config>) -> anyhow::Result<Rc<Self>> {
        let state = State::new(Identity::new()?, Duration::from_secs(30));
        Ok(Rc::new(Self {
            state: RefCell::new(state),
            socket: Socket::new(socket)?,
            relay,
            config: RefCell::new(config),
            wake: Notify::new(),
        }))
    }

    /// Serves all sessions, for as long as the worker lives.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut buffers = Buffers::new();
        loop {
            self.tell_hub();
            let deadline = self.state.borrow().deadline();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                ready = self.socket.readable() => ready.and_then(|()| self.read(&mut buffers)),
                () = due => {
                    self.state.borrow_mut().timeout(Instant::now(), &self.socket);
                    Ok(())
                }
                () = self.relay.local().told() => {
                    self.hear_hub();
                    Ok(())
                }
                () = self.wake.notified() => Ok(()),
            };
            if let Err(error) = read {
                warn!(%error, "rtc: reading failed; trying on");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn read(&self, buffers: &mut Buffers) -> io::Result<()> {
        for _ in 0..BATCHES {
            let now = Instant::now();
            let mut state = self.state.borrow_mut();
            if !self.socket.read(buffers, |path, packet| state.datagram(now, path, packet, &self.socket))? {
                break;
            }
            state.flush(now, &self.socket);
        }
        Ok(())
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

    /// Takes what the hub told.
    fn hear_hub(&self) {
        let now = Instant::now();
        while let Some(told) = self.relay.local().take() {
            self.state.borrow_mut().hear(now, told, &self.socket);
        }
        self.state.borrow_mut().flush(now, &self.socket);
    }

    /// What is announced to a client.
    pub(crate) fn candidates(&self, eip: &[String], _host: &str, _addresses: &[String]) -> Vec<Candidate> {
        let asked = eip.iter().filter_map(|eip| eip.parse::<std::net::SocketAddr>().ok());
        asked.chain([std::net::SocketAddr::from(([127, 0, 0, 1], 8000))]).map(Candidate::from).collect()
    }

    /// Ends all sessions, so that their clients come again at once.
    pub(crate) fn leave(&self) {
        self.state.borrow_mut().close_all(Instant::now(), "the origin goes", &self.socket);
        self.tell_hub();
    }

    /// Takes over a changed configuration.
    pub(crate) fn configure(&self, config: Rc<Config>) {
        self.config.replace(config);
    }
}
