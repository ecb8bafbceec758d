use std::rc::Rc;
use std::time::Instant;

use tokio::net::UnixListener;
use tokio::task::spawn_local;
use tracing::warn;

use super::carrier;
use super::{ACCEPT_PAUSE, Carrier, PEERS_MAX, Relay};
use crate::throttle::Throttle;

/// Accepts edges of this host for as long as the worker lives.
pub(crate) async fn listen(relay: Rc<Relay>, listener: UnixListener) {
    let failing = Throttle::default();
    let refusing = Rc::new(Throttle::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(times) = failing.hit(Instant::now(), 1) {
                    warn!(%error, times, "accepting on the relay failed; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(entered) = relay.enter() else {
            refuse(&refusing, &format!("there are {PEERS_MAX}"));
            continue;
        };
        let (relay, refusing) = (relay.clone(), refusing.clone());
        spawn_local(async move {
            let (reader, writer) = stream.into_split();
            if let Err(reason) = carrier::run(&relay, Carrier::Queue, reader, writer).await {
                refuse(&refusing, &reason.to_string());
            }
            drop(entered);
        });
    }
}

fn refuse(refusing: &Throttle, reason: &str) {
    if let Some(times) = refusing.hit(Instant::now(), 1) {
        warn!(reason, times, "relay connections of this host were refused");
    }
}
