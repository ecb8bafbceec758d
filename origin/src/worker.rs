//! The worker's life: its sockets, what the supervisor wants of it, and what it reports.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use quinn::{Endpoint, EndpointConfig, TokioRuntime, VarInt};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, timeout};
use tracing::info;
use weir_node::lately::Notes;
use weir_node::link::Report;
use weir_node::overload::State;
use weir_node::quic;
use weir_node::rows;
use weir_node::tls::ClusterTls;
use weir_node::worker::{Command, Shell};
use weir_proto::metrics::families;
use weir_proto::supervisor::{Look, Seen, Snapshot};

use crate::control::{self, Identity, Rooms, Service};
use crate::hub::{Hub, Rules};
use crate::incoming::Incoming;
use crate::relay::{self, Limits, Relay};
use crate::rtc::Rtc;

/// How long connections of other hosts may take to hear of the end.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// How long callbacks have to be told of the last sessions.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Runs an origin worker until the supervisor wants it to leave.
///
/// # Errors
/// The sockets or the certificates failed.
pub async fn run(mut shell: Shell) -> anyhow::Result<()> {
    let config = shell.config.clone();
    let tls = match config.cluster.tls.is_off() {
        true => None,
        false => Some(ClusterTls::load(&config.cluster.tls).context("cluster.tls")?),
    };
    let relay = Relay::new(Hub::new(Rules::new(&config)), Limits::new(&config));
    let slot = u16::try_from(shell.slot).context("slot")?;
    let identity = Identity {
        host: shell.host.clone(),
        slot: shell.slot,
        incarnation: shell.incarnation,
        relay_unix: shell.run_dir.join(format!("origin-{slot}.relay.sock")),
        relay_port: config.cluster.relay.listen.of_worker(slot).first().map_or(0, |address| address.port()),
    };
    let (rooms, calls) = Rooms::start(&config);
    let (service, questions) = Service::new(identity, calls);
    spawn_local(relay.clone().deadlines());
    spawn_local(relay.clone().watch_skips());
    let mut endpoints = Vec::new();
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for socket in std::mem::take(&mut shell.sockets) {
        let name = socket.name.clone();
        let needs_tls = || tls.as_ref().with_context(|| format!("{name} needs cluster.tls"));
        match socket.service() {
            "relay.unix" => {
                spawn_local(relay::listen_unix(relay.clone(), socket.into_unix_listener()?));
            }
            "control.unix" => {
                let incoming = Incoming::new(name, socket.into_unix_listener()?);
                spawn_local(control::serve(service.clone(), None, incoming)?);
            }
            "relay.quic" => {
                let settings = quic::server_config(needs_tls()?)?;
                let udp = socket.into_udp_socket();
                shell.link.overload().watch_udp(&name, &udp);
                let endpoint = Endpoint::new(EndpointConfig::default(), Some(settings), udp, Arc::new(TokioRuntime))?;
                endpoints.push(endpoint.clone());
                spawn_local(relay::listen_quic(relay.clone(), endpoint));
            }
            "rtc.udp" => {
                let socket = socket.into_udp_socket();
                shell.link.overload().watch_udp(&name, &socket);
                udp.push(socket);
            }
            "rtc.tcp" => tcp.push(socket.into_tcp_listener()?),
            "control.tcp" => {
                let tls = needs_tls()?.grpc_server();
                let incoming = Incoming::new(name, socket.into_tcp_listener()?);
                spawn_local(control::serve(service.clone(), Some(tls), incoming)?);
            }
            other => anyhow::bail!("a socket named {other} is not for an origin"),
        }
    }
    let rtc = match udp.is_empty() {
        true => None,
        false => Some(Rtc::new(udp, tcp, relay.clone(), config.clone()).context("rtc")?),
    };
    if let Some(rtc) = &rtc {
        spawn_local(rtc.clone().run());
    }
    spawn_local(control::answer(relay.clone(), rtc.clone(), questions));
    shell.link.ready();
    let served = serve(shell, &relay, rtc.as_ref(), &rooms).await;
    if let Some(rtc) = rtc {
        rtc.leave();
        rtc.told(TOLD_WITHIN).await;
    }
    close(&endpoints).await;
    served
}

/// Tells edges of other hosts that this process goes; else they would learn it from its silence.
async fn close(endpoints: &[Endpoint]) {
    for endpoint in endpoints {
        endpoint.close(VarInt::from_u32(0), b"the origin goes");
        timeout(GOODBYE_WITHIN, endpoint.wait_idle()).await.ok();
    }
}

async fn serve(mut shell: Shell, relay: &Relay, rtc: Option<&Rc<Rtc>>, rooms: &Rooms) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_secs(1));
    let mut drained_by: Option<Instant> = None;
    let mut notes = Notes::new(std::time::Instant::now());
    loop {
        let command = tokio::select! {
            command = shell.commands.recv() => command,
            _ = tick.tick() => {
                shell.link.report(report(relay, rtc, rooms));
                if let Some(rtc) = rtc
                    && notes.due(std::time::Instant::now())
                {
                    rtc.note();
                }
                let overloaded = shell.link.overload().verdict().state == State::Refuse;
                relay.hub().borrow_mut().set_overloaded(overloaded);
                if let Some(rtc) = rtc {
                    rtc.set_overloaded(overloaded);
                }
                let unused = relay.hub().borrow().stream_count() == 0;
                if drained_by.is_some_and(|by| unused || by <= Instant::now()) {
                    return Ok(());
                }
                continue;
            }
        };
        match command {
            Some(Command::Apply { token, config, .. }) => {
                relay.hub().borrow_mut().configure(Rules::new(&config));
                rooms.configure(&config);
                if let Some(rtc) = rtc {
                    rtc.configure(config);
                }
                shell.link.ack(token, Ok(()));
            }
            Some(Command::Drain { deadline } | Command::HandOver { deadline, .. }) => {
                // It serves, and takes new publishers, until it is gone: edges carry theirs over to a successor, and
                // until there is one nobody else could take them.
                info!(streams = relay.hub().borrow().stream_count(), "draining");
                drained_by = Some(deadline);
            }
            Some(Command::Adopt { token, .. }) => {
                shell.link.ack(token, Err("an origin accepts for no other slot".to_owned()));
            }
            Some(Command::Look(look)) => {
                shell.link.seen(seen(relay, rtc, &look, notes.since(std::time::Instant::now())));
            }
            Some(Command::Kick { token, number }) => {
                let known = rtc.is_some_and(|rtc| rtc.kick(number));
                shell.link.ack(token, known.then_some(()).ok_or_else(|| "there is no such client".to_owned()));
            }
            Some(Command::Release { token, .. }) => shell.link.ack(token, Ok(())),
            Some(Command::Stop) | None => return Ok(()),
        }
    }
}

/// What an operator wants to see. `noted`: the time since bytes were noted.
fn seen(relay: &Relay, rtc: Option<&Rc<Rtc>>, look: &Look, noted: Duration) -> Seen {
    if look.streams {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut rows = relay.hub().borrow().rows(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX));
        if let Some(rtc) = rtc {
            rtc.add_rows(&mut rows, noted);
        }
        let total = rows.len() as u64;
        let mut streams = rows.into_iter().map(|(name, row)| rows::named(&name, row)).collect();
        rows::cut(&mut streams);
        return Seen { token: look.token, streams, total, ..Seen::default() };
    }
    rtc.map_or_else(|| Seen { token: look.token, ..Seen::default() }, |rtc| rtc.look(look, noted))
}

fn report(relay: &Relay, rtc: Option<&Rc<Rtc>>, rooms: &Rooms) -> Report {
    let hub = relay.hub().borrow();
    let cost = relay.cost();
    // What only /metrics shows; how a number is added is told in weir_proto::metrics.
    let mut snapshot = Snapshot::default();
    snapshot.gauge(&families::RELAY_LINKS, &[], relay.peer_count() as f64);
    snapshot.count(&families::RELAY_SKIPS, &[], cost.skips);
    rooms.report(&mut snapshot);
    let (players, sessions) = rtc.map_or((0, 0), |rtc| rtc.report(&mut snapshot));
    Report {
        connections: relay.peer_count() as u64 + sessions,
        streams: hub.stream_count() as u64,
        publishers: hub.publication_count() as u64,
        players: hub.subscription_count() as u64 + players,
        bytes_in: cost.received,
        bytes_out: cost.sent,
        gop_bytes: hub.gop_bytes() as u64,
        snapshot: Some(snapshot),
        ..Report::default()
    }
}
