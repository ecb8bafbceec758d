//! The operator's service on `ctl.sock`.

use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use weir_proto::supervisor::admin_server::Admin;
use weir_proto::supervisor::{StatusReply, StatusRequest, StopReply, StopRequest};

use crate::link::same_user;

/// The name of the service's socket in the run directory.
pub const CTL_SOCKET: &str = "ctl.sock";

/// Requests that may wait for the loop.
pub const REQUESTS_MAX: usize = 64;

/// What an operator asks of the loop.
#[derive(Debug)]
pub enum Ask {
    /// Every worker.
    Status(oneshot::Sender<StatusReply>),
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
        let (answer, answered) = oneshot::channel();
        let gone = || Status::unavailable("the supervisor is leaving");
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        answered.await.map(Response::new).map_err(|_| gone())
    }
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
}
