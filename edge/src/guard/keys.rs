//! The keys of a vhost's JWTs, with the set that is fetched.

use std::cell::{Ref, RefCell};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};
use weir_node::access::{JWKS_MAX, Keys};
use weir_node::config::{HttpHooks, Jwt};
use weir_node::hooks::{Tls, fetch};
use weir_node::secret::Redacted;

/// After so long a set is fetched again though all keys that are named are known: one may have been withdrawn.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(3600);

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

    /// Whether the set was fetched so long ago, and is not being fetched.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        let asked = self.asked.try_lock();
        !self.jwt.jwks.is_empty() && asked.is_ok_and(|asked| asked.is_some_and(|asked| asked.elapsed() >= age))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// The public key of RFC 8037, A.2, so many times under other ids.
    fn set(count: usize) -> String {
        let key = |n| {
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{n}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}"#)
        };
        format!("{{\"keys\":[{}]}}", (0..count).map(key).collect::<Vec<_>>().join(","))
    }

    #[track_caller]
    fn assert_fetched(ring: &Ring, count: usize) {
        assert_eq!(format!("{:?}", ring.keys()), format!("Keys {{ own: 0, fetched: {count} }}"));
    }

    #[tokio::test]
    async fn a_set_is_fetched_now_and_then_and_stays_when_the_next_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let jwks = format!("http://{}/keys", listener.local_addr().unwrap());
        let answers = std::thread::spawn(move || {
            for body in [set(1), "no set".to_owned(), set(2)] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        let (config, tls) = (HttpHooks::default(), Tls::default());
        let seldom = Ring::new(Jwt { jwks: jwks.clone(), refresh: Duration::from_secs(60), ..Jwt::default() });
        assert_fetched(&seldom, 0);
        // Who comes at the same time waits for one answer.
        tokio::join!(seldom.refresh(&config, &tls), seldom.refresh(&config, &tls));
        seldom.refresh(&config, &tls).await;
        assert_fetched(&seldom, 1);
        let often = Ring { jwt: Jwt { refresh: Duration::ZERO, ..seldom.jwt.clone() }, ..seldom };
        often.asked.lock().await.take();
        often.refresh(&config, &tls).await;
        assert_fetched(&often, 1);
        often.refresh(&config, &tls).await;
        assert_fetched(&often, 2);
        answers.join().unwrap();
        assert!(!often.is_older_than(KEPT_FOR));
        assert!(often.is_older_than(Duration::ZERO), "a key may have been withdrawn");
        // Nobody answers any more.
        often.refresh(&config, &tls).await;
        assert_fetched(&often, 2);
    }

    #[tokio::test]
    async fn a_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), set(1)).unwrap();
        let jwks = file.path().to_str().unwrap().to_owned();
        let ring = Ring::new(Jwt { jwks, refresh: Duration::ZERO, ..Jwt::default() });
        for count in [1, 3] {
            std::fs::write(file.path(), set(count)).unwrap();
            ring.refresh(&HttpHooks::default(), &Tls::default()).await;
            assert_fetched(&ring, count);
        }
    }
}
