//! The run directory and every socket of the host.
//!
//! For each TCP address of an edge there is one SO_REUSEPORT socket an edge slot, all with the same options, and
//! none is closed while the supervisor serves and the configuration names it: closing a listener resets the connections
//! in its queue.

mod bind;
mod run_dir;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::Socket;
use weir_node::config::{Config, Listen};
use weir_node::sockets::NamedSocket;
use weir_node::worker::Role;

use crate::plan::SlotId;
use bind::{BACKLOG, PREDECESSOR, listening, patiently, refuse, tcp, udp};
pub use run_dir::RunDir;

/// Why the host's sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another supervisor has this run directory.
    #[error("{}: another weir{} runs here; stop it or set another node.run_dir", path.display(), pid_text(*pid))]
    Running {
        /// The run directory.
        path: PathBuf,
        /// Its process, if it wrote it down.
        pid: Option<u32>,
    },
    /// The run directory cannot be used.
    #[error("run directory {}: {error}", path.display())]
    RunDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another program listens there.
    #[error("{name} {address}: another program listens there (another weir with its own run directory, perhaps)")]
    InUse {
        /// The listener.
        name: String,
        /// Its address.
        address: SocketAddr,
    },
    /// This process has no descriptor left for it.
    #[error("{name}: {error}")]
    Copy {
        /// The listener.
        name: String,
        /// What the system says.
        error: io::Error,
    },
    /// The address cannot be bound.
    #[error("{name} {address}: {error}")]
    Bind {
        /// The listener.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// What edges listen for.
const EDGE_SERVICES: [&str; 6] = ["rtmp", "http", "api", "https", "rtmps", "signal"];

/// One address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `rtmp.0`, or with the slot in front where each slot has its own: `origin-1.relay.quic.0`.
    pub name: String,
    /// The address.
    pub address: String,
}

/// The sockets of every slot.
#[derive(Debug, Default)]
pub struct Slots {
    sockets: BTreeMap<SlotId, Vec<NamedSocket>>,
    /// Those that the supervisor answers on itself.
    own: Vec<NamedSocket>,
    listeners: Vec<Listener>,
}

impl Slots {
    /// Binds everything that `config` asks for. To be called once, with the run directory held.
    pub fn bind(config: &Config, run_dir: &RunDir) -> Result<Self, Error> {
        let mut slots = Self::default();
        slots.bind_all_edges(config, &Self::default())?;
        slots.bind_own("metrics", &config.metrics.listen)?;
        for index in 0..config.origin.workers {
            slots.bind_origin(config, run_dir, index)?;
        }
        Ok(slots)
    }

    /// The same sockets where `config` names their addresses still, and new ones for more slots and other addresses. The
    /// slots of workers that are not wanted any more keep theirs; what belongs to origins stays as it is.
    ///
    /// # Errors
    /// An address cannot be had; nothing is changed.
    pub fn rebind(&self, config: &Config) -> Result<Self, Error> {
        let mut slots = Self::default();
        slots.bind_all_edges(config, self)?;
        for own in &self.own {
            slots.own.push(copy(own)?);
        }
        for (slot, sockets) in self.sockets.iter().filter(|(slot, _)| slot.role == Role::Origin) {
            slots.sockets.insert(*slot, sockets.iter().map(copy).collect::<Result<_, _>>()?);
        }
        let others = self.listeners.iter().filter(|listener| !is_edge(&listener.name));
        slots.listeners.extend(others.cloned());
        Ok(slots)
    }

    /// The sockets of the image that this process ran before.
    pub fn inherit(
        sockets: BTreeMap<SlotId, Vec<NamedSocket>>,
        own: Vec<NamedSocket>,
        listeners: Vec<Listener>,
    ) -> Self {
        Self { sockets, own, listeners }
    }

    /// Every slot's sockets.
    pub fn all(&self) -> impl Iterator<Item = (SlotId, &[NamedSocket])> {
        self.sockets.iter().map(|(slot, sockets)| (*slot, sockets.as_slice()))
    }

    /// Whether the edges of both listen on the same addresses.
    pub fn same_addresses(&self, other: &Self) -> bool {
        let edges = |slots: &Self| -> Vec<_> {
            slots.listeners.iter().filter(|listener| is_edge(&listener.name)).cloned().collect()
        };
        edges(self) == edges(other)
    }

    /// The sockets of a slot; none for a slot that was not bound.
    pub fn sockets(&self, slot: SlotId) -> &[NamedSocket] {
        self.sockets.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// The sockets that the supervisor answers on itself, `metrics.N`.
    pub fn own(&self) -> &[NamedSocket] {
        &self.own
    }

    /// Every address that is listened on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Closes those of the slots. What still waits in their queues is reset once the workers have closed them too.
    pub fn close(&mut self) {
        self.sockets.clear();
    }

    fn bind_all_edges(&mut self, config: &Config, old: &Self) -> Result<(), Error> {
        let edge = &config.edge;
        let had = old.sockets.keys().filter(|slot| slot.role == Role::Edge).map(|slot| slot.index + 1).max();
        let slots = config.edge_workers().max(had.unwrap_or(0));
        let signal = if edge.signal.enabled { &edge.signal.listen } else { &Listen::OFF };
        let listens =
            [&edge.rtmp.listen, &edge.http.listen, &edge.api.listen, &edge.https.listen, &edge.rtmps.listen, signal];
        for (service, listen) in EDGE_SERVICES.into_iter().zip(listens) {
            self.bind_edges(service, listen, slots, old)?;
        }
        Ok(())
    }

    fn bind_edges(&mut self, service: &str, listen: &Listen, workers: u32, old: &Self) -> Result<(), Error> {
        for (n, address) in listen.addresses().iter().enumerate() {
            let name = format!("{service}.{n}");
            let before = old
                .listeners
                .iter()
                .find(|listener| listener.address == address.to_string() && service_of(&listener.name) == service);
            if workers > 0 && before.is_none() {
                // SO_REUSEPORT would join another program's group of the same user, and share its clients.
                let patience = if old.listeners.is_empty() { PREDECESSOR } else { Duration::ZERO };
                patiently(&name, *address, patience, || tcp(*address, false).map(drop))?;
            }
            for slot in (0..workers).map(SlotId::edge) {
                let had = before.and_then(|before| old.sockets(slot).iter().find(|socket| socket.name == before.name));
                let bind = || match had {
                    Some(had) => had.fd.try_clone(),
                    None => {
                        let socket = tcp(*address, true)?;
                        socket.listen(BACKLOG)?;
                        Ok(socket.into())
                    }
                };
                let fd = bind().map_err(|error| refuse(&name, *address, error))?;
                self.sockets.entry(slot).or_default().push(NamedSocket { name: name.clone(), fd });
            }
            self.listeners.push(Listener { name, address: address.to_string() });
        }
        Ok(())
    }

    fn bind_own(&mut self, service: &str, listen: &Listen) -> Result<(), Error> {
        for (n, address) in listen.addresses().iter().enumerate() {
            let name = format!("{service}.{n}");
            let socket = patiently(&name, *address, PREDECESSOR, || listening(*address))?;
            self.listeners.push(Listener { name: name.clone(), address: address.to_string() });
            self.own.push(NamedSocket { name, fd: socket.into() });
        }
        Ok(())
    }

    fn bind_origin(&mut self, config: &Config, run_dir: &RunDir, index: u32) -> Result<(), Error> {
        let slot = SlotId::origin(index);
        for service in ["relay", "control"] {
            let socket = run_dir.listen(&format!("origin-{index}.{service}.sock"))?;
            self.push(slot, format!("{service}.unix"), socket);
        }
        let worker = u16::try_from(index).unwrap_or(u16::MAX);
        for (n, address) in config.cluster.relay.listen.of_worker(worker).into_iter().enumerate() {
            let name = format!("relay.quic.{n}");
            let socket = patiently(&name, address, PREDECESSOR, || udp(address))?;
            self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
            self.push(slot, name, socket);
        }
        for (n, address) in config.rtc.listen.of_worker(worker).into_iter().enumerate() {
            let name = format!("rtc.udp.{n}");
            let socket = patiently(&name, address, PREDECESSOR, || udp(address))?;
            self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
            self.push(slot, name, socket);
            if config.rtc.tcp {
                let name = format!("rtc.tcp.{n}");
                let socket = patiently(&name, address, PREDECESSOR, || listening(address))?;
                self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
                self.push(slot, name, socket);
            }
        }
        for (n, address) in config.cluster.control.listen.of_worker(worker).into_iter().enumerate() {
            let name = format!("control.tcp.{n}");
            let socket = patiently(&name, address, PREDECESSOR, || listening(address))?;
            self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
            self.push(slot, name, socket);
        }
        Ok(())
    }

    fn push(&mut self, slot: SlotId, name: String, socket: Socket) {
        self.sockets.entry(slot).or_default().push(NamedSocket { name, fd: socket.into() });
    }
}

fn copy(socket: &NamedSocket) -> Result<NamedSocket, Error> {
    let fd = socket.fd.try_clone().map_err(|error| Error::Copy { name: socket.name.clone(), error })?;
    Ok(NamedSocket { name: socket.name.clone(), fd })
}

/// The name without the index of the address.
fn service_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(service, _)| service)
}

fn is_edge(name: &str) -> bool {
    EDGE_SERVICES.contains(&service_of(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_their_own_ports_and_edges_share_theirs() {
        let parent = tempfile::tempdir().unwrap();
        let run_dir = RunDir::lock(parent.path()).unwrap();
        let mut config = Config::default();
        config.edge.workers = weir_node::config::Auto::Is(2);
        config.edge.rtmp.listen = Listen::at(["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]);
        config.edge.http.listen = Listen::OFF;
        config.edge.api.listen = Listen::OFF;
        config.edge.signal.listen = Listen::OFF;
        config.metrics.listen = Listen::at(["127.0.0.1:0".parse().unwrap()]);
        config.origin.workers = 2;
        config.rtc.listen = Listen::OFF;
        let port = (20_000..).find(|port| (0..2).all(|i| std::net::UdpSocket::bind(("127.0.0.1", port + i)).is_ok()));
        let relay = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        config.cluster.relay.listen = Listen::at([relay]);
        let slots = Slots::bind(&config, &run_dir).unwrap();

        let names = |slot| slots.sockets(slot).iter().map(|socket| socket.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(SlotId::edge(1)), ["rtmp.0", "rtmp.1"]);
        assert_eq!(names(SlotId::origin(1)), ["relay.unix", "control.unix", "relay.quic.0"]);
        assert_eq!(slots.own().iter().map(|socket| socket.name.as_str()).collect::<Vec<_>>(), ["metrics.0"]);
        let listeners: Vec<_> = slots.listeners().iter().map(|l| (l.name.as_str(), l.address.clone())).collect();
        let second = SocketAddr::new(relay.ip(), relay.port() + 1).to_string();
        assert!(listeners.contains(&("origin-1.relay.quic.0", second)), "{listeners:?}");
        assert!(run_dir.path().join("origin-1.relay.sock").exists());
    }
}
