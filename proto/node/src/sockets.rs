//! Sockets with names: how a worker knows what the descriptors it was given are for.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The environment variable that lists what a worker inherited: `rtmp.0:9,http.0:10,fds:14`.
pub const FDS_VARIABLE: &str = "WEIR_INTERNAL_FDS";

/// The name of the SEQPACKET socket on which further descriptors come.
pub const FDS_SOCKET: &str = "fds";

/// Most descriptors that a worker inherits.
const INHERITED_MAX: usize = 256;

/// Descriptors below this one are the standard streams.
const FIRST_FD: RawFd = 3;

/// A socket and what it is for.
///
/// Edge slots have `rtmp.N`, `http.N` and `api.N`, N being the index of the address in the configured list;
/// origin slots have `relay.unix` and `control.unix`, and where configured `relay.quic.N` and `rtc.udp.N` (UDP),
/// `rtc.tcp.N` and `control.tcp.N`. All are bound, listening and non-blocking.
#[derive(Debug)]
pub struct NamedSocket {
    /// The name.
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
}

impl NamedSocket {
    /// The name without the index of the address: `rtmp`, `relay.unix`, `control.tcp`.
    pub fn service(&self) -> &str {
        match self.name.rsplit_once('.') {
            Some((service, index)) if index.bytes().all(|b| b.is_ascii_digit()) => service,
            _ => &self.name,
        }
    }

    /// As a TCP listener of the current runtime.
    pub fn into_tcp_listener(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.fd.into())
    }

    /// As a Unix listener of the current runtime.
    pub fn into_unix_listener(self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.fd.into())
    }

    /// As a UDP socket, which quinn takes as it is.
    pub fn into_udp_socket(self) -> std::net::UdpSocket {
        self.fd.into()
    }
}

/// Why [`inherited`] refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable is absent: nobody but the supervisor starts a worker.
    #[error("{FDS_VARIABLE} is not set; workers are started by `weir run`")]
    Absent,
    /// The list cannot be read.
    #[error("{FDS_VARIABLE}: {0:?} is not NAME:NUMBER")]
    Malformed(String),
    /// The list is too long.
    #[error("{FDS_VARIABLE}: more than {INHERITED_MAX} descriptors")]
    TooMany,
    /// A number is a standard stream or stands twice in the list.
    #[error("{FDS_VARIABLE}: descriptor {0} is taken")]
    Taken(RawFd),
    /// A descriptor is not open.
    #[error("{FDS_VARIABLE}: descriptor {fd} ({name}): {error}")]
    Closed {
        /// The name in the list.
        name: String,
        /// The descriptor.
        fd: RawFd,
        /// What the kernel says.
        error: nix::Error,
    },
    /// The list has no [`FDS_SOCKET`].
    #[error("{FDS_VARIABLE}: there is no {FDS_SOCKET}")]
    NoFdsSocket,
}

/// What a worker inherited.
#[derive(Debug)]
pub struct Inherited {
    /// The sockets of its slot.
    pub sockets: Vec<NamedSocket>,
    /// The socket on which further descriptors come.
    pub fds: OwnedFd,
}

/// Writes the list for [`FDS_VARIABLE`].
pub fn list<'a>(fds: impl IntoIterator<Item = (&'a str, RawFd)>) -> String {
    let words: Vec<_> = fds.into_iter().map(|(name, fd)| format!("{name}:{fd}")).collect();
    words.join(",")
}

/// Takes the descriptors that [`FDS_VARIABLE`] lists and makes them close-on-exec.
///
/// To be called once, first thing in the process: the numbers are taken at their word, so a second call would
/// own descriptors twice.
pub fn inherited() -> Result<Inherited, Error> {
    let list = std::env::var(FDS_VARIABLE).map_err(|_| Error::Absent)?;
    let mut sockets = Vec::new();
    for (name, fd) in parse(&list)? {
        sockets.push(NamedSocket { fd: take(&name, fd)?, name });
    }
    let fds = sockets.iter().position(|socket| socket.name == FDS_SOCKET).ok_or(Error::NoFdsSocket)?;
    let fds = sockets.remove(fds).fd;
    Ok(Inherited { sockets, fds })
}

fn parse(list: &str) -> Result<Vec<(String, RawFd)>, Error> {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for word in list.split(',') {
        let malformed = || Error::Malformed(word.to_owned());
        let (name, fd) = word.rsplit_once(':').ok_or_else(malformed)?;
        let fd: RawFd = fd.parse().map_err(|_| malformed())?;
        if fd < FIRST_FD || !seen.insert(fd) {
            return Err(Error::Taken(fd));
        }
        if entries.len() == INHERITED_MAX {
            return Err(Error::TooMany);
        }
        entries.push((name.to_owned(), fd));
    }
    Ok(entries)
}

fn take(name: &str, fd: RawFd) -> Result<OwnedFd, Error> {
    let closed = |error| Error::Closed { name: name.to_owned(), fd, error };
    // SAFETY: only used for the fcntl of this statement, which says whether the descriptor is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(closed)?;
    // SAFETY: it is open, was inherited for this process alone, and the list names it once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_back_as_it_was_written() {
        let written = list([("rtmp.0", 9), ("relay.unix", 10), ("fds", 11)]);
        let read = parse(&written).unwrap();
        assert_eq!(read, [("rtmp.0".to_owned(), 9), ("relay.unix".to_owned(), 10), ("fds".to_owned(), 11)]);
    }

    #[test]
    fn lists_that_would_own_a_descriptor_twice_are_refused() {
        assert!(matches!(parse("a:9,b:9"), Err(Error::Taken(9))));
        assert!(matches!(parse("a:1"), Err(Error::Taken(1))));
        assert!(matches!(parse("a:-1"), Err(Error::Taken(-1))));
        assert!(matches!(parse("a"), Err(Error::Malformed(_))));
        assert!(matches!(parse(""), Err(Error::Malformed(_))));
        assert!(matches!(take("a", 1_000_000), Err(Error::Closed { .. })));
    }

    #[test]
    fn the_service_is_the_name_without_the_index() {
        let service = |name: &str| {
            let (fd, _) = nix::unistd::pipe().unwrap();
            NamedSocket { name: name.to_owned(), fd }.service().to_owned()
        };
        assert_eq!(service("rtmp.12"), "rtmp");
        assert_eq!(service("control.tcp.0"), "control.tcp");
        assert_eq!(service("relay.unix"), "relay.unix");
    }
}
