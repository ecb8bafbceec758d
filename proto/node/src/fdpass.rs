//! File descriptors over a SEQPACKET socket, in messages that carry a token.
//!
//! The gRPC message that names the token follows the descriptors, so a receiver finds them already queued and
//! neither side ever waits here. What an older, lost exchange left in the queue is closed and passed over.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// Most descriptors of one message. The kernel's own limit is 253 (`SCM_MAX_FD`).
pub const BATCH_MAX: usize = 64;

/// Most descriptors of one hand-over: the addresses of one slot.
pub const HANDOVER_MAX: usize = 256;

/// Bytes of a message: the token, little-endian.
const TOKEN_BYTES: usize = size_of::<u64>();

/// Why descriptors did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More descriptors were announced than [`HANDOVER_MAX`].
    #[error("{0} descriptors were announced, at most {HANDOVER_MAX} are taken")]
    TooMany(usize),
    /// The queue ended before all of them came.
    #[error("{got} of {wanted} descriptors had come when the queue was empty")]
    Missing {
        /// How many came.
        got: usize,
        /// How many were announced.
        wanted: usize,
    },
    /// The message's bytes or number of descriptors are not what the sender writes.
    #[error("a message of {bytes} bytes with {fds} descriptors is not part of a hand-over")]
    Malformed {
        /// Bytes of the message.
        bytes: usize,
        /// Descriptors of the message.
        fds: usize,
    },
    /// The kernel could not install all of them, most likely for this process's limit of open files.
    #[error("descriptors were lost on the way (limit of open files?)")]
    Truncated,
    /// The socket failed.
    #[error("the descriptor socket failed: {0}")]
    Io(#[from] io::Error),
}

/// Sends `fds` under `token`. Never waits: a full queue is `WouldBlock`, and what was sent of a hand-over by
/// then is passed over by the receiver.
pub fn send(socket: BorrowedFd<'_>, token: u64, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in fds.chunks(BATCH_MAX) {
        send_with(socket, &token.to_le_bytes(), batch)?;
    }
    Ok(())
}

/// Sends `bytes`, or the part of them that fits, with at most [`BATCH_MAX`] descriptors, which arrive with the first.
/// Never waits.
pub(crate) fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?)
}

/// Takes the `wanted` descriptors that were sent under `token`, close-on-exec, in the order they were sent.
pub fn receive(socket: BorrowedFd<'_>, token: u64, wanted: usize) -> Result<Vec<OwnedFd>, Error> {
    if wanted > HANDOVER_MAX {
        return Err(Error::TooMany(wanted));
    }
    let mut taken = Vec::with_capacity(wanted);
    while taken.len() < wanted {
        let message = match receive_one(socket) {
            Ok(message) => message,
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Missing { got: taken.len(), wanted });
            }
            Err(e) => return Err(e),
        };
        if message.token == token {
            taken.extend(message.fds);
        }
    }
    match taken.len() == wanted {
        true => Ok(taken),
        false => Err(Error::Malformed { bytes: TOKEN_BYTES, fds: taken.len() }),
    }
}

struct Message {
    token: u64,
    fds: Vec<OwnedFd>,
}

/// Room for the control data of a whole batch. Of `u64` so that it is aligned for `cmsghdr`.
const CONTROL_WORDS: usize = (BATCH_MAX * size_of::<RawFd>() + 64) / size_of::<u64>();

fn receive_one(socket: BorrowedFd<'_>) -> Result<Message, Error> {
    let mut bytes = [0u8; TOKEN_BYTES + 1];
    let (read, fds) = receive_with(socket, &mut bytes)?;
    if read == 0 && fds.is_empty() {
        return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match bytes.first_chunk::<TOKEN_BYTES>() {
        Some(token) if read == TOKEN_BYTES && !fds.is_empty() => Ok(Message { token: u64::from_le_bytes(*token), fds }),
        _ => Err(Error::Malformed { bytes: read, fds: fds.len() }),
    }
}

/// Reads once into `bytes`, with the descriptors that came, close-on-exec. Never waits.
pub(crate) fn receive_with(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Error> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points at `bytes` and `control`, which live and are not touched until the call returns,
    // and their lengths are those of the buffers behind them.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let fds = rights(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Error::Truncated);
    }
    Ok((read, fds))
}

/// The descriptors of a received message. Owned at once, so none leaks whatever is wrong with the message.
fn rights(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled the header in: msg_control and msg_controllen enclose well-formed control messages,
    // which the CMSG functions walk. The data of an SCM_RIGHTS message is as many descriptors as fit its length;
    // the kernel installed each for this process and nobody else owns them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(part) = message.as_ref() {
            if part.cmsg_level == libc::SOL_SOCKET && part.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(part).cast::<RawFd>();
                let empty = libc::CMSG_LEN(0) as usize;
                let count = part.cmsg_len.saturating_sub(empty) / size_of::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(header, part);
        }
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use nix::sys::stat::fstat;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn files(count: usize) -> Vec<File> {
        (0..count).map(|_| tempfile_like()).collect()
    }

    /// A file of its own inode.
    fn tempfile_like() -> File {
        let (read, _write) = nix::unistd::pipe().unwrap();
        File::from(read)
    }

    fn borrowed(files: &[File]) -> Vec<BorrowedFd<'_>> {
        files.iter().map(AsFd::as_fd).collect()
    }

    #[test]
    fn a_hand_over_of_several_batches_keeps_its_order() {
        let (a, b) = pair();
        let files = files(BATCH_MAX + 3);
        send(a.as_fd(), 7, &borrowed(&files)).unwrap();
        let taken = receive(b.as_fd(), 7, files.len()).unwrap();
        let inode = |fd: BorrowedFd<'_>| fstat(fd).unwrap().st_ino;
        let sent: Vec<_> = files.iter().map(|f| inode(f.as_fd())).collect();
        let came: Vec<_> = taken.iter().map(|f| inode(f.as_fd())).collect();
        assert_eq!(sent, came);
        let flags = nix::fcntl::fcntl(&taken[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn what_an_older_exchange_left_is_closed_and_passed_over() {
        let (a, b) = pair();
        let (old, new) = (files(2), files(1));
        send(a.as_fd(), 1, &borrowed(&old)).unwrap();
        send(a.as_fd(), 2, &borrowed(&new)).unwrap();
        let taken = receive(b.as_fd(), 2, 1).unwrap();
        assert_eq!(fstat(&taken[0]).unwrap().st_ino, fstat(&new[0]).unwrap().st_ino);
        assert!(matches!(receive(b.as_fd(), 2, 1), Err(Error::Missing { got: 0, wanted: 1 })));
    }

    #[test]
    fn too_few_too_many_and_garbage_are_refused() {
        let (a, b) = pair();
        send(a.as_fd(), 3, &borrowed(&files(2))).unwrap();
        assert!(matches!(receive(b.as_fd(), 3, 3), Err(Error::Missing { got: 2, wanted: 3 })));
        send(a.as_fd(), 4, &borrowed(&files(2))).unwrap();
        assert!(matches!(receive(b.as_fd(), 4, 1), Err(Error::Malformed { .. })));
        nix::unistd::write(&a, b"12345678").unwrap();
        assert!(matches!(receive(b.as_fd(), 5, 1), Err(Error::Malformed { bytes: 8, fds: 0 })));
        assert!(matches!(receive(b.as_fd(), 5, HANDOVER_MAX + 1), Err(Error::TooMany(_))));
        drop(a);
        assert!(matches!(receive(b.as_fd(), 5, 1), Err(Error::Io(_))));
    }
}
