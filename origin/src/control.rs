//! The control plane: tonic handlers that ask the hub's thread and wait for its answer.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weir_media::StreamName;
use weir_proto::origin::control_server::Control;
use weir_proto::origin::{
    Beat, LocateRequest, RegisterReply, RegisterRequest, StreamName as Name, StreamState, WatchRequest,
};
use weir_wire::relay::VERSION;

use crate::relay::Relay;

/// How often both ends of a heartbeat speak, and after how long a silence the other is lost.
const HEARTBEAT: Duration = Duration::from_millis(500);
const LOST_AFTER: Duration = Duration::from_secs(2);

/// Questions that may wait for the hub's thread, and its time to answer one.
const QUESTIONS_MAX: usize = 256;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Changes that may wait for a watcher; one that is slower is told that it missed some.
const CHANGES_MAX: usize = 1024;

/// What a handler asks of the hub's thread.
#[derive(Debug)]
pub(crate) enum Question {
    Locate(StreamName, oneshot::Sender<StreamState>),
    Watch(Option<StreamName>, mpsc::Sender<Result<StreamState, Status>>),
    Load(oneshot::Sender<(u64, u64)>),
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
}

impl Service {
    pub(crate) fn new(identity: Identity) -> (Self, mpsc::Receiver<Question>) {
        let (questions, answers) = mpsc::channel(QUESTIONS_MAX);
        (Self { identity, questions }, answers)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        let busy = |_| Status::unavailable("the origin is busy");
        self.questions.try_send(question(sender)).map_err(|_| Status::unavailable("the origin is busy"))?;
        timeout(ANSWER_WITHIN, answer)
            .await
            .map_err(|_| Status::deadline_exceeded("the origin did not answer in time"))?
            .map_err(busy)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let edge = request.into_inner();
        if edge.relay_version != u32::from(VERSION) {
            let text = format!("relay version {} is not spoken here, {VERSION} is", edge.relay_version);
            return Err(Status::failed_precondition(text));
        }
        info!(edge = edge.slot, node = edge.node, version = edge.version, "edge registered");
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
        let mut beats = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        let service = self.clone();
        tokio::spawn(async move {
            let mut tick = interval(HEARTBEAT);
            let mut seq = 0;
            let mut heard = tokio::time::Instant::now();
            loop {
                tokio::select! {
                    beat = beats.next() => match beat {
                        Some(Ok(_)) => heard = tokio::time::Instant::now(),
                        _ => return,
                    },
                    _ = tick.tick() => {
                        if heard.elapsed() > LOST_AFTER {
                            return warn!("an edge's heartbeat is lost");
                        }
                        seq += 1;
                        let (connections, streams) = service.ask(Question::Load).await.unwrap_or_default();
                        if sender.send(Ok(Beat { seq, connections, streams })).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
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
        let question = Question::Watch(name, sender);
        self.questions.try_send(question).map_err(|_| Status::unavailable("the origin is busy"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
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

struct Watcher {
    name: Option<StreamName>,
    sender: mpsc::Sender<Result<StreamState, Status>>,
    /// It was too slow; it gets everything again when there is room.
    behind: bool,
}

/// Answers the handlers' questions on the hub's thread, and tells watchers of changes.
pub(crate) async fn answer(relay: Rc<Relay>, mut questions: mpsc::Receiver<Question>) {
    let (changed, mut changes) = mpsc::channel::<StreamName>(CHANGES_MAX);
    let overflow = Rc::new(std::cell::Cell::new(false));
    let missed = overflow.clone();
    relay.on_change(move |name| {
        if changed.try_send(name.clone()).is_err() {
            missed.set(true);
        }
    });
    let mut watchers: HashMap<u64, Watcher> = HashMap::new();
    let mut next = 0;
    let mut sweep = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                None => return,
                Some(Question::Locate(name, answer)) => { answer.send(write_state(&relay, &name)).ok(); }
                Some(Question::Load(answer)) => {
                    let load = (relay.peer_count() as u64, relay.hub().borrow().stream_count() as u64);
                    answer.send(load).ok();
                }
                Some(Question::Watch(name, sender)) => {
                    next += 1;
                    let mut watcher = Watcher { name, sender, behind: false };
                    tell_all(&relay, &mut watcher, false);
                    watchers.insert(next, watcher);
                }
            },
            Some(first) = changes.recv() => {
                let mut names = HashSet::from([first]);
                while let Ok(name) = changes.try_recv() {
                    names.insert(name);
                }
                let lost = overflow.take();
                for watcher in watchers.values_mut() {
                    watcher.behind |= lost;
                    for name in names.iter().filter(|n| watcher.name.as_ref().is_none_or(|w| w == *n)) {
                        watcher.behind |= watcher.sender.try_send(Ok(write_state(&relay, name))).is_err();
                    }
                }
            }
            _ = sweep.tick() => {
                watchers.retain(|_, watcher| !watcher.sender.is_closed());
                for watcher in watchers.values_mut().filter(|w| w.behind) {
                    tell_all(&relay, watcher, true);
                }
            }
        }
    }
}

/// Tells a watcher the state of all that it watches.
fn tell_all(relay: &Relay, watcher: &mut Watcher, missed: bool) {
    let names: Vec<StreamName> = match &watcher.name {
        Some(name) => vec![name.clone()],
        None => relay.hub().borrow().names().cloned().collect(),
    };
    watcher.behind = false;
    for name in names {
        let state = StreamState { missed, ..write_state(relay, &name) };
        if watcher.sender.try_send(Ok(state)).is_err() {
            watcher.behind = true;
            return;
        }
    }
}
