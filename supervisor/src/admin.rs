//! The operator's service on `ctl.sock`.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use weir_proto::supervisor::admin_server::Admin;
use weir_proto::supervisor::{
    DoneReply, DrainRequest, KickRequest, LookReply, LookRequest, MetricsReply, MetricsRequest, ReloadRequest,
    ScaleRequest, StatusReply, StatusRequest, StopReply, StopRequest, StreamsReply, StreamsRequest, UpgradeRequest,
};

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
    /// The clients of all workers.
    Look(LookRequest, oneshot::Sender<LookReply>),
    /// The streams of all workers.
    Streams(StreamsRequest, oneshot::Sender<StreamsReply>),
    /// Disconnect the client of an id.
    Kick(String, oneshot::Sender<Result<(), Status>>),
    /// Change something.
    Change(Change, oneshot::Sender<Result<String, String>>),
    /// Stop.
    Stop {
        /// Whether workers drain.
        graceful: bool,
        /// Answered when the stop began.
        begun: oneshot::Sender<()>,
    },
}

/// What an operator changes while the host runs. The answer says what was done, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Read the configuration again.
    Reload,
    /// Have so many workers of a role.
    Scale {
        /// The role, as written.
        role: String,
        /// How many.
        workers: u32,
    },
    /// Drain a slot's worker.
    Drain {
        /// The role, as written.
        role: String,
        /// The slot.
        slot: u32,
    },
    /// Become another image; `None` is the path that this one was started from.
    Upgrade(Option<PathBuf>),
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

impl Operator {
    async fn change<T>(&self, request: &Request<T>, change: Change) -> Result<Response<DoneReply>, Status> {
        same_user(request)?;
        let done = self.ask(|answer| Ask::Change(change, answer)).await?.into_inner();
        done.map(|text| Response::new(DoneReply { text })).map_err(Status::failed_precondition)
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

    async fn look(&self, request: Request<LookRequest>) -> Result<Response<LookReply>, Status> {
        same_user(&request)?;
        self.ask(|answer| Ask::Look(request.into_inner(), answer)).await
    }

    async fn streams(&self, request: Request<StreamsRequest>) -> Result<Response<StreamsReply>, Status> {
        same_user(&request)?;
        self.ask(|answer| Ask::Streams(request.into_inner(), answer)).await
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<DoneReply>, Status> {
        same_user(&request)?;
        let id = request.into_inner().id;
        self.ask(|answer| Ask::Kick(id.clone(), answer)).await?.into_inner()?;
        Ok(Response::new(DoneReply { text: format!("{id} is disconnected") }))
    }

    async fn reload(&self, request: Request<ReloadRequest>) -> Result<Response<DoneReply>, Status> {
        self.change(&request, Change::Reload).await
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<DoneReply>, Status> {
        let ScaleRequest { role, workers } = request.get_ref().clone();
        self.change(&request, Change::Scale { role, workers }).await
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DoneReply>, Status> {
        let DrainRequest { role, slot } = request.get_ref().clone();
        self.change(&request, Change::Drain { role, slot }).await
    }

    async fn upgrade(&self, request: Request<UpgradeRequest>) -> Result<Response<DoneReply>, Status> {
        let binary = Some(request.get_ref().binary.clone()).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.change(&request, Change::Upgrade(binary)).await
    }
}
