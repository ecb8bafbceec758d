//! Sockets as they are bound.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;

/// Connections that may wait in one slot's queue. The kernel takes `net.core.somaxconn` when that is less.
pub(super) const BACKLOG: i32 = 4096;

/// How long an address may still be taken by the workers of a supervisor that died: they let go of it as soon as
/// they hear of its death.
pub(super) const PREDECESSOR: Duration = Duration::from_secs(2);

/// Time between two attempts within [`PREDECESSOR`].
const AGAIN: Duration = Duration::from_millis(50);

pub(super) fn refuse(name: &str, address: SocketAddr, error: io::Error) -> Error {
    let name = name.to_owned();
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { name, address },
        _ => Error::Bind { name, address, error },
    }
}

/// Tries again for a while: the address may be a dead predecessor's.
pub(super) fn patiently<T>(
    name: &str,
    address: SocketAddr,
    patience: Duration,
    bind: impl Fn() -> io::Result<T>,
) -> Result<T, Error> {
    let until = Instant::now() + patience;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            bound => return bound.map_err(|error| refuse(name, address, error)),
        }
    }
}

pub(super) fn tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the last run that are still closing do not keep the address from this one.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    finish(socket, address)
}

/// A listener of the one process that has it.
pub(super) fn listening(address: SocketAddr) -> io::Result<Socket> {
    let socket = tcp(address, false)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

pub(super) fn udp(address: SocketAddr) -> io::Result<Socket> {
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
