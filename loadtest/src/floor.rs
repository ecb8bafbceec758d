//! `floor`: what the kernel alone charges for sending to N sockets in a rhythm. A server that does nothing else, in a
//! process of its own, and its clients.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// The server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it; it runs on CPU `cpu`, if that is given.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub(crate) fn start(players: usize, interval: Duration, kbps: f64, cpu: Option<usize>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this program is not found")?);
        command.args(["floor-server", "--players", &players.to_string(), "--kbps", &kbps.to_string()]);
        command.args(["--interval", &(interval.as_secs_f64() * 1000.0).to_string()]);
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        // It ends when its input does: with this process, however that ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("the server does not start")?;
        let mut line = String::new();
        let out = child.stdout.take().context("the server has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().parse().context("the server did not say where it listens")?;
        Ok(Self { child, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The server itself: the same bytes to all of `players` each `interval`.
///
/// # Errors
/// It cannot listen or accept.
pub(crate) fn serve(players: usize, interval: Duration, kbps: f64) -> anyhow::Result<()> {
    ensure!(!interval.is_zero(), "the interval must not be 0");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        std::process::exit(0);
    });
    let bytes = vec![0x5a; (kbps * 125.0 * interval.as_secs_f64()) as usize];
    let mut sockets: Vec<Option<TcpStream>> = Vec::new();
    for _ in 0..players {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        sockets.push(Some(socket));
    }
    let mut due = Instant::now();
    loop {
        due += interval;
        // What was missed is not caught up.
        due = due.max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for place in &mut sockets {
            let Some(socket) = place else { continue };
            match socket.write(&bytes) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => *place = None,
                // A client that is slow misses what does not fit.
                _ => {}
            }
        }
    }
}
