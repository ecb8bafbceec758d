//! Where a callback may go. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Uri;

/// Bytes of a URL.
const URL_MAX: usize = 2048;

/// Amazon's metadata, which is no link-local address (fd00:ec2::254).
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// A URL that can be called.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Uri);

/// The path and query may carry a secret.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.0.host().unwrap_or_default())
    }
}

/// Why a URL cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Another scheme, or none.
    #[error("write a URL that begins with http:// or https://")]
    Scheme,
    /// Not a URL.
    #[error("this is no URL")]
    Malformed,
    /// User and password would be sent to nobody.
    #[error("a user cannot stand here; write a secret into the path or the query")]
    User,
    /// Too long.
    #[error("longer than {URL_MAX} bytes")]
    Long,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// It cannot be called.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        if url.len() > URL_MAX {
            return Err(TargetError::Long);
        }
        let uri: Uri = url.parse().map_err(|_| TargetError::Malformed)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(TargetError::Scheme);
        }
        let authority = uri.authority().ok_or(TargetError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::User);
        }
        let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        if authority.host().is_empty() || (!port.is_empty() && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(TargetError::Malformed);
        }
        Ok(Self(uri))
    }

    /// The same, as hyper wants it.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

/// Host without brackets, and port.
pub(super) fn host_and_port(uri: &Uri) -> Option<(&str, u16)> {
    let host = uri.host()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((host, uri.port_u16().unwrap_or(usual)))
}

/// Whether an address may be called. Loopback and private ones are what callbacks usually are for; what a cloud says there
/// about the machine, with its credentials, is not.
pub(super) fn may_be_called(address: IpAddr, link_local: bool) -> bool {
    let (nobody, special) = match embedded(address) {
        IpAddr::V4(v4) => {
            let nobody = v4.octets().first() == Some(&0) || v4.is_multicast() || v4.is_broadcast();
            (nobody, v4.is_link_local())
        }
        IpAddr::V6(v6) => (v6.is_unspecified() || v6.is_multicast(), v6.is_unicast_link_local() || v6 == METADATA),
    };
    !nobody && (link_local || !special)
}

/// The IPv4 address in an IPv6 address that leads to it: a mapped one, or one behind NAT64's well-known prefix (RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                let [.., a, b, c, d] = v6.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            _ => IpAddr::V6(v6),
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, host, port) in [
            ("http://127.0.0.1:8085/api/v1/clients?key=x", "127.0.0.1", 8085),
            ("https://h.example", "h.example", 443),
            ("http://[fd00::1]/x", "fd00::1", 80),
            ("HTTPS://h:1/", "h", 1),
        ] {
            assert_eq!(host_and_port(Target::parse(url).unwrap().uri()), Some((host, port)));
        }
        for (url, error) in [
            ("", TargetError::Malformed),
            ("/x", TargetError::Scheme),
            ("h:80", TargetError::Scheme),
            ("ftp://h/", TargetError::Scheme),
            ("http:///x", TargetError::Malformed),
            ("http://h:0/", TargetError::Malformed),
            ("http://h:99999/", TargetError::Malformed),
            ("http://u:p@h/", TargetError::User),
            ("http://h/a b", TargetError::Malformed),
        ] {
            assert_eq!(Target::parse(url), Err(error), "{url}");
        }
        assert_eq!(Target::parse(&format!("http://h/{}", "a".repeat(URL_MAX))), Err(TargetError::Long));
    }

    #[test]
    fn metadata_is_kept_from() {
        let may = |text: &str, link_local| may_be_called(text.parse().unwrap(), link_local);
        for usual in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "203.0.113.1", "2001:db8::1", "64:ff9b::a00:1"]
        {
            assert!(may(usual, false) && may(usual, true), "{usual}");
        }
        for special in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
        ] {
            assert!(!may(special, false) && may(special, true), "{special}");
        }
        for nobody in ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1"] {
            assert!(!may(nobody, false) && !may(nobody, true), "{nobody}");
        }
    }
}
