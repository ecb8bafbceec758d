use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use quinn::Endpoint;
use tokio::task::JoinSet;
use tracing::warn;
use weir_node::config::Config;
use weir_node::quic;
use weir_node::tls::ClusterTls;

use super::Link;
use super::carrier::{self, Lost};
use super::groups::Groups;

/// How long a handshake may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// This worker's end of all QUIC links.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    v4: Endpoint,
    v6: Option<Endpoint>,
    hold: Duration,
    queue: usize,
}

impl Client {
    /// Sockets on ephemeral ports, with the cluster's certificates.
    pub(crate) fn new(config: &Config, tls: &ClusterTls) -> anyhow::Result<Self> {
        let settings = quic::client_config(tls)?;
        let bind = |address: SocketAddr| -> io::Result<Endpoint> {
            let mut endpoint = Endpoint::client(address)?;
            endpoint.set_default_client_config(settings.clone());
            Ok(endpoint)
        };
        let v4 = bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        // A host without IPv6 has only the first.
        let v6 = bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        Ok(Self { v4, v6, hold: config.cluster.relay.hold, queue: config.cluster.relay.queue })
    }

    /// Connects to an origin and serves the link until it is lost.
    pub(super) async fn connect(&self, link: &Rc<Link>, name: &str, host: &str, port: u16) -> Result<(), Lost> {
        let address = tokio::net::lookup_host((host, port)).await?.next().ok_or(io::ErrorKind::NotFound);
        let address = address.map_err(io::Error::from)?;
        let endpoint = match (&self.v6, address) {
            (Some(v6), SocketAddr::V6(_)) => v6,
            _ => &self.v4,
        };
        let connecting = endpoint.connect(address, host).map_err(|e| Lost::Quic(e.to_string()))?;
        let connection = tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| Lost::Quic("no answer".to_owned()))?
            .map_err(|e| Lost::Quic(e.to_string()))?;
        let (writer, reader) = connection.open_bi().await.map_err(|e| Lost::Quic(e.to_string()))?;
        let groups = Groups::new(link.clone(), self.hold, self.queue);
        let accept = async {
            let mut reading = JoinSet::new();
            loop {
                tokio::select! {
                    stream = connection.accept_uni() => match stream {
                        Ok(stream) => {
                            reading.spawn_local(groups.clone().read(stream));
                        }
                        Err(e) => return Lost::Quic(e.to_string()),
                    },
                    Some(done) = reading.join_next() => {
                        if let Ok(Err(error)) = done {
                            warn!(%error, "a relay group could not be read");
                        }
                    }
                }
            }
        };
        tokio::select! {
            lost = carrier::run(link, name, reader, writer) => lost,
            lost = accept => Err(lost),
            () = groups.tick() => Ok(()),
        }
    }
}
