use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustc_hash::FxHashMap;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::warn;

use super::carrier;
use super::{Carrier, Relay};
use crate::throttle::Throttle;

/// From the first packet to the stream that carries the records.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Handshakes under way at once; more are refused.
const OPENING_MAX: usize = 256;

/// From so many on a peer must show that its address is its own (RFC 9000, 8.1.2), which costs it a round trip and
/// keeps those out that cannot.
const RETRY_FROM: usize = 64;

/// Application error code of a connection that was served and ended.
const ENDED: VarInt = VarInt::from_u32(0);

/// Accepts edges of other hosts for as long as the worker lives.
pub(crate) async fn listen(relay: Rc<Relay>, endpoint: Endpoint) {
    let opening = Rc::new(());
    let refusing = Rc::new(Throttle::default());
    while let Some(incoming) = endpoint.accept().await {
        let under_way = Rc::strong_count(&opening);
        if under_way > RETRY_FROM && !incoming.remote_address_validated() {
            // An error says that it was asked before, which cannot be here.
            incoming.retry().ok();
        } else if under_way > OPENING_MAX {
            refuse(&refusing, "too many handshakes at once");
            incoming.refuse();
        } else {
            let (relay, opening, refusing) = (relay.clone(), opening.clone(), refusing.clone());
            spawn_local(async move {
                if let Err(reason) = serve(relay, incoming, opening).await {
                    refuse(&refusing, &reason);
                }
            });
        }
    }
}

fn refuse(refusing: &Throttle, reason: &str) {
    if let Some(times) = refusing.hit(Instant::now(), 1) {
        warn!(reason, times, "relay connections from other hosts were refused");
    }
}

async fn serve(relay: Rc<Relay>, incoming: Incoming, opening: Rc<()>) -> Result<(), String> {
    let address = incoming.remote_address();
    let opened = timeout(OPEN_WITHIN, async {
        let connection = incoming.await?;
        let (writer, reader) = connection.accept_bi().await?;
        Ok::<_, quinn::ConnectionError>((connection, writer, reader))
    });
    let (connection, writer, reader) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return Err(format!("{address}: {reason}")),
        Err(_) => return Err(format!("{address}: not opened in time")),
    };
    drop(opening);
    let Some(entered) = relay.enter() else {
        connection.close(ENDED, b"too many connections");
        return Err(format!("{address}: too many connections"));
    };
    let closer = Closer(connection.clone());
    let carrier = Carrier::Groups(connection, RefCell::new(FxHashMap::default()));
    let ended = carrier::run(&relay, carrier, reader, writer).await;
    drop(entered);
    let (Ok(reason) | Err(reason)) = &ended;
    closer.0.close(ENDED, reason.to_string().as_bytes());
    ended.map(|_| ()).map_err(|reason| format!("{address}: {reason}"))
}

/// Ends the connection also when its task is dropped: the write tasks of groups hold it, too.
struct Closer(Connection);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close(ENDED, b"");
    }
}
