//! `weir ctl top`: the workers, their rates and their state, once a second.

mod columns;
mod history;
mod model;
mod view;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::Rect;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::Channel;
use weir_proto::supervisor::StatusReply;
use weir_proto::supervisor::admin_client::AdminClient;

use super::ctl::{connect, status_of};
use model::{Action, Model};

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(1);

/// Keys that wait to be handled; the terminal keeps the others.
const KEYS_MAX: usize = 64;

/// The width of a frame that goes to no terminal: room for every column and a note.
const PLAIN_WIDTH: u16 = 200;

type Client = AdminClient<Channel>;
type Answers = mpsc::Receiver<Result<StatusReply, String>>;

/// Shows the host of the supervisor at `socket` until the operator has seen enough; the answer is empty. With
/// `once`, or where standard output is no terminal, the answer is one frame. Fails if the supervisor does not answer
/// now, or if the terminal cannot be used.
pub(super) async fn run(mut client: Client, socket: &Path, once: bool) -> anyhow::Result<String> {
    let mut model = Model::new(machine());
    model.update(Instant::now(), status_of(&mut client).await?);
    let terminal = stdout().is_terminal();
    if once || !terminal {
        // Rates take two looks.
        sleep(EVERY).await;
        model.update(Instant::now(), status_of(&mut client).await?);
        let width = terminal.then(|| terminal::size().ok()).flatten().map_or(PLAIN_WIDTH, |(width, _)| width);
        return Ok(view::text(&model, width));
    }
    let mut screen = Screen::open().context("the terminal cannot be used")?;
    watch(&mut screen, &mut model, answers(client, socket.to_owned())).await?;
    Ok(String::new())
}

/// The name of this machine: the supervisor's socket is always on the same one.
fn machine() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this host".to_owned() } else { name.trim().to_owned() }
}

/// Draws until a key or a signal ends it.
async fn watch(screen: &mut Screen, model: &mut Model, mut answers: Answers) -> anyhow::Result<()> {
    let mut ends = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()]
        .into_iter()
        .map(signal)
        .collect::<io::Result<Vec<Signal>>>()?;
    let [terminate, hangup, interrupt] = ends.as_mut_slice() else { bail!("no signals") };
    let mut keys = keys();
    loop {
        screen.draw(model)?;
        tokio::select! {
            Some(answer) = answers.recv() => match answer {
                Ok(reply) => model.update(Instant::now(), reply),
                Err(why) => model.lost(Instant::now(), why),
            },
            event = keys.recv() => match event {
                Some(Ok(Event::Key(key))) if ends_it(key, model) => return Ok(()),
                Some(Ok(Event::Key(key))) => if let Some(action) = action(key) {
                    model.act(action);
                },
                // Drawing looks at the size by itself.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
                None => bail!("the terminal cannot be read"),
            },
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// The supervisor's answers, one a second, or why there is none. It is asked until the receiver is dropped.
fn answers(client: Client, socket: PathBuf) -> Answers {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut client = Some(client);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and the first answer is there already.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let answer = ask(&mut client, &socket).await.map_err(|error| format!("{error:#}"));
            if answer.is_err() {
                // The next supervisor is behind a new socket.
                client = None;
            }
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn ask(client: &mut Option<Client>, socket: &Path) -> anyhow::Result<StatusReply> {
    match client {
        Some(client) => status_of(client).await,
        None => status_of(client.insert(connect(socket).await?)).await,
    }
}

/// What the terminal says. Its reader blocks, so it has a thread; that ends with the process.
fn keys() -> mpsc::Receiver<io::Result<Event>> {
    let (keys, receiver) = mpsc::channel(KEYS_MAX);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if keys.blocking_send(event).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

fn ends_it(key: KeyEvent, model: &Model) -> bool {
    match key.code {
        KeyCode::Char('q' | 'Q') => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        KeyCode::Esc => !model.is_help_shown(),
        _ => false,
    }
}

fn action(key: KeyEvent) -> Option<Action> {
    Some(match key.code {
        KeyCode::Char('s') => Action::Sort,
        KeyCode::Char('?' | 'h') => Action::Help,
        KeyCode::Esc => Action::Close,
        KeyCode::Up => Action::Up,
        KeyCode::Down => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown => Action::PageDown,
        KeyCode::Home => Action::First,
        KeyCode::End => Action::Last,
        _ => return None,
    })
}

/// The terminal in raw mode on its alternate screen; as it was before when this is dropped, or at a panic.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // ratatui's own hook, which goes first, leaves the cursor hidden. A release build aborts at a panic, so there
        // is nothing but the hook.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = execute!(stdout(), Show);
            hook(info);
        }));
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                // Half done is to be undone, too.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }

    fn draw(&mut self, model: &mut Model) -> io::Result<()> {
        let size = self.terminal.size()?;
        model.set_page(view::page(Rect::new(0, 0, size.width, size.height), model));
        self.terminal.draw(|frame| view::draw(frame, model))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nobody to tell.
        let _ = execute!(stdout(), Show);
        let _ = ratatui::try_restore();
    }
}
