//! A whole host whose workers only accept: they answer each TCP connection with a line that says who took it, and
//! keep it until the client closes it. It shows what a worker's body has to do, and the supervisor's tests run it.
//!
//! Started as `accept run -c FILE`. Clients may write `die`, which kills the worker, or `hang`, which blocks it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, sleep_until};
use weir_node::config::load;
use weir_node::link::Report;
use weir_node::sockets::NamedSocket;
use weir_node::worker::{Command, Shell, WorkerArgs};
use weir_supervisor::host;
use weir_supervisor::spawn::Program;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["run", "-c", file] => supervise(Path::new(file)),
        ["upgrade-check"] => match host::check() {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::FAILURE,
        },
        [role, "--slot", slot, "--incarnation", incarnation] => {
            let (Ok(role), Ok(slot), Ok(incarnation)) = (role.parse(), slot.parse(), incarnation.parse()) else {
                return ExitCode::FAILURE;
            };
            weir_node::worker::run(role, WorkerArgs { slot, incarnation }, body)
        }
        _ => ExitCode::FAILURE,
    }
}

fn supervise(file: &Path) -> ExitCode {
    let path = file.to_owned();
    let again = move || load(Some(&path), std::env::vars()).map_err(|errors| errors.to_string());
    let done = host::inherited().and_then(|state| {
        let config = match &state {
            Some(state) => state.config().clone(),
            None => again().map_err(anyhow::Error::msg)?,
        };
        weir_node::log::init(&config.log, "weir", None)?;
        match state {
            Some(state) => host::resume(state, Program::own_image(), Box::new(again)),
            None => host::run(config, Program::own_image(), Box::new(again)),
        }
    });
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Clients of this worker.
#[derive(Default)]
struct Clients {
    connections: Cell<u64>,
    /// True: they are to be closed.
    closing: watch::Sender<bool>,
}

async fn body(mut shell: Shell) -> anyhow::Result<()> {
    let clients = Rc::new(Clients::default());
    let name = format!("{} {} {}\n", shell.role, shell.slot, shell.incarnation);
    let own = accept_from(std::mem::take(&mut shell.sockets), &name, &clients)?;
    let mut adopted = BTreeMap::new();
    // Tests of upgrades say which workers fail.
    let last = std::env::var("ACCEPT_FAIL_AFTER").ok().and_then(|incarnation| incarnation.parse().ok());
    anyhow::ensure!(last.is_none_or(|last: u64| shell.incarnation <= last), "told to fail");
    // Tests of slow starts say how slow.
    if let Some(millis) = std::env::var("ACCEPT_START_MS").ok().and_then(|millis| millis.parse().ok()) {
        sleep(Duration::from_millis(millis)).await;
    }
    shell.link.ready();

    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut deadline = None;
    loop {
        tokio::select! {
            Some(command) = shell.commands.recv() => match command {
                Command::Apply { token, .. } => shell.link.ack(token, Ok(())),
                Command::Adopt { token, slot, sockets } => {
                    let taken = accept_from(sockets, &name, &clients).map_err(|error| error.to_string());
                    shell.link.ack(token, taken.map(|tasks| drop(adopted.insert(slot, tasks))));
                }
                Command::Release { token, slot } => {
                    adopted.remove(&slot);
                    shell.link.ack(token, Ok(()));
                }
                Command::Drain { deadline: by } | Command::HandOver { deadline: by, .. } => {
                    own.0.iter().for_each(AbortHandle::abort);
                    adopted.clear();
                    deadline = Some(by);
                }
                // It names no clients.
                Command::Look(_) => {}
                Command::Kick { token, .. } => shell.link.ack(token, Err("there is no such client".to_owned())),
                Command::Stop => break,
            },
            _ = ticks.tick() => {
                let connections = clients.connections.get();
                shell.link.report(Report { connections, ..Report::default() });
                if deadline.is_some() && connections == 0 {
                    break;
                }
            }
            () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break,
        }
    }
    clients.closing.send_replace(true);
    Ok(())
}

/// Tasks that accept; dropping them closes their listeners.
struct Accepting(Vec<AbortHandle>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

fn accept_from(sockets: Vec<NamedSocket>, name: &str, clients: &Rc<Clients>) -> anyhow::Result<Accepting> {
    let mut accepting = Accepting(Vec::new());
    for socket in sockets.into_iter().filter(|socket| ["rtmp", "http", "api", "signal"].contains(&socket.service())) {
        let listener = socket.into_tcp_listener()?;
        accepting.0.push(spawn_local(accept(listener, name.to_owned(), clients.clone())).abort_handle());
    }
    Ok(accepting)
}

async fn accept(listener: TcpListener, name: String, clients: Rc<Clients>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // With no other task in between: a worker that dies in one leaves nobody accepted and ungreeted.
                socket2::SockRef::from(&stream).send(name.as_bytes()).ok();
                spawn_local(serve(stream, clients.clone()));
            }
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, clients: Rc<Clients>) {
    clients.connections.set(clients.connections.get() + 1);
    let mut closing = clients.closing.subscribe();
    let mut buffer = [0; 16];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(n) if buffer.get(..n) == Some(b"die") => std::process::abort(),
            Ok(n) if buffer.get(..n) == Some(b"hang") => std::thread::sleep(Duration::from_secs(3600)),
            Ok(_) => {}
        }
    }
    clients.connections.set(clients.connections.get() - 1);
}
