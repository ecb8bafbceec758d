//! The run directory and every socket of the host.
//!
//! For each TCP address of an edge there is one SO_REUSEPORT socket an edge slot, all with the same options, and
//! none is closed while the supervisor serves: closing a listener resets the connections in its queue.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_node::config::{Config, Listen};
use weir_node::sockets::NamedSocket;

use crate::plan::SlotId;

/// Connections that may wait in one slot's queue. The kernel takes `net.core.somaxconn` when that is less.
const BACKLOG: i32 = 4096;

/// How long an address may still be taken by the workers of a supervisor that died: they let go of it as soon as
/// they hear of its death.
const PREDECESSOR: Duration = Duration::from_secs(2);

/// Time between two attempts within [`PREDECESSOR`].
const AGAIN: Duration = Duration::from_millis(50);

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

/// The run directory, held exclusively for the process's life.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the directory (mode 0700) where needed, locks it, and removes the sockets of a dead predecessor.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let refuse = |error| Error::RunDir { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| keep_private(path)).map_err(refuse)?;
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open.open(path.join("lock")).map_err(refuse)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, nix::Error::EWOULDBLOCK)) => {
                return Err(Error::Running { path: path.to_owned(), pid: holder(file) });
            }
            Err((_, error)) => return Err(refuse(error.into())),
        };
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(refuse)?;
        let dir = Self { path: path.to_owned(), _lock: lock };
        dir.remove_sockets().map_err(refuse)?;
        Ok(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A listening unix socket `name` in the directory.
    pub fn listen(&self, name: &str) -> Result<Socket, Error> {
        let path = self.path.join(name);
        let bind = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(&path)?)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        bind().map_err(|error| Error::RunDir { path: path.clone(), error })
    }

    /// Removes every socket file: those of a dead predecessor, or at the end one's own.
    pub fn remove_sockets(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whoever can write to the directory can stand in for the supervisor or an origin. A default directory has a name
/// that another user may have taken first.
fn keep_private(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it is not a directory of this user"));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// The process that a lock file names.
fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// One address that is listened on.
#[derive(Clone, Debug)]
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
        let edge = &config.edge;
        for (service, listen) in [("rtmp", &edge.rtmp.listen), ("http", &edge.http.listen), ("api", &edge.api.listen)] {
            slots.bind_edges(service, listen, config.edge_workers())?;
        }
        slots.bind_own("metrics", &config.metrics.listen)?;
        for index in 0..config.origin.workers {
            slots.bind_origin(config, run_dir, index)?;
        }
        Ok(slots)
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

    fn bind_edges(&mut self, service: &str, listen: &Listen, workers: u32) -> Result<(), Error> {
        for (n, address) in listen.addresses().iter().enumerate() {
            let name = format!("{service}.{n}");
            if workers > 0 {
                // SO_REUSEPORT would join another program's group of the same user, and share its clients.
                patiently(&name, *address, || tcp(*address, false).map(drop))?;
            }
            for index in 0..workers {
                let bind = || {
                    let socket = tcp(*address, true)?;
                    socket.listen(BACKLOG)?;
                    Ok(socket)
                };
                let socket = bind().map_err(|error| refuse(&name, *address, error))?;
                self.push(SlotId::edge(index), name.clone(), socket);
            }
            self.listeners.push(Listener { name, address: address.to_string() });
        }
        Ok(())
    }

    fn bind_own(&mut self, service: &str, listen: &Listen) -> Result<(), Error> {
        for (n, address) in listen.addresses().iter().enumerate() {
            let name = format!("{service}.{n}");
            let socket = patiently(&name, *address, || listening(*address))?;
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
            let socket = patiently(&name, address, || udp(address))?;
            self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
            self.push(slot, name, socket);
        }
        for (n, address) in config.cluster.control.listen.of_worker(worker).into_iter().enumerate() {
            let name = format!("control.tcp.{n}");
            let socket = patiently(&name, address, || listening(address))?;
            self.listeners.push(Listener { name: format!("origin-{index}.{name}"), address: address.to_string() });
            self.push(slot, name, socket);
        }
        Ok(())
    }

    fn push(&mut self, slot: SlotId, name: String, socket: Socket) {
        self.sockets.entry(slot).or_default().push(NamedSocket { name, fd: socket.into() });
    }
}

fn refuse(name: &str, address: SocketAddr, error: io::Error) -> Error {
    let name = name.to_owned();
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { name, address },
        _ => Error::Bind { name, address, error },
    }
}

/// Tries again while the address may be a dead predecessor's.
fn patiently<T>(name: &str, address: SocketAddr, bind: impl Fn() -> io::Result<T>) -> Result<T, Error> {
    let until = Instant::now() + PREDECESSOR;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            bound => return bound.map_err(|error| refuse(name, address, error)),
        }
    }
}

fn tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the last run that are still closing do not keep the address from this one.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    finish(socket, address)
}

/// A listener of the one process that has it.
fn listening(address: SocketAddr) -> io::Result<Socket> {
    let socket = tcp(address, false)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    finish(socket, address)
}

fn finish(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    if address.is_ipv6() {
        // IPv4 clients have a listener of their own, so that one file serves hosts with and without IPv6.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_is_private_locked_and_rid_of_dead_sockets() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/run");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path.join("link.sock")).unwrap());
        fs::write(path.join("notes"), "kept").unwrap();

        let dir = RunDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(!path.join("link.sock").exists() && path.join("notes").exists());
        let error = RunDir::lock(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("another weir (process {}) runs here", std::process::id())), "{error}");
        drop(dir);
        RunDir::lock(&path).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_ours_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        let error = RunDir::lock(&link).unwrap_err().to_string();
        assert!(error.contains("not a directory of this user"), "{error}");
    }

    #[test]
    fn origins_have_their_own_ports_and_edges_share_theirs() {
        let parent = tempfile::tempdir().unwrap();
        let run_dir = RunDir::lock(parent.path()).unwrap();
        let mut config = Config::default();
        config.edge.workers = weir_node::config::Auto::Is(2);
        config.edge.rtmp.listen = Listen::at(["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]);
        config.edge.http.listen = Listen::OFF;
        config.edge.api.listen = Listen::OFF;
        config.metrics.listen = Listen::at(["127.0.0.1:0".parse().unwrap()]);
        config.origin.workers = 2;
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
