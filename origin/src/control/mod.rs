//! The control plane: tonic handlers that ask the hub's thread and wait for its answer.

mod rooms;
mod rtc;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Error, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weir_media::StreamName;
use weir_proto::origin::control_server::{Control, ControlServer};
use weir_proto::origin::{
    Beat, CloseRtcReply, CloseRtcRequest, LocateRequest, OpenRtcReply, OpenRtcRequest, RegisterReply, RegisterRequest,
    RoomAsk, RoomTold, StreamName as Name, StreamState, WatchRequest,
};
use weir_wire::relay::VERSION;

use crate::incoming::{Accept, Caller, Incoming};
use crate::relay::Relay;
use crate::rtc::Rtc;
pub(crate) use rooms::Rooms;
use watch::Watchers;

/// How often both ends of a heartbeat speak, and after how long a silence the other is lost.
const HEARTBEAT: Duration = Duration::from_millis(500);
const LOST_AFTER: Duration = Duration::from_secs(2);

/// Beats that may wait for an edge that does not read.
const BEATS_MAX: usize = 4;

/// Questions that may wait for the hub's thread, and its time to answer one.
const QUESTIONS_MAX: usize = 256;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Changes that were told to a watcher and not yet taken from it.
const CHANGES_MAX: usize = 1024;

/// The largest request, in bytes.
const REQUEST_MAX: usize = 16 * 1024 + weir_wire::sdp::OFFER_MAX;

/// Calls that one connection may have open.
const CALLS_MAX: u32 = 256;

/// A silent connection is asked for a sign of life, and closed when there is none.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_WITHIN: Duration = Duration::from_secs(5);

/// What a handler asks of the hub's thread.
#[derive(Debug)]
pub(crate) enum Question {
    Locate(StreamName, oneshot::Sender<StreamState>),
    Watch(Option<StreamName>, mpsc::Sender<Result<StreamState, Status>>),
    Load(oneshot::Sender<(u64, u64)>),
    OpenRtc(Box<OpenRtcRequest>, oneshot::Sender<Result<OpenRtcReply, Status>>),
    CloseRtc(CloseRtcRequest, oneshot::Sender<Result<(), Status>>),
}

/// Who this origin is, for [`RegisterReply`].
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) host: String,
    pub(crate) slot: u32,
    pub(crate) incarnation: u64,
    pub(crate) relay_unix: PathBuf,
    pub(crate) relay_port: u16,
}

/// The handlers. They hold a channel to the hub's thread, never the hub.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    identity: Identity,
    questions: mpsc::Sender<Question>,
    rooms: mpsc::Sender<rooms::Call>,
}

impl Service {
    pub(crate) fn new(identity: Identity, rooms: mpsc::Sender<rooms::Call>) -> (Self, mpsc::Receiver<Question>) {
        let (questions, answers) = mpsc::channel(QUESTIONS_MAX);
        (Self { identity, questions, rooms }, answers)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        self.questions.try_send(question(sender)).map_err(|_| busy())?;
        timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_| Status::deadline_exceeded("the origin did not answer in time"))?
            .map_err(|_| busy())
    }

    /// One end of a heartbeat: speaks and listens until the other end is lost or goes.
    async fn beat(self, caller: Caller, mut beats: Streaming<Beat>, sender: mpsc::Sender<Result<Beat, Status>>) {
        let mut tick = interval(HEARTBEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seq = 0;
        let mut lost_at = Instant::now() + LOST_AFTER;
        loop {
            tokio::select! {
                beat = beats.next() => match beat {
                    Some(Ok(_)) => lost_at = Instant::now() + LOST_AFTER,
                    Some(Err(status)) => {
                        return info!(edge = %caller, reason = status.message(), "the heartbeat broke off");
                    }
                    None => return info!(edge = %caller, "the heartbeat ended"),
                },
                () = sleep_until(lost_at) => return warn!(edge = %caller, "the heartbeat is lost"),
                _ = tick.tick() => {
                    // Too busy to answer is too busy to beat.
                    let Ok((connections, streams)) = self.ask(Question::Load).await else { continue };
                    seq += 1;
                    // A full queue is an edge that does not read; it is lost if it does not speak either.
                    let beat = Beat { seq, connections, streams };
                    if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(Ok(beat)) {
                        return info!(edge = %caller, "the heartbeat ended");
                    }
                }
            }
        }
    }
}

fn busy() -> Status {
    Status::unavailable("the origin is busy")
}

/// Serves the control plane on one listener, for as long as the worker lives.
///
/// # Errors
/// The certificates cannot be used.
pub(crate) fn serve<L: Accept + 'static>(
    service: Service,
    tls: Option<ServerTlsConfig>,
    incoming: Incoming<L>,
) -> Result<impl Future<Output = ()>, Error> {
    let mut server = Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WITHIN));
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let service = ControlServer::new(service).max_decoding_message_size(REQUEST_MAX);
    let served = server.add_service(service).serve_with_incoming(incoming);
    Ok(async {
        if let Err(error) = served.await {
            warn!(%error, "the control plane ended");
        }
    })
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let caller = caller(&request)?;
        let edge = request.into_inner();
        caller.is(&format!("edge/{}@{}", edge.slot, edge.node));
        if edge.relay_version != u32::from(VERSION) {
            let text = format!("relay version {} is not spoken here, {VERSION} is", edge.relay_version);
            warn!(edge = %caller, reason = text, "an edge was refused");
            return Err(Status::failed_precondition(text));
        }
        info!(edge = %caller, version = edge.version, "edge registered");
        Ok(Response::new(RegisterReply {
            host: self.identity.host.clone(),
            slot: self.identity.slot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            relay_version: u32::from(VERSION),
            relay_unix: self.identity.relay_unix.to_string_lossy().into_owned(),
            relay_port: u32::from(self.identity.relay_port),
            heartbeat_ms: u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX),
            incarnation: self.identity.incarnation,
        }))
    }

    type HeartbeatStream = Answers<Beat>;

    async fn heartbeat(&self, request: Request<Streaming<Beat>>) -> Result<Response<Answers<Beat>>, Status> {
        let caller = caller(&request)?;
        let (sender, receiver) = mpsc::channel(BEATS_MAX);
        tokio::spawn(self.clone().beat(caller, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<StreamState>, Status> {
        let name = request.into_inner().name.ok_or_else(|| Status::invalid_argument("which stream?"))?;
        let name = read_name(&name);
        self.ask(|answer| Question::Locate(name, answer)).await.map(Response::new)
    }

    type WatchStream = Answers<StreamState>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Answers<StreamState>>, Status> {
        let (sender, receiver) = mpsc::channel(CHANGES_MAX);
        let name = request.into_inner().name.as_ref().map(read_name);
        self.questions.try_send(Question::Watch(name, sender)).map_err(|_| busy())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn open_rtc(&self, request: Request<OpenRtcRequest>) -> Result<Response<OpenRtcReply>, Status> {
        self.ask(|answer| Question::OpenRtc(Box::new(request.into_inner()), answer)).await?.map(Response::new)
    }

    async fn close_rtc(&self, request: Request<CloseRtcRequest>) -> Result<Response<CloseRtcReply>, Status> {
        self.ask(|answer| Question::CloseRtc(request.into_inner(), answer)).await??;
        Ok(Response::new(CloseRtcReply {}))
    }

    type RoomsStream = Answers<RoomTold>;

    async fn rooms(&self, request: Request<Streaming<RoomAsk>>) -> Result<Response<Answers<RoomTold>>, Status> {
        let caller = caller(&request)?;
        let (sender, receiver) = mpsc::channel(rooms::TOLD_MAX);
        tokio::spawn(rooms::carry(self.rooms.clone(), caller, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Who asks. Every connection that [`Incoming`] gave has one.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::internal("a call without a connection"))
}

fn read_name(name: &Name) -> StreamName {
    StreamName { vhost: name.vhost.as_str().into(), app: name.app.as_str().into(), stream: name.stream.as_str().into() }
}

fn write_state(relay: &Relay, name: &StreamName) -> StreamState {
    let state = relay.hub().borrow().state(name);
    let name = Name { vhost: name.vhost.to_string(), app: name.app.to_string(), stream: name.stream.to_string() };
    let (live, epoch, subscribers) = state.map_or((false, 0, 0), |s| (s.live, s.epoch, s.subscribers));
    let subscribers = u32::try_from(subscribers).unwrap_or(u32::MAX);
    StreamState { name: Some(name), live, epoch, subscribers, missed: false }
}

/// Answers the handlers' questions on the hub's thread, and tells watchers of changes.
pub(crate) async fn answer(relay: Rc<Relay>, rtc: Option<Rc<Rtc>>, mut questions: mpsc::Receiver<Question>) {
    let watchers = Watchers::new(&relay);
    while let Some(question) = questions.recv().await {
        // An error: who asked is gone.
        match question {
            Question::Locate(name, answer) => {
                answer.send(write_state(&relay, &name)).ok();
            }
            Question::Load(answer) => {
                let streams = relay.hub().borrow().stream_count();
                answer.send((relay.peer_count() as u64, streams as u64)).ok();
            }
            Question::Watch(name, sender) => watchers.add(name, sender),
            Question::OpenRtc(request, answer) => {
                answer.send(rtc::open(rtc.as_ref(), *request)).ok();
            }
            Question::CloseRtc(request, answer) => {
                answer.send(rtc::close(rtc.as_ref(), &request)).ok();
            }
        }
    }
}
