//! The supervisor's end of the control links: a gRPC service that turns what workers say into events.
//!
//! tonic wants handlers that are `Send`; they hold a channel to the loop and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::supervisor::link_server::Link;
use weir_proto::supervisor::{Attach, FromWorker, ToWorker, from_worker};

/// Messages that may wait for one worker. A worker so far behind has its link closed.
pub const OUTGOING_MAX: usize = 64;

/// Events of all links that may wait for the loop.
pub const EVENTS_MAX: usize = 1024;

/// From the connection to the attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);

/// The sending half to one worker.
pub type Outgoing = mpsc::Sender<Result<ToWorker, Status>>;

/// What comes from a worker's link.
#[derive(Debug)]
pub enum Event {
    /// A process of the same user asks to be let in.
    Attach {
        /// Who it says it is.
        attach: Attach,
        /// Its process id as the kernel knows it.
        peer: Option<i32>,
        /// The link's number.
        link: u64,
        /// The way to it.
        outgoing: Outgoing,
        /// The answer.
        admit: oneshot::Sender<Result<(), Status>>,
    },
    /// A worker that was let in said something.
    Said {
        /// The link's number.
        link: u64,
        /// What.
        kind: Box<from_worker::Kind>,
    },
    /// The link is no more.
    Broken {
        /// The link's number.
        link: u64,
    },
}

/// The service.
#[derive(Debug)]
pub struct Links {
    events: mpsc::Sender<Event>,
    last: AtomicU64,
}

impl Links {
    /// A service whose events go to `events`.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, last: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl Link for Links {
    type AttachStream = ReceiverStream<Result<ToWorker, Status>>;

    async fn attach(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = same_user(&request)?;
        let mut incoming = request.into_inner();
        let first = timeout(ATTACH_TIMEOUT, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no attach came"))??;
        let Some(FromWorker { kind: Some(from_worker::Kind::Attach(attach)) }) = first else {
            return Err(Status::invalid_argument("the first message is no attach"));
        };
        let link = self.last.fetch_add(1, Ordering::Relaxed);
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (admit, admitted) = oneshot::channel();
        let gone = |_| Status::unavailable("the supervisor is leaving");
        let event = Event::Attach { attach, peer, link, outgoing, admit };
        self.events.send(event).await.map_err(|_| gone(()))?;
        admitted.await.map_err(|_| gone(()))??;
        tokio::spawn(pump(incoming, link, self.events.clone()));
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// The peer's process id, if it runs as the same user.
pub(crate) fn same_user<T>(request: &Request<T>) -> Result<Option<i32>, Status> {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match credentials {
        Some(peer) if peer.uid() == geteuid().as_raw() || peer.uid() == 0 => Ok(peer.pid()),
        _ => Err(Status::permission_denied("this is another user's weir")),
    }
}

async fn pump(mut incoming: Streaming<FromWorker>, link: u64, events: mpsc::Sender<Event>) {
    while let Ok(Some(FromWorker { kind: Some(kind) })) = incoming.message().await {
        if events.send(Event::Said { link, kind: Box::new(kind) }).await.is_err() {
            return;
        }
    }
    events.send(Event::Broken { link }).await.ok();
}
