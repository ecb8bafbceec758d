//! RTMP as different programs speak it, what is told to those who are refused, and what never gets into a log.

mod common;
mod e2e;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, eventually};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::flv::{Tag, Tags, VIDEO, assert_monotonic};
use e2e::peer::Peer;
use e2e::source::{FPS, Source};
use weir_wire::rtmp::client::Purpose;

const YAML: &str = "edge: { workers: 2 }\norigin: { workers: 1 }\n";

/// Messages of a second or so.
const SOME: usize = 100;

/// What must not be told to anybody.
const SECRET: &str = "s3cr3t-0f-a-stream";

fn publish(cluster: &Cluster, url: &str, scratch: &Path) -> Ffmpeg {
    Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/{url}", cluster.rtmp), scratch)
}

/// What a player got must be the source, from a keyframe on, without a gap.
fn assert_whole(player: &Peer, who: &str) {
    let media = player.look(|notes| notes.media());
    assert_monotonic(&media, who);
    Source::plain().assert_whole(&Source::plain().place_tags(&media), who);
}

#[test]
fn librtmp_plays_every_frame() {
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = publish(&cluster, "live/river", scratch.path());
    let mut players: Vec<Ffmpeg> = (0..3)
        .map(|_| {
            let mut rtmpdump = Command::new("rtmpdump");
            let url = format!("rtmp://{}/live/river", cluster.rtmp);
            rtmpdump.args(["--quiet", "--live", "--rtmp", &url]);
            Ffmpeg::spawn(rtmpdump, "rtmpdump".to_owned(), scratch.path())
        })
        .collect();
    for player in &mut players {
        // It writes what it gets until it is told to stop.
        let tags = eventually("five seconds", SOON, || {
            let file = std::fs::read(player.output_path()).unwrap();
            let tags: Vec<Tag> = Tags::new(file.as_slice()).map_while(Result::ok).collect();
            (tags.iter().filter(|tag| tag.kind == VIDEO).count() > 5 * FPS).then_some(tags)
        });
        Source::plain().assert_whole(&Source::plain().place_tags(&tags), "rtmpdump");
        assert_monotonic(&tags, "rtmpdump");
        player.assert_running();
    }
}

#[test]
fn every_way_to_name_a_vhost_leads_to_the_same_stream() {
    let yaml = format!("{YAML}vhosts: {{ __defaultVhost__: {{}}, one.example: {{}}, two.example: {{}} }}\n");
    let cluster = e2e::start(&yaml);
    let scratch = tempfile::tempdir().unwrap();
    let _one = publish(&cluster, "live/river?vhost=one.example", scratch.path());
    e2e::publishers_slot(&cluster, "one.example/live/river");
    // A stream of the same name at another vhost is another stream, and nobody is in its way.
    let _two = publish(&cluster, "live/river?vhost=two.example", scratch.path());
    e2e::publishers_slot(&cluster, "two.example/live/river");
    let rtmp = |tc_url: &str, app: &str, stream: &str| Peer::rtmp(cluster.rtmp, Purpose::Play, tc_url, app, stream);
    let address = cluster.rtmp;
    let ways = [
        ("the stream's query", rtmp(&format!("rtmp://{address}/live"), "live", "river?vhost=one.example")),
        ("domain", rtmp(&format!("rtmp://{address}/live"), "live", "river?domain=one.example")),
        ("the app's query", rtmp(&format!("rtmp://{address}/live"), "live?vhost=one.example", "river")),
        ("the old spelling", rtmp(&format!("rtmp://{address}/live"), "live...vhost...one.example", "river")),
        ("the tcUrl's host", rtmp("rtmp://one.example/live", "live", "river")),
        ("capitals", rtmp("rtmp://ONE.Example:1935/live", "live", "river")),
        ("FLV's query", Peer::flv(cluster.http, "/live/river.flv?vhost=one.example")),
    ];
    Peer::wait_media_of(ways.iter().map(|(_, player)| player), SOME, SOON);
    for (who, player) in &ways {
        assert_whole(player, who);
    }
    let log = cluster.log();
    let plays: Vec<&str> = log.lines().filter(|line| line.contains(" play client=")).collect();
    assert_eq!(plays.len(), ways.len());
    assert!(plays.iter().all(|line| line.contains("stream=one.example/live/river")), "{plays:#?}");
}

#[test]
fn secrets_of_stream_keys_are_in_no_log() {
    // As talkative as can be.
    let cluster = e2e::start("log: { level: trace }\nedge: { workers: 2 }\norigin: { workers: 1 }\n");
    let scratch = tempfile::tempdir().unwrap();
    let key = format!("river?token={SECRET}&vhost=a.example");
    let _publisher = publish(&cluster, &format!("live/{key}"), scratch.path());
    e2e::publishers_slot(&cluster, "live/river");
    let player = Peer::play(cluster.rtmp, "live", &key);
    player.wait_media(SOME, SOON);
    Peer::flv(cluster.http, &format!("/live/river.flv?token={SECRET}&vhost=a.example")).wait_media(SOME, SOON);
    let app = format!("live?token={SECRET}");
    let thief = Peer::rtmp(cluster.rtmp, Purpose::Publish, &format!("rtmp://a.example/{app}"), &app, "river");
    thief.wait("the refusal", SOON, |notes| notes.said("NetStream.Publish.BadName").then_some(()));
    let nowhere = Peer::flv(cluster.http, &format!("/live/%zz.flv?token={SECRET}"));
    nowhere.wait("the end", SOON, |notes| notes.end.clone());
    let malformed = Peer::play(cluster.rtmp, "live", &format!("%zz?token={SECRET}"));
    malformed.wait("the refusal", SOON, |notes| (!notes.statuses.is_empty()).then_some(()));
    drop(player);
    let log = cluster.log();
    assert!(log.contains("DEBUG") && log.contains("river"), "the log tells little: {log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(told.is_empty(), "{told:#?}");
    let status = String::from_utf8(cluster.ctl(&["status", "--json"]).stdout).unwrap();
    assert!(!status.contains(SECRET), "{status}");
}

#[test]
fn who_is_refused_is_told_why() {
    let yaml = format!("{YAML}vhosts: {{ listed.example: {{}}, off.example: {{ enabled: off }} }}\n");
    let cluster = e2e::start(&yaml);
    let refusal = |peer: &Peer, code: &str| -> String {
        peer.wait(code, SOON, |notes| {
            let found = notes.statuses.iter().find(|(said, _)| said == code);
            found.map(|(_, description)| description.clone())
        })
    };
    for (host, word) in [("nobody.example", "vhost"), ("off.example", "vhost")] {
        let peer = Peer::rtmp(cluster.rtmp, Purpose::Play, &format!("rtmp://{host}/live"), "live", "river");
        let description = refusal(&peer, "NetConnection.Connect.Rejected");
        assert!(description.contains(word), "{description:?}");
        peer.wait("the end", SOON, |notes| notes.end.clone());
    }
    let peer = Peer::rtmp(cluster.rtmp, Purpose::Publish, "rtmp://listed.example/live", "live", "a/../b");
    peer.wait("a refusal", SOON, |notes| (!notes.statuses.is_empty()).then_some(()));
    assert!(!peer.look(|notes| notes.said("started")));

    // And people see it.
    let scratch = tempfile::tempdir().unwrap();
    let mut ffmpeg = publish(&cluster, "live/river", scratch.path());
    assert!(!ffmpeg.wait(SOON).success());
    assert!(ffmpeg.errors().contains("vhost"), "{:?}", ffmpeg.errors());
    let _first = publish(&cluster, "live?vhost=listed.example/river", scratch.path());
    e2e::publishers_slot(&cluster, "listed.example/live/river");
    let mut second = publish(&cluster, "live?vhost=listed.example/river", scratch.path());
    assert!(!second.wait(SOON).success());
    assert!(second.errors().contains("already published"), "{:?}", second.errors());
}

#[test]
fn a_handshake_that_drips_is_closed_at_the_deadline() {
    let cluster = e2e::start("edge: { workers: 1, rtmp: { handshake_timeout: 3s } }\n");
    let idle = TcpStream::connect(cluster.rtmp).unwrap();
    let begun = Instant::now();
    let mut dripping = TcpStream::connect(cluster.rtmp).unwrap();
    dripping.set_nodelay(true).unwrap();
    dripping.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 16];
    let closed = loop {
        assert!(begun.elapsed() < SOON, "still open after {:?}", begun.elapsed());
        // A write may fail before a read tells of the end.
        if dripping.write_all(&[3]).is_err() {
            break begun.elapsed();
        }
        match dripping.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(count) if count > 0 => panic!("{count} bytes for a part of a handshake"),
            _ => break begun.elapsed(),
        }
    };
    assert!(closed >= Duration::from_millis(2900), "closed after {closed:?}");
    idle.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!((&idle).read(&mut buffer).unwrap(), 0, "an idle connection is closed as well");
    eventually("both are forgotten", SOON, || (cluster.row("edge", 0).connections == 0).then_some(()));
}

#[test]
fn one_client_too_many_is_told_so() {
    let cluster = e2e::start("edge: { workers: 1, connections: 3 }\n");
    let held: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(cluster.rtmp).unwrap()).collect();
    eventually("three connections", SOON, || (cluster.row("edge", 0).connections == 3).then_some(()));
    let player = Peer::play(cluster.rtmp, "live", "river");
    let description = player.wait("the refusal", SOON, |notes| {
        let found = notes.statuses.iter().find(|(code, _)| code == "NetConnection.Connect.Rejected");
        found.map(|(_, description)| description.clone())
    });
    assert!(description.contains("too many connections"), "{description:?}");
    assert_eq!(e2e::http::get(cluster.http, "/live/river.flv").status, 503);
    drop(held);
    // Room again: now it may play.
    eventually("room", SOON, || (cluster.row("edge", 0).connections == 0).then_some(()));
    let player = Peer::play(cluster.rtmp, "live", "river");
    player.wait("the start", SOON, |notes| notes.said("started").then_some(()));
}

#[test]
fn pictures_and_sound_of_enhanced_rtmp_go_through_unchanged() {
    let Ok(newer) = std::env::var("NEWER_FFMPEG") else {
        eprintln!("left out: NEWER_FFMPEG names no ffmpeg that knows enhanced RTMP");
        return;
    };
    let cluster = e2e::start(YAML);
    let scratch = tempfile::tempdir().unwrap();
    for (name, codecs) in [
        ("hevc", "-c:v libx265 -x265-params log-level=none:keyint=50:bframes=2 -c:a aac"),
        ("av1", "-c:v libsvtav1 -preset 12 -g 50 -svtav1-params pred-struct=1 -c:a libopus"),
        ("vp9", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 50 -c:a flac"),
    ] {
        enhanced(&newer, &cluster, scratch.path(), name, codecs);
    }
}

/// Makes eight seconds with these codecs, publishes them, and plays them by both protocols.
fn enhanced(newer: &str, cluster: &Cluster, scratch: &Path, name: &str, codecs: &str) {
    const MADE: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=8 \
        -f lavfi -i aevalsrc=0.5*sin(2*PI*t*(300+40*t)):s=48000:d=8";
    let run = |arguments: &str, file: &Path| -> String {
        let mut command = Command::new(newer);
        command.args(["-nostdin", "-hide_banner", "-v", "error", "-y"]).args(arguments.split_ascii_whitespace());
        let done = command.env("SVT_LOG", "1").arg(file).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let file = scratch.join(format!("{name}.flv"));
    run(&format!("{MADE} {codecs} -pix_fmt yuv420p -strict experimental -f flv"), &file);
    let hashes = frames(&run(&format!("-i {} -c copy -f framemd5", file.display()), Path::new("-")));
    assert!(hashes.len() > 8 * FPS, "{name}: {} frames", hashes.len());

    let spawn = |arguments: &[&str], what: &str| {
        let mut command = Command::new(newer);
        command.args(["-nostdin", "-hide_banner", "-v", "error"]).args(arguments);
        Ffmpeg::spawn(command, format!("{what} of {name}"), scratch)
    };
    let rtmp = format!("rtmp://{}/live/{name}", cluster.rtmp);
    let flv = format!("http://{}/live/{name}.flv", cluster.http);
    // The players wait for the publisher, so that they get all from the first frame on.
    let play = |url: &str| spawn(&["-i", url, "-t", "5", "-c", "copy", "-copyinkf", "-f", "framemd5", "-"], "player");
    let mut players = [play(&rtmp), play(&flv)];
    let mut publisher = spawn(&["-re", "-i", file.to_str().unwrap(), "-c", "copy", "-f", "flv", &rtmp], "publisher");
    publisher.finish(SOON + SOON);
    for player in &mut players {
        player.finish(SOON);
        let got = frames(&player.output());
        assert!(got.len() > 4 * FPS, "{name}: {} frames", got.len());
        // Stream by stream: the two may be interleaved in another way. Before the first keyframe nothing is sent.
        for stream in ["0", "1"] {
            let of = |all: &[(String, String)]| -> Vec<String> {
                all.iter().filter(|(s, _)| s == stream).map(|(_, hash)| hash.clone()).collect()
            };
            let (got, made) = (of(&got), of(&hashes));
            let at = made.iter().position(|hash| Some(hash) == got.first()).unwrap_or(made.len());
            assert!(made[at..].starts_with(&got) && at < 5, "{name}: stream {stream} is not what was published");
        }
    }
}

/// Stream and hash of each line of `framemd5`. Of an Opus channel configuration ffmpeg may make an empty frame: those
/// are passed over.
fn frames(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    fields.filter(|fields| fields[4] != "0").map(|fields| (fields[0].to_owned(), fields[5].to_owned())).collect()
}
