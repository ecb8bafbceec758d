//! WebRTC clients that are not ours: Chromium, aiortc, werift and ffmpeg's WHIP muxer; see `tests/rtc/`.

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::ffmpeg::Ffmpeg;
use crate::common::{Cluster, WEIR, eventually, free_port, signal};

/// The longest start of a browser or a Python with its libraries, on a machine that compiles meanwhile.
const START: Duration = Duration::from_secs(40);

/// The longest that a client takes to end its session and go.
const END: Duration = Duration::from_secs(15);

/// Where the rigs are.
fn rigs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rtc")
}

/// Where the suite keeps its tools, with those of WebRTC; installed if this machine has not got them.
fn tools() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(WEIR).parent().unwrap().parent().unwrap().join("test-tools");
        let status = Command::new(rigs().join("install.sh")).arg(&path).status().unwrap();
        assert!(status.success(), "the WebRTC clients cannot be had: {status}");
        path
    })
}

thread_local! {
    /// This test's turn.
    static TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Waits until no other test of this process has a host that takes WebRTC. Two browsers that encode at a time starve each
/// other on a small machine, and what they then do says nothing of the server.
fn take_turns() {
    static LOCK: Mutex<()> = Mutex::new(());
    TURN.with(|turn| {
        turn.take();
        turn.replace(Some(LOCK.lock().unwrap_or_else(PoisonError::into_inner)));
    });
}

/// A host that takes WebRTC at this address, and says so in its answers; `yaml` is the rest of its configuration.
pub fn start(yaml: &str) -> (Cluster, SocketAddr) {
    take_turns();
    let media = free_udp_port();
    let listen = media.to_string();
    let env = [("WEIR_RTC__LISTEN", listen.as_str()), ("WEIR_RTC__CANDIDATE", "127.0.0.1")];
    (super::start_with(yaml, &env), media)
}

/// A UDP port of 127.0.0.1 that nobody has.
fn free_udp_port() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// The address that a publisher posts its offer to (RFC 9725); `more` is for example `&eip=127.0.0.1:9000`.
pub fn whip(api: SocketAddr, stream: &str, more: &str) -> String {
    format!("http://{api}/rtc/v1/whip/?app=live&stream={stream}{more}")
}

/// The same for a player.
pub fn whep(api: SocketAddr, stream: &str, more: &str) -> String {
    format!("http://{api}/rtc/v1/whep/?app=live&stream={stream}{more}")
}

/// A running client that prints JSON lines.
pub struct Client {
    process: Ffmpeg,
}

impl Client {
    /// Chromium with a page a wish: `{"kind":"publish"|"play"|"loop","url":...,"codec":"H264"}`, see `page.js`.
    pub fn chromium(wishes: &[Value], scratch: &Path) -> Self {
        let mut command = Command::new("node");
        command.arg(rigs().join("browser.mjs")).args(wishes.iter().map(Value::to_string));
        command.env("PLAYWRIGHT", tools().join("playwright-core")).env("TMPDIR", scratch);
        Self { process: Ffmpeg::spawn(command, "Chromium".to_owned(), scratch) }
    }

    /// Chromium as one publisher; `codec` as in `H264`.
    pub fn chromium_publishes(url: &str, codec: &str, scratch: &Path) -> Self {
        Self::chromium(&[json!({"kind": "publish", "url": url, "codec": codec})], scratch)
    }

    /// Chromium as one player.
    pub fn chromium_plays(url: &str, scratch: &Path) -> Self {
        Self::chromium(&[json!({"kind": "play", "url": url})], scratch)
    }

    /// aiortc as a player.
    pub fn aiortc_plays(url: &str, scratch: &Path) -> Self {
        let mut command = Command::new("python3");
        command.arg(rigs().join("player.py")).arg(url).env("PYTHONPATH", tools().join("aiortc"));
        Self { process: Ffmpeg::spawn(command, format!("aiortc player of {url}"), scratch) }
    }

    /// werift as a player; it counts packets and decodes nothing.
    pub fn werift_plays(url: &str, scratch: &Path) -> Self {
        let mut command = Command::new("node");
        command.arg(rigs().join("werift.mjs")).arg(url).env("WERIFT", tools().join("werift"));
        Self { process: Ffmpeg::spawn(command, format!("werift player of {url}"), scratch) }
    }

    /// The host's own pages as a script of `tests/web/` uses them, such as `pages.mjs`; screenshots go to `pictures`.
    /// `more` is what else the script takes.
    pub fn pages(script: &str, origin: &str, pictures: &Path, more: &[&str], scratch: &Path) -> Self {
        let mut command = Command::new("node");
        command.arg(rigs().join("../web").join(script)).arg(origin).arg(pictures).args(more);
        command.env("PLAYWRIGHT", tools().join("playwright-core")).env("TMPDIR", scratch);
        Self { process: Ffmpeg::spawn(command, script.to_owned(), scratch) }
    }

    /// The host's console, and the other pages before a judge of accessibility; screenshots go to `pictures`.
    pub fn console(origin: &str, pictures: &Path, scratch: &Path) -> Self {
        let mut command = Command::new("node");
        command.arg(rigs().join("../web/console.mjs")).arg(origin).arg(pictures);
        command.env("PLAYWRIGHT", tools().join("playwright-core")).env("AXE", tools().join("axe-core"));
        command.env("TMPDIR", scratch);
        Self { process: Ffmpeg::spawn(command, "console".to_owned(), scratch) }
    }

    /// Waits for it to end by itself, and returns its last line.
    pub fn finish(&mut self, within: Duration) -> Value {
        let status = self.process.wait(within);
        assert!(status.success(), "{status}: {}", self.process.errors());
        self.lines().pop().unwrap_or_default()
    }

    /// Every line so far; one that is half written is not counted.
    pub fn lines(&self) -> Vec<Value> {
        let output = self.process.output();
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// The newest line of a page (0 for a client of one page).
    pub fn newest(&self, page: u64) -> Option<Value> {
        self.lines().into_iter().rev().find(|line| line.get("page").and_then(Value::as_u64).unwrap_or(0) == page)
    }

    /// Waits until `look` finds what it wants in the page's newest line. Panics if the client complains or ends.
    pub fn wait<T>(&mut self, page: u64, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let started = Instant::now();
        eventually(what, START, || {
            let line = self.newest(page);
            let error = line.as_ref().and_then(|line| line.get("error"));
            assert_eq!(error, None, "{what}: after {:?}", started.elapsed());
            self.process.assert_running();
            line.as_ref().and_then(&mut look)
        })
    }

    /// Waits for a line that has a field, for as long as `within`.
    pub fn wait_line(&mut self, field: &str, within: Duration) {
        eventually(&format!("a line with {field}"), within, || {
            self.process.assert_running();
            self.lines().iter().any(|line| line.get(field).is_some()).then_some(())
        });
    }

    /// Waits until the page has decoded that many pictures, and returns the line that says so.
    pub fn wait_frames(&mut self, page: u64, frames: u64) -> Value {
        self.wait(page, &format!("{frames} decoded pictures"), |line| (decoded(line) >= frames).then(|| line.clone()))
    }

    /// Ends it as a user who leaves does, and returns what the DELETE of each page's session was answered.
    pub fn leave(&mut self) -> Vec<(u64, Value)> {
        signal(self.process.pid(), Signal::SIGTERM);
        let status = self.process.wait(END);
        assert!(status.success(), "{status}: {}", self.process.errors());
        let ends = self.lines().into_iter().filter(|line| line.get("ended").is_some());
        ends.map(|line| (line["page"].as_u64().unwrap_or(0), line["ended"].clone())).collect()
    }

    /// Kills it: nothing is said to the server.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// The statistics of the W3C of one kind (`inbound-rtp`) and medium (`video`) in a browser's line.
pub fn report<'a>(line: &'a Value, kind: &str, medium: &str) -> Option<&'a Value> {
    line.get(kind)?.as_array()?.iter().find(|row| row["kind"] == medium)
}

/// A figure of such statistics, 0 where it is missing.
pub fn figure(line: &Value, kind: &str, medium: &str, field: &str) -> f64 {
    report(line, kind, medium).and_then(|row| row.get(field)?.as_f64()).unwrap_or(0.0)
}

/// Pictures decoded, whichever client tells.
pub fn decoded(line: &Value) -> u64 {
    let of_aiortc = line.get("video").and_then(|video| video.get("frames")?.as_u64());
    let of_chromium = || report(line, "inbound-rtp", "video")?.get("framesDecoded")?.as_u64();
    of_aiortc.or_else(of_chromium).unwrap_or(0)
}

/// Panics unless the line tells of a picture that is not black, moves, and comes with sound. `freeze` is the longest
/// time between two pictures that may have been shown.
pub fn assert_watchable(line: &Value, freeze: Duration) {
    let (picture, energy) = match line.get("shown") {
        Some(shown) => (shown, figure(line, "inbound-rtp", "audio", "totalAudioEnergy")),
        None => (&line["video"], line["audio"]["energy"].as_f64().unwrap_or(0.0)),
    };
    let number = |field: &str| picture[field].as_f64().unwrap_or(0.0);
    assert!(number("luma") > 5.0 && number("spread") > 30.0, "a black or an even picture: {line}");
    if let Some(pictures) = picture.get("pictures").and_then(Value::as_f64) {
        assert!(pictures > number("frames") / 2.0, "a picture that stands: {line}");
    }
    assert!(number("longestGapMs") <= freeze.as_secs_f64() * 1000.0, "a freeze of more than {freeze:?}: {line}");
    assert!(energy > 0.01, "no sound: {line}");
}

/// The ffmpeg with a WHIP muxer publishes a moving test picture and a tone for as long as it lives: H.264 baseline
/// with a keyframe a second, and Opus.
pub fn ffmpeg_publishes(url: &str, scratch: &Path) -> Ffmpeg {
    ffmpeg_publishes_of(url, "testsrc2=s=640x360:r=25", "sine=f=440:r=48000", scratch)
}

/// The same of a picture that is white and a tone that sounds for the first fifth of each second.
pub fn ffmpeg_publishes_beats(url: &str, scratch: &Path) -> Ffmpeg {
    let picture = "color=black:s=320x180:r=25,drawbox=c=white:t=fill:enable='lt(mod(t,1),0.2)'";
    ffmpeg_publishes_of(url, picture, "aevalsrc='0.5*sin(880*2*PI*t)*lt(mod(t,1),0.2)':s=48000", scratch)
}

/// An ffmpeg that is newer than Debian's: it has a WHIP muxer, and enhanced RTMP with Opus.
pub fn new_ffmpeg() -> Command {
    let binaries = tools().join("imageio-ffmpeg/imageio_ffmpeg/binaries");
    let entries = std::fs::read_dir(&binaries).unwrap().map(|entry| entry.unwrap().path());
    let program = entries.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("ffmpeg") && !name.ends_with(".md")
    });
    let mut command = Command::new(program.expect("imageio-ffmpeg without an ffmpeg"));
    command.args(["-nostdin", "-hide_banner", "-v", "error"]);
    command
}

fn ffmpeg_publishes_of(url: &str, picture: &str, sound: &str, scratch: &Path) -> Ffmpeg {
    let mut command = new_ffmpeg();
    command.args(["-re", "-f", "lavfi", "-i", picture]);
    command.args(["-re", "-f", "lavfi", "-i", sound, "-c:v", "libx264", "-profile:v", "baseline"]);
    command.args(["-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "600k", "-g", "25", "-pix_fmt", "yuv420p"]);
    command.args(["-c:a", "libopus", "-ac", "2", "-b:a", "48k", "-t", "300", "-f", "whip", url]);
    Ffmpeg::spawn(command, format!("WHIP publisher to {url}"), scratch)
}
