//! The program itself, run as an operator runs it.

mod common;

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{SHORT, flv, server, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// What a run said.
struct Said {
    code: i32,
    figures: Value,
    words: String,
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-loadtest"));
    command.args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figures = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&words) };
    Said { code: output.status.code().expect("ended by a signal"), figures, words }
}

fn run(arguments: &[&str]) -> Said {
    end(start(arguments))
}

impl Said {
    fn number(&self, name: &str) -> f64 {
        self.figures[name].as_f64().unwrap_or_else(|| panic!("{name} is {}: {}", self.figures[name], self.words))
    }
}

/// Publishers that end with the test, if it does not end them itself.
struct Publishers(Option<Child>);

impl Publishers {
    fn start(address: SocketAddr, stream: &str, count: &str, file: &Path) -> Self {
        let url = format!("rtmp://{address}/live/{stream}");
        let file = file.to_str().unwrap();
        Self(Some(start(&["publish", &url, "--publishers", count, "--file", file, "--duration", "100"])))
    }

    /// Ends them as Ctrl-C does.
    fn interrupt(mut self) -> Said {
        let child = self.0.take().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        end(child)
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

const FLOOR: [&str; 9] = ["floor", "--players", "20", "--interval", "14.7", "--kbps", "500", "--duration", "1"];

#[test]
fn the_floor_says_what_it_did() {
    let said = run(&FLOOR);
    assert_eq!(said.code, 0, "{}", said.words);
    assert_eq!((said.number("asked"), said.number("ok"), said.number("gaps")), (20.0, 20.0, 0.0));
    // A machine that is busy misses rounds, and never makes them up.
    let kbps = said.number("kbps_median");
    assert!((100.0..=520.0).contains(&kbps), "{kbps}");
    let rounds = said.number("rounds") + said.number("rounds_missed");
    assert!((100.0..=1000.0).contains(&rounds), "{rounds}");
    assert!((0.9..=3.0).contains(&said.number("duration_s")));
    let processes = said.figures["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 1, "{processes:?}");
    assert_eq!(processes[0]["name"], "floor-server");
    assert_eq!(processes[0]["cpu_percent"], said.figures["cpu_percent"]);
    assert!(said.number("cpu_percent") > 0.0 && said.number("own_cpu_percent") > 0.0);
}

/// Ctrl-C reaches the server too, since a terminal sends it to the whole group; and who dies takes the server along.
#[test]
fn the_floor_ends_with_a_report_and_without_leftovers() {
    let server_of = |child: &Child| {
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        wait_until("the server", || !fs::read_to_string(&children).unwrap().is_empty());
        Pid::from_raw(fs::read_to_string(&children).unwrap().trim().parse().unwrap())
    };
    let arguments = ["floor", "--players", "5", "--interval", "10", "--kbps", "100", "--duration", "100"];
    let child = start(&arguments);
    let server = server_of(&child);
    let name = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    wait_until("the server's name", || name(server).trim() == "floor-server");
    wait_until("the server to listen to no SIGINT", || {
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
        u64::from_str_radix(&blocked, 16).unwrap() & 2 != 0
    });
    kill(server, Signal::SIGINT).unwrap();
    // Its clients are in their steady part, or will be: none is lost.
    wait_until("the clients' own signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        status.lines().any(|line| line.starts_with("SigBlk:") && !line.ends_with("0000"))
    });
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let said = end(child);
    assert_eq!((said.number("asked"), said.number("disconnected")), (5.0, 0.0), "{}", said.words);
    assert!(name(server).is_empty(), "the server is still there");

    let mut child = start(&arguments);
    let server = server_of(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the server's end", || name(server).trim() != "floor-server" && name(server).trim() != "exe");
}

#[test]
fn what_is_required_is_looked_at() {
    let said = run(&[FLOOR.as_slice(), &["--require", "ok==20", "--require", "ok>20"]].concat());
    assert_eq!(said.code, 1);
    assert!(said.words.contains("ok>20 is not met: it is 20") && !said.words.contains("ok==20"), "{}", said.words);
    let said = run(&[FLOOR.as_slice(), &["--require", "okay==20"]].concat());
    assert_eq!((said.code, said.figures), (2, Value::Null));
    assert!(said.words.contains("asked, ok, failed") && said.words.contains("cpu_percent"), "{}", said.words);
    assert_eq!(run(&[FLOOR.as_slice(), &["--require", "ok"]].concat()).code, 2);
}

#[test]
fn what_was_published_is_played() {
    let directory = tempfile::tempdir().unwrap();
    let (address, file) = (server(), flv(directory.path()));
    let publishers = Publishers::start(address, "s{i}", "3", &file);
    let url = format!("rtmp://{address}/live/s{{i}}");
    let pid = std::process::id().to_string();
    let play = ["play", &url, "--players", "6", "--streams", "3", "--ramp", "0.1", "--duration", "1", "--pids", &pid];
    let said = run(&play);
    assert_eq!(said.code, 0, "{}", said.words);
    assert_eq!((said.number("ok"), said.number("skips")), (6.0, 0.0));
    // 65 messages a second and player.
    let messages = said.number("messages") / said.number("duration_s") / 6.0;
    assert!((55.0..=75.0).contains(&messages), "{messages}");
    for name in ["latency_p50_ms", "latency_p99_ms", "first_key_p99_ms", "kbps_min", "memory_kib"] {
        assert!(said.number(name) > 0.0, "{name}");
    }
    assert!(said.number("latency_p50_ms") < 1000.0);
    let said = publishers.interrupt();
    assert_eq!(said.code, 0, "{}", said.words);
    assert_eq!((said.number("ok"), said.number("late")), (3.0, 0.0));
    assert!(said.number("frames") > 100.0 && said.number("publish_p50_ms") > 0.0);
}

#[test]
fn players_that_are_thrown_out_are_a_loss() {
    let directory = tempfile::tempdir().unwrap();
    let (address, file) = (server(), flv(directory.path()));
    let url = format!("rtmp://{address}/live/{}", SHORT.0);
    let _publishers = Publishers::start(address, SHORT.0, "1", &file);
    // Players that come too early wait for the stream.
    let said = run(&["play", &url, "--players", "2", "--duration", "5"]);
    assert_eq!(said.code, 1);
    assert!(said.words.contains("lost: disconnected 2"), "{}", said.words);
    assert!(said.words.contains("2 disconnected: the server closed the connection"), "{}", said.words);
}

#[test]
fn greetings() {
    let address = server();
    let url = format!("rtmp://{address}/live/s");
    let said = run(&["storm", &url, "--connects-per-second", "50", "--duration", "0.5"]);
    assert_eq!((said.code, said.number("ok"), said.number("failed")), (0, 25.0, 0.0), "{}", said.words);
    assert!(said.number("handshake_p50_ms") > 0.0);
    let said = run(&["idle", &url, "--connections", "10", "--duration", "0.2"]);
    assert_eq!((said.code, said.number("ok")), (0, 10.0), "{}", said.words);
    let said = run(&["idle", "http://127.0.0.1:1/", "--connections", "2"]);
    assert_eq!((said.code, said.number("failed")), (1, 2.0), "{}", said.words);
    let said = run(&["storm", "rtmp://127.0.0.1:1/a/b", "--connects-per-second", "20", "--duration", "0.1"]);
    assert_eq!((said.code, said.number("refused")), (0, 2.0), "{}", said.words);
}

#[test]
fn nothing_is_done_for_nonsense() {
    for arguments in [
        ["play", "srt://127.0.0.1/a/b", "--players", "1"],
        ["play", "rtmp://127.0.0.1/a/b", "--players", "0"],
        ["play", "rtmp://127.0.0.1/a/b", "--players", "100000000"],
        ["idle", "rtmp://127.0.0.1/a/b", "--connections", "x"],
    ] {
        let said = run(&arguments);
        assert_eq!((said.code, said.figures), (2, Value::Null), "{arguments:?}");
        assert!(!said.words.is_empty());
    }
    let mut help = String::new();
    let child = Command::new(env!("CARGO_BIN_EXE_weir-loadtest")).arg("--help").stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdout.take().unwrap().read_to_string(&mut help).unwrap();
    assert!(child.wait().unwrap().success() && !help.contains("floor-server"), "{help}");
}
