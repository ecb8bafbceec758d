//! Who is connected, wherever in the host, and disconnecting one.

mod common;
mod e2e;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Cluster, eventually, signal};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::peer::Peer;
use e2e::rtc::{self, Client, figure, whep, whip};
use e2e::source::Source;
use nix::sys::signal::Signal;
use serde_json::Value;

const YAML: &str = "{ edge: { workers: 2 }, origin: { workers: 1 } }";

fn clients(cluster: &Cluster, more: &[&str]) -> Value {
    let output = cluster.ctl(&[&["clients", "--json"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ids(value: &Value) -> Vec<&str> {
    value["clients"].as_array().unwrap().iter().map(|client| client["id"].as_str().unwrap()).collect()
}

fn count(value: &Value) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for client in value["clients"].as_array().unwrap() {
        *kinds.entry(client["type"].as_str().unwrap()).or_default() += 1;
    }
    kinds
}

#[test]
fn clients_of_all_workers_are_listed_and_one_can_be_disconnected() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", host.rtmp), scratch.path());
    let rtmp: Vec<Peer> = (0..4).map(|_| Peer::play(host.rtmp, "live", "river")).collect();
    let flv: Vec<Peer> = (0..5).map(|_| Peer::flv(host.http, "/live/river.flv")).collect();
    Peer::wait_media_of(rtmp.iter().chain(&flv), 10, SOON);
    let whole = eventually("all are listed", SOON, || {
        let value = clients(&host, &[]);
        (value["total"] == 10).then_some(value)
    });
    let kinds = BTreeMap::from([("fmle-publish", 1), ("flv-play", 5), ("rtmp-play", 4)]);
    assert_eq!((count(&whole), &whole["partial"]), (kinds, &Value::Bool(false)));
    for client in whole["clients"].as_array().unwrap() {
        assert_eq!(
            (&client["vhost"], &client["app"], &client["stream"]),
            (&Value::from("__defaultVhost__"), &Value::from("live"), &Value::from("river"))
        );
        let bytes = if client["type"] == "fmle-publish" { &client["received"] } else { &client["sent"] };
        assert!(
            bytes.as_u64().unwrap() > 1000 && client["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{client}"
        );
    }
    // Parts of the list are the list, over the borders of workers.
    let mut parts = Vec::new();
    for start in [0, 3, 6, 9] {
        let part = clients(&host, &["--start", &start.to_string(), "--count", "3"]);
        assert_eq!(part["total"], 10);
        parts.extend(ids(&part).into_iter().map(str::to_owned));
    }
    assert_eq!(parts, ids(&whole));
    let table = String::from_utf8(host.ctl(&["clients", "--count", "2"]).stdout).unwrap();
    assert!(table.contains("2 of 10 clients") && table.contains("live/river"), "{table}");

    // One of each kind is told to go, and nobody else.
    let of_kind = |kind: &str| {
        let all = whole["clients"].as_array().unwrap();
        let client = all.iter().find(|client| client["type"] == kind).unwrap();
        (client["id"].as_str().unwrap().to_owned(), client["peer"].as_str().unwrap().to_owned())
    };
    for (peers, kind) in [(&flv, "flv-play"), (&rtmp, "rtmp-play")] {
        let (id, address) = of_kind(kind);
        assert!(host.ctl(&["kick", &id]).status.success());
        let (gone, others): (Vec<&Peer>, Vec<&Peer>) =
            peers.iter().partition(|peer| peer.local().to_string() == address);
        gone[0].wait("the end", SOON, |notes| notes.end.clone());
        Peer::wait_media_of(others, 10, SOON);
        let again = host.ctl(&["kick", &id]);
        assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("no such client"));
    }
    publisher.assert_running();
    assert!(host.ctl(&["kick", &of_kind("fmle-publish").0]).status.success());
    assert!(!publisher.wait(SOON).success(), "the publisher is gone");
    for nonsense in ["", "edge.0.1", "edge.0.1.x", "edge.7.7.7", "cat.0.1.1"] {
        assert!(!host.ctl(&["kick", nonsense]).status.success(), "{nonsense}");
    }
    let left = eventually("three have left", SOON, || {
        let value = clients(&host, &[]);
        (value["total"] == 7).then_some(value)
    });
    assert_eq!(count(&left), BTreeMap::from([("flv-play", 4), ("rtmp-play", 3)]));
}

#[test]
fn a_worker_that_hangs_delays_nobody() {
    let host = e2e::start(YAML);
    let peers: Vec<Peer> = (0..6).map(|_| Peer::play(host.rtmp, "live", "none")).collect();
    eventually("all are listed", SOON, || (clients(&host, &[])["total"] == 6).then_some(()));
    let hanging = host.row("edge", 0).pid;
    signal(hanging, Signal::SIGSTOP);
    let asked = Instant::now();
    let value = clients(&host, &[]);
    signal(hanging, Signal::SIGCONT);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(value["partial"] == true && value["total"].as_u64().unwrap() <= 6, "{value}");
    peers.iter().for_each(Peer::assert_connected);
}

#[test]
fn webrtc_clients_are_listed_with_what_their_network_does() {
    let (host, _) = rtc::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let mut publisher = Client::chromium_publishes(&whip(host.api, "cam", ""), "H264", scratch.path());
    let mut player = Client::chromium_plays(&whep(host.api, "cam", ""), scratch.path());
    player.wait_frames(0, 30);
    player.wait(0, "reports are heard", |line| {
        (figure(line, "remote-outbound-rtp", "video", "reportsSent") > 2.0).then_some(())
    });
    let value = clients(&host, &[]);
    assert_eq!(count(&value), BTreeMap::from([("rtc-play", 1), ("rtc-publish", 1)]));
    for client in value["clients"].as_array().unwrap() {
        let rtc = &client["rtc"];
        assert_eq!(
            (&rtc["video"], &rtc["audio"], &rtc["tcp"]),
            (&"H264".into(), &"opus".into(), &false.into()),
            "{client}"
        );
        let bytes = if client["type"] == "rtc-publish" { &client["received"] } else { &client["sent"] };
        assert!(bytes.as_u64().unwrap() > 10_000 && rtc["loss"] == 0.0, "{client}");
        assert!(client["type"] == "rtc-publish" || rtc["rtt_ms"].as_f64().unwrap() > 0.0, "{client}");
    }
    let played = value["clients"].as_array().unwrap().iter().find(|client| client["type"] == "rtc-play").unwrap();
    assert!(host.ctl(&["kick", played["id"].as_str().unwrap()]).status.success());
    player.wait(0, "the session has ended", |line| {
        (line["state"] == "closed" || line["state"] == "failed").then_some(())
    });
    assert_eq!(publisher.leave().len(), 1);
}
