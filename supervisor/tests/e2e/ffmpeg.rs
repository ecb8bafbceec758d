//! ffmpeg as publisher and player.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::source::Source;

/// The longest that a publisher or player of a test lives if nobody ends it.
const AT_MOST: &str = "300";

/// Runs ffmpeg to its end and returns what it printed.
pub fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let Output { status, stdout, stderr } = command("ffmpeg").args(arguments).output().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-nostdin", "-hide_banner", "-v", "error"]).stdin(Stdio::null());
    command
}

/// A running ffmpeg, or another client program, that is gone with its value.
pub struct Ffmpeg {
    child: Child,
    what: String,
    errors: PathBuf,
    /// Where a player writes its hashes.
    output: PathBuf,
}

impl Ffmpeg {
    /// Publishes the source in a loop, in real time.
    pub fn publish(source: &Source, url: &str, scratch: &Path) -> Self {
        Self::publish_for(source, url, AT_MOST, scratch)
    }

    /// Publishes that many seconds of the looped source.
    pub fn publish_for(source: &Source, url: &str, seconds: &str, scratch: &Path) -> Self {
        let mut ffmpeg = command("ffmpeg");
        ffmpeg.args(["-re", "-stream_loop", "-1", "-i"]).arg(&source.path);
        ffmpeg.args(["-t", seconds, "-c", "copy", "-f", "flv", "-flvflags", "no_duration_filesize", url]);
        Self::spawn(ffmpeg, format!("publisher of {url}"), scratch)
    }

    /// Plays that many seconds and writes the hash of each frame as it came, with those before a keyframe.
    pub fn play(url: &str, seconds: u64, scratch: &Path) -> Self {
        Self::player(url, seconds, false, scratch)
    }

    /// Plays, and decodes what it plays.
    pub fn decode(url: &str, seconds: u64, scratch: &Path) -> Self {
        Self::player(url, seconds, true, scratch)
    }

    fn player(url: &str, seconds: u64, decode: bool, scratch: &Path) -> Self {
        let seconds = seconds.to_string();
        let output = unique(scratch, "framemd5");
        let mut ffmpeg = command("ffmpeg");
        ffmpeg.args(["-y", "-i", url, "-map", "0:v", "-map", "0:a", "-t", &seconds, "-c", "copy", "-copyinkf"]);
        ffmpeg.args(["-flush_packets", "1", "-f", "framemd5"]).arg(&output);
        if decode {
            ffmpeg.args(["-map", "0:v", "-map", "0:a", "-t", &seconds, "-f", "null", "-"]);
        }
        let mut player = Self::spawn(ffmpeg, format!("player of {url}"), scratch);
        player.output = output;
        player
    }

    /// Runs another client program, with its standard output in the player's output file.
    pub fn spawn(mut command: Command, what: String, scratch: &Path) -> Self {
        let (errors, output) = (unique(scratch, "stderr"), unique(scratch, "stdout"));
        command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(File::create(&errors).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, what, errors, output }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its output so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The file of its output.
    pub fn output_path(&self) -> &Path {
        &self.output
    }

    /// What it complained about so far.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Panics if it has ended.
    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the {} ended, {ended:?}: {}", self.what, self.errors());
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the {} did not end within {within:?}: {}", self.what, self.errors());
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits for an end without complaint.
    pub fn finish(&mut self, within: Duration) {
        let status = self.wait(within);
        assert!(status.success(), "the {} ended with {status}: {}", self.what, self.errors());
        assert_eq!(self.errors(), "", "complaints of the {}", self.what);
    }

    /// Waits until it has seen the end of an HTTP body. Where no length was told ffmpeg takes every end for an early one
    /// and says so, but calls it no failure.
    pub fn finish_body(&mut self, within: Duration) {
        let status = self.wait(within);
        assert!(status.success(), "the {} ended with {status}: {}", self.what, self.errors());
        let usual = ["Stream ends prematurely", "Last message repeated", "Input/output error"];
        let errors = self.errors();
        let other = errors.lines().find(|line| !usual.iter().any(|usual| line.contains(usual)));
        assert_eq!(other, None, "complaints of the {}", self.what);
    }

    /// Kills it, as a power cut would: nothing is said to the server.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn unique(scratch: &Path, extension: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    scratch.join(format!("{}.{extension}", NEXT.fetch_add(1, Ordering::Relaxed)))
}
