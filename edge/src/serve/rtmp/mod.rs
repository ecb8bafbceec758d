//! RTMP clients: the shell around the protocol machine.

mod moving;
mod visitor;

use std::cell::RefCell;
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHasher;
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::sleep_until;
use tracing::{debug, info};
use weir_media::StreamName;
use weir_node::access::Action;
use weir_node::config::Publish;
use weir_wire::relay::Refusal;
use weir_wire::rtmp::{
    self, ConnectRequest, Event, Limits, Output, PlayRefusal, PublishRefusal, Server, StreamRequest,
};

use super::feed::{Feed, Stop};
use super::{Client, Context};
use crate::admission::Refusal as NoRoom;
use crate::clients::{Does, Place};
use crate::fanout::{CloseReason, Format, Start};
use crate::handover::Departing;
use crate::hub::{Counted, Leaving, add};
use crate::publication::Publication;
use crate::publish::Ended;
use crate::stats::{Protocol, Refused};
use crate::stream::Member;

pub(crate) use moving::arrive;
use visitor::Visitor;

/// Why a session ended, for the log.
#[derive(Debug, thiserror::Error)]
enum Done {
    #[error("closed by the client")]
    Left,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] rtmp::Error),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Ended(String),
    #[error("no media for {0:?}")]
    Silent(Duration),
    #[error("{}", .0.as_str())]
    FanOut(CloseReason),
    #[error("asks without reading")]
    Unread,
    #[error("the server is going away")]
    Closing,
    #[error("disconnected by an operator")]
    Kicked,
    #[error("goes on in another process")]
    Moved,
}

/// Serves one client until it or the worker goes; one that has no place here is told so when it connects.
pub(crate) async fn serve(cx: Context, client: Client, refused: Option<NoRoom>) {
    let chunk_size = cx.hub.config().edge.rtmp.chunk_size;
    let machine = Server::new(Instant::now(), limits(&cx), random(), chunk_size);
    let machine = Rc::new(RefCell::new(machine));
    let visitor = Visitor::new(&cx, &client);
    attend(Session {
        client,
        machine,
        role: Role::None,
        chunk_size,
        opus: false,
        named: String::new(),
        refused,
        refused_by: 0,
        visitor,
        cx,
    })
    .await;
}

fn limits(cx: &Context) -> Limits {
    let config = cx.hub.config();
    Limits {
        handshake: config.edge.rtmp.handshake_timeout,
        idle_request: config.edge.rtmp.request_timeout,
        ..Limits::default()
    }
}

async fn attend(mut session: Session) {
    let done = session.run().await;
    if matches!(done, Done::Moved) {
        session.visitor.moved();
    }
    session.leave().ok();
    let received = session.machine.borrow().received();
    session.visitor.left(&session.cx, received);
    let (id, peer) = (&session.client.id, session.client.peer);
    match done {
        Done::Moved => {}
        Done::Left | Done::Io(_) if session.named.is_empty() => {
            debug!(client = %id, %peer, reason = %done, "rtmp client left")
        }
        done => info!(client = %id, %peer, stream = session.named, reason = %done, "rtmp client left"),
    }
}

/// Filler for the handshake; nothing is kept secret by it.
fn random() -> [u8; 32] {
    let mut out = [0; 32];
    for part in out.chunks_mut(8) {
        // The keys of a `RandomState` come from the system's generator.
        let word = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        part.copy_from_slice(&word.to_ne_bytes());
    }
    out
}

struct Session {
    cx: Context,
    client: Client,
    machine: Rc<RefCell<Server>>,
    role: Role,
    chunk_size: u32,
    /// It said that it takes Opus.
    opus: bool,
    /// The stream last published or played.
    named: String,
    refused: Option<NoRoom>,
    /// The way to another process that did not take it; none has the number 0.
    refused_by: u64,
    visitor: Visitor,
}

enum Role {
    None,
    Publisher { feed: Rc<Feed>, rules: Publish, place: Place },
    Player { member: Member, told_live: bool, place: Place },
}

/// What a session waits for.
enum Woken {
    Read(Option<Result<(), rtmp::Error>>),
    Deadline,
    Changed,
    Stopped(Stop),
    Ended(Ended),
    Closing,
    Kicked,
    Move(OwnedPermit<Departing>),
}

impl Session {
    async fn run(&mut self) -> Done {
        loop {
            let output = self.machine.borrow_mut().poll();
            let step = match output {
                Output::Send(bytes) => self.send(&bytes).await,
                Output::Event(event) => self.event(event).await,
                Output::Wait(deadline) => self.wait(deadline).await,
            };
            if let Err(done) = step {
                self.farewell(&done).await;
                return done;
            }
        }
    }

    /// What a player gets of its own must not tear a message of the fan-out.
    async fn send(&self, bytes: &[u8]) -> Result<(), Done> {
        match &self.role {
            Role::Player { member, .. } => member.control(bytes),
            Role::Publisher { feed, .. } => {
                feed.write(bytes);
                self.visitor.sent(bytes.len() as u64);
            }
            Role::None => {
                self.client.write(bytes).await?;
                self.visitor.sent(bytes.len() as u64);
                add(&self.cx.hub.stats().bytes_out, bytes.len() as u64);
            }
        }
        Ok(())
    }

    async fn event(&mut self, event: Event) -> Result<(), Done> {
        match event {
            Event::Connect(request) => self.connect(&request)?,
            Event::Publish(request) => self.publish(&request).await?,
            Event::Play(request) => self.play(&request).await?,
            Event::Media { .. } => {
                if let Role::Publisher { feed, .. } = &self.role {
                    feed.media(event);
                }
            }
            Event::Unpublish | Event::StopPlay => self.stop().await?,
            Event::Pause(on) => {
                if let Role::Player { member, .. } = &self.role {
                    member.pause(on);
                }
            }
            Event::Receive { kind, on } => debug!(client = %self.client.id, ?kind, on, "receive is not selective"),
            Event::Close(reason) => return Err(Done::Refused(reason)),
        }
        Ok(())
    }

    async fn wait(&mut self, deadline: Option<Instant>) -> Result<(), Done> {
        if let Role::Publisher { feed, .. } = &self.role {
            if !feed.publication().has_room() {
                // The relay is full: the publisher is not read, and TCP slows it down.
                feed.publication().room().await;
                feed.resume();
            }
            self.cx.ingest.insert(feed)?;
        }
        let deadline = deadline.into_iter().chain(self.silence()).min();
        // What decrypts stays here.
        let movable = self.machine.borrow().is_settled() && !self.client.over_tls;
        let woken = {
            let sleep = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            let machine = &self.machine;
            let role = &self.role;
            let client = async {
                match role {
                    Role::Publisher { feed, .. } => Ok(Woken::Stopped(feed.stopped().await)),
                    _ => {
                        let take = |bytes: &[u8]| machine.borrow_mut().handle(Instant::now(), bytes);
                        self.client.read(&self.cx, take).await.map(Woken::Read)
                    }
                }
            };
            let changed = async {
                match role {
                    Role::Player { member, .. } => {
                        member.handle().changed().await;
                        Woken::Changed
                    }
                    Role::Publisher { feed, .. } => Woken::Ended(feed.publication().end().await),
                    Role::None => pending().await,
                }
            };
            let kicked = async {
                match role {
                    Role::Player { place, .. } | Role::Publisher { place, .. } => place.kicked().await,
                    Role::None => pending().await,
                }
            };
            tokio::select! {
                () = kicked => Woken::Kicked,
                woken = client => woken?,
                () = sleep => Woken::Deadline,
                woken = changed => woken,
                leaving = self.cx.hub.leaving(movable, self.refused_by) => match leaving {
                    Leaving::Close => Woken::Closing,
                    Leaving::Move(way) => Woken::Move(way),
                },
            }
        };
        match woken {
            Woken::Read(None) => Err(Done::Left),
            Woken::Read(Some(handled)) => Ok(handled?),
            Woken::Deadline => self.deadline(),
            Woken::Changed => self.changed(),
            Woken::Stopped(stop) => self.stopped(stop).await,
            Woken::Ended(ended) => Err(Done::Ended(describe(&ended).1)),
            Woken::Closing => Err(Done::Closing),
            Woken::Kicked => Err(Done::Kicked),
            // Boxed: every client's task would be larger by what a departure needs once.
            Woken::Move(way) => Box::pin(self.depart(way)).await,
        }
    }

    /// The publisher is not read any more.
    async fn stopped(&mut self, stop: Stop) -> Result<(), Done> {
        match stop {
            Stop::Event(event) => self.event(event).await,
            Stop::Full => Ok(()),
            Stop::Left => Err(Done::Left),
            Stop::Io(error) => Err(error.into()),
            Stop::Protocol(error) => Err(error.into()),
            Stop::Unread => Err(Done::Unread),
        }
    }

    /// When a publisher has been silent for too long.
    fn silence(&self) -> Option<Instant> {
        let Role::Publisher { feed, rules, .. } = &self.role else { return None };
        let (started, last) = feed.last_media();
        Some(last + if started { rules.timeout } else { rules.first_packet_timeout })
    }

    fn deadline(&self) -> Result<(), Done> {
        let now = Instant::now();
        self.machine.borrow_mut().handle_timeout(now)?;
        match (&self.role, self.silence()) {
            (Role::Publisher { feed, .. }, Some(at)) if at <= now => Err(Done::Silent(now - feed.last_media().1)),
            _ => Ok(()),
        }
    }

    /// The stream of a player came or went, or the fan-out closed it.
    fn changed(&mut self) -> Result<(), Done> {
        let Role::Player { member, told_live, .. } = &mut self.role else { return Ok(()) };
        let handle = member.handle();
        if let Some(reason) = handle.closed() {
            if reason == CloseReason::TooSlow {
                add(&self.cx.hub.stats().slow_closed, 1);
            }
            return Err(Done::FanOut(reason));
        }
        if std::mem::replace(told_live, handle.live()) != handle.live() {
            let machine = &mut *self.machine.borrow_mut();
            if *told_live { machine.notify_publish() } else { machine.notify_unpublish() }
        }
        Ok(())
    }

    fn connect(&mut self, request: &ConnectRequest) -> Result<(), Done> {
        self.opus = request.enhanced.takes_audio("Opus");
        self.visitor.connects(request);
        debug!(client = %self.client.id, peer = %self.client.peer, vhost = request.vhost, app = request.app,
            flash_ver = request.flash_ver, "rtmp connect");
        let machine = &mut *self.machine.borrow_mut();
        let stats = self.cx.hub.stats();
        if self.cx.hub.draining() {
            stats.refuse(Refused::Draining);
            machine.reject_connect("the server is going away");
        } else if let Some(why) = self.refused {
            let ConnectRequest { vhost, app, query, .. } = request;
            match self.cx.gate.rtmp(&self.cx.hub.config(), vhost, app, query) {
                Some(url) => machine.redirect(&url, None),
                None => machine.reject_connect(why.text()),
            }
        } else if self.cx.hub.config().vhost(&request.vhost).is_none() {
            stats.refuse(Refused::NoVhost);
            machine.reject_connect(&format!("there is no vhost {:?} here", request.vhost));
        } else {
            machine.accept_connect()?;
        }
        Ok(())
    }

    /// The stream's name in the cluster, if its vhost is served.
    fn resolve(&self, request: &StreamRequest) -> Option<StreamName> {
        let config = self.cx.hub.config();
        let (vhost, _) = config.vhost(&request.vhost)?;
        Some(StreamName {
            vhost: vhost.into(),
            app: request.app.as_str().into(),
            stream: request.stream.as_str().into(),
        })
    }

    async fn publish(&mut self, request: &StreamRequest) -> Result<(), Done> {
        self.stop().await?;
        let Some((name, rules, latency)) = self.resolve(request).and_then(|name| {
            let config = self.cx.hub.config();
            let (_, vhost) = config.vhost(&name.vhost)?;
            Some((name, vhost.publish.clone(), vhost.play.mw_latency.value()))
        }) else {
            self.cx.hub.stats().refuse(Refused::NoVhost);
            return Ok(self
                .machine
                .borrow_mut()
                .reject_publish(PublishRefusal::Denied, "there is no such vhost here")?);
        };
        let Some(link) = self.cx.hub.link_for(&name).cloned() else {
            self.cx.hub.stats().refuse(Refused::NoOrigin);
            return Ok(self
                .machine
                .borrow_mut()
                .reject_publish(PublishRefusal::Failed, "this cluster has no origin")?);
        };
        let admitted = match self.admit(Action::Publish, &name, request).await? {
            Ok(admitted) => admitted,
            Err(denial) => {
                return Ok(self.machine.borrow_mut().reject_publish(PublishRefusal::Denied, denial.text())?);
            }
        };
        let mut key = FxHasher::default();
        request.query.hash(&mut key);
        let publication = Publication::new(&self.cx.hub, name.clone(), key.finish(), link);
        if let Err(ended) = publication.granted().await {
            self.cx.hub.stats().refuse(Refused::from(&ended));
            let (refusal, text) = describe(&ended);
            info!(client = %self.client.id, peer = %self.client.peer, stream = %name, reason = text, "publish refused");
            return Ok(self.machine.borrow_mut().reject_publish(refusal, &text)?);
        }
        self.visitor.set(Some(admitted));
        info!(client = %self.client.id, peer = %self.client.peer, stream = %name, "rtmp publish");
        self.named = name.to_string();
        let socket = self.client.detach().await?;
        let feed = Feed::new(socket, self.machine.clone(), publication, latency);
        self.role = self.publisher(feed, rules);
        self.cx.hub.stats().publishers.of(Protocol::Rtmp).opened();
        Ok(self.machine.borrow_mut().accept_publish()?)
    }

    async fn play(&mut self, request: &StreamRequest) -> Result<(), Done> {
        self.stop().await?;
        let Some(name) = self.resolve(request) else {
            self.cx.hub.stats().refuse(Refused::NoVhost);
            return Ok(self
                .machine
                .borrow_mut()
                .reject_play(PlayRefusal::StreamNotFound, "there is no such vhost here")?);
        };
        match self.admit(Action::Play, &name, request).await? {
            Ok(admitted) => self.visitor.set(Some(admitted)),
            Err(denial) => return Ok(self.machine.borrow_mut().reject_play(PlayRefusal::Failed, denial.text())?),
        }
        let Some(stream) = self.cx.hub.stream(&name) else {
            self.cx.hub.stats().refuse(Refused::NoOrigin);
            return Ok(self.machine.borrow_mut().reject_play(PlayRefusal::Failed, "this cluster has no origin")?);
        };
        info!(client = %self.client.id, peer = %self.client.peer, stream = %name, "rtmp play");
        self.named = name.to_string();
        self.machine.borrow_mut().accept_play()?;
        // The answer, the headers and the cached group go out in one write.
        let mut front = Vec::new();
        while let Output::Send(bytes) = self.machine.borrow_mut().poll() {
            front.extend_from_slice(&bytes);
        }
        let cached = self.cx.hub.config().vhost(&name.vhost).is_none_or(|(_, v)| v.play.gop_cache);
        let start = Start { front, intro: Vec::new(), cached };
        let format = Format::Rtmp { chunk_size: self.chunk_size, opus: self.opus };
        let member = stream.join(format, self.client.socket()?.clone(), start);
        // A stream that is not published yet is waited for in silence; its end is told.
        let told_live = member.handle().live();
        self.role = self.player(member, told_live);
        self.cx.hub.stats().players.of(Protocol::Rtmp).opened();
        Ok(())
    }

    fn publisher(&self, feed: Feed, rules: Publish) -> Role {
        let count = Counted::publisher(self.cx.hub.stats());
        let (name, does) = (feed.publication().name().clone(), Does::Publish(feed.bytes()));
        let place = self.cx.hub.clients().enter((self.client.id, self.client.peer), name, does, count);
        Role::Publisher { feed: Rc::new(feed), rules, place }
    }

    fn player(&self, member: Member, told_live: bool) -> Role {
        let count = Counted::player(self.cx.hub.stats(), Protocol::Rtmp);
        let (name, does) = (member.stream().name().clone(), Does::Play("rtmp-play", member.handle().clone()));
        let place = self.cx.hub.clients().enter((self.client.id, self.client.peer), name, does, count);
        Role::Player { member, told_live, place }
    }

    /// Ends what the client publishes or plays; it may begin anew on the same connection.
    async fn stop(&mut self) -> Result<(), Done> {
        if let Role::Player { member, .. } = &self.role {
            member.pause(true);
            if !member.stopped().await {
                return Err(Done::FanOut(CloseReason::TooSlow));
            }
            self.changed()?;
        }
        let unsent = self.leave()?;
        Ok(self.client.write(&unsent).await?)
    }

    /// Gives up what it publishes or plays. Answers that a publisher has not taken yet are returned.
    fn leave(&mut self) -> io::Result<Vec<u8>> {
        self.visitor.set(None);
        match std::mem::replace(&mut self.role, Role::None) {
            Role::Publisher { feed, .. } => {
                self.cx.ingest.remove(&feed);
                if let Some((socket, unsent)) = feed.into_socket() {
                    self.client.attach(socket)?;
                    return Ok(unsent);
                }
            }
            Role::Player { member, .. } => self.visitor.sent(member.handle().sent()),
            Role::None => {}
        }
        Ok(Vec::new())
    }

    /// Says why before the connection closes, where there is anybody to tell.
    async fn farewell(&mut self, done: &Done) {
        match done {
            Done::Closing => self.machine.borrow_mut().shutdown("the server is going away"),
            Done::Kicked => self.machine.borrow_mut().shutdown("disconnected by an operator"),
            Done::Ended(reason) => self.machine.borrow_mut().shutdown(reason),
            Done::Silent(_) => self.machine.borrow_mut().shutdown("no media for too long"),
            _ => return,
        }
        if let Role::Player { member, .. } = &self.role {
            member.finish().await;
        }
        if self.stop().await.is_err() {
            return;
        }
        while let Some(bytes) = self.unsent() {
            if self.client.write(&bytes).await.is_err() {
                return;
            }
        }
    }
}

impl Session {
    fn unsent(&self) -> Option<Bytes> {
        match self.machine.borrow_mut().poll() {
            Output::Send(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// What a client is told when the origin ends its publication.
fn describe(ended: &Ended) -> (PublishRefusal, String) {
    match ended {
        Ended::Refused(Refusal::Busy | Refusal::TakenOver | Refusal::Stale, reason) => {
            (PublishRefusal::BadName, reason.clone())
        }
        Ended::Refused(_, reason) => (PublishRefusal::Failed, reason.clone()),
        Ended::Unreachable => (PublishRefusal::Failed, "the stream's origin cannot be reached".to_owned()),
    }
}
