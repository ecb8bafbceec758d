//! Clients on their way from one worker process to another, over a unix stream socket.
//!
//! ```text
//! giver                                              taker
//!                      <──────────────── magic, version: it is ready
//!   magic, version, count, length  + descriptors ──────>
//!   count times: length, state     ────────────────────>
//!                      <────────────────  count bytes: 1 taken, 0 not
//! ```
//!
//! A giver forgets a client only when it was acknowledged. What the states are is the workers' business; a taker of another
//! version hangs up, and the giver keeps its clients. Both are processes of one user in a directory of mode 0700.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::fdpass;

/// Most clients of one batch.
pub const BATCH_MAX: usize = fdpass::BATCH_MAX;

/// Bytes of states at which a batch is full; one client may have more.
pub const BATCH_BYTES: usize = 8 << 20;

/// Bytes of one client's state.
pub const STATE_MAX: usize = 128 << 20;

/// What the states mean. To be changed when a taker would misunderstand them; fields that may be passed over change
/// nothing.
pub const VERSION: u16 = 1;

/// How long one batch, or the connection, may take.
const WITHIN: Duration = Duration::from_secs(5);

const MAGIC: [u8; 4] = *b"weir";
const HEADER: usize = 16;
const GREETING: usize = 6;

/// Why a batch was not handed over, or not received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed, or the other side hung up.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("the other worker did not answer within {WITHIN:?}")]
    Late,
    /// The other side speaks another version.
    #[error("the other worker hands over by version {0}, this one by {VERSION}")]
    Version(u16),
    /// What came is no batch.
    #[error("what came is no batch of clients")]
    Malformed,
    /// The descriptors did not arrive.
    #[error("{0}")]
    Descriptors(#[from] fdpass::Error),
}

/// A client: its socket, and what else there is to know.
#[derive(Debug)]
pub struct Item {
    /// Its socket.
    pub socket: OwnedFd,
    /// The rest, at most [`STATE_MAX`] bytes.
    pub state: Vec<u8>,
}

/// One end of a connection between two workers.
#[derive(Debug)]
pub struct Passage {
    stream: UnixStream,
}

impl Passage {
    /// Calls the taker that listens at `path`, and waits until it is ready.
    ///
    /// # Errors
    /// Nobody answers there, or not in time, or by another version.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let connected = async {
            let passage = Self { stream: UnixStream::connect(path).await? };
            let mut greeting = [0; GREETING];
            passage.fill(&mut greeting, &mut Vec::new()).await?;
            let [m0, m1, m2, m3, v0, v1] = greeting;
            match ([m0, m1, m2, m3], u16::from_le_bytes([v0, v1])) {
                (MAGIC, VERSION) => Ok(passage),
                (MAGIC, version) => Err(Error::Version(version)),
                _ => Err(Error::Malformed),
            }
        };
        timeout(WITHIN, connected).await.unwrap_or(Err(Error::Late))
    }

    /// The taker's end of a connection that was accepted.
    pub fn accepted(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Tells the giver that its clients can come.
    ///
    /// # Errors
    /// It is gone.
    pub async fn greet(&self) -> Result<(), Error> {
        let greeting = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        timeout(WITHIN, self.drain(&greeting, &[])).await.map_err(|_| Error::Late)?
    }

    /// Hands over at most [`BATCH_MAX`] clients; says of each whether it was taken.
    ///
    /// # Errors
    /// None of them is to be taken for handed over, and the passage is of no more use.
    pub async fn give(&self, items: &[Item]) -> Result<Vec<bool>, Error> {
        let given = async {
            self.write(items).await?;
            let mut answer = vec![0; items.len()];
            self.fill(&mut answer, &mut Vec::new()).await?;
            Ok(answer.into_iter().map(|taken| taken == 1).collect())
        };
        timeout(WITHIN, given).await.unwrap_or(Err(Error::Late))
    }

    /// The next batch; `None` when the giver has no more.
    ///
    /// # Errors
    /// The passage is of no more use.
    pub async fn take(&self) -> Result<Option<Vec<Item>>, Error> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER];
        // The giver may have nobody to give for a long time; what it has begun it must go on with.
        let begun = self.read(&mut header, &mut fds).await?;
        if begun == 0 {
            return Ok(None);
        }
        let rest = header.get_mut(begun..).unwrap_or_default();
        timeout(WITHIN, self.fill(rest, &mut fds)).await.map_err(|_| Error::Late)??;
        let [m0, m1, m2, m3, v0, v1, c0, c1, length @ ..] = header;
        let (version, count) = (u16::from_le_bytes([v0, v1]), usize::from(u16::from_le_bytes([c0, c1])));
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Error::Malformed);
        }
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| Error::Malformed)?;
        if count > BATCH_MAX || count != fds.len() || length > BATCH_BYTES + STATE_MAX + 4 * BATCH_MAX {
            return Err(Error::Malformed);
        }
        let mut states = vec![0; length];
        timeout(WITHIN, self.fill(&mut states, &mut Vec::new())).await.map_err(|_| Error::Late)??;
        split(&states, fds).map(Some)
    }

    /// Answers a batch, client by client.
    ///
    /// # Errors
    /// The giver is gone; it keeps its clients.
    pub async fn answer(&self, taken: &[bool]) -> Result<(), Error> {
        let bytes: Vec<u8> = taken.iter().map(|taken| u8::from(*taken)).collect();
        timeout(WITHIN, self.drain(&bytes, &[])).await.map_err(|_| Error::Late)?
    }

    async fn write(&self, items: &[Item]) -> Result<(), Error> {
        let mut states = Vec::new();
        for item in items {
            let length = u32::try_from(item.state.len()).map_err(|_| Error::Malformed)?;
            states.extend_from_slice(&length.to_le_bytes());
            states.extend_from_slice(&item.state);
        }
        let count = u16::try_from(items.len()).map_err(|_| Error::Malformed)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&count.to_le_bytes());
        header.extend_from_slice(&(states.len() as u64).to_le_bytes());
        let fds: Vec<BorrowedFd<'_>> = items.iter().map(|item| item.socket.as_fd()).collect();
        self.drain(&header, &fds).await?;
        self.drain(&states, &[]).await
    }

    /// Writes all of it, the descriptors with its first byte.
    async fn drain(&self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let sent = || fdpass::send_with(self.stream.as_fd(), bytes, fds);
            let sent = self.stream.async_io(Interest::WRITABLE, sent).await?;
            bytes = bytes.get(sent..).unwrap_or_default();
            fds = &[];
        }
        Ok(())
    }

    /// Reads until `bytes` is full.
    async fn fill(&self, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), Error> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest, fds).await? {
                0 => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// Reads once, waiting for as long as nothing comes; 0 at the end.
    async fn read(&self, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Error> {
        let mut failed = None;
        let read =
            self.stream.async_io(Interest::READABLE, || match fdpass::receive_with(self.stream.as_fd(), bytes) {
                Ok(read) => Ok(read),
                Err(fdpass::Error::Io(error)) => Err(error),
                Err(error) => {
                    failed = Some(error);
                    Err(io::ErrorKind::InvalidData.into())
                }
            });
        let (read, came) = match (read.await, failed) {
            (Ok(read), _) => read,
            (Err(_), Some(error)) => return Err(error.into()),
            (Err(error), None) => return Err(error.into()),
        };
        fds.extend(came);
        Ok(read)
    }
}

fn split(mut states: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<Item>, Error> {
    let mut items = Vec::with_capacity(fds.len());
    for socket in fds {
        let (length, rest) = states.split_first_chunk::<4>().ok_or(Error::Malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (state, rest) = rest.split_at_checked(length).ok_or(Error::Malformed)?;
        items.push(Item { socket, state: state.to_vec() });
        states = rest;
    }
    if states.is_empty() { Ok(items) } else { Err(Error::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::sys::stat::fstat;

    fn on_runtime(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(20), test).await.unwrap() });
    }

    fn passage() -> (Passage, Passage) {
        let (a, b) = UnixStream::pair().unwrap();
        (Passage::accepted(a), Passage::accepted(b))
    }

    fn item(state: Vec<u8>) -> Item {
        Item { socket: nix::unistd::pipe().unwrap().0, state }
    }

    #[test]
    fn clients_arrive_with_their_sockets_and_each_is_answered() {
        on_runtime(async {
            let (giver, taker) = passage();
            for count in [1, BATCH_MAX] {
                let items: Vec<_> = (0..count).map(|i| item(vec![7; i * 40_000])).collect();
                let wanted: Vec<_> = items.iter().map(|i| (fstat(&i.socket).unwrap().st_ino, i.state.len())).collect();
                let taken = async {
                    let came = taker.take().await.unwrap().unwrap();
                    let inodes = came.iter().map(|i| (fstat(&i.socket).unwrap().st_ino, i.state.len()));
                    assert_eq!(inodes.collect::<Vec<_>>(), wanted);
                    let answer: Vec<_> = (0..came.len()).map(|i| i % 3 != 1).collect();
                    taker.answer(&answer).await.unwrap();
                };
                let (given, ()) = tokio::join!(giver.give(&items), taken);
                assert_eq!(given.unwrap(), (0..count).map(|i| i % 3 != 1).collect::<Vec<_>>());
            }
            drop(giver);
            assert!(taker.take().await.unwrap().is_none());
        });
    }

    #[test]
    fn a_giver_may_have_nobody_to_give_for_a_long_time() {
        on_runtime(async {
            let (giver, taker) = passage();
            for _ in 0..2 {
                let items = [item(vec![1])];
                let taken = async {
                    assert_eq!(taker.take().await.unwrap().unwrap().len(), 1);
                    taker.answer(&[true]).await.unwrap();
                };
                assert_eq!(tokio::join!(giver.give(&items), taken).0.unwrap(), [true]);
                tokio::time::sleep(WITHIN + Duration::from_millis(500)).await;
            }
        });
    }

    #[test]
    fn a_taker_that_hangs_up_leaves_the_clients_with_the_giver() {
        on_runtime(async {
            let (giver, taker) = passage();
            let hangs_up = async {
                taker.take().await.unwrap();
                drop(taker);
            };
            let items = [item(Vec::new())];
            let (given, ()) = tokio::join!(giver.give(&items), hangs_up);
            assert!(matches!(given, Err(Error::Io(_))), "{given:?}");
        });
    }

    #[test]
    fn a_giver_waits_until_the_taker_is_ready_and_speaks_its_version() {
        on_runtime(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("taker.sock");
            assert!(matches!(Passage::connect(&path).await, Err(Error::Io(_))));
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let (connected, ()) = tokio::join!(Passage::connect(&path), async {
                Passage::accepted(listener.accept().await.unwrap().0).greet().await.unwrap();
            });
            connected.unwrap();
            let (connected, ()) = tokio::join!(Passage::connect(&path), async {
                listener.accept().await.unwrap().0.try_write(b"weir\xff\x00").unwrap();
            });
            assert!(matches!(connected, Err(Error::Version(255))));
        });
    }

    #[test]
    fn other_versions_and_other_bytes_are_refused() {
        on_runtime(async {
            let header = |magic: &[u8; 4], version: u16, count: u16, length: u64| {
                [&magic[..], &version.to_le_bytes(), &count.to_le_bytes(), &length.to_le_bytes()].concat()
            };
            let refused = async |bytes: Vec<u8>| {
                let (a, b) = UnixStream::pair().unwrap();
                a.try_write(&bytes).unwrap();
                drop(a);
                Passage::accepted(b).take().await.unwrap_err()
            };
            assert!(matches!(refused(header(b"WEIR", VERSION, 0, 0)).await, Error::Malformed));
            assert!(matches!(refused(header(&MAGIC, VERSION + 1, 0, 0)).await, Error::Version(_)));
            assert!(matches!(refused(header(&MAGIC, VERSION, 1, 0)).await, Error::Malformed), "no descriptor");
            assert!(matches!(refused(header(&MAGIC, VERSION, 0, u64::MAX)).await, Error::Malformed));
            assert!(matches!(refused(header(&MAGIC, VERSION, 0, 9)).await, Error::Io(_)), "ends too soon");
            let with_rest = [header(&MAGIC, VERSION, 0, 3), b"abc".to_vec()].concat();
            assert!(matches!(refused(with_rest).await, Error::Malformed));
        });
    }
}
