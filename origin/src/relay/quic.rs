use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use quinn::{Endpoint, Incoming};
use rustc_hash::FxHashMap;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::carrier;
use super::{Carrier, Relay};

/// From the first packet to the stream that carries the records.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Accepts edges of other hosts for as long as the worker lives.
pub(crate) async fn listen(relay: Rc<Relay>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        spawn_local(serve(relay.clone(), incoming));
    }
}

async fn serve(relay: Rc<Relay>, incoming: Incoming) {
    let address = incoming.remote_address();
    let opened = timeout(OPEN_WITHIN, async {
        let connection = incoming.await?;
        let (writer, reader) = connection.accept_bi().await?;
        Ok::<_, quinn::ConnectionError>((connection, writer, reader))
    });
    let (connection, writer, reader) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return warn!(%address, %reason, "a relay connection was refused"),
        Err(_) => return debug!(%address, "a relay connection was not opened in time"),
    };
    let carrier = Carrier::Groups(connection, RefCell::new(FxHashMap::default()));
    if let Err(reason) = carrier::run(&relay, carrier, reader, writer).await {
        warn!(%address, %reason, "a relay connection was refused");
    }
}
