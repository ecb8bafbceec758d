//! `weir ctl top` against a real host, with and without a terminal.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Cluster, WEIR, accept, signal};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};

const TWO: &str = "edge: { workers: 2 }";
const WITHIN: Duration = Duration::from_secs(10);

/// What leaves the alternate screen and what shows the cursor again.
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW: &str = "\u{1b}[?25h";

/// `weir ctl top` on a terminal of its own.
struct Top {
    child: Child,
    terminal: File,
    /// Keeps the terminal's other end open, so that its modes can be read when the child is gone.
    inner: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Top {
    fn start(cluster: &Cluster) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let socket = cluster.run_dir().join("ctl.sock");
        let child = Command::new(WEIR)
            .args(["ctl", "--socket"])
            .arg(socket)
            .arg("top")
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let terminal = File::from(pty.master);
        let mut reader = terminal.try_clone().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, terminal, inner: pty.slave, output, seen: String::new() }
    }

    /// Waits until the terminal got `text`, and forgets what came before it. Blanks on a blank screen are not sent.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} after {:?}", self.seen),
            }
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.inner).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn press(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    /// It has left, and the terminal is as it was.
    fn left(mut self) {
        self.wait_for(LEAVE);
        let status = common::eventually("top leaves", WITHIN, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status:?}");
        assert!(!self.is_raw(), "the terminal is still raw");
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_way_out_restores_the_terminal() {
    let cluster = Cluster::start(TWO);
    for keys in [b"q".as_slice(), b"\x1b", b"\x03"] {
        let mut top = Top::start(&cluster);
        top.wait_for("WORKER");
        assert!(top.is_raw());
        top.press(keys);
        top.wait_for(SHOW);
        top.left();
    }
    for number in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut top = Top::start(&cluster);
        top.wait_for("WORKER");
        signal(top.child.id(), number);
        top.wait_for(SHOW);
        top.left();
    }
}

#[test]
fn it_outlives_the_supervisor_and_finds_the_next_one() {
    let mut cluster = Cluster::start(TWO);
    let mut top = Top::start(&cluster);
    top.wait_for("WORKER");
    cluster.signal(Signal::SIGTERM);
    cluster.wait_exit(WITHIN);
    top.wait_for("trying again");
    let next = Cluster::launch_in(cluster.into_dir(), accept(), TWO, &[]);
    // Only what changed is drawn again: the title, which the message had covered.
    top.wait_for("ready, up");
    top.press(b"q");
    top.left();
    drop(next);
}

#[test]
fn without_a_terminal_it_prints_one_frame() {
    let cluster = Cluster::start(TWO);
    for args in [["top"].as_slice(), &["top", "--once"]] {
        let output = cluster.ctl(args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains('\u{1b}'), "{text}");
        let rows: Vec<_> = text.lines().filter(|line| line.contains(" ready ")).collect();
        assert_eq!(rows.len(), 4, "three workers, and the title: {text}");
    }
}
