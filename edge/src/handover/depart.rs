//! The giver's side.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep};
use tracing::warn;
use weir_node::handover::{BATCH_BYTES, BATCH_MAX, Error, Item, Passage, STATE_MAX};
use weir_proto::session::Session;

use crate::hub::{Hub, add};

/// How often a worker that does not take clients is asked, and the pause before it is asked again.
const TRIES: usize = 3;
const AGAIN: Duration = Duration::from_millis(500);

/// A frozen client.
#[derive(Debug)]
pub(crate) struct Departing {
    item: Item,
    taken: oneshot::Sender<bool>,
}

/// Says what a client is; true when it goes on in the other process. `socket` stays open until then.
pub(crate) async fn depart(hub: &Hub, way: mpsc::OwnedPermit<Departing>, socket: impl AsFd, session: &Session) -> bool {
    let moved = carry(way, socket, session).await;
    add(if moved { &hub.stats().moved } else { &hub.stats().stayed }, 1);
    moved
}

/// The same, for one that is not counted.
pub(crate) async fn carry(way: mpsc::OwnedPermit<Departing>, socket: impl AsFd, session: &Session) -> bool {
    let state = session.encode_to_vec();
    match socket.as_fd().try_clone_to_owned() {
        Ok(socket) if state.len() <= STATE_MAX => sent(way, socket, state).await,
        _ => false,
    }
}

async fn sent(way: mpsc::OwnedPermit<Departing>, socket: OwnedFd, state: Vec<u8>) -> bool {
    let (taken, answer) = oneshot::channel();
    way.send(Departing { item: Item { socket, state }, taken });
    answer.await.unwrap_or(false)
}

/// Lets the clients of this worker leave for the one that listens at `path`, until `deadline`. Nobody is frozen before that
/// one has answered.
pub(crate) fn open_way(hub: &Rc<Hub>, path: PathBuf, deadline: Instant) {
    spawn_local(leave_by(Rc::downgrade(hub), path, deadline));
}

async fn leave_by(hub: Weak<Hub>, path: PathBuf, deadline: Instant) {
    for _ in 0..TRIES {
        match Passage::connect(&path).await {
            Ok(passage) => {
                let (way, departing) = mpsc::channel(BATCH_MAX);
                let this = way.downgrade();
                let Some(hub) = hub.upgrade() else { return };
                hub.set_way(way);
                let weak = Rc::downgrade(&hub);
                drop(hub);
                let given = give_all(&passage, departing).await;
                if let Some(hub) = weak.upgrade() {
                    hub.close_way(&this);
                }
                match given {
                    Ok(()) => return,
                    Err(error) => warn!(%error, "handing over broke off"),
                }
            }
            Err(error) => warn!(%error, "the other worker does not take clients"),
        }
        if Instant::now() >= deadline {
            break;
        }
        sleep(AGAIN).await;
    }
    warn!("clients stay until they leave by themselves");
}

/// Gives clients to the worker that listens at `path`, until there are no more or it does not take them.
pub(crate) async fn give(path: PathBuf, departing: mpsc::Receiver<Departing>) {
    let given = async { give_all(&Passage::connect(&path).await?, departing).await };
    if let Err(error) = given.await {
        warn!(%error, "a sibling does not take clients");
    }
}

async fn give_all(passage: &Passage, mut departing: mpsc::Receiver<Departing>) -> Result<(), Error> {
    let mut waiting = Vec::new();
    while departing.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        while !waiting.is_empty() {
            let batch = first_batch(&mut waiting);
            let (items, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|d| (d.item, d.taken)).unzip();
            let taken = passage.give(&items).await?;
            for (answer, taken) in answers.into_iter().zip(taken) {
                answer.send(taken).ok();
            }
        }
    }
    Ok(())
}

/// As many as one batch may hold, at least one.
fn first_batch(waiting: &mut Vec<Departing>) -> Vec<Departing> {
    let mut bytes = 0;
    let fits = waiting.iter().take_while(|departing| {
        bytes += departing.item.state.len();
        bytes <= BATCH_BYTES
    });
    let count = fits.count().max(1).min(waiting.len());
    waiting.drain(..count).collect()
}
