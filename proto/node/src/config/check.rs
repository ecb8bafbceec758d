//! The checks of a configuration as a whole: ranges, and what must fit together.

use std::fs::File;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Fault;
use super::tree::Node;
use super::value::{Auto, Listen, Scalar};
use super::{Config, EDGE_WORKERS_MAX, Edge, ORIGIN_WORKERS_MAX, Overload, Threshold, Vhost};

/// Longest `node.run_dir`: the path of a unix socket holds 107 bytes, and the sockets' own names need some.
const RUN_DIR_MAX: usize = 80;

/// Most vhosts.
const VHOSTS_MAX: usize = 1000;

/// Most entries of `rtc.ice_servers`.
const ICE_SERVERS_MAX: usize = 8;

/// Most entries of `cluster.origins`.
const ORIGINS_MAX: usize = 1000;

/// Most entries of `edge.tls`.
const CERTIFICATES_MAX: usize = 1000;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Everything that is wrong with `config`; `tree` gives the places.
pub(super) fn check(config: &Config, tree: &Node) -> Vec<Fault> {
    let mut check = Check { tree, faults: Vec::new() };
    check.node(config);
    check.metrics(config);
    check.workers(config);
    check.edge(config);
    check.origin(config);
    check.overload(&config.overload);
    check.cluster(config);
    check.ports(config);
    check.vhosts(config);
    check.faults
}

pub(super) struct Check<'a> {
    tree: &'a Node,
    faults: Vec<Fault>,
}

pub(super) const fn seconds(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())
}

impl Check<'_> {
    pub(super) fn refuse(&mut self, path: &[&str], message: impl Into<String>) {
        self.faults.push(Fault::at(self.tree.place_of(path), path, message));
    }

    pub(super) fn range<T: Scalar + PartialOrd>(&mut self, path: &[&str], value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            let (low, high) = (range.start().show(), range.end().show());
            self.refuse(path, format!("{} is out of range; write {low} to {high}", value.show()));
        }
    }

    fn node(&mut self, config: &Config) {
        let dir = &config.node.run_dir;
        if !dir.is_empty() && !dir.starts_with('/') {
            self.refuse(&["node", "run_dir"], format!("{dir:?} is not an absolute path; write one that begins with /"));
        }
        if dir.len() > RUN_DIR_MAX {
            let message = format!(
                "longer than {RUN_DIR_MAX} bytes, so the paths of its sockets would not fit; write a shorter path"
            );
            self.refuse(&["node", "run_dir"], message);
        }
    }

    fn metrics(&mut self, config: &Config) {
        self.range(&["metrics", "per_stream_max"], config.metrics.per_stream_max, 1..=10_000);
    }

    fn workers(&mut self, config: &Config) {
        let (edges, origins) = (config.edge.workers, config.origin.workers);
        if let Auto::Is(count) = edges
            && count > EDGE_WORKERS_MAX
        {
            let message = format!("{count} is not a worker count; write auto or 0..={EDGE_WORKERS_MAX}");
            self.refuse(&["edge", "workers"], message);
        }
        if origins > ORIGIN_WORKERS_MAX {
            let message = format!("{origins} is not a worker count; write 0..={ORIGIN_WORKERS_MAX}");
            self.refuse(&["origin", "workers"], message);
        }
        if origins != 0 {
            return;
        }
        if edges == Auto::Is(0) {
            let message = "0 leaves nothing to run beside origin.workers: 0; write auto or 1..=256";
            self.refuse(&["edge", "workers"], message);
        } else if config.cluster.origins.is_empty() {
            let message =
                "0 leaves the edges without an origin; write 1..=64, or list the cluster's origins in cluster.origins";
            self.refuse(&["origin", "workers"], message);
        }
    }

    fn edge(&mut self, config: &Config) {
        let edge = &config.edge;
        self.range(&["edge", "rtmp", "chunk_size"], edge.rtmp.chunk_size, 128..=65_536);
        self.range(&["edge", "rtmp", "handshake_timeout"], edge.rtmp.handshake_timeout, seconds(1..=600));
        self.range(&["edge", "rtmp", "request_timeout"], edge.rtmp.request_timeout, seconds(1..=3600));
        self.range(&["edge", "http", "header_timeout"], edge.http.header_timeout, seconds(1..=600));
        self.range(&["edge", "log_memory"], edge.log_memory, 16 * MIB..=1024 * GIB);
        self.range(&["edge", "publish_memory"], edge.publish_memory, 16 * MIB..=1024 * GIB);
        self.range(&["edge", "connections"], edge.connections, 1..=1_000_000);
        self.range(&["edge", "drain_timeout"], edge.drain_timeout, seconds(0..=86_400));
        self.gateway(edge);
        self.range(&["edge", "signal", "ping"], edge.signal.ping, seconds(1..=600));
        let listens = [&edge.rtmp.listen, &edge.http.listen, &edge.api.listen, &edge.https.listen, &edge.rtmps.listen];
        if config.edge_workers() > 0 && listens.iter().all(|listen| listen.is_off()) {
            self.refuse(
                &["edge"],
                "rtmp, http, api, https and rtmps all listen nowhere; write a port for one of them, or edge.workers: 0",
            );
        }
    }

    fn gateway(&mut self, edge: &Edge) {
        let over_tls = [("https", &edge.https.listen), ("rtmps", &edge.rtmps.listen)];
        for (key, _) in over_tls.iter().filter(|(_, listen)| !listen.is_off() && edge.tls.is_empty()) {
            self.refuse(&["edge", key, "listen"], "needs a certificate; write edge.tls: [{ cert: FILE, key: FILE }]");
        }
        if edge.https.redirect && edge.https.listen.is_off() {
            self.refuse(&["edge", "https", "redirect"], "leads nowhere; write edge.https.listen");
        }
        if edge.tls.iter().any(|site| site.cert.is_empty() || site.key.is_empty()) {
            self.refuse(&["edge", "tls"], "incomplete; write cert and key of each");
        }
        if edge.tls.len() > CERTIFICATES_MAX {
            self.refuse(&["edge", "tls"], format!("more than {CERTIFICATES_MAX} certificates"));
        }
        for (path, target) in &edge.proxy {
            if !path.starts_with('/') || path.contains(['?', '#']) {
                self.refuse(&["edge", "proxy", path], "no beginning of a path; write it as /app");
            }
            if target.strip_prefix("http://").and_then(host_port).is_none() {
                self.refuse(&["edge", "proxy", path], format!("{target:?} is not written as http://HOST:PORT"));
            }
        }
    }

    fn origin(&mut self, config: &Config) {
        let origin = &config.origin;
        self.range(&["origin", "gop", "bytes"], origin.gop.bytes, 64 * KIB..=GIB);
        self.range(&["origin", "gop", "frames"], origin.gop.frames, 1..=1_000_000);
        self.range(&["origin", "gop", "duration"], origin.gop.duration, seconds(1..=600));
        self.range(&["origin", "streams"], origin.streams, 1..=1_000_000);
        self.range(&["origin", "rooms"], origin.rooms, 1..=1_000_000);
        self.range(&["origin", "room_members"], origin.room_members, 2..=1_000);
    }

    fn overload(&mut self, overload: &Overload) {
        let hold = Duration::ZERO..=Duration::from_secs(600);
        self.range(&["overload", "enter"], overload.enter, hold.clone());
        self.range(&["overload", "leave"], overload.leave, hold);
        self.range(&["overload", "loss_log"], overload.loss_log, seconds(0..=3600));
        let redirect = &overload.redirect;
        for (key, peer) in [("rtmp", &redirect.rtmp), ("http", &redirect.http), ("https", &redirect.https)] {
            // The port may be left out.
            let named = host_port(peer).is_some() || host_port(&format!("{peer}:1")).is_some();
            if !peer.is_empty() && !named {
                let message = format!("{peer:?} is not HOST or HOST:PORT; write one such as edge-2.example.com");
                self.refuse(&["overload", "redirect", key], message);
            }
        }
        let percent = 1..=100;
        let Overload { worker_cpu, host_cpu, nic, udp_drops, memory, disk, loop_lag, connections, .. } = overload;
        self.thresholds("worker_cpu", worker_cpu.warn, worker_cpu.refuse, percent.clone());
        self.thresholds("host_cpu", host_cpu.warn, host_cpu.refuse, percent.clone());
        self.thresholds("nic", nic.warn, nic.refuse, percent.clone());
        self.thresholds("udp_drops", udp_drops.warn, udp_drops.refuse, 1..=1_000_000);
        self.thresholds("memory", memory.warn, memory.refuse, percent.clone());
        self.thresholds("disk", disk.warn, disk.refuse, percent.clone());
        let lag = Duration::from_millis(1)..=Duration::from_secs(10);
        self.thresholds("loop_lag", loop_lag.warn, loop_lag.refuse, lag);
        self.thresholds("connections", connections.warn, connections.refuse, percent);
        if let Auto::Is(limit) = nic.limit {
            self.range(&["overload", "nic", "limit"], limit, 1..=10_000_000);
        }
        // The kernel allows no more (IFNAMSIZ), and the name becomes a part of a path.
        let name = nic.interface.as_bytes();
        if !(1..=15).contains(&name.len()) || name.iter().any(|b| *b == b'/' || !b.is_ascii_graphic()) || name == b".."
        {
            let message =
                format!("{:?} is not the name of a network interface; write auto or one such as eth0", nic.interface);
            self.refuse(&["overload", "nic", "interface"], message);
        }
        if !disk.path.starts_with('/') {
            let message = format!("{:?} is not an absolute path; write one that begins with /", disk.path);
            self.refuse(&["overload", "disk", "path"], message);
        }
    }

    fn thresholds<T>(&mut self, key: &str, warn: Threshold<T>, refuse: Threshold<T>, range: RangeInclusive<T>)
    where
        T: Scalar + PartialOrd + Copy,
    {
        for (name, threshold) in [("warn", warn), ("refuse", refuse)] {
            if let Threshold::At(value) = threshold {
                self.range(&["overload", key, name], value, range.clone());
            }
        }
        if let (Threshold::At(warn), Threshold::At(refuse)) = (warn, refuse)
            && refuse < warn
        {
            let message =
                format!("{} is less than warn, {}; write at least {}", refuse.show(), warn.show(), warn.show());
            self.refuse(&["overload", key, "refuse"], message);
        }
    }

    fn cluster(&mut self, config: &Config) {
        let cluster = &config.cluster;
        self.range(&["cluster", "relay", "hold"], cluster.relay.hold, Duration::ZERO..=Duration::from_secs(10));
        self.range(&["cluster", "relay", "queue"], cluster.relay.queue, 256 * KIB..=GIB);
        self.range(&["cluster", "relay", "linger"], cluster.relay.linger, seconds(0..=3600));
        self.origins(config);
        self.tls(config);
        self.rtc(config);
        let (relay, control) = (!cluster.relay.listen.is_off(), !cluster.control.listen.is_off());
        if relay && !control {
            self.refuse(
                &["cluster", "relay", "listen"],
                "other hosts find the relay through cluster.control.listen, which is off; write both",
            );
        }
        if control && !relay {
            self.refuse(
                &["cluster", "control", "listen"],
                "other hosts fetch streams over cluster.relay.listen, which is off; write both",
            );
        }
        let serves = config.origin.workers > 0;
        if !serves && (relay || control) {
            let path = if relay { "relay" } else { "control" };
            self.refuse(
                &["cluster", path, "listen"],
                "only origin workers listen here and origin.workers is 0; write off",
            );
        }
        if serves && !cluster.origins.is_empty() && !relay && !control {
            let message = "this host has origin workers that other hosts cannot reach; write cluster.relay.listen and \
                           cluster.control.listen, or origin.workers: 0";
            self.refuse(&["cluster", "origins"], message);
        }
    }

    fn origins(&mut self, config: &Config) {
        let path = ["cluster", "origins"];
        let origins = &config.cluster.origins;
        if origins.len() > ORIGINS_MAX {
            self.refuse(&path, format!("{} entries; write at most {ORIGINS_MAX}", origins.len()));
        }
        for (i, origin) in origins.iter().take(ORIGINS_MAX).enumerate() {
            if host_port(origin).is_none() {
                self.refuse(
                    &path,
                    format!(
                        "{origin:?} is not HOST:PORT; write one such as origin-1.example.com:1990 or \"[fd00::1]:1990\""
                    ),
                );
            } else if origins.iter().take(i).any(|other| other == origin) {
                self.refuse(&path, format!("{origin:?} stands there twice; write each origin worker once"));
            }
        }
    }

    fn rtc(&mut self, config: &Config) {
        let rtc = &config.rtc;
        self.range(&["rtc", "sessions"], rtc.sessions, 1..=1_000_000);
        self.range(&["rtc", "stun_timeout"], rtc.stun_timeout, seconds(5..=600));
        if rtc.ice_servers.len() > ICE_SERVERS_MAX {
            let message = format!("{} servers; write at most {ICE_SERVERS_MAX}", rtc.ice_servers.len());
            self.refuse(&["rtc", "ice_servers"], message);
        }
        for server in rtc.ice_servers.iter().take(ICE_SERVERS_MAX) {
            let known = ["stun:", "stuns:", "turn:", "turns:"].iter().any(|scheme| server.starts_with(scheme));
            if !known || !server.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b)) {
                let message =
                    format!("{server:?} is no STUN or TURN server; write one such as stun:stun.example.com:3478");
                self.refuse(&["rtc", "ice_servers"], message);
            }
        }
    }

    fn tls(&mut self, config: &Config) {
        let cluster = &config.cluster;
        let files = [("ca", &cluster.tls.ca), ("cert", &cluster.tls.cert), ("key", &cluster.tls.key)];
        let complete = files.iter().all(|(_, file)| !file.is_empty());
        if !complete {
            let needs: [(&[&str], bool); 3] = [
                (&["cluster", "relay", "listen"], !cluster.relay.listen.is_off()),
                (&["cluster", "control", "listen"], !cluster.control.listen.is_off()),
                (&["cluster", "origins"], !cluster.origins.is_empty()),
            ];
            for (path, _) in needs.iter().filter(|(_, used)| *used) {
                self.refuse(path, "needs cluster.tls: hosts talk to each other over mutual TLS only; write ca, cert and key (weir cert makes them)");
            }
            if !cluster.tls.is_off() {
                self.refuse(&["cluster", "tls"], "incomplete; write all of ca, cert and key, or none");
            }
        }
        for (key, file) in files.iter().filter(|(_, file)| !file.is_empty()) {
            if let Err(e) = File::open(file) {
                self.refuse(&["cluster", "tls", key], format!("{file} cannot be opened: {e}"));
            }
        }
    }

    fn ports(&mut self, config: &Config) {
        let edge = &config.edge;
        let cluster = &config.cluster;
        let mut tcp: Vec<Bound<'_>> = Vec::new();
        let mut udp: Vec<Bound<'_>> = Vec::new();
        self.bind(&mut tcp, &["edge", "rtmp", "listen"], &edge.rtmp.listen, 1);
        self.bind(&mut tcp, &["edge", "http", "listen"], &edge.http.listen, 1);
        self.bind(&mut tcp, &["edge", "api", "listen"], &edge.api.listen, 1);
        self.bind(&mut tcp, &["edge", "https", "listen"], &edge.https.listen, 1);
        self.bind(&mut tcp, &["edge", "rtmps", "listen"], &edge.rtmps.listen, 1);
        if edge.signal.enabled {
            self.bind(&mut tcp, &["edge", "signal", "listen"], &edge.signal.listen, 1);
        }
        self.bind(&mut tcp, &["metrics", "listen"], &config.metrics.listen, 1);
        let origins = config.origin.workers.min(ORIGIN_WORKERS_MAX) as u16;
        self.bind(&mut tcp, &["cluster", "control", "listen"], &cluster.control.listen, origins);
        self.bind(&mut udp, &["cluster", "relay", "listen"], &cluster.relay.listen, origins);
        self.bind(&mut udp, &["rtc", "listen"], &config.rtc.listen, origins);
        if config.rtc.tcp {
            self.bind(&mut tcp, &["rtc", "listen"], &config.rtc.listen, origins);
        }
    }

    /// Adds a listener of `count` consecutive ports to those of its protocol, unless it meets one of them.
    fn bind<'b>(&mut self, bound: &mut Vec<Bound<'b>>, path: &'b [&'b str], listen: &Listen, count: u16) {
        for address in listen.addresses() {
            let Some(last) = address.port().checked_add(count.saturating_sub(1)) else {
                let message = format!(
                    "origin worker i takes port {} + i, and {count} workers pass 65535; write a lower port",
                    address.port()
                );
                self.refuse(path, message);
                continue;
            };
            let new = Bound { path, address: *address, last };
            if let Some(other) = bound.iter().find(|other| other.meets(&new)) {
                let port = address.port().max(other.address.port());
                let message = match other.path == path {
                    true => format!("port {port} stands there twice; write each address once"),
                    false => format!("port {port} is already taken by {}; write another one", other.path.join(".")),
                };
                self.refuse(path, message);
            }
            bound.push(new);
        }
    }

    fn vhosts(&mut self, config: &Config) {
        if config.vhosts.is_empty() {
            self.refuse(
                &["vhosts"],
                "no vhost is listed, so nobody could publish or play; list one, or leave the section out",
            );
        }
        if config.vhosts.len() > VHOSTS_MAX {
            self.refuse(&["vhosts"], format!("{} vhosts; write at most {VHOSTS_MAX}", config.vhosts.len()));
        }
        for (i, (name, vhost)) in config.vhosts.iter().take(VHOSTS_MAX).enumerate() {
            if name.is_empty() || name.contains(['/', ':', '?', ' ']) {
                self.refuse(&["vhosts", name], "not a host name; write one without scheme, port or path");
            }
            if config.vhosts.keys().take(i).any(|other| other.eq_ignore_ascii_case(name)) {
                self.refuse(
                    &["vhosts", name],
                    "differs from another vhost in capitals only, which host names do not tell apart",
                );
            }
            self.vhost(name, vhost);
        }
    }

    fn vhost(&mut self, name: &str, vhost: &Vhost) {
        let (play, publish) = (&vhost.play, &vhost.publish);
        if let Auto::Is(latency) = play.mw_latency {
            self.range(&["vhosts", name, "play", "mw_latency"], latency, Duration::ZERO..=Duration::from_secs(10));
        }
        self.range(&["vhosts", name, "play", "queue_length"], play.queue_length, seconds(1..=600));
        self.range(&["vhosts", name, "play", "queue_close"], play.queue_close, seconds(1..=3600));
        if play.queue_close < play.queue_length {
            let (close, length) = (play.queue_close.show(), play.queue_length.show());
            let message = format!(
                "{close} is less than queue_length, {length}: players would be closed before they may skip; write at least {length}"
            );
            self.refuse(&["vhosts", name, "play", "queue_close"], message);
        }
        self.range(&["vhosts", name, "publish", "grace"], publish.grace, seconds(0..=3600));
        self.range(
            &["vhosts", name, "publish", "first_packet_timeout"],
            publish.first_packet_timeout,
            seconds(1..=3600),
        );
        self.range(&["vhosts", name, "publish", "timeout"], publish.timeout, seconds(1..=3600));
        self.range(&["vhosts", name, "http_flv", "wait"], vhost.http_flv.wait, seconds(0..=300));
        self.range(&["vhosts", name, "rtc", "pli_for_rtmp"], vhost.rtc.pli_for_rtmp, seconds(0..=300));
        for (key, bitrate) in [("opus_bitrate", vhost.rtc.opus_bitrate), ("aac_bitrate", vhost.rtc.aac_bitrate)] {
            self.range(&["vhosts", name, "rtc", key], bitrate, 8000..=320_000);
        }
        self.access(name, &vhost.access);
        self.http_hooks(name, &vhost.http_hooks);
    }
}

/// Consecutive ports of one listener.
struct Bound<'a> {
    path: &'a [&'a str],
    address: SocketAddr,
    last: u16,
}

impl Bound<'_> {
    fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.address.ip(), other.address.ip());
        let same_host = a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
        same_host && self.address.port() <= other.last && other.address.port() <= self.last
    }
}

/// Splits an entry of `cluster.origins`, `name:port`, `1.2.3.4:port` or `[v6]:port`, into host (without brackets)
/// and port. `None` when it is none of these.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, digits) = text.rsplit_once(':')?;
    let port = digits.parse::<u16>().ok().filter(|port| *port > 0 && !digits.starts_with('+'))?;
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok().then_some((v6, port));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    ((1..=253).contains(&host.len()) && host.bytes().all(allowed)).then_some((host, port))
}
