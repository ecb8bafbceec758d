use std::rc::Rc;

use tokio::net::UnixListener;
use tokio::task::spawn_local;
use tracing::warn;

use super::carrier;
use super::{ACCEPT_PAUSE, Carrier, Relay};

/// Accepts edges of this host for as long as the worker lives.
pub(crate) async fn listen(relay: Rc<Relay>, listener: UnixListener) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                let relay = relay.clone();
                spawn_local(async move {
                    let (reader, writer) = stream.into_split();
                    if let Err(reason) = carrier::run(&relay, Carrier::Queue, reader, writer).await {
                        warn!(%reason, "a relay connection was refused");
                    }
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "accepting on the relay failed; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
