use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use tokio::task::JoinSet;
use tracing::warn;
use weir_node::config::Config;
use weir_node::overload::Watch;
use weir_node::quic;
use weir_node::tls::ClusterTls;

use super::Link;
use super::carrier::{self, Lost};
use super::groups::Groups;

/// How long it may take until an origin's name is resolved. The system's resolver has its own idea of that, which may be
/// half a minute.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

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
    pub(crate) fn new(config: &Config, tls: &ClusterTls, watch: &Watch) -> anyhow::Result<Self> {
        let settings = quic::client_config(tls)?;
        let bind = |name: &str, address: SocketAddr| -> io::Result<Endpoint> {
            let socket = UdpSocket::bind(address)?;
            watch.watch_udp(name, &socket);
            let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
            endpoint.set_default_client_config(settings.clone());
            Ok(endpoint)
        };
        let v4 = bind("relay.v4", (Ipv4Addr::UNSPECIFIED, 0).into())?;
        // A host without IPv6 has only the first.
        let v6 = bind("relay.v6", (Ipv6Addr::UNSPECIFIED, 0).into()).ok();
        Ok(Self { v4, v6, hold: config.cluster.relay.hold, queue: config.cluster.relay.queue })
    }

    /// Connects to an origin and serves the link until it is lost.
    pub(super) async fn connect(&self, link: &Rc<Link>, name: &str, host: &str, port: u16) -> Result<(), Lost> {
        let address = resolve(tokio::net::lookup_host((host, port)), RESOLVE_WITHIN).await?;
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

/// The first address that a look-up finds.
///
/// # Errors
/// It failed, found none, or took longer than `within`.
async fn resolve<A>(lookup: impl Future<Output = io::Result<A>>, within: Duration) -> io::Result<SocketAddr>
where
    A: Iterator<Item = SocketAddr>,
{
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("its name was not resolved within {within:?}"));
    let mut found = tokio::time::timeout(within, lookup).await.map_err(late)??;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its name has no address"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(SOON, test).await.expect("it waits for ever") })
    }

    #[test]
    fn a_look_up_that_never_ends_is_given_up() {
        let never = pending::<io::Result<std::vec::IntoIter<SocketAddr>>>();
        let error = run(resolve(never, Duration::from_millis(20))).unwrap_err();
        assert_eq!(error.to_string(), "its name was not resolved within 20ms");
    }

    #[test]
    fn the_first_address_is_taken_and_none_is_an_error() {
        let two: [SocketAddr; 2] = ["127.0.0.1:5".parse().unwrap(), "127.0.0.2:5".parse().unwrap()];
        assert_eq!(run(resolve(async { Ok(two.into_iter()) }, SOON)).unwrap(), two[0]);
        assert_eq!(run(resolve(tokio::net::lookup_host(("127.0.0.1", 5)), SOON)).unwrap(), two[0]);
        let none = run(resolve(async { Ok(std::iter::empty()) }, SOON)).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
