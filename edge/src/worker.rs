//! The worker's life: its listeners, what the supervisor wants of it, and what it reports.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use rustc_hash::FxHashMap;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};
use weir_node::hooks;
use weir_node::lately::Notes;
use weir_node::link::Report;
use weir_node::rows::cut;
use weir_node::sockets::NamedSocket;
use weir_node::tls::ClusterTls;
use weir_node::worker::{CTL_SOCKET, Command, Shell, handover_socket};
use weir_proto::supervisor::{Look, Seen};

use crate::admission::{Admission, Gate, Refusal, admit};
use crate::control::{Identity, Registration};
use crate::directory::Directory;
use crate::guard::Guard;
use crate::handover;
use crate::hub::{Counted, Hub, Stats, add};
use crate::relay::QuicClient;
use crate::rows;
use crate::serve::api::host::Host;
use crate::serve::http::Service;
use crate::serve::tls::{self, Inside};
use crate::serve::{Client, Context, http, rtmp};
use crate::stats::{self, Refused};

/// Bytes that the kernel may hold of a client that does not take them. What is more stays in the log, where it costs
/// nothing and can be skipped; left to itself the kernel would take some megabytes of each.
const UNSENT: u32 = 128 * 1024;

/// How often a worker that leaves looks whether its clients have.
const LEAVING_TICK: Duration = Duration::from_millis(20);

/// How long callbacks have to be told of the last clients.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// How long clients have to take their last words.
const FAREWELL: Duration = Duration::from_millis(800);

/// The pause after an accept error (EMFILE and its kind); the loop never ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs an edge worker until the supervisor wants it to leave.
///
/// # Errors
/// The sockets, the certificates or the first steps of the relay failed.
pub async fn run(mut shell: Shell) -> anyhow::Result<()> {
    let config = shell.config.clone();
    let directory = Directory::new(&config.cluster.origins, shell.origin_workers);
    let caller = hooks::Identity::new(&config.node_name(), &shell.host);
    let guard = Guard::new(caller, format!("edge.{}.{}", shell.slot, shell.incarnation));
    let hub = Hub::new(config.clone(), directory, guard);
    let tls = match config.cluster.tls.is_off() {
        true => None,
        false => Some(ClusterTls::load(&config.cluster.tls).context("cluster.tls")?),
    };
    let quic = match &tls {
        Some(tls) => Some(QuicClient::new(&config, tls, shell.link.overload()).context("QUIC")?),
        None => None,
    };
    let identity = Identity {
        node: config.node_name(),
        host: shell.host.clone(),
        slot: shell.slot,
        run_dir: shell.run_dir.clone(),
    };
    let name = format!("edge/{}@{}", shell.slot, config.node_name());
    let tls = tls.map(Rc::new);
    for (link, origin) in hub.links().iter().zip(hub.directory().origins()) {
        let (endpoint, known) = watch::channel(None);
        spawn_local(link.clone().run(name.clone(), quic.clone(), known));
        let (identity, origin, tls, hub) = (identity.clone(), origin.clone(), tls.clone(), Rc::downgrade(&hub));
        spawn_local(Registration { identity, origin, tls, hub, link: link.clone(), endpoint }.run());
    }
    let host = Host::new(&config.node_name(), shell.host.clone());
    let gate = Gate::new(shell.link.overload().clone(), shell.run_dir.clone());
    let cx = Context::new(hub.clone(), gate, host, shell.run_dir.join(CTL_SOCKET)).context("publishers")?;
    cx.certificates.configure(&config.edge.tls);
    let clients = handover_socket(&shell.run_dir, shell.slot, shell.incarnation);
    handover::listen(cx.clone(), &clients)?;
    let mut listeners = Listeners::new(cx);
    listeners.open(shell.slot, std::mem::take(&mut shell.sockets))?;
    shell.link.ready();
    let link = shell.link.clone();
    let served = serve(shell, &hub, listeners).await;
    link.report(report(&hub));
    std::fs::remove_file(clients).ok();
    served
}

async fn serve(mut shell: Shell, hub: &Rc<Hub>, mut listeners: Listeners) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_secs(1));
    let mut drained_by: Option<Instant> = None;
    let mut handing_to = None;
    let mut notes = Notes::new(std::time::Instant::now());
    loop {
        let command = tokio::select! {
            command = shell.commands.recv() => command,
            _ = tick.tick() => {
                shell.link.report(report(hub));
                if notes.due(std::time::Instant::now()) {
                    rows::note(hub);
                    listeners.cx.certificates.renew();
                }
                let empty = hub.stats().connections.get() == 0;
                if drained_by.is_some_and(|by| empty || by <= Instant::now()) {
                    return farewell(hub).await;
                }
                continue;
            }
        };
        match command {
            Some(Command::Apply { token, config, .. }) => {
                listeners.cx.certificates.configure(&config.edge.tls);
                hub.configure(config);
                shell.link.ack(token, Ok(()));
            }
            Some(Command::Drain { deadline }) => {
                info!(clients = hub.stats().connections.get(), "draining");
                listeners.close_all();
                hub.go();
                drained_by = Some(deadline);
                tick = interval(LEAVING_TICK);
            }
            Some(Command::HandOver { path, deadline }) => {
                info!(clients = hub.stats().connections.get(), "handing over");
                listeners.close_all();
                hub.go();
                // Said again after each new attach.
                if !hub.has_way() || handing_to.as_ref() != Some(&path) {
                    handover::open_way(hub, path.clone(), deadline);
                    handing_to = Some(path);
                }
                drained_by = Some(deadline);
                tick = interval(LEAVING_TICK);
            }
            Some(Command::Adopt { token, slot, sockets }) => {
                let opened = listeners.open(slot, sockets).map_err(|e| format!("{e:#}"));
                shell.link.ack(token, opened);
            }
            Some(Command::Look(look)) => shell.link.seen(seen(hub, &look, notes.since(std::time::Instant::now()))),
            Some(Command::Kick { token, number }) => {
                let known = hub.clients().kick(number);
                shell.link.ack(token, known.then_some(()).ok_or_else(|| "there is no such client".to_owned()));
            }
            Some(Command::Release { token, slot }) => {
                listeners.close(slot);
                shell.link.ack(token, Ok(()));
            }
            Some(Command::Stop) | None => {
                listeners.close_all();
                return farewell(hub).await;
            }
        }
    }
}

/// Closes every client with a word, and waits a little until they have taken it.
async fn farewell(hub: &Rc<Hub>) -> anyhow::Result<()> {
    hub.drain();
    let by = Instant::now() + FAREWELL;
    while hub.stats().connections.get() > 0 && Instant::now() < by {
        sleep(Duration::from_millis(10)).await;
    }
    hub.guard().callbacks().told(TOLD_WITHIN).await;
    Ok(())
}

/// What an operator wants to see. `noted`: the time since bytes were noted.
fn seen(hub: &Hub, look: &Look, noted: Duration) -> Seen {
    if look.streams {
        let mut streams = rows::streams(hub, noted);
        let total = streams.len() as u64;
        cut(&mut streams);
        return Seen { token: look.token, streams, total, ..Seen::default() };
    }
    hub.clients().look(look, noted)
}

fn report(hub: &Hub) -> Report {
    let stats = hub.stats();
    let pace = hub.rounds().pace();
    Report {
        connections: stats.connections.get(),
        streams: hub.stream_count() as u64,
        publishers: Stats::open(&stats.publishers),
        players: Stats::open(&stats.players),
        bytes_in: stats.bytes_in.get(),
        bytes_out: stats.bytes_out.get(),
        busy_percent: pace.share() * 100.0,
        round_us: u64::try_from(pace.round().as_micros()).unwrap_or(u64::MAX),
        skips: stats.skips.get(),
        slow_closed: stats.slow_closed.get(),
        refused: stats.refused(Refused::Connections),
        gop_bytes: hub.gop_bytes() as u64,
        snapshot: Some(stats::snapshot(hub)),
        ..Report::default()
    }
}

/// Who answers on a socket.
#[derive(Clone, Copy, Debug)]
enum Serves {
    Rtmp,
    Http(Service),
    Tls(Inside),
}

impl Serves {
    fn of(service: &str) -> Option<Self> {
        match service {
            "rtmp" => Some(Self::Rtmp),
            "http" => Some(Self::Http(Service::Http)),
            "api" => Some(Self::Http(Service::Api)),
            "https" => Some(Self::Tls(Inside::Http)),
            "rtmps" => Some(Self::Tls(Inside::Rtmp)),
            "signal" => Some(Self::Http(Service::Signal)),
            _ => None,
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Http(Service::Api) => "api",
            Self::Http(Service::Signal) => "signal",
            Self::Http(_) => "http",
            Self::Tls(Inside::Http) => "https",
            Self::Tls(Inside::Rtmp) => "rtmps",
        }
    }
}

/// The slots whose sockets are accepted from: this worker's own, and those it was lent.
struct Listeners {
    cx: Context,
    slots: FxHashMap<u32, Vec<AbortHandle>>,
}

impl Listeners {
    fn new(cx: Context) -> Self {
        Self { cx, slots: FxHashMap::default() }
    }

    fn open(&mut self, slot: u32, sockets: Vec<NamedSocket>) -> anyhow::Result<()> {
        let mut loops = Vec::new();
        for socket in sockets {
            let name = socket.name.clone();
            let serves = Serves::of(socket.service()).with_context(|| format!("socket {name} is not for an edge"))?;
            let listener = socket.into_tcp_listener().with_context(|| format!("socket {name}"))?;
            loops.push(spawn_local(accept(self.cx.clone(), listener, serves)).abort_handle());
        }
        self.close(slot);
        self.slots.insert(slot, loops);
        Ok(())
    }

    fn close(&mut self, slot: u32) {
        for accept in self.slots.remove(&slot).unwrap_or_default() {
            accept.abort();
        }
    }

    fn close_all(&mut self) {
        let slots: Vec<u32> = self.slots.keys().copied().collect();
        for slot in slots {
            self.close(slot);
        }
    }
}

async fn accept(cx: Context, listener: TcpListener, serves: Serves) {
    let mut failing = false;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => {
                failing = false;
                accepted
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "accepting failed; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        add(&cx.hub.stats().accepts, 1);
        let open = cx.hub.stats().connections.get();
        let limit = u64::from(cx.hub.config().edge.connections);
        let api = matches!(serves, Serves::Http(Service::Api));
        match admit(api, open, limit, &cx.gate.verdict()) {
            Admission::Serve => start(&cx, socket, peer, serves, None),
            Admission::Refuse(why) => start(&cx, socket, peer, serves, Some(why)),
            Admission::Drop(why) => cx.gate.refused(cx.hub.stats(), why),
        }
    }
}

/// Options of a client's socket. Without them it is served all the same.
fn tune(socket: &TcpStream) {
    // Answers in the handshake are small and awaited: they must not wait for more to send.
    socket.set_nodelay(true).ok();
    SockRef::from(socket).set_tcp_notsent_lowat(UNSENT).ok();
}

fn start(cx: &Context, socket: TcpStream, peer: std::net::SocketAddr, serves: Serves, refused: Option<Refusal>) {
    tune(&socket);
    let cx = cx.clone();
    spawn_local(async move {
        let stats = cx.hub.stats();
        if let Some(why) = refused {
            if let Some(sibling) = cx.gate.pass_to(stats.connections.get())
                && cx.gate.pass(sibling, &socket, peer.to_string(), serves.service()).await
            {
                return;
            }
            cx.gate.refused(stats, why);
        }
        let client = Client::new(socket, peer, cx.client_id());
        attend(cx, client, serves, refused).await;
    });
}

async fn attend(cx: Context, client: Client, serves: Serves, refused: Option<Refusal>) {
    let stats = cx.hub.stats().clone();
    let _count = Counted::new(&stats, |s| &s.connections);
    match serves {
        Serves::Rtmp => rtmp::serve(cx, client, refused).await,
        Serves::Http(service) => http::serve(cx, client, service, refused).await,
        // Boxed: every client's task would be larger by what a handshake needs once.
        Serves::Tls(inside) => Box::pin(tls::serve(cx, client, inside, refused)).await,
    }
}

/// Serves a client that another worker accepted and did not read. `None`: no listener of an edge is called so.
pub(crate) fn serve_fresh(cx: Context, client: Client, service: &str) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let serves = Serves::of(service)?;
    Some(Box::pin(attend(cx, client, serves, None)))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_kernel_holds_little_of_what_a_client_does_not_read() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            SockRef::from(&client).set_recv_buffer_size(16 * 1024).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            tune(&socket);
            socket.writable().await.unwrap();
            let (part, mut taken) = (vec![0; 16 * 1024], 0);
            loop {
                match socket.try_write(&part) {
                    Ok(n) => taken += n,
                    Err(e) => break assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
            }
            // What is on its way to the client's own buffer comes on top.
            assert!(taken < 512 * 1024, "{taken} bytes");
        });
    }
}
