//! A whole host for a test: started from YAML on free ports in a directory of its own, and gone with its value.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longest start of a host, on a machine that compiles meanwhile.
pub const START: Duration = Duration::from_secs(20);

/// The `weir` executable of this build.
pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// The example whose workers only accept, built if this run of cargo did not.
pub fn accept() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(WEIR).parent().unwrap().join("examples/accept");
        if !path.exists() {
            let build = ["build", "--quiet", "-p", "weir-supervisor", "--example", "accept"];
            assert!(Command::new(env!("CARGO")).args(build).status().unwrap().success(), "accept does not build");
        }
        path
    })
}

/// A TCP port of 127.0.0.1 that nobody listens on, below those that the kernel gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() * 131 % 20_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks `look` until it answers; panics with `what` after `within`.
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |child: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|child| parent(*child) == Some(pid)).collect()
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// The sockets that process `pid` has open, by inode.
pub fn socket_inodes(pid: u32) -> BTreeSet<u64> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let inode = |entry: fs::DirEntry| -> Option<u64> {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    fds.filter_map(|entry| inode(entry.ok()?)).collect()
}

/// The listening IPv4 sockets of a port, by inode.
pub fn listeners(port: u16) -> BTreeSet<u64> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let inode = |line: &str| -> Option<u64> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (local == port && *fields.get(3)? == LISTEN).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// A row of `weir ctl status --json`.
#[derive(Clone, Debug)]
pub struct Row {
    pub role: String,
    pub slot: u64,
    pub incarnation: u64,
    pub pid: u32,
    pub state: String,
    pub connections: u64,
    pub restarts: u64,
    pub lent_to: Option<u64>,
}

/// A host under test.
pub struct Cluster {
    child: Child,
    dir: TempDir,
    /// Where it takes RTMP.
    pub rtmp: SocketAddr,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Where it answers the API.
    pub api: SocketAddr,
    /// Where it answers signaling, besides those two.
    pub signal: SocketAddr,
    /// Where its supervisor answers Prometheus.
    pub metrics: SocketAddr,
    exited: Option<ExitStatus>,
}

impl Cluster {
    /// Starts a host of workers that only accept, and waits until it is ready.
    pub fn start(yaml: &str) -> Self {
        let mut cluster = Self::launch(accept(), yaml, &[]);
        cluster.wait_ready();
        cluster
    }

    /// Starts a host as `PROGRAM run -c FILE` with the listeners on free ports of 127.0.0.1 and a run directory of
    /// its own, whatever `yaml` says of those. `env` may say other things; a variable that is empty there is not set.
    pub fn launch(program: &Path, yaml: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::launch_in(dir, program, yaml, env)
    }

    /// Starts a host in the directory of another one that is gone.
    pub fn launch_in(dir: TempDir, program: &Path, yaml: &str, env: &[(&str, &str)]) -> Self {
        let [rtmp, http, api, signal, metrics] = [0; 5].map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let file = dir.path().join("weir.yaml");
        fs::write(&file, yaml).unwrap();
        let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR_")) {
            command.env_remove(name);
        }
        command
            .args(["run", "-c"])
            .arg(&file)
            .env("WEIR_NODE__RUN_DIR", dir.path().join("run"))
            .env("WEIR_EDGE__RTMP__LISTEN", rtmp.to_string())
            .env("WEIR_EDGE__HTTP__LISTEN", http.to_string())
            .env("WEIR_EDGE__API__LISTEN", api.to_string())
            .env("WEIR_EDGE__SIGNAL__LISTEN", signal.to_string())
            .env("WEIR_METRICS__LISTEN", metrics.to_string())
            // Where it is tested it is given a port.
            .env("WEIR_RTC__LISTEN", "off")
            // The machine of the tests is busy by itself.
            .env("WEIR_OVERLOAD__ENABLED", "off")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        for (name, _) in env.iter().filter(|(_, value)| value.is_empty()) {
            command.env_remove(name);
        }
        let child = command.spawn().unwrap();
        Self { child, dir, rtmp, http, api, signal, metrics, exited: None }
    }

    /// Waits until every worker is ready.
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + START;
        while self.try_status().is_none_or(|status| status["state"] != "ready") {
            let exited = self.child.try_wait().unwrap();
            assert!(exited.is_none(), "it ended at once, {exited:?}:\n{}", self.log());
            assert!(Instant::now() < deadline, "not ready within {START:?}:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Writes another configuration file in the place of the one that it was started with.
    pub fn rewrite(&self, yaml: &str) {
        fs::write(self.dir.path().join("weir.yaml"), yaml).unwrap();
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The supervisor's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `weir ctl ARGS` for this host.
    pub fn ctl(&self, args: &[&str]) -> std::process::Output {
        let socket = self.run_dir().join("ctl.sock");
        Command::new(WEIR).arg("ctl").arg("--socket").arg(socket).args(args).output().unwrap()
    }

    /// The answer of `weir ctl status --json`, if it answers.
    pub fn try_status(&self) -> Option<Value> {
        let output = self.ctl(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Every worker, and every slot that waits for one.
    pub fn rows(&self) -> Vec<Row> {
        let status = self.try_status().unwrap_or_else(|| panic!("no status:\n{}", self.log()));
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name} in {row}"));
        let row = |row: &Value| Row {
            role: row["role"].as_str().unwrap().to_owned(),
            slot: number(row, "slot"),
            incarnation: number(row, "incarnation"),
            pid: number(row, "pid").try_into().unwrap(),
            state: row["state"].as_str().unwrap().to_owned(),
            connections: number(row, "connections"),
            restarts: number(row, "restarts"),
            lent_to: row["lent_to"].as_u64(),
        };
        status["workers"].as_array().unwrap().iter().map(row).collect()
    }

    /// The youngest worker of a slot.
    pub fn row(&self, role: &str, slot: u64) -> Row {
        let rows = self.rows().into_iter().filter(|row| row.role == role && row.slot == slot);
        rows.max_by_key(|row| row.incarnation).unwrap_or_else(|| panic!("no {role} {slot}"))
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Waits for the supervisor's end.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.exited = Some(status);
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end within {within:?}:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// The socket files of the run directory.
    pub fn socket_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.run_dir()).unwrap().map(Result::unwrap);
        entries.filter(|entry| entry.file_type().unwrap().is_socket()).map(|entry| entry.path()).collect()
    }

    /// Gives up the host that has ended, but not its directory.
    pub fn into_dir(mut self) -> TempDir {
        assert!(self.exited.is_some(), "it still runs");
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.exited.is_some() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("the log of the host:\n{}", self.log());
        }
        let workers = children(self.pid());
        self.child.kill().ok();
        self.child.wait().ok();
        // Reparented and told of the supervisor's death by now; nobody but us knows them.
        for worker in workers.into_iter().filter(|worker| is_alive(*worker)) {
            kill(Pid::from_raw(worker.try_into().unwrap()), Signal::SIGKILL).ok();
        }
    }
}

/// A client of `accept`, and who took it.
pub struct Client {
    /// Its connection.
    pub stream: TcpStream,
    /// The slot of the worker that accepted it.
    pub slot: u64,
    /// Its incarnation.
    pub incarnation: u64,
}

impl Client {
    /// Connects and reads who accepted.
    pub fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["edge", slot, incarnation] => {
                Ok(Self { slot: slot.parse().unwrap(), incarnation: incarnation.parse().unwrap(), stream })
            }
            _ => Err(std::io::Error::other(format!("{line:?} is no greeting"))),
        }
    }

    /// Connects until the worker of `slot` takes it: the kernel chooses by a hash of the client's port.
    pub fn connect_to(address: SocketAddr, slot: u64) -> Self {
        eventually("a connection to the slot", Duration::from_secs(10), || {
            Self::connect(address).ok().filter(|client| client.slot == slot)
        })
    }
}
