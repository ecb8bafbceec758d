//! `weir-loadtest` as a crowd: real clients by the hundred, and what became of each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::WEIR;

/// The executable, built if this run of cargo did not.
fn executable() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(WEIR).parent().unwrap().join("weir-loadtest");
        if !path.exists() {
            let build = ["build", "--quiet", "-p", "weir-loadtest"];
            assert!(
                Command::new(env!("CARGO")).args(build).status().unwrap().success(),
                "weir-loadtest does not build"
            );
        }
        path
    })
}

/// One running crowd.
pub struct Crowd {
    child: Child,
    what: String,
}

/// What became of a crowd.
pub struct Report {
    what: String,
    figures: Value,
}

impl Crowd {
    /// So many players, by this protocol, of the streams `live/s0`, `live/s1` ..., for so long. A gap is half a second.
    pub fn play(url: &str, players: usize, streams: usize, seconds: u64) -> Self {
        let (players, streams) = (players.to_string(), streams.to_string());
        Self::start(&["play", url, "--players", &players, "--streams", &streams, "--gap", "500"], seconds)
    }

    /// So many publishers of a file.
    pub fn publish(address: SocketAddr, publishers: usize, file: &Path, seconds: u64) -> Self {
        let (url, publishers) = (format!("rtmp://{address}/live/s{{i}}"), publishers.to_string());
        Self::start(&["publish", &url, "--publishers", &publishers, "--file", file.to_str().unwrap()], seconds)
    }

    /// So many WebRTC players of the streams `s0`, `s1` ..., by this address of WHEP; media comes from `candidate`.
    pub fn rtc_play(url: &str, players: usize, streams: usize, candidate: SocketAddr, seconds: u64) -> Self {
        let (players, streams, candidate) = (players.to_string(), streams.to_string(), candidate.to_string());
        let arguments = ["rtc-play", url, "--players", &players, "--streams", &streams, "--candidate", &candidate];
        Self::start(&[&arguments[..], &["--gap", "500"]].concat(), seconds)
    }

    /// So many WebRTC publishers, by this address of WHIP; media goes to `candidate`.
    pub fn rtc_publish(url: &str, publishers: usize, candidate: SocketAddr, seconds: u64) -> Self {
        let (publishers, candidate) = (publishers.to_string(), candidate.to_string());
        Self::start(&["rtc-publish", url, "--publishers", &publishers, "--candidate", &candidate], seconds)
    }

    /// So many clients a second that come, are greeted, and leave.
    pub fn storm(url: &str, per_second: usize, seconds: u64) -> Self {
        Self::start(&["storm", url, "--connects-per-second", &per_second.to_string()], seconds)
    }

    fn start(arguments: &[&str], seconds: u64) -> Self {
        let seconds = seconds.to_string();
        let mut command = Command::new(executable());
        command.args(arguments).args(["--duration", &seconds, "--json"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, what: arguments.join(" ") }
    }

    /// Waits for its end; what it lost is for the caller to judge.
    pub fn report(mut self, within: Duration) -> Report {
        let deadline = Instant::now() + within;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{} did not end within {within:?}", self.what);
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        std::io::Read::read_to_string(self.child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let figures = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{}: {error}: {said:?}", self.what));
        Report { what: self.what.clone(), figures }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGKILL).ok();
            self.child.wait().ok();
        }
    }
}

impl Report {
    /// A figure by its name.
    pub fn figure(&self, name: &str) -> f64 {
        self.figures[name].as_f64().unwrap_or_else(|| panic!("no {name} of {}: {}", self.what, self.figures))
    }

    /// Fails unless each of these is zero.
    pub fn assert_none(&self, names: &[&str]) {
        for name in names {
            assert!(self.figure(name) == 0.0, "{name} of {}: {}", self.what, self.figures);
        }
    }
}
