//! RTMP clients: the shell around the protocol machine.

use std::future::pending;
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHasher;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info};
use weir_media::StreamName;
use weir_node::config::Publish;
use weir_wire::relay::Refusal;
use weir_wire::rtmp::{
    self, ConnectRequest, Event, Limits, Output, PlayRefusal, PublishRefusal, Server, StreamRequest,
};

use super::{Client, Context};
use crate::fanout::{CloseReason, Format, Start};
use crate::hub::{Counted, add};
use crate::publication::Publication;
use crate::publish::Ended;
use crate::stream::Member;

/// How long a message that a player has half of may take to be finished before it plays something else.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

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
    #[error("the server is going away")]
    Closing,
}

/// Serves one client until it or the worker goes; one too many is told so when it connects.
pub(crate) async fn serve(cx: Context, client: Client, refused: bool) {
    let config = cx.hub.config();
    let limits = Limits {
        handshake: config.edge.rtmp.handshake_timeout,
        idle_request: config.edge.rtmp.request_timeout,
        ..Limits::default()
    };
    let chunk_size = config.edge.rtmp.chunk_size;
    let machine = Server::new(Instant::now(), limits, random(), chunk_size);
    let mut session = Session { client, machine, role: Role::None, chunk_size, named: String::new(), refused, cx };
    let done = session.run().await;
    session.leave();
    let (id, peer) = (&session.client.id, session.client.peer);
    match done {
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
    machine: Server,
    role: Role,
    chunk_size: u32,
    /// The stream last published or played.
    named: String,
    refused: bool,
}

enum Role {
    None,
    Publisher { publication: Rc<Publication>, rules: Publish, last_media: Instant, started: bool, _count: Counted },
    Player { member: Member, told_live: bool, _count: Counted },
}

/// What a session waits for.
enum Woken {
    Read(Option<Result<(), rtmp::Error>>),
    Deadline,
    Changed,
    Ended(Ended),
    Closing,
}

impl Session {
    async fn run(&mut self) -> Done {
        loop {
            let step = match self.machine.poll() {
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
            _ => {
                self.client.write(bytes).await?;
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
            Event::Media { kind, timestamp, body } => {
                if let Role::Publisher { publication, last_media, started, .. } = &mut self.role {
                    *last_media = Instant::now();
                    *started = true;
                    publication.push(kind, timestamp, body);
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
        if let Role::Publisher { publication, .. } = &self.role
            && !publication.has_room()
        {
            // The relay is full: the publisher is not read, and TCP slows it down.
            publication.room().await;
        }
        let deadline = deadline.into_iter().chain(self.silence()).min();
        let woken = {
            let sleep = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            let machine = &mut self.machine;
            let read = self.client.read(&self.cx, |bytes| machine.handle(Instant::now(), bytes));
            let role = &self.role;
            let changed = async {
                match role {
                    Role::Player { member, .. } => {
                        member.handle().changed().await;
                        Woken::Changed
                    }
                    Role::Publisher { publication, .. } => Woken::Ended(publication.end().await),
                    Role::None => pending().await,
                }
            };
            tokio::select! {
                read = read => Woken::Read(read?),
                () = sleep => Woken::Deadline,
                woken = changed => woken,
                () = self.cx.hub.closing() => Woken::Closing,
            }
        };
        match woken {
            Woken::Read(None) => Err(Done::Left),
            Woken::Read(Some(handled)) => Ok(handled?),
            Woken::Deadline => self.deadline(),
            Woken::Changed => self.changed(),
            Woken::Ended(ended) => Err(Done::Ended(describe(&ended).1)),
            Woken::Closing => Err(Done::Closing),
        }
    }

    /// When a publisher has been silent for too long.
    fn silence(&self) -> Option<Instant> {
        let Role::Publisher { rules, last_media, started, .. } = &self.role else { return None };
        Some(*last_media + if *started { rules.timeout } else { rules.first_packet_timeout })
    }

    fn deadline(&mut self) -> Result<(), Done> {
        let now = Instant::now();
        self.machine.handle_timeout(now)?;
        match (&self.role, self.silence()) {
            (Role::Publisher { last_media, .. }, Some(at)) if at <= now => Err(Done::Silent(now - *last_media)),
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
            if *told_live { self.machine.notify_publish() } else { self.machine.notify_unpublish() }
        }
        Ok(())
    }

    fn connect(&mut self, request: &ConnectRequest) -> Result<(), Done> {
        debug!(client = %self.client.id, peer = %self.client.peer, vhost = request.vhost, app = request.app,
            flash_ver = request.flash_ver, "rtmp connect");
        if self.cx.hub.draining() {
            self.machine.reject_connect("the server is going away");
        } else if self.refused {
            self.machine.reject_connect("too many connections");
        } else if self.cx.hub.config().vhost(&request.vhost).is_none() {
            self.machine.reject_connect(&format!("there is no vhost {:?} here", request.vhost));
        } else {
            self.machine.accept_connect()?;
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
        let Some((name, rules)) = self.resolve(request).and_then(|name| {
            let rules = self.cx.hub.config().vhost(&name.vhost)?.1.publish.clone();
            Some((name, rules))
        }) else {
            return Ok(self.machine.reject_publish(PublishRefusal::Denied, "there is no such vhost here")?);
        };
        let Some(link) = self.cx.hub.link_for(&name).cloned() else {
            return Ok(self.machine.reject_publish(PublishRefusal::Failed, "this cluster has no origin")?);
        };
        let mut key = FxHasher::default();
        request.query.hash(&mut key);
        let publication = Publication::new(&self.cx.hub, name.clone(), key.finish(), link);
        if let Err(ended) = publication.granted().await {
            let (refusal, text) = describe(&ended);
            info!(client = %self.client.id, peer = %self.client.peer, stream = %name, reason = text, "publish refused");
            return Ok(self.machine.reject_publish(refusal, &text)?);
        }
        info!(client = %self.client.id, peer = %self.client.peer, stream = %name, "rtmp publish");
        self.named = name.to_string();
        let count = Counted::new(self.cx.hub.stats(), |s| &s.publishers);
        let last_media = Instant::now();
        self.role = Role::Publisher { publication, rules, last_media, started: false, _count: count };
        Ok(self.machine.accept_publish()?)
    }

    async fn play(&mut self, request: &StreamRequest) -> Result<(), Done> {
        self.stop().await?;
        let Some(name) = self.resolve(request) else {
            return Ok(self.machine.reject_play(PlayRefusal::StreamNotFound, "there is no such vhost here")?);
        };
        let Some(stream) = self.cx.hub.stream(&name) else {
            return Ok(self.machine.reject_play(PlayRefusal::Failed, "this cluster has no origin")?);
        };
        info!(client = %self.client.id, peer = %self.client.peer, stream = %name, "rtmp play");
        self.named = name.to_string();
        self.machine.accept_play()?;
        // The answer, the headers and the cached group go out in one write.
        let mut front = Vec::new();
        while let Output::Send(bytes) = self.machine.poll() {
            front.extend_from_slice(&bytes);
        }
        let cached = self.cx.hub.config().vhost(&name.vhost).is_none_or(|(_, v)| v.play.gop_cache);
        let start = Start { front, intro: Vec::new(), cached };
        let format = Format::Rtmp { chunk_size: self.chunk_size };
        let member = stream.join(format, self.client.socket.clone(), start);
        // A stream that is not published yet is waited for in silence; its end is told.
        let told_live = member.handle().live();
        let count = Counted::new(self.cx.hub.stats(), |s| &s.players);
        self.role = Role::Player { member, told_live, _count: count };
        Ok(())
    }

    /// Ends what the client publishes or plays; it may begin anew on the same connection.
    async fn stop(&mut self) -> Result<(), Done> {
        if let Role::Player { member, .. } = &self.role {
            member.pause(true);
            let finish = async {
                while !member.handle().stopped() && member.handle().closed().is_none() {
                    member.handle().changed().await;
                }
            };
            if timeout(FINISH_WITHIN, finish).await.is_err() {
                return Err(Done::FanOut(CloseReason::TooSlow));
            }
            self.changed()?;
        }
        self.leave();
        Ok(())
    }

    fn leave(&mut self) {
        self.role = Role::None;
    }

    /// Says why before the connection closes, where there is anybody to tell.
    async fn farewell(&mut self, done: &Done) {
        match done {
            Done::Closing => self.machine.shutdown("the server is going away"),
            Done::Ended(reason) => self.machine.shutdown(reason),
            Done::Silent(_) => self.machine.shutdown("no media for too long"),
            _ => return,
        }
        if let Role::Player { .. } = &self.role
            && self.stop().await.is_err()
        {
            return;
        }
        while let Output::Send(bytes) = self.machine.poll() {
            if self.client.write(&bytes).await.is_err() {
                return;
            }
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
