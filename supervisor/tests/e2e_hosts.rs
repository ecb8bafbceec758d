//! Two hosts, as conf/origin.yaml and conf/edge.yaml describe them, on two addresses of this machine: the media crosses
//! in QUIC, the control plane in gRPC, both under mutual TLS.

mod common;
mod e2e;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Cluster, WEIR, eventually, free_port, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::flv::assert_monotonic;
use e2e::http;
use e2e::peer::Peer;
use e2e::source::{GOP, Source};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

const ORIGIN_YAML: &str = include_str!("../../conf/origin.yaml");
const EDGE_YAML: &str = include_str!("../../conf/edge.yaml");

/// Where the pair lives; the certificates are made for these.
const ORIGIN_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const EDGE_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Seconds that each ffmpeg plays.
const PLAY: u64 = 12;

/// Players of each protocol at each host.
const PLAYERS: usize = 3;

/// Play goes on so soon after an origin's return.
const RESUMED: Duration = Duration::from_secs(2);

/// Messages of a second or so.
const SOME: usize = 100;

/// `weir cert ARGS --dir DIR NAMES`.
fn cert(dir: &Path, what: &str, names: &[&str]) {
    let made = Command::new(WEIR).args(["cert", what, "--dir"]).arg(dir).args(names).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// An address of a host that neither TCP nor UDP uses.
fn free_address(host: IpAddr) -> SocketAddr {
    loop {
        let address = SocketAddr::new(host, free_port());
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// The two hosts and what they share.
struct Pair {
    origin: Cluster,
    edge: Cluster,
    control: SocketAddr,
    tls: TempDir,
    scratch: TempDir,
}

impl Pair {
    fn start() -> Self {
        let tls = tempfile::tempdir().unwrap();
        cert(tls.path(), "ca", &[]);
        cert(tls.path(), "node", &["origin-1", "127.0.0.2"]);
        cert(tls.path(), "node", &["edge-1", "127.0.0.3"]);
        let (control, relay) = (free_address(ORIGIN_HOST), free_address(ORIGIN_HOST));
        let (shown, relay) = (control.to_string(), relay.to_string());
        let own = [("WEIR_CLUSTER__CONTROL__LISTEN", shown.as_str()), ("WEIR_CLUSTER__RELAY__LISTEN", &relay)];
        let origin = launch(ORIGIN_YAML, ORIGIN_HOST, "origin-1", tls.path(), control, &own);
        let edge = launch(EDGE_YAML, EDGE_HOST, "edge-1", tls.path(), control, &[]);
        let pair = Self { origin, edge, control, tls, scratch: tempfile::tempdir().unwrap() };
        for host in [&pair.origin, &pair.edge] {
            // Any of the host's edge workers may answer, so each must have been asked.
            eventually("the host is ready", SOON, || {
                (0..8).all(|_| http::get(host.api, "/readyz").status == 200).then_some(())
            });
        }
        pair
    }

    fn publish(&self, at: &Cluster, stream: &str) -> Ffmpeg {
        let url = format!("rtmp://{}/{stream}", at.rtmp);
        let publisher = Ffmpeg::publish(Source::b_frames(), &url, self.scratch.path());
        e2e::publishers_slot(at, stream);
        publisher
    }

    /// Plays the stream at both hosts with ffmpeg; every frame must come.
    fn assert_plays(&self, stream: &str) {
        let urls = [&self.origin, &self.edge]
            .map(|host| [format!("rtmp://{}/{stream}", host.rtmp), format!("http://{}/{stream}.flv", host.http)]);
        let mut players = Vec::new();
        for url in urls.iter().flatten() {
            for number in 0..PLAYERS {
                let start = if number == 0 { Ffmpeg::decode } else { Ffmpeg::play };
                players.push((url, start(url, PLAY, self.scratch.path())));
            }
        }
        let source = Source::b_frames();
        for (url, mut player) in players {
            player.finish(Duration::from_secs(PLAY) + SOON);
            let received = source.place_hashes(&player.output());
            source.assert_whole(&received, url);
            source.assert_lasts(&received, PLAY, url);
        }
    }
}

/// Starts the host of a file of conf/, with free ports and the test's own certificates.
fn launch(yaml: &str, host: IpAddr, name: &str, tls: &Path, control: SocketAddr, more: &[(&str, &str)]) -> Cluster {
    let [rtmp, http, api] = [0; 3].map(|_| free_address(host));
    let file = |name: String| tls.join(name).to_str().unwrap().to_owned();
    let mut env = vec![
        ("WEIR_EDGE__RTMP__LISTEN", rtmp.to_string()),
        ("WEIR_EDGE__HTTP__LISTEN", http.to_string()),
        ("WEIR_EDGE__API__LISTEN", api.to_string()),
        ("WEIR_CLUSTER__ORIGINS", format!("[\"{control}\"]")),
        ("WEIR_CLUSTER__TLS__CA", file("ca.pem".to_owned())),
        ("WEIR_CLUSTER__TLS__CERT", file(format!("{name}.pem"))),
        ("WEIR_CLUSTER__TLS__KEY", file(format!("{name}.key"))),
    ];
    env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut cluster = Cluster::launch(Path::new(WEIR), yaml, &env);
    (cluster.rtmp, cluster.http, cluster.api) = (rtmp, http, api);
    cluster.wait_ready();
    cluster
}

#[test]
fn a_stream_published_at_either_host_plays_at_both() {
    let pair = Pair::start();
    let _far = pair.publish(&pair.edge, "live/far");
    let _near = pair.publish(&pair.origin, "live/near");
    std::thread::scope(|scope| {
        let far = scope.spawn(|| pair.assert_plays("live/far"));
        pair.assert_plays("live/near");
        far.join().unwrap();
    });
    let status = pair.edge.try_status().unwrap();
    let roles: Vec<_> = status["workers"].as_array().unwrap().iter().map(|w| w["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["edge", "edge"], "no stream lives at the edge host");
}

#[test]
fn clients_at_the_edge_host_outlive_the_origin_worker() {
    let pair = Pair::start();
    let mut publisher = pair.publish(&pair.edge, "live/far");
    let open = |host: &Cluster| [Peer::flv(host.http, "/live/far.flv"), Peer::play(host.rtmp, "live", "far")];
    let players: Vec<Peer> = [&pair.edge, &pair.origin, &pair.edge].into_iter().flat_map(open).collect();
    for _ in 0..2 {
        Peer::wait_media_of(&players, SOME, SOON);
        let dead = pair.origin.row("origin", 0);
        signal(dead.pid, Signal::SIGKILL);
        eventually("another origin worker", SOON, || {
            let row = pair.origin.row("origin", 0);
            (row.pid != dead.pid && row.state == "ready").then_some(())
        });
        let back = std::time::Instant::now();
        for player in &players {
            player.wait("frames again", RESUMED, |notes| {
                notes.tags.last().is_some_and(|(at, _)| *at >= back).then_some(())
            });
        }
        publisher.assert_running();
    }
    Peer::wait_media_of(&players, SOME, SOON);
    let source = Source::b_frames();
    for player in &players {
        player.assert_connected();
        let media = player.look(|notes| notes.media());
        assert_monotonic(&media, "a player");
        source.assert_joins_at_keyframes(&source.place_tags(&media), "a player");
    }
}

/// A client that joins the room `live`, and has its answer.
fn join(host: &Cluster, display: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(host.http).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut socket, _) = client(format!("ws://{}/sig/v1/rtc", host.http), stream).unwrap();
    let join = json!({"tid": "1", "msg": {"action": "join", "room": "live", "display": display}});
    socket.send(Message::text(join.to_string())).unwrap();
    assert_eq!(heard(&mut socket)["self"]["display"], display);
    socket
}

/// The next message.
fn heard(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str::<Value>(&text).unwrap()["msg"].take();
        }
    }
}

/// A room is the same at both hosts. An origin's host that falls silent, as one without power does, leaves nobody at another
/// host in a room that is none.
#[test]
fn members_at_both_hosts_meet_and_are_told_when_the_origin_falls_silent() {
    let pair = Pair::start();
    let mut there = join(&pair.origin, "there");
    let mut here = join(&pair.edge, "here");
    let notice = heard(&mut there);
    assert_eq!((&notice["event"], &notice["peer"]["display"]), (&json!("join"), &json!("here")));
    let stopped: Vec<u32> =
        [pair.origin.pid()].into_iter().chain(pair.origin.rows().iter().map(|row| row.pid)).collect();
    stopped.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let told = loop {
        match here.read() {
            Ok(Message::Close(Some(frame))) => break Ok(u16::from(frame.code)),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    let mut again = TcpStream::connect(pair.edge.http).map(|stream| {
        stream.set_read_timeout(Some(SOON)).unwrap();
        client(format!("ws://{}/sig/v1/rtc", pair.edge.http), stream).unwrap().0
    });
    let join = json!({"tid": "1", "msg": {"action": "join", "room": "live", "display": "here"}});
    again.as_mut().unwrap().send(Message::text(join.to_string())).unwrap();
    let refused = heard(again.as_mut().unwrap());
    stopped.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    assert_eq!(told.unwrap(), 1012);
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
}

#[test]
fn both_hosts_are_upgraded_while_a_stream_goes_through_them() {
    let pair = Pair::start();
    let mut publisher = pair.publish(&pair.edge, "live/far");
    let open = |host: &Cluster| [Peer::flv(host.http, "/live/far.flv"), Peer::play(host.rtmp, "live", "far")];
    let players: Vec<Peer> = [&pair.edge, &pair.origin].into_iter().flat_map(open).collect();
    let source = Source::b_frames();
    let mut received = Vec::new();
    for host in [&pair.edge, &pair.origin] {
        Peer::wait_media_of(&players, SOME, SOON);
        let before: Vec<_> = host.rows().iter().map(|row| row.pid).collect();
        let upgraded = host.ctl(&["upgrade"]);
        assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
        assert!(host.rows().iter().all(|row| !before.contains(&row.pid)), "every worker was replaced");
        Peer::wait_media_of(&players, SOME, SOON);
        received =
            players.iter().map(|player| source.place_tags(&player.look(|notes| notes.media()))).collect::<Vec<_>>();
        if host.pid() == pair.edge.pid() {
            // Clients move with all they have not got yet.
            received.iter().for_each(|received| assert_eq!(source.video_gaps(received), []));
        }
    }
    publisher.assert_running();
    for (player, received) in players.iter().zip(&received) {
        player.assert_connected();
        assert_monotonic(&player.look(|notes| notes.media()), "a player");
        // Of a group that ends while the origin is away the rest is not kept.
        let gaps = source.video_gaps(received);
        assert!(gaps.len() <= 1 && gaps.iter().all(|(_, _, next)| next % GOP == 0), "{gaps:?}");
    }
}

#[test]
fn a_host_with_another_authority_is_not_let_in() {
    let pair = Pair::start();
    let _publisher = pair.publish(&pair.origin, "live/near");
    let other = tempfile::tempdir().unwrap();
    cert(other.path(), "ca", &[]);
    cert(other.path(), "node", &["edge-1", "127.0.0.3"]);
    // It trusts the cluster, but the cluster has not heard of its authority.
    let [theirs, own] = [&pair.tls, &other].map(|dir| std::fs::read_to_string(dir.path().join("ca.pem")).unwrap());
    std::fs::write(other.path().join("ca.pem"), own + &theirs).unwrap();
    let impatient = [("WEIR_VHOSTS", "{__defaultVhost__: {http_flv: {wait: 2s}}}")];
    let stranger = launch(EDGE_YAML, EDGE_HOST, "edge-1", other.path(), pair.control, &impatient);
    let refused = Peer::publish(stranger.rtmp, "live", "near2");
    refused.wait("the refusal", 2 * SOON, |notes| notes.said("NetStream.Publish.Failed").then_some(()));
    assert_eq!(http::get(stranger.api, "/readyz").status, 503);
    let waiting = Peer::flv(stranger.http, "/live/near.flv");
    let end = waiting.wait("the end", SOON, |notes| notes.end.clone());
    assert_eq!(end, "status 404");
    assert!(!stranger.log().contains("relay link up"), "{}", stranger.log());
}
