//! Datagrams that the kernel dropped at sockets of this process because nobody read them in time.

use std::os::fd::{AsFd, OwnedFd};

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use weir_proto::supervisor::UdpSocket;

/// Sockets of one process that are watched; further ones are not.
pub const SOCKETS_MAX: usize = 1024;

/// Numbers of a socket's memory, since Linux 4.12: `include/uapi/linux/sock_diag.h`, `SK_MEMINFO_*`.
const VARIABLES: usize = 9;

/// The place of `SK_MEMINFO_DROPS` among them.
const DROPS: usize = 8;

sockopt_impl!(
    /// `SO_MEMINFO`.
    MemInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; VARIABLES]
);

/// The watched sockets.
#[derive(Debug, Default)]
pub struct UdpSockets {
    sockets: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    fd: OwnedFd,
    last: u32,
    drops: u64,
}

impl UdpSockets {
    /// Watches a socket from now on, by a copy of its descriptor: its owner may be deep inside of a library. What it
    /// had dropped before, in another process, does not count.
    ///
    /// # Errors
    /// It cannot be copied, or the kernel does not count for it.
    pub fn add(&mut self, name: &str, socket: impl AsFd) -> std::io::Result<()> {
        let last = drops(&socket)?;
        if self.sockets.len() < SOCKETS_MAX {
            let fd = socket.as_fd().try_clone_to_owned()?;
            self.sockets.push(Watched { name: name.to_owned(), fd, last, drops: 0 });
        }
        Ok(())
    }

    /// Counts what all of them dropped since the last call.
    pub fn sample(&mut self) -> u64 {
        let mut sum = 0_u64;
        for socket in &mut self.sockets {
            let Ok(now) = drops(&socket.fd) else { continue };
            // The kernel's counter has 32 bits.
            let more = u64::from(now.wrapping_sub(std::mem::replace(&mut socket.last, now)));
            socket.drops = socket.drops.saturating_add(more);
            sum = sum.saturating_add(more);
        }
        sum
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// What each dropped so far.
    pub fn counts(&self) -> Vec<UdpSocket> {
        let count = |socket: &Watched| UdpSocket { name: socket.name.clone(), receive_drops: socket.drops };
        self.sockets.iter().map(count).collect()
    }
}

fn drops(socket: &impl AsFd) -> std::io::Result<u32> {
    let numbers = getsockopt(socket, MemInfo)?;
    Ok(numbers.get(DROPS).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_queue_that_is_full_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sockets = UdpSockets::default();
        assert!(sockets.is_empty());
        sockets.add("relay.v4", &receiver).unwrap();
        assert_eq!(sockets.sample(), 0);
        let send = |count: usize| {
            for _ in 0..count {
                sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
            }
        };
        send(100);
        // Over the loopback a datagram is in the queue, or dropped, when the call returns.
        let first = sockets.sample();
        assert!((50..100).contains(&first), "{first} dropped of 100");
        assert_eq!(sockets.sample(), 0, "each counts once");
        send(10);
        assert_eq!(sockets.sample(), 10);
        assert_eq!(sockets.counts(), [super::UdpSocket { name: "relay.v4".to_owned(), receive_drops: first + 10 }]);

        // Another process counts from its own beginning.
        let mut later = UdpSockets::default();
        later.add("relay.v4", &receiver).unwrap();
        assert_eq!(later.sample(), 0);
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        let mut sockets = UdpSockets::default();
        assert!(sockets.add("x", std::fs::File::open("/dev/null").unwrap()).is_err());
        assert!(sockets.is_empty());
    }
}
