//! What the service manager and the log are told of the host's life.

use std::collections::BTreeSet;
use std::io;

use sd_notify::NotifyState;
use tracing::{info, warn};

use super::Host;

impl Host {
    pub(super) fn announce(&self) {
        let mut where_to = BTreeSet::new();
        for listener in self.slots.listeners() {
            where_to.insert(format!("{} on {}", listener.name, listener.address));
        }
        let listening: Vec<_> = where_to.into_iter().collect();
        info!("ready: {}", listening.join(", "));
        let first = |service: &str| {
            let name = format!("{service}.0");
            let port =
                self.slots.listeners().iter().find(|listener| listener.name == name)?.address.rsplit(':').next()?;
            Some(port.to_owned())
        };
        if let (Some(rtmp), Some(http)) = (first("rtmp"), first("http")) {
            info!("publish to rtmp://HOST:{rtmp}/live/NAME, play that or http://HOST:{http}/live/NAME.flv");
        }
        notify_ready();
    }
}

/// Tells the service manager that the host serves, and by the configuration that it was told of last.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager that another configuration or image is on its way.
pub(super) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!("the service manager cannot be told: {error}"),
    }
}

/// Tells the service manager something.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        let error: io::Error = error;
        warn!("the service manager cannot be told: {error}");
    }
}
