//! What /metrics says, against what really happens.

mod common;
mod e2e;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Cluster, eventually, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::http;
use e2e::peer::Peer;
use e2e::scrape::Scrape;
use e2e::source::Source;
use nix::sys::signal::Signal;

const YAML: &str = "edge: { workers: 2 }\norigin: { workers: 1 }\nmetrics: { per_stream: on }\n";

/// A scrape is answered within this, whatever the workers do.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Everything that is there without a stream.
const ALWAYS: &[&str] = &[
    "weir_accepts_total",
    "weir_build_info",
    "weir_config_generation",
    "weir_config_reload_success",
    "weir_config_reloads_total",
    "weir_connections",
    "weir_first_frame_seconds",
    "weir_frame_latency_seconds",
    "weir_frames_total",
    "weir_gop_memory_bytes",
    "weir_joins_total",
    "weir_log_memory_bytes",
    "weir_publishers",
    "weir_publishers_unsteady",
    "weir_received_bytes_total",
    "weir_refusals_total",
    "weir_relay_links",
    "weir_relay_pulls",
    "weir_relay_pulls_total",
    "weir_relay_skips_total",
    "weir_room_members",
    "weir_rooms",
    "weir_sent_bytes_total",
    "weir_sessions",
    "weir_sessions_total",
    "weir_signal_closed_total",
    "weir_signal_messages_total",
    "weir_signal_refusals_total",
    "weir_signal_sockets",
    "weir_skips_total",
    "weir_slow_closed_total",
    "weir_start_time_seconds",
    "weir_streams",
    "weir_worker_busy_ratio",
    "weir_worker_cpu_ratio",
    "weir_worker_loop_lag_seconds",
    "weir_worker_memory_bytes",
    "weir_worker_restarts_total",
    "weir_worker_round_seconds",
    "weir_worker_start_time_seconds",
    "weir_worker_up",
];

fn scrape(cluster: &Cluster) -> Scrape {
    Scrape::get(cluster.metrics)
}

/// So many players of each protocol, which have media.
fn players(cluster: &Cluster, each: usize) -> Vec<Peer> {
    let flv = (0..each).map(|_| Peer::flv(cluster.http, "/live/river.flv"));
    let rtmp = (0..each).map(|_| Peer::play(cluster.rtmp, "live", "river"));
    let players: Vec<Peer> = flv.chain(rtmp).collect();
    Peer::wait_media_of(&players, 50, SOON);
    players
}

/// Prometheus' own tool has its say where it is installed.
fn promtool(text: &str) {
    let run = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut tool) = run else { return };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_numbers_are_what_happened() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let began = eventually("every worker has reported", SOON, || {
        let scrape = scrape(&cluster);
        let names = scrape.names();
        ALWAYS.iter().all(|name| names.contains(name)).then_some(scrape)
    });
    assert_eq!(began.sum("weir_sessions", &[]), 0.0);
    assert_eq!(began.sum("weir_worker_up", &[]), 3.0);
    assert_eq!(began.get_sample("weir_worker_up{role=\"origin\",slot=\"0\"}"), Some(1.0));

    let mut publisher =
        Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    e2e::publishers_slot(&cluster, "live/river");
    let players = players(&cluster, 3);
    http::get(cluster.http, "/live/nothing.flv?vhost=nobody").text();
    let rtmp = "protocol=\"rtmp\"";
    let flv = "protocol=\"http_flv\"";
    let (play, publish) = ("kind=\"play\"", "kind=\"publish\"");
    let there = eventually("the players are counted, and some seconds of the publisher", SOON * 2, || {
        let scrape = scrape(&cluster);
        let sessions = scrape.sum("weir_sessions", &[rtmp, play]) + scrape.sum("weir_sessions", &[flv, play]);
        let rate = scrape.sum("weir_publisher_frame_rate", &["stream=\"river\""]);
        (sessions == 6.0 && (23.0..27.0).contains(&rate)).then_some(scrape)
    });
    let is = |name: &str, labels: &[&str], value: f64| assert_eq!(there.sum(name, labels), value, "{name} {labels:?}");
    is("weir_sessions", &[rtmp, play], 3.0);
    is("weir_sessions", &[flv, play], 3.0);
    is("weir_sessions", &[publish], 1.0);
    is("weir_sessions_total", &[rtmp, play], 3.0);
    is("weir_sessions_total", &[rtmp, publish], 1.0);
    is("weir_joins_total", &[rtmp], 3.0);
    is("weir_joins_total", &[flv], 3.0);
    is("weir_first_frame_seconds_count", &[], 6.0);
    is("weir_first_frame_seconds_bucket", &["le=\"+Inf\"", flv], 3.0);
    is("weir_publishers", &["role=\"origin\""], 1.0);
    is("weir_stream_players", &["vhost=\"__defaultVhost__\"", "app=\"live\"", "stream=\"river\""], 6.0);
    is("weir_publishers_unsteady", &[], 0.0);
    is("weir_publisher_dts_gaps_total", &["stream=\"river\""], 0.0);
    is("weir_relay_links", &["role=\"edge\""], 2.0);
    is("weir_relay_links", &["role=\"origin\""], 2.0);
    is("weir_worker_restarts_total", &[], 0.0);
    assert_eq!(there.sum("weir_relay_pulls", &[]), there.sum("weir_relay_pulls_total", &[]));
    let within = |name: &str, labels: &[&str], range: std::ops::RangeInclusive<f64>| {
        let value = there.sum(name, labels);
        assert!(range.contains(&value), "{name} {labels:?}: {value}");
    };
    // The source has 150 + 48 kbit/s.
    within("weir_publisher_bitrate", &["stream=\"river\""], 100e3..=400e3);
    within("weir_publisher_arrival_jitter_seconds", &["stream=\"river\""], 0.0..=0.2);
    within("weir_frames_total", &["direction=\"in\"", "media=\"video\""], 75.0..=5000.0);
    within("weir_first_frame_seconds_sum", &[], 0.0..=60.0);
    within("weir_frame_latency_seconds_count", &[], 50.0..=1e5);
    within("weir_frame_latency_seconds_bucket", &["le=\"0.35\""], 50.0..=1e5);
    within("weir_connections", &["role=\"edge\""], 7.0..=30.0);
    within("weir_worker_memory_bytes", &["role=\"edge\",slot=\"0\""], 1e6..=1e9);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = there.get_sample("weir_worker_start_time_seconds{role=\"edge\",slot=\"1\"}").unwrap();
    assert!((now - 300.0..now).contains(&started), "{started} at {now}");

    // What players got was counted when it was sent; a report may be two seconds old.
    let got = |players: &[Peer]| -> f64 {
        let tags = |peer: &Peer| peer.look(|notes| notes.tags.iter().map(|(_, tag)| tag.body.len()).sum::<usize>());
        players.iter().map(tags).sum::<usize>() as f64
    };
    let had = got(&players);
    let later = eventually("what the players had is counted", SOON, || {
        let scrape = scrape(&cluster);
        (scrape.sum("weir_sent_bytes_total", &["role=\"edge\""]) >= had).then_some(scrape)
    });
    let by_vhost = ["vhost=\"__defaultVhost__\"", "app=\"live\""];
    assert!(later.sum("weir_sent_bytes_by_vhost_total", &by_vhost) >= had);
    assert!(later.sum("weir_sent_bytes_total", &["role=\"edge\""]) < had * 3.0);
    for (name, role) in [("received", "edge"), ("received", "origin"), ("sent", "origin")] {
        let bytes = later.sum(&format!("weir_{name}_bytes_total"), &[&format!("role=\"{role}\"")]);
        assert!(bytes > 50_000.0, "{name} by the {role}: {bytes}");
    }
    assert!(later.sum("weir_received_bytes_by_vhost_total", &by_vhost) > 50_000.0);
    later.assert_not_before(&there);
    promtool(&later.text);

    // Any edge has the same page on its API port, and not on the public one.
    let api = Scrape::get(cluster.api);
    assert_eq!(api.names(), later.names());
    assert_eq!(http::get(cluster.http, "/metrics").status, 404);
    assert_eq!(http::request(cluster.api, "POST", "/metrics", "").status, 405);
    drop(players);
    publisher.assert_running();
    eventually("the players are gone", SOON, || (scrape(&cluster).sum("weir_sessions", &[play]) == 0.0).then_some(()));
    assert_eq!(scrape(&cluster).sum("weir_joins_total", &[]), 6.0);
}

#[test]
fn counters_go_on_over_the_death_of_a_worker() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    let safe = e2e::publishers_slot(&cluster, "live/river");
    let _players = players(&cluster, 10);
    let mut last = eventually("the players are counted", SOON, || {
        let scrape = scrape(&cluster);
        (scrape.sum("weir_joins_total", &[]) == 20.0).then_some(scrape)
    });
    let victim = cluster.row("edge", 1 - safe);
    let labels = format!("role=\"edge\",slot=\"{}\"", victim.slot);
    let sent = last.sum("weir_sent_bytes_total", &[&labels]);
    assert!(sent > 0.0, "chance gave all twenty players to one worker");
    signal(victim.pid, Signal::SIGKILL);
    let killed = Instant::now();
    eventually("another worker serves and reports", SOON, || {
        let now = scrape(&cluster);
        now.assert_not_before(&last);
        last = now;
        let back = last.sum("weir_worker_up", &[&labels]) == 1.0 && last.sum("weir_worker_restarts_total", &[]) == 1.0;
        (back && killed.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert_eq!(last.get_sample(&format!("weir_worker_restarts_total{{{labels}}}")), Some(1.0));
    let _more = players(&cluster, 4);
    eventually("new players are counted on top", SOON, || {
        let now = scrape(&cluster);
        now.assert_not_before(&last);
        (now.sum("weir_joins_total", &[]) >= 28.0).then_some(())
    });
    assert!(scrape(&cluster).sum("weir_sent_bytes_total", &[&labels]) >= sent);
}

#[test]
fn counters_go_on_while_workers_are_replaced() {
    // What is told of a stream by its name begins anew with its publisher in the next process.
    let cluster = e2e::start("edge: { workers: 2 }\norigin: { workers: 1 }\n");
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher =
        Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch.path());
    e2e::publishers_slot(&cluster, "live/river");
    let players = players(&cluster, 5);
    let counted = |scrape: &Scrape| {
        let sessions = scrape.sum("weir_sessions", &[]);
        (sessions == 11.0 && scrape.sum("weir_joins_total", &[]) == 10.0).then_some(())
    };
    let mut last = eventually("the players are counted", SOON, || {
        let scrape = scrape(&cluster);
        counted(&scrape).map(|()| scrape)
    });
    let pids = || -> Option<Vec<u64>> {
        cluster.try_status()?["workers"].as_array()?.iter().map(|worker| worker["pid"].as_u64()).collect()
    };
    let old = pids().unwrap();
    cluster.signal(Signal::SIGUSR2);
    // The supervisor becomes a new image of itself, and for a while two incarnations of a slot live side by side.
    eventually("every worker is another one and all is counted", SOON * 3, || {
        let now = Scrape::try_get(cluster.metrics)?;
        now.assert_not_before(&last);
        last = now;
        let new = pids()?;
        (new.len() == old.len() && !new.iter().any(|pid| old.contains(pid))).then_some(())
    });
    eventually("the moved clients are counted", SOON, || {
        let now = Scrape::try_get(cluster.metrics)?;
        now.assert_not_before(&last);
        last = now;
        let moved = last.sum("weir_handover_sessions_total", &["result=\"moved\""]);
        counted(&last).filter(|()| moved >= 11.0)
    });
    publisher.assert_running();
    Peer::wait_media_of(&players, 10, SOON);
    assert_eq!(last.sum("weir_handover_sessions_total", &["result=\"failed\""]), 0.0);
    assert_eq!(last.sum("weir_sessions_total", &[]), 11.0, "nobody began anew");
    assert_eq!(last.sum("weir_worker_restarts_total", &[]), 0.0, "a replacement is no death");
}

#[test]
fn a_scrape_is_answered_while_a_worker_hangs() {
    let cluster = e2e::start(YAML);
    let victim = cluster.row("edge", 0);
    let up = |scrape: &Scrape| scrape.get_sample("weir_worker_up{role=\"edge\",slot=\"0\"}");
    assert_eq!(up(&scrape(&cluster)), Some(1.0));
    signal(victim.pid, Signal::SIGSTOP);
    let mut took = Vec::new();
    eventually("the worker is said to be down", SOON, || {
        let scrape = scrape(&cluster);
        took.push(scrape.took);
        assert_eq!(scrape.get_sample("weir_worker_up{role=\"edge\",slot=\"1\"}"), Some(1.0));
        (up(&scrape) == Some(0.0)).then_some(())
    });
    took.sort();
    assert!(took.len() >= 10, "{} scrapes", took.len());
    let most = took[took.len() * 9 / 10];
    assert!(most < AT_ONCE, "one in ten took more than {most:?}");
    signal(victim.pid, Signal::SIGCONT);
    eventually("it is up again", SOON, || (up(&scrape(&cluster)) == Some(1.0)).then_some(()));
}

#[test]
fn whoever_asks_takes_little_and_leaves() {
    let cluster = e2e::start("edge: { workers: 1 }\norigin: { workers: 1 }\n");
    let text = scrape(&cluster).text;
    assert!(!text.contains("weir_publisher_") && text.contains("weir_build_info{version="), "{text}");
    assert_eq!(http::get(cluster.metrics, "/").status, 404);
    let posted = http::request(cluster.metrics, "POST", "/metrics", "Content-Length: 0\r\n");
    assert_eq!((posted.status, posted.field("allow")), (405, Some("GET, HEAD")));
    let head = http::request(cluster.metrics, "HEAD", "/metrics", "");
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    let many = "X: y\r\n".repeat(200);
    assert_eq!(http::request(cluster.metrics, "GET", "/metrics", &many).status, 431);
    assert_eq!(http::send(cluster.metrics, b"nonsense\r\n\r\n").status, 400);

    // Connections that say nothing are closed, and while they last they are few.
    let idle: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(cluster.metrics).unwrap()).collect();
    let mut refused = TcpStream::connect(cluster.metrics).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(matches!(refused.read(&mut [0; 8]), Ok(0)), "one too many is closed");
    for mut idle in idle {
        idle.set_read_timeout(Some(SOON)).unwrap();
        let mut said = String::new();
        idle.read_to_string(&mut said).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    scrape(&cluster);
}
