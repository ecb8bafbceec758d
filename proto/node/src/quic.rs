//! QUIC between hosts: the carrier of the relay.
//!
//! Limits are set here by name and not left to quinn's defaults, which fit many small streams of strangers; a
//! relay has few peers, all of them trusted, with one stream a group of frames.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};

use crate::tls::ClusterTls;

/// Protocol name that both ends must offer (ALPN).
pub const ALPN: &[u8] = b"weir-relay/1";

/// Groups that a peer may have under way, all streams of one edge worker together.
pub const UNI_STREAMS: u32 = 4096;

/// Subscriptions, publish legs and object requests that a peer may have open.
pub const BIDI_STREAMS: u32 = 4096;

/// Bytes of one stream that may be under way: a stream of 20 Mbit/s over 1.5 s of round trip.
pub const STREAM_WINDOW: u32 = 4 << 20;

/// Bytes of one connection that may be under way: 5 Gbit/s over 100 ms of round trip.
pub const CONNECTION_WINDOW: u32 = 64 << 20;

/// Silence after which a peer is asked for a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Silence after which a peer counts as lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Datagrams begin at the size that every QUIC path carries (RFC 9000, 14) and grow to what Ethernet does. A larger
/// bound gains nothing outside of one machine, and discovery would spend its probes on it.
pub const MTU: std::ops::RangeInclusive<u16> = 1200..=1452;

/// Handshakes under way at once; more are refused.
pub const INCOMING_MAX: usize = 1024;

/// Configuration of an origin worker's relay endpoint: only peers of the cluster get a connection.
pub fn server_config(tls: &ClusterTls) -> Result<ServerConfig, rustls::Error> {
    let crypto = QuicServerConfig::try_from(tls.server_config(ALPN)?).map_err(no_suite)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config.max_incoming(INCOMING_MAX);
    Ok(config)
}

/// Configuration of an edge worker that dials origins. The server name given to `connect` is what the origin's
/// certificate must be for: the host of `cluster.origins` ([`crate::config::host_port`]), name or address.
pub fn client_config(tls: &ClusterTls) -> Result<ClientConfig, rustls::Error> {
    let crypto = QuicClientConfig::try_from(tls.client_config(ALPN)?).map_err(no_suite)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn no_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

fn transport() -> TransportConfig {
    let idle = VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(*MTU.end());
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .initial_mtu(*MTU.start())
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    transport
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
