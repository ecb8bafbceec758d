//! `weir ctl`: the operator's side of the supervisor's admin service.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use weir_proto::supervisor::admin_client::AdminClient;
use weir_proto::supervisor::{StatusReply, StatusRequest, StopRequest};
use weir_supervisor::admin::CTL_SOCKET;

use super::{File, status, top};

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Time between two looks at a supervisor that is stopping.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The options and verbs of `weir ctl`.
#[derive(Debug, clap::Args)]
pub(super) struct Ctl {
    #[command(flatten)]
    file: File,
    /// The supervisor's socket; without it the one that the configuration says
    #[arg(long, value_name = "PATH", conflicts_with = "path")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show every worker
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch every worker: rates, load and state, once a second
    Top {
        /// Print one frame, without a terminal
        #[arg(long)]
        once: bool,
    },
    /// Stop the host and wait until it has
    Stop {
        /// Let the clients leave first, for as long as the configuration allows
        #[arg(long)]
        graceful: bool,
    },
}

impl Ctl {
    /// Does it; the answer is to be printed.
    pub(super) fn run(self) -> anyhow::Result<String> {
        let socket = match &self.socket {
            Some(path) => path.clone(),
            None => self.file.load().map_err(anyhow::Error::msg)?.run_dir().join(CTL_SOCKET),
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut client = connect(&socket).await?;
            match self.verb {
                Verb::Status { json } => {
                    let reply = status_of(&mut client).await?;
                    if json { status::json(&reply) } else { Ok(status::table(&reply)) }
                }
                Verb::Top { once } => top::run(client, &socket, once).await,
                Verb::Stop { graceful } => stop(&mut client, graceful).await,
            }
        })
    }
}

/// A client of the supervisor behind `socket`. The error is for people.
pub(super) async fn connect(socket: &std::path::Path) -> anyhow::Result<AdminClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    let connected = timeout(ANSWER_WITHIN, endpoint.connect()).await;
    match connected {
        Ok(Ok(channel)) => Ok(AdminClient::new(channel)),
        Ok(Err(_)) => bail!("no weir answers at {}; is it running, with this configuration?", socket.display()),
        Err(_) => bail!("weir does not answer at {}", socket.display()),
    }
}

/// Every worker, as the supervisor says now. The error is for people.
pub(super) async fn status_of(client: &mut AdminClient<Channel>) -> anyhow::Result<StatusReply> {
    let reply = timeout(ANSWER_WITHIN, client.status(StatusRequest {})).await;
    match reply.context("weir does not answer")? {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => bail!("{}", status.message()),
    }
}

async fn stop(client: &mut AdminClient<Channel>, graceful: bool) -> anyhow::Result<String> {
    let asked = timeout(ANSWER_WITHIN, client.stop(StopRequest { graceful })).await;
    if let Err(status) = asked.context("weir does not answer")? {
        bail!("{}", status.message());
    }
    // It answers until it is gone; then the connection breaks.
    loop {
        match timeout(ANSWER_WITHIN, client.status(StatusRequest {})).await {
            Ok(Ok(_)) => sleep(LOOK_EVERY).await,
            Ok(Err(status)) if status.code() == Code::PermissionDenied => bail!("{}", status.message()),
            Ok(Err(_)) => return Ok("stopped".to_owned()),
            Err(_) => bail!("weir began to stop and does not answer any more"),
        }
    }
}
