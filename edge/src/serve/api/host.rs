//! `GET /metrics` of the API port: the page of the whole host, which the supervisor makes.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tracing::debug;
use weir_node::link::MESSAGE_MAX;
use weir_proto::supervisor::MetricsRequest;
use weir_proto::supervisor::admin_client::AdminClient;

/// How long the supervisor may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Clients that may wait for the supervisor at a time.
const ASKING_MAX: usize = 16;

/// The way to the supervisor.
#[derive(Debug)]
pub(super) struct Scrape {
    socket: PathBuf,
    asking: Cell<usize>,
}

/// One who asks, for as long as it lives.
struct Asking<'a>(&'a Cell<usize>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} ask already")]
    Busy(usize),
    #[error("{0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("it did not answer within {ANSWER_WITHIN:?}")]
    Silent,
}

impl Scrape {
    /// `socket` is that of the operator's service.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, asking: Cell::new(0) }
    }

    /// The answer to a client.
    pub(super) async fn answer(&self) -> Response<Full<Bytes>> {
        let before = self.asking.replace(self.asking.get() + 1);
        let _one = Asking(&self.asking);
        let text = match before < ASKING_MAX {
            false => Err(Error::Busy(before)),
            true => timeout(ANSWER_WITHIN, self.ask()).await.unwrap_or(Err(Error::Silent)),
        };
        match text {
            Ok(text) => {
                let mut response = Response::new(Full::new(Bytes::from(text)));
                let format = HeaderValue::from_static(weir_proto::metrics::TEXT_FORMAT);
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            Err(error) => {
                debug!(%error, "no metrics from the supervisor");
                let text = format!("the supervisor gives no metrics: {error}\n");
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, plain);
                response
            }
        }
    }

    async fn ask(&self) -> Result<String, Error> {
        let channel = Endpoint::from_shared(format!("unix:{}", self.socket.display()))?.connect().await?;
        let mut admin = AdminClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        Ok(admin.metrics(MetricsRequest {}).await?.into_inner().text)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_supervisor_that_hangs_or_is_not_there_is_a_quick_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let scrape = Rc::new(Scrape::new(dir.path().join("ctl.sock")));
            assert_eq!(scrape.answer().await.status(), StatusCode::SERVICE_UNAVAILABLE);
            // It listens and says nothing.
            let _hangs = std::os::unix::net::UnixListener::bind(dir.path().join("ctl.sock")).unwrap();
            let begun = Instant::now();
            let ask = || {
                let scrape = scrape.clone();
                tokio::task::spawn_local(async move { (scrape.answer().await.status(), Instant::now()) })
            };
            let many: Vec<_> = (0..=ASKING_MAX).map(|_| ask()).collect();
            let mut waited = 0;
            for answer in many {
                let (status, at) = answer.await.unwrap();
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                waited += usize::from(at - begun >= ANSWER_WITHIN);
            }
            assert_eq!(waited, ASKING_MAX, "one too many is told at once");
            assert!(begun.elapsed() < ANSWER_WITHIN * 4, "{:?}", begun.elapsed());
            assert_eq!(scrape.asking.get(), 0);
        });
    }
}
