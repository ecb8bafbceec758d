//! Who asks, where a trusted proxy says for whom it does (`edge.http.trusted_proxies`).

use std::net::{IpAddr, SocketAddr};

use weir_node::access::Network;

/// The address of the client behind `peer`. `forwarded` is what X-Forwarded-For says: each proxy adds at its end who
/// asked it, so that the last that is no trusted proxy is the client. What is before that anybody could have written.
pub(super) fn client(trusted: &[Network], peer: SocketAddr, forwarded: &str) -> SocketAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    if trusted.is_empty() {
        return client;
    }
    for said in forwarded.rsplit(',') {
        if !is_trusted(client.ip()) {
            break;
        }
        let Some(address) = address(said.trim()) else { break };
        client = SocketAddr::new(address, 0);
    }
    client
}

/// An address as proxies write it: alone, with a port, in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let alone = text.parse().ok();
    let found = alone.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    found.or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_that_is_no_proxy_asks() {
        let trusted = ["127.0.0.1", "10.0.0.0/8"].map(|text| Network::parse(text).unwrap());
        let asks = |peer: &str, forwarded: &str| client(&trusted, peer.parse().unwrap(), forwarded).to_string();
        assert_eq!(asks("127.0.0.1:5", "192.0.2.7"), "192.0.2.7:0");
        assert_eq!(
            asks("127.0.0.1:5", "198.51.100.1, 192.0.2.7, 10.1.2.3"),
            "192.0.2.7:0",
            "the first is the client's own word"
        );
        assert_eq!(asks("192.0.2.9:5", "198.51.100.1"), "192.0.2.9:5", "no proxy of ours");
        assert_eq!(asks("127.0.0.1:5", ""), "127.0.0.1:5");
        assert_eq!(asks("127.0.0.1:5", "nonsense, 10.0.0.1"), "10.0.0.1:0");
        assert_eq!(asks("[::ffff:127.0.0.1]:5", "[2001:db8::1]:77"), "[2001:db8::1]:0");
        assert_eq!(asks("127.0.0.1:5", "::ffff:192.0.2.7"), "192.0.2.7:0");
        assert_eq!(
            client(&[], "127.0.0.1:5".parse().unwrap(), "192.0.2.7").to_string(),
            "127.0.0.1:5",
            "nobody is trusted"
        );
    }
}
