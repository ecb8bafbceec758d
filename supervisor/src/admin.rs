//! The operator's service on `ctl.sock`.

use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use weir_proto::supervisor::admin_server::Admin;
use weir_proto::supervisor::{MetricsReply, MetricsRequest, StatusReply, StatusRequest, StopReply, StopRequest};

use crate::link::same_user;

pub use weir_node::worker::CTL_SOCKET;

/// Requests that may wait for the loop.
pub const REQUESTS_MAX: usize = 64;

/// What an operator asks of the loop.
#[derive(Debug)]
pub enum Ask {
    /// Every worker.
    Status(oneshot::Sender<StatusReply>),
    /// The text for Prometheus.
    Metrics(oneshot::Sender<String>),
    /// Stop.
    Stop {
        /// Whether workers drain.
        graceful: bool,
        /// Answered when the stop began.
        begun: oneshot::Sender<()>,
    },
}

/// The service.
#[derive(Debug)]
pub struct Operator {
    asks: mpsc::Sender<Ask>,
}

impl Operator {
    /// A service whose requests go to `asks`.
    pub fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self { asks }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<Response<T>, Status> {
        let gone = || Status::unavailable("the supervisor is leaving");
        self::ask(&self.asks, ask).await.map(Response::new).ok_or_else(gone)
    }
}

/// Asks the loop something; `None`: it is leaving.
pub(crate) async fn ask<T>(asks: &mpsc::Sender<Ask>, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    asks.send(ask(answer)).await.ok()?;
    answered.await.ok()
}

#[tonic::async_trait]
impl Admin for Operator {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        same_user(&request)?;
        self.ask(Ask::Status).await
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        same_user(&request)?;
        let graceful = request.into_inner().graceful;
        self.ask(|begun| Ask::Stop { graceful, begun }).await?;
        Ok(Response::new(StopReply {}))
    }

    async fn metrics(&self, request: Request<MetricsRequest>) -> Result<Response<MetricsReply>, Status> {
        same_user(&request)?;
        let text = self.ask(Ask::Metrics).await?.into_inner();
        Ok(Response::new(MetricsReply { text }))
    }
}
