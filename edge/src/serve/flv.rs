//! HTTP-FLV players.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;
use weir_media::{StreamName, flv};
use weir_node::access::Action;
use weir_node::config::Vhost;
use weir_proto::session::{self, Session as State, session::Kind};
use weir_wire::http::Head;
use weir_wire::rtmp::{self, Limits};

use super::http::while_there;
use super::{Client, Context};
use crate::clients::{Does, Place};
use crate::fanout::{CloseReason, Format, Start};
use crate::guard::{Admitted, CHALLENGE, Caller, Denial, Wish};
use crate::handover::{Departing, depart, moving, name, player_of};
use crate::hub::{Counted, Leaving, add};
use crate::stats::{Protocol, Refused};
use crate::stream::Member;

/// What pages of other sites need to read an answer. Browsers want the second private-network name, older ones of SRS's
/// players the first.
const CORS: [(&str, &str); 6] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    ("access-control-allow-headers", "*"),
    ("access-control-expose-headers", "*"),
    ("access-control-request-private-network", "true"),
    ("access-control-allow-private-network", "true"),
];

/// Adds them.
pub(super) fn cors(headers: &mut HeaderMap) {
    for (name, value) in CORS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Serves `GET`, `HEAD` and `OPTIONS` of `/app/stream.flv`; `path` comes without the extension.
pub(super) async fn serve(cx: &Context, client: &Client, head: &Head, path: &str) {
    let refusal = match play(cx, client, head, path).await {
        Ok(()) => return,
        Err(refusal) => refusal,
    };
    match &refusal {
        Refusal::NoStream(why, _) => cx.hub.stats().refuse(*why),
        Refusal::Unavailable => cx.hub.stats().refuse(Refused::NoOrigin),
        Refusal::Denied(denial) => cx.hub.stats().refuse(denial.counted()),
        Refusal::Options | Refusal::Method | Refusal::Name(_) => {}
    }
    let (status, text) = match refusal {
        Refusal::Options => ("204 No Content", ""),
        Refusal::Method => ("405 Method Not Allowed", "a stream can be played with GET\n"),
        Refusal::Name(error) => return not_found(cx, client, head, &format!("{error}\n")).await,
        Refusal::NoStream(_, text) => return not_found(cx, client, head, text).await,
        Refusal::Unavailable => ("503 Service Unavailable", "this cluster has no origin\n"),
        Refusal::Denied(denial) => {
            let text = format!("{}\n", denial.text());
            return reply(cx, client, head, &denial.status().to_string(), &text).await;
        }
    };
    reply(cx, client, head, status, text).await;
}

enum Refusal {
    Options,
    Method,
    Name(rtmp::NameError),
    NoStream(Refused, &'static str),
    Unavailable,
    Denied(Denial),
}

async fn not_found(cx: &Context, client: &Client, head: &Head, text: &str) {
    reply(cx, client, head, "404 Not Found", text).await;
}

async fn reply(cx: &Context, client: &Client, head: &Head, status: &str, text: &str) {
    let mut answer = response_head(cx, head, status, "text/plain; charset=utf-8");
    let field = match status.get(..3) {
        Some("405") => "Allow: GET, HEAD, OPTIONS\r\n".to_owned(),
        Some("401") => format!("WWW-Authenticate: {CHALLENGE}\r\n"),
        Some("429" | "503") => "Retry-After: 5\r\n".to_owned(),
        _ => String::new(),
    };
    answer.push_str(&format!("{field}Content-Length: {}\r\n\r\n", text.len()));
    if head.method != "HEAD" {
        answer.push_str(text);
    }
    client.write(answer.as_bytes()).await.ok();
}

/// Status line and fields, without the empty line.
pub(super) fn response_head(cx: &Context, head: &Head, status: &str, content_type: &str) -> String {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nServer: weir/{}\r\nContent-Type: {content_type}\r\nCache-Control: no-store\r\nConnection: close\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if head.cross_origin && cx.hub.config().edge.http.cors {
        for (name, value) in CORS {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text
}

async fn play(cx: &Context, client: &Client, head: &Head, path: &str) -> Result<(), Refusal> {
    match head.method.as_str() {
        "GET" | "HEAD" => {}
        "OPTIONS" => return Err(Refusal::Options),
        _ => return Err(Refusal::Method),
    }
    let request = rtmp::from_url(&head.host, path, &head.query, &Limits::default()).map_err(Refusal::Name)?;
    let config = cx.hub.config();
    let (vhost, rules) =
        config.vhost(&request.vhost).ok_or(Refusal::NoStream(Refused::NoVhost, "there is no such vhost here\n"))?;
    if !rules.http_flv.enabled {
        return Err(Refusal::NoStream(Refused::NoVhost, "HTTP-FLV is off for this vhost\n"));
    }
    let name = StreamName { vhost: vhost.into(), app: request.app.into(), stream: request.stream.into() };
    let Some(admitted) = admit(cx, client, head, rules, &name, &request.query).await? else { return Ok(()) };
    let stream = cx.hub.stream(&name).ok_or(Refusal::Unavailable)?;
    let mut intro = response_head(cx, head, "200 OK", "video/x-flv").into_bytes();
    intro.extend_from_slice(b"\r\n");
    if head.method == "GET" {
        intro.extend_from_slice(&flv::FILE_HEADER);
    }
    if head.method == "HEAD" {
        // The answer must be what GET's would be: it waits for the stream as well.
        let probe = stream.watch();
        let live = while_there(cx, client, timeout(rules.http_flv.wait, probe.live())).await;
        return match live {
            Some(Ok(())) => {
                client.write(&intro).await.ok();
                Ok(())
            }
            Some(Err(_)) => Err(Refusal::NoStream(Refused::NotPublished, "this stream is not published\n")),
            None => Ok(()),
        };
    }
    let start = Start { front: Vec::new(), intro, cached: rules.play.gop_cache };
    let Ok(socket) = client.socket() else { return Ok(()) };
    let member = stream.join(Format::Flv, socket.clone(), start);
    let wait_until = Instant::now() + rules.http_flv.wait;
    Player { cx, client, member, found: false, wait_until, refused_by: 0, place: None, admitted }.run().await
}

/// Asks whether it may, while it is there; `None`: it went. To look is not to play: then only rules are applied.
async fn admit(
    cx: &Context,
    client: &Client,
    head: &Head,
    rules: &Vhost,
    name: &StreamName,
    query: &str,
) -> Result<Option<Option<Admitted>>, Refusal> {
    let caller = Caller::new(cx.hub.guard().client_id(client.id), client.peer.ip());
    let mut caller = caller.with_fields(&head.referer, &head.authorization);
    // As SRS has it.
    caller.tc_url = format!("rtmp://{}/{}", name.vhost, name.app);
    let param = if query.is_empty() { String::new() } else { format!("?{query}") };
    let wish = Wish { action: Action::Play, name, query, param: &param };
    let guard = cx.hub.guard();
    let asked = async {
        match head.method.as_str() {
            "HEAD" => guard.check(rules, &caller, wish).await.map(|()| None),
            // There is no on_connect without a connect.
            _ => guard.admit(rules, &caller, wish, &mut false).await.map(Some),
        }
    };
    while_there(cx, client, asked).await.transpose().map_err(Refusal::Denied)
}

/// Goes on with a player of another process. `None`: with this one nobody can.
pub(crate) fn arrive(cx: Context, client: Client, state: session::Flv) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let player = state.player?;
    let (name, live, told) = (name(player.name.as_ref()?), player.live, state.admission.unwrap_or_default());
    Some(Box::pin(async move {
        let _count = Counted::new(cx.hub.stats(), |s| &s.connections);
        let (Some(stream), Ok(socket)) = (cx.hub.stream(&name), client.socket()) else { return };
        let admitted = Some(cx.hub.guard().arrive(&cx.hub.config(), Action::Play, &name, client.peer.ip(), told));
        let plays = player.last.is_some();
        let member = stream.arrive(Format::Flv, socket.clone(), moving(player), live);
        let place = plays.then(|| enter(&cx, &client, &member));
        let wait_until = Instant::now() + Duration::from_millis(state.wait_ms);
        let (cx, client) = (&cx, &client);
        let player = Player { cx, client, member, found: state.found, wait_until, refused_by: 0, place, admitted };
        if let Err(Refusal::NoStream(why, text)) = player.run().await {
            cx.hub.stats().refuse(why);
            let head = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
            client.write(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes()).await.ok();
        }
    }))
}

/// What a player of this is called.
const KIND: &str = "flv-play";

fn enter(cx: &Context, client: &Client, member: &Member) -> Place {
    let (name, does) = (member.stream().name().clone(), Does::Play(KIND, member.handle().clone()));
    let count = Counted::player(cx.hub.stats(), Protocol::HttpFlv);
    cx.hub.clients().enter((client.id, client.peer), name, does, count)
}

/// One that waits for its stream, or plays it.
struct Player<'a> {
    cx: &'a Context,
    client: &'a Client,
    member: Member,
    /// The stream had a publisher at some time.
    found: bool,
    /// How long it may have none.
    wait_until: Instant,
    /// The way to another process that did not take it; none has the number 0.
    refused_by: u64,
    /// From the first media on.
    place: Option<Place>,
    admitted: Option<Admitted>,
}

impl Player<'_> {
    /// Until the client or its stream goes, or this process does. The body ends with the connection.
    async fn run(mut self) -> Result<(), Refusal> {
        let reason = loop {
            let handle = self.member.handle();
            if let Some(reason) = handle.closed() {
                if reason == CloseReason::TooSlow {
                    add(&self.cx.hub.stats().slow_closed, 1);
                }
                break reason.as_str();
            }
            if handle.started() && self.place.is_none() {
                self.place = Some(enter(self.cx, self.client, &self.member));
                self.cx.hub.stats().players.of(Protocol::HttpFlv).opened();
                let (Client { id, peer, .. }, stream) = (self.client, self.member.stream().name());
                info!(client = %id, %peer, %stream, "flv play");
            }
            self.found |= handle.live();
            if handle.started() && !handle.live() {
                self.finish().await;
                break "the stream has ended";
            }
            // A published stream may take longer than a missing one: its next key frame is awaited.
            let missing = async {
                match self.found {
                    true => std::future::pending().await,
                    false => sleep_until(self.wait_until).await,
                }
            };
            let kicked = async {
                match &self.place {
                    Some(place) => place.kicked().await,
                    None => std::future::pending().await,
                }
            };
            let leaving = tokio::select! {
                () = kicked => break "disconnected by an operator",
                () = handle.changed() => continue,
                () = missing => return Err(Refusal::NoStream(Refused::NotPublished, "this stream is not published\n")),
                () = super::http::gone(self.cx, self.client) => break "closed by the client",
                leaving = self.cx.hub.leaving(!self.client.over_tls, self.refused_by) => leaving,
            };
            match leaving {
                Leaving::Move(way) => match Box::pin(self.depart(way)).await {
                    true => return Ok(()),
                    false => continue,
                },
                Leaving::Close if self.place.is_some() => {
                    self.finish().await;
                    break "the server is going away";
                }
                Leaving::Close => return Ok(()),
            }
        };
        if self.place.is_some() {
            let (Client { id, peer, .. }, stream) = (self.client, self.member.stream().name());
            info!(client = %id, %peer, %stream, bytes = self.member.handle().sent(), reason, "flv player left");
        }
        Ok(())
    }

    /// What no round has written yet is part of the body.
    async fn finish(&self) {
        tokio::select! {
            _ = self.member.finish() => {}
            () = super::http::gone(self.cx, self.client) => {}
        }
    }

    /// True: it goes on in another process.
    async fn depart(&mut self, way: OwnedPermit<Departing>) -> bool {
        let (stream, live) = (self.member.stream().clone(), self.member.handle().live());
        let Ok(socket) = self.client.socket().cloned() else { return false };
        let Some(moving) = self.member.depart() else { return false };
        let left = self.wait_until.saturating_duration_since(Instant::now());
        let state = session::Flv {
            player: Some(player_of(stream.name(), moving.clone(), live)),
            found: self.found,
            wait_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            admission: self.admitted.as_ref().map(Admitted::departing),
        };
        let session = State { peer: self.client.peer.to_string(), kind: Some(Kind::Flv(state)) };
        if depart(&self.cx.hub, way, &*socket, &session).await {
            if let Some(admitted) = self.admitted.take() {
                admitted.departed();
            }
            return true;
        }
        self.refused_by = self.cx.hub.ways();
        self.member = stream.arrive(Format::Flv, socket, moving, live);
        if let Some(place) = &self.place {
            place.goes_on(Does::Play(KIND, self.member.handle().clone()));
        }
        false
    }
}
