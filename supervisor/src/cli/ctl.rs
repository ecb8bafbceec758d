//! `weir ctl`: the operator's side of the supervisor's admin service.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use weir_proto::supervisor::admin_client::AdminClient;
use weir_proto::supervisor::{
    DoneReply, DrainRequest, KickRequest, LookRequest, ReloadRequest, ScaleRequest, StatusReply, StatusRequest,
    StopRequest, StreamsRequest, UpgradeRequest,
};
use weir_supervisor::admin::CTL_SOCKET;

use super::{File, clients, status, streams, top};

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Longest wait for a change: workers have some seconds to take a configuration over.
const CHANGE_WITHIN: Duration = Duration::from_secs(15);

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
    /// Show who publishes and plays
    Clients {
        /// From this one on
        #[arg(long, value_name = "N", default_value_t = 0)]
        start: u32,
        /// At most so many, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100)]
        count: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is published and played
    Streams {
        /// From this one on
        #[arg(long, value_name = "N", default_value_t = 0)]
        start: u32,
        /// At most so many, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100)]
        count: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Disconnect a client
    Kick {
        /// Its id, as `clients` shows it: edge.0.12.345
        id: String,
    },
    /// Read the configuration again: all workers take it over, or none does
    Reload,
    /// Change the number of edge workers; clients of workers that go move to others
    Scale {
        /// edge
        role: String,
        /// How many there are to be
        workers: u32,
    },
    /// Let the clients of a worker leave, and start another one in its slot
    Drain {
        /// The worker: edge/3
        #[arg(value_name = "ROLE/SLOT")]
        worker: String,
    },
    /// Replace the running executable and every worker, while clients stay connected
    Upgrade {
        /// The new executable; without it the path that weir was started from
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
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
                Verb::Clients { start, count, json } => {
                    let asked =
                        timeout(ANSWER_WITHIN, client.look(LookRequest { start, count, id: String::new() })).await;
                    let reply =
                        asked.context("no answer")?.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
                    let reply = reply.into_inner();
                    if json { clients::as_json(&reply) } else { Ok(clients::text(&reply)) }
                }
                Verb::Streams { start, count, json } => {
                    let asked = client.streams(StreamsRequest { start, count, id: String::new() });
                    let reply = timeout(ANSWER_WITHIN, asked).await.context("no answer")?;
                    let reply = reply.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
                    if json { streams::as_json(&reply) } else { Ok(streams::text(&reply)) }
                }
                Verb::Kick { id } => done(client.kick(KickRequest { id })).await,
                Verb::Reload => done(client.reload(ReloadRequest {})).await,
                Verb::Scale { role, workers } => done(client.scale(ScaleRequest { role, workers })).await,
                Verb::Drain { worker } => {
                    let (role, slot) = worker.split_once('/').context("a worker is named as in edge/3")?;
                    let slot = slot.parse().with_context(|| format!("{slot:?} is no slot"))?;
                    done(client.drain(DrainRequest { role: role.to_owned(), slot })).await
                }
                Verb::Upgrade { binary } => upgrade(&mut client, &socket, binary).await,
                Verb::Stop { graceful } => stop(&mut client, graceful).await,
            }
        })
    }
}

/// A client of the supervisor behind `socket`. The error is for people.
pub(super) async fn connect(socket: &Path) -> anyhow::Result<AdminClient<Channel>> {
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

/// What the operator is told of something that was done, or why it was not.
async fn done(answer: impl Future<Output = Result<Response<DoneReply>, Status>>) -> anyhow::Result<String> {
    match timeout(CHANGE_WITHIN, answer).await.context("weir does not answer")? {
        Ok(reply) => Ok(reply.into_inner().text),
        Err(status) => bail!("{}", status.message()),
    }
}

/// Waits until every worker was replaced. In between the supervisor becomes another image and its socket is silent.
async fn upgrade(client: &mut AdminClient<Channel>, socket: &Path, binary: Option<PathBuf>) -> anyhow::Result<String> {
    // The supervisor may have another working directory.
    let binary = binary.map(std::path::absolute).transpose()?;
    let binary = binary.map(|path| path.to_str().map(str::to_owned).context("the path is not UTF-8"));
    let request = UpgradeRequest { binary: binary.transpose()?.unwrap_or_default() };
    println!("{}", done(client.upgrade(request)).await?);
    let began = Instant::now();
    let mut last = status_of(client).await.ok();
    loop {
        match last.as_ref().map(|status| status.upgrade.as_str()) {
            Some("done") => return Ok("every worker was replaced".to_owned()),
            Some("running") | None => {}
            Some(failed) => bail!("{failed}"),
        }
        if last.is_none() && began.elapsed() > ANSWER_WITHIN {
            bail!("weir began to upgrade and does not answer any more");
        }
        sleep(LOOK_EVERY).await;
        last = match connect(socket).await {
            Ok(mut client) => status_of(&mut client).await.ok(),
            Err(_) => None,
        };
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
