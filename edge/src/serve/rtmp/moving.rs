//! RTMP clients that come from another process, or go on in one.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::mpsc::OwnedPermit;
use tracing::info;
use weir_node::access::Action;
use weir_node::config::Publish;
use weir_proto::session::{self, Session as State, rtmp, session::Kind};
use weir_wire::rtmp::Server;
use weir_wire::rtmp::server::Saved;

use super::visitor::Visitor;
use super::{Done, Role, Session, attend, limits};
use crate::clients::{Does, Place};
use crate::fanout::{Format, Moving};
use crate::handover::{Departing, depart, moving, name, player_of};
use crate::hub::Counted;
use crate::publication::Publication;
use crate::serve::feed::Feed;
use crate::serve::{Client, Context};
use crate::stream::{Member, Stream};

/// Goes on with a client of another process. `None`: with this one nobody can.
pub(crate) fn arrive(cx: Context, client: Client, state: session::Rtmp) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let saved = Saved::decode(&*state.connection).ok()?;
    let machine = Rc::new(RefCell::new(Server::restore(saved, Instant::now(), limits(&cx))?));
    let (chunk_size, opus) = (state.chunk_size, state.opus);
    let visitor = Visitor::arrive(&cx, &client, state.caller.clone());
    let mut session = Session {
        visitor,
        client,
        machine,
        role: Role::None,
        chunk_size,
        opus,
        named: String::new(),
        refused: None,
        refused_by: 0,
        cx,
    };
    Some(Box::pin(async move {
        let stats = session.cx.hub.stats().clone();
        let _count = Counted::new(&stats, |s| &s.connections);
        match session.settle(state).await {
            Ok(()) => attend(session).await,
            Err(reason) => info!(client = %session.client.id, peer = %session.client.peer, %reason, "rtmp client lost"),
        }
    }))
}

impl Session {
    /// Takes up what the client did in the other process.
    async fn settle(&mut self, state: session::Rtmp) -> Result<(), Done> {
        let gone = |what: &str| Done::Refused(format!("its {what} is not served here any more"));
        match state.role {
            None => self.client.write(&state.unsent).await?,
            Some(rtmp::Role::Player(player)) => {
                let told_live = player.live;
                let name = name(player.name.as_ref().ok_or_else(|| gone("stream"))?);
                let stream = self.cx.hub.stream(&name).ok_or_else(|| gone("vhost"))?;
                self.named = name.to_string();
                self.visitor.does(&self.cx, Action::Play, &name, state.admission);
                self.play_on(&stream, moving(player), told_live)?;
            }
            Some(rtmp::Role::Publisher(publisher)) => {
                let name = name(publisher.name.as_ref().ok_or_else(|| gone("stream"))?);
                let link = self.cx.hub.link_for(&name).cloned().ok_or_else(|| gone("origin"))?;
                let publication =
                    Publication::arrive(&self.cx.hub, &publisher, link).ok_or_else(|| gone("publication"))?;
                self.named = name.to_string();
                self.visitor.does(&self.cx, Action::Publish, &name, state.admission);
                let silent = Duration::from_millis(publisher.silent_ms);
                let last_media = Instant::now().checked_sub(silent).unwrap_or_else(Instant::now);
                let config = self.cx.hub.config();
                let (_, vhost) = config.vhost(&name.vhost).ok_or_else(|| gone("vhost"))?;
                let socket = self.client.detach().await?;
                let feed = Feed::new(socket, self.machine.clone(), publication, vhost.play.mw_latency.value());
                let feed = feed.go_on(publisher.started, last_media, state.unsent);
                self.role = self.publisher(feed, vhost.publish.clone());
            }
        }
        Ok(())
    }

    fn play_on(&mut self, stream: &Rc<Stream>, moving: Moving, told_live: bool) -> Result<(), Done> {
        let format = Format::Rtmp { chunk_size: self.chunk_size, opus: self.opus };
        let member = stream.arrive(format, self.client.socket()?.clone(), moving, told_live);
        self.role = self.player(member, told_live);
        // What has become of the stream on the way.
        self.changed()
    }

    /// Goes on in another process, or here when that does not take it.
    pub(super) async fn depart(&mut self, way: OwnedPermit<Departing>) -> Result<(), Done> {
        let Some(saved) = self.machine.borrow().save(Instant::now()) else { return Ok(()) };
        let (caller, admission) = self.visitor.departing();
        let state = session::Rtmp {
            connection: saved.encode_to_vec(),
            chunk_size: self.chunk_size,
            opus: self.opus,
            caller: Some(caller),
            admission,
            ..session::Rtmp::default()
        };
        match std::mem::replace(&mut self.role, Role::None) {
            Role::None => {
                let socket = self.client.socket()?.clone();
                self.sent(way, &*socket, state).await
            }
            Role::Player { member, told_live, .. } => self.player_departs(way, state, member, told_live).await,
            Role::Publisher { feed, rules, place } => self.publisher_departs(way, state, feed, rules, place).await,
        }
    }

    async fn sent(
        &mut self,
        way: OwnedPermit<Departing>,
        socket: impl std::os::fd::AsFd,
        state: session::Rtmp,
    ) -> Result<(), Done> {
        let session = State { peer: self.client.peer.to_string(), kind: Some(Kind::Rtmp(state)) };
        if depart(&self.cx.hub, way, socket, &session).await {
            return Err(Done::Moved);
        }
        self.refused_by = self.cx.hub.ways();
        Ok(())
    }

    async fn player_departs(
        &mut self,
        way: OwnedPermit<Departing>,
        mut state: session::Rtmp,
        member: Member,
        told_live: bool,
    ) -> Result<(), Done> {
        let stream = member.stream().clone();
        let Some(moving) = member.depart() else {
            // The fan-out closed it; that is said in the usual way.
            self.role = self.player(member, told_live);
            return Ok(());
        };
        state.role = Some(rtmp::Role::Player(player_of(stream.name(), moving.clone(), told_live)));
        let socket = self.client.socket()?.clone();
        self.sent(way, &*socket, state).await?;
        self.play_on(&stream, moving, told_live)
    }

    async fn publisher_departs(
        &mut self,
        way: OwnedPermit<Departing>,
        mut state: session::Rtmp,
        feed: Rc<Feed>,
        rules: Publish,
        place: Place,
    ) -> Result<(), Done> {
        self.cx.ingest.remove(&feed);
        let (publication, latency, last) = (feed.publication().clone(), feed.latency(), feed.last_media());
        let departing = if feed.is_stopped() { None } else { publication.departing() };
        let Some(publisher) = departing else {
            self.role = Role::Publisher { feed, rules, place };
            return Ok(());
        };
        let Some((socket, unsent)) = feed.into_socket() else { return Err(Done::Left) };
        state.unsent.clone_from(&unsent);
        state.role = Some(rtmp::Role::Publisher(session::Publisher {
            started: last.0,
            silent_ms: u64::try_from(last.1.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..publisher
        }));
        let moved = self.sent(way, &socket, state).await;
        if moved.is_err() {
            publication.departed();
            return moved;
        }
        let feed = Feed::new(socket, self.machine.clone(), publication, latency);
        // What it sent meanwhile was not read: that is no silence of its own.
        place.goes_on(Does::Publish(feed.bytes()));
        self.role = Role::Publisher { feed: Rc::new(feed.go_on(last.0, Instant::now(), unsent)), rules, place };
        Ok(())
    }
}
