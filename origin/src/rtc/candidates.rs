//! The addresses that a client is told to send to.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use weir_node::config::{IpFamily, Rtc};
use weir_wire::sdp::Candidate;

/// Candidates of one answer.
const CANDIDATES_MAX: usize = 16;

/// What one client's request adds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// `IP` or `IP:PORT`, as the client wrote them.
    pub(crate) eip: &'a [String],
    /// The host that the request named, if it is a name, and its addresses.
    pub(crate) host: &'a str,
    pub(crate) addresses: &'a [String],
}

/// What `rtc.candidate` says, once `$NAME` is looked up. `variable` reads the environment.
pub(crate) fn configured(candidate: &str, variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let text = match candidate.trim().strip_prefix('$') {
        Some(name) => variable(name).unwrap_or_default(),
        None => candidate.to_owned(),
    };
    let parts = text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).take(CANDIDATES_MAX).collect()
}

/// Everything that is announced at `port`, each once, in SRS's order: what the client asks for, the host that it sent its
/// offer to, what is configured, or else this host's own addresses.
pub(crate) fn candidates(
    rtc: &Rtc,
    configured: &[String],
    port: u16,
    own: &[IpAddr],
    asked: &Asked<'_>,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut add = |host: &str, port: u16| {
        let new = Candidate { host: host.to_owned(), port, tcp: false };
        if !found.contains(&new) && found.len() < CANDIDATES_MAX {
            found.push(new);
        }
    };
    for eip in asked.eip {
        if let Ok(address) = eip.parse::<SocketAddr>() {
            add(&address.ip().to_string(), address.port());
        } else if let Ok(address) = eip.parse::<IpAddr>() {
            add(&address.to_string(), port);
        }
    }
    if rtc.api_as_candidates {
        for address in asked.addresses.iter().filter(|address| address.parse::<IpAddr>().is_ok()) {
            add(address, port);
        }
        let usual = !asked.host.is_empty() && !asked.host.eq_ignore_ascii_case("localhost");
        let plain = asked.host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if rtc.keep_api_domain && usual && plain && asked.host.len() <= 253 {
            add(asked.host, port);
        }
    }
    let all = |text: &String| matches!(text.as_str(), "*" | "0.0.0.0" | "::");
    for candidate in configured.iter().filter(|text| !all(text)) {
        add(candidate, port);
    }
    if configured.is_empty() || configured.iter().any(all) {
        for address in own.iter().filter(|address| is_of(rtc.ip_family, **address)) {
            add(&address.to_string(), port);
        }
    }
    found
}

fn is_of(family: IpFamily, address: IpAddr) -> bool {
    match family {
        IpFamily::Ipv4 => address.is_ipv4(),
        IpFamily::Ipv6 => address.is_ipv6(),
        IpFamily::All => true,
    }
}

/// The addresses at which others may reach this host; its loopback ones only if there are no others.
pub(crate) fn own(listens_at: &[SocketAddr]) -> Vec<IpAddr> {
    let bound: Vec<IpAddr> = listens_at.iter().map(|address| address.ip()).collect();
    let listens = |address: &IpAddr| {
        bound.contains(address) || bound.iter().any(|b| b.is_unspecified() && b.is_ipv4() == address.is_ipv4())
    };
    let interfaces = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let all: Vec<IpAddr> = interfaces.filter(listens).filter(|address| !is_link_local(*address)).collect();
    let (loopback, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| address.is_loopback());
    if others.is_empty() { loopback } else { others }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// What an operator should know of what will be announced: none of it is reached from outside.
pub(crate) fn warning(announced: &[Candidate]) -> Option<String> {
    let private = |candidate: &Candidate| match candidate.host.parse() {
        Ok(IpAddr::V4(v4)) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
        Err(_) => false,
    };
    let hosts: Vec<&str> = announced.iter().map(|candidate| candidate.host.as_str()).collect();
    match hosts.is_empty() {
        true => Some("WebRTC clients are told no address; set CANDIDATE or rtc.candidate to this host's".to_owned()),
        false if announced.iter().all(private) => Some(format!(
            "WebRTC clients are told {}, which nobody reaches from outside this network; for others set CANDIDATE or \
             rtc.candidate to the public address",
            hosts.join(", ")
        )),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn told(rtc: &Rtc, configured: &[&str], asked: &Asked<'_>) -> Vec<String> {
        let own = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        let found = candidates(rtc, &strings(configured), 8000, &own, asked);
        found.into_iter().map(|c| format!("{} {}", c.host, c.port)).collect()
    }

    #[test]
    fn the_environment_says() {
        let variable = |name: &str| (name == "CANDIDATE").then(|| "192.0.2.1, media.example".to_owned());
        assert_eq!(configured("$CANDIDATE", variable), ["192.0.2.1", "media.example"]);
        assert_eq!(configured("$OTHER", variable), [""; 0]);
        assert_eq!(configured("$CANDIDATE", |_| Some(String::new())), [""; 0]);
        assert_eq!(configured("*", variable), ["*"]);
    }

    #[test]
    fn everything_is_told_once_in_srs_order() {
        let rtc = Rtc::default();
        let (eip, addresses) = (strings(&["8.8.8.8", "9.9.9.9:1", "junk", "8.8.8.8"]), strings(&["192.0.2.7", "x"]));
        let asked = Asked { eip: &eip, host: "h.example", addresses: &addresses };
        assert_eq!(
            told(&rtc, &["192.0.2.1"], &asked),
            ["8.8.8.8 8000", "9.9.9.9 1", "192.0.2.7 8000", "192.0.2.1 8000"]
        );
        assert_eq!(told(&rtc, &[], &Asked::default()), ["10.0.0.5 8000"]);
        assert_eq!(told(&rtc, &["*", "192.0.2.1"], &Asked::default()), ["192.0.2.1 8000", "10.0.0.5 8000"]);
        let all = Rtc { ip_family: IpFamily::All, keep_api_domain: true, ..Rtc::default() };
        assert_eq!(
            told(&all, &["0.0.0.0"], &asked)[2..],
            ["192.0.2.7 8000", "h.example 8000", "10.0.0.5 8000", "fd00::5 8000"]
        );
        let odd = Asked { host: "h\r\na=x", ..asked };
        assert_eq!(told(&all, &["192.0.2.1"], &odd).len(), 4);
        let off = Rtc { api_as_candidates: false, ..Rtc::default() };
        assert_eq!(told(&off, &["192.0.2.1"], &Asked { eip: &[], ..asked }), ["192.0.2.1 8000"]);
        let many: Vec<String> = (0..100).map(|i| format!("192.0.2.{i}")).collect();
        assert_eq!(told(&rtc, &[], &Asked { eip: &many, ..asked }).len(), CANDIDATES_MAX);
    }

    #[test]
    fn private_addresses_alone_are_worth_a_warning() {
        let of = |hosts: &[&str]| {
            let all: Vec<_> =
                hosts.iter().map(|host| Candidate { host: (*host).to_owned(), port: 1, tcp: false }).collect();
            warning(&all)
        };
        assert!(of(&["172.17.0.2"]).unwrap().contains("172.17.0.2"));
        assert!(of(&["10.0.0.1", "192.0.2.1"]).is_none() && of(&["media.example"]).is_none());
        assert!(of(&[]).is_some() && of(&["127.0.0.1", "fd00::1"]).is_some());
    }
}
