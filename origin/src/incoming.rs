//! Connections of the control plane, as tonic takes them.
//!
//! tonic asks again at once after an error of accept, which would spin for as long as there is no descriptor; so no
//! error reaches it. Each connection carries who is at its other end, as soon as that has registered.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::warn;

use crate::relay::ACCEPT_PAUSE;
use crate::throttle::Throttle;

/// Connections of one listener; more are closed at once.
const CONNECTIONS_MAX: usize = 4096;

/// The longest name of a caller that is kept, in bytes.
const NAME_MAX: usize = 128;

/// A listening socket.
pub(crate) trait Accept: Unpin {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and where it comes from.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, String)>>;
}

impl Accept for UnixListener {
    type Io = UnixStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(UnixStream, String)>> {
        Self::poll_accept(self, cx).map_ok(|(io, _)| (io, "this host".to_owned()))
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, String)>> {
        Self::poll_accept(self, cx).map_ok(|(io, address)| {
            // Beats are small and each is waited for.
            io.set_nodelay(true).ok();
            (io, address.to_string())
        })
    }
}

/// Who is at the other end of a connection; an extension of each of its requests.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    from: Arc<str>,
    name: Arc<OnceLock<String>>,
}

impl Caller {
    /// It has said who it is; what it said first counts.
    pub(crate) fn is(&self, name: &str) {
        let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        self.name.get_or_init(|| name.get(..end).unwrap_or_default().to_owned());
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.get() {
            Some(name) => f.write_str(name),
            None => write!(f, "somebody unregistered at {}", self.from),
        }
    }
}

/// One connection; counts as one until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection<I> {
    io: I,
    caller: Caller,
    _one: OwnedSemaphorePermit,
}

impl<I> Connected for Connection<I> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

/// The connections of a listener, without end and without errors.
pub(crate) struct Incoming<L> {
    name: String,
    listener: L,
    places: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
    failing: Throttle,
    refusing: Throttle,
}

impl<L: Accept> Incoming<L> {
    pub(crate) fn new(name: String, listener: L) -> Self {
        Self::with_places(name, listener, CONNECTIONS_MAX)
    }

    fn with_places(name: String, listener: L, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { name, listener, places, pause: None, failing: Throttle::default(), refusing: Throttle::default() }
    }
}

impl<L: Accept> Stream for Incoming<L> {
    type Item = Result<Connection<L::Io>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((io, from)) => {
                    let Ok(one) = this.places.clone().try_acquire_owned() else {
                        if let Some(times) = this.refusing.hit(Instant::now(), 1) {
                            warn!(name = this.name, from, times, "too many connections; refused");
                        }
                        continue;
                    };
                    let caller = Caller { from: from.into(), name: Arc::default() };
                    return Poll::Ready(Some(Ok(Connection { io, caller, _one: one })));
                }
                Err(error) => {
                    if let Some(times) = this.failing.hit(Instant::now(), 1) {
                        warn!(name = this.name, %error, times, "accepting failed; trying on");
                    }
                    this.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::timeout;
    use tokio_stream::StreamExt;

    use super::*;

    /// Fails so often, then has connections without end.
    struct Failing {
        errors: u32,
        others: Vec<DuplexStream>,
        asked: u32,
    }

    impl Accept for Failing {
        type Io = DuplexStream;

        fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(DuplexStream, String)>> {
            self.asked += 1;
            if self.errors > 0 {
                self.errors -= 1;
                return Poll::Ready(Err(io::Error::from_raw_os_error(24)));
            }
            if self.others.len() == 3 {
                return Poll::Pending;
            }
            let (ours, theirs) = duplex(64);
            self.others.push(theirs);
            Poll::Ready(Ok((ours, "here".to_owned())))
        }
    }

    #[tokio::test]
    async fn errors_are_paused_over_and_never_end_it() {
        let mut incoming = Incoming::new("x".to_owned(), Failing { errors: 3, others: Vec::new(), asked: 0 });
        let started = Instant::now();
        let Some(Ok(first)) = timeout(Duration::from_secs(10), incoming.next()).await.unwrap() else { panic!() };
        assert!(started.elapsed() >= ACCEPT_PAUSE * 3);
        assert_eq!(incoming.listener.asked, 4, "no spinning");
        let caller = first.connect_info();
        assert_eq!(caller.to_string(), "somebody unregistered at here");
        first.connect_info().is("edge/0@host");
        first.connect_info().is("edge/1@host");
        assert_eq!(caller.to_string(), "edge/0@host");
    }

    #[tokio::test]
    async fn connections_above_the_limit_are_closed() {
        let listener = Failing { errors: 0, others: Vec::new(), asked: 0 };
        let mut incoming = Incoming::with_places("x".to_owned(), listener, 1);
        let first = incoming.next().await.unwrap();
        // The second and the third are taken and closed, then there are no more.
        assert!(timeout(Duration::from_millis(50), incoming.next()).await.is_err());
        assert_eq!(incoming.listener.others.len(), 3);
        assert_eq!(incoming.listener.others[2].read(&mut [0]).await.unwrap(), 0);
        drop(first);
        incoming.listener.others.pop();
        assert!(timeout(Duration::from_secs(10), incoming.next()).await.unwrap().is_some());
    }

    #[test]
    fn long_names_are_cut() {
        let caller = Caller { from: "".into(), name: Arc::default() };
        caller.is(&"é".repeat(100));
        assert_eq!(caller.to_string(), "é".repeat(64));
    }
}
