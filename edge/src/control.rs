//! The control plane's client: this worker registers with each origin, learns where its relay is, and keeps a heartbeat.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{self, Channel};
use tracing::{info, warn};
use weir_node::config::host_port;
use weir_node::tls::ClusterTls;
use weir_proto::origin::control_client::ControlClient;
use weir_proto::origin::{Beat, RegisterRequest};
use weir_wire::relay::VERSION;

use crate::directory::Origin;
use crate::hub::Hub;
use crate::relay::{Endpoint, Link};

/// An origin that was not heard for so long is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(2);

/// The first pause before it is tried again; it doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Who this worker is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: String,
    /// Instance of this host's supervisor.
    pub(crate) host: String,
    pub(crate) slot: u32,
    pub(crate) run_dir: std::path::PathBuf,
}

/// Why an origin is not there.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Transport(#[from] transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("it did not answer in time")]
    Silent,
    #[error("it closed the heartbeat")]
    Closed,
    #[error("{0:?} is no HOST:PORT")]
    Address(String),
    #[error("cluster.tls is not set")]
    NoTls,
    #[error("it has no cluster.relay.listen for other hosts")]
    NoRelay,
}

/// One origin's registration.
pub(crate) struct Registration {
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
    pub(crate) tls: Option<Rc<ClusterTls>>,
    pub(crate) hub: Weak<Hub>,
    /// Learns how the origin is called.
    pub(crate) link: Rc<Link>,
    pub(crate) endpoint: watch::Sender<Option<Endpoint>>,
}

impl Registration {
    /// Registers again and again, for as long as the worker lives. A broken control connection alone does not touch the
    /// relay; an origin that cannot be reached for [`LOST_AFTER`] is given up until it answers again.
    pub(crate) async fn run(self) {
        let mut heard = Instant::now();
        let mut pause = RETRY;
        let mut told = false;
        loop {
            let before = heard;
            let Err(lost) = self.session(&mut heard).await;
            if heard > before {
                pause = RETRY;
                told = false;
            }
            if heard.elapsed() >= LOST_AFTER && !std::mem::replace(&mut told, true) {
                warn!(origin = %self.origin, reason = %lost, "origin lost");
                self.endpoint.send_replace(None);
                self.link.set_control(None);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Registers, then beats until the origin is lost.
    async fn session(&self, heard: &mut Instant) -> Result<std::convert::Infallible, Lost> {
        let mut control = ControlClient::new(timeout(CALL_WITHIN, self.connect()).await.map_err(|_| Lost::Silent)??);
        let request = RegisterRequest {
            node: self.identity.node.clone(),
            host: self.identity.host.clone(),
            slot: self.identity.slot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            relay_version: u32::from(VERSION),
        };
        let reply = timeout(CALL_WITHIN, control.register(request)).await.map_err(|_| Lost::Silent)??.into_inner();
        *heard = Instant::now();
        let endpoint = match &self.origin {
            _ if reply.host == self.identity.host => Endpoint::Unix(reply.relay_unix.into()),
            Origin::Remote(address) => {
                let (host, _) = host_port(address).ok_or_else(|| Lost::Address(address.clone()))?;
                let port = u16::try_from(reply.relay_port).ok().filter(|port| *port != 0).ok_or(Lost::NoRelay)?;
                Endpoint::Quic { host: host.to_owned(), port, process: (reply.host, reply.incarnation) }
            }
            Origin::Local(_) => return Err(Lost::NoRelay),
        };
        self.endpoint.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&endpoint);
            if changed {
                info!(origin = %self.origin, version = reply.version, "registered");
                *known = Some(endpoint);
            }
            changed
        });
        self.link.set_control(Some(control.clone()));
        let period = Duration::from_millis(u64::from(reply.heartbeat_ms.clamp(50, 1000)));
        self.beat(&mut control, period, heard).await
    }

    async fn beat(
        &self,
        control: &mut ControlClient<Channel>,
        period: Duration,
        heard: &mut Instant,
    ) -> Result<std::convert::Infallible, Lost> {
        let (sender, receiver) = mpsc::channel(4);
        let mut beats = timeout(CALL_WITHIN, control.heartbeat(ReceiverStream::new(receiver)))
            .await
            .map_err(|_| Lost::Silent)??
            .into_inner();
        let mut tick = interval(period);
        let mut seq = 0;
        loop {
            tokio::select! {
                beat = beats.message() => match beat? {
                    Some(_) => *heard = Instant::now(),
                    None => return Err(Lost::Closed),
                },
                _ = tick.tick() => {
                    if heard.elapsed() >= LOST_AFTER {
                        return Err(Lost::Silent);
                    }
                    seq += 1;
                    let load = self.hub.upgrade().map_or((0, 0), |hub| {
                        (hub.stats().connections.get(), hub.stream_count() as u64)
                    });
                    // A full queue is an origin that does not read: its silence tells.
                    sender.try_send(Beat { seq, connections: load.0, streams: load.1 }).ok();
                }
            }
        }
    }

    async fn connect(&self) -> Result<Channel, Lost> {
        match &self.origin {
            Origin::Local(slot) => {
                let path = self.identity.run_dir.join(format!("origin-{slot}.control.sock"));
                Ok(transport::Endpoint::from_shared(format!("unix:{}", path.display()))?.connect().await?)
            }
            Origin::Remote(address) => {
                let (host, _) = host_port(address).ok_or_else(|| Lost::Address(address.clone()))?;
                let tls = self.tls.as_ref().ok_or(Lost::NoTls)?;
                let target = transport::Endpoint::from_shared(format!("https://{address}"))?
                    .tls_config(tls.grpc_client(host))?;
                Ok(target.connect().await?)
            }
        }
    }
}
