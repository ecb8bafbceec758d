//! The keys of a vhost's JWTs, with the set that is fetched.

use std::cell::{Ref, RefCell};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};
use weir_node::access::{JWKS_MAX, Keys};
use weir_node::config::{HttpHooks, Jwt};
use weir_node::hooks::{Tls, fetch};
use weir_node::secret::Redacted;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    jwt: Jwt,
    keys: RefCell<Keys>,
    /// When the set was last asked for; locked while it is.
    asked: Mutex<Option<Instant>>,
}

impl Ring {
    pub(super) fn new(jwt: Jwt) -> Self {
        let keys = Keys::load(&jwt.keys).unwrap_or_else(|error| {
            // They were good when the configuration was looked at.
            warn!(%error, "keys of tokens cannot be read: nobody has a valid one");
            Keys::default()
        });
        Self { jwt, keys: RefCell::new(keys), asked: Mutex::new(None) }
    }

    /// Whether it is that of a configuration.
    pub(super) fn is_of(&self, jwt: &Jwt) -> bool {
        self.jwt == *jwt
    }

    pub(super) fn keys(&self) -> Ref<'_, Keys> {
        self.keys.borrow()
    }

    /// Fetches the set again, unless that was tried not long ago. Who comes meanwhile waits for the same answer; the keys
    /// that are there stay in use until there are others.
    pub(super) async fn refresh(&self, config: &HttpHooks, tls: &Tls) {
        if self.jwt.jwks.is_empty() {
            return;
        }
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < self.jwt.refresh) {
            return;
        }
        let from = Redacted::new(&self.jwt.jwks);
        let fetched = match self.jwt.jwks.contains("://") {
            true => fetch(&self.jwt.jwks, config, tls, JWKS_MAX).await.map_err(|error| error.to_string()),
            false => {
                let path = self.jwt.jwks.clone();
                let read = spawn_blocking(move || std::fs::read(path)).await;
                read.map_err(|error| error.to_string())
                    .and_then(|read| read.map(Into::into).map_err(|error| error.to_string()))
            }
        };
        // Counted from the end, so that a server that is slow to fail is not asked without a pause.
        *asked = Some(Instant::now());
        match fetched.and_then(|set| self.keys.borrow_mut().fetched(&set).map_err(|error| error.to_string())) {
            Ok(count) => info!(%from, keys = count, "keys of tokens fetched"),
            Err(error) => warn!(%from, error, "keys of tokens cannot be fetched; those that are known stay"),
        }
    }
}
