//! Sets of addresses, as rules name them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// `all`, one address, or an address and the length of its prefix (RFC 4632): `10.0.0.0/8`, `2001:db8::/32`.
///
/// An IPv4 address that is mapped into IPv6 (RFC 4291, 2.5.5.2) is that IPv4 address, in rules and of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Every address of both families.
    All,
    /// Those that begin as the address does.
    Prefix {
        /// Never a mapped one; what is behind the prefix is zero.
        address: IpAddr,
        /// Bits, 0..=32 or 0..=128.
        length: u8,
    },
}

/// Bits of the prefix that mapped addresses have.
const MAPPED: u8 = 96;

impl Network {
    /// Reads what an operator wrote.
    ///
    /// # Errors
    /// It is none; the text says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        let refuse =
            || format!("{text:?} is no network; write an address, one such as 10.0.0.0/8 or 2001:db8::/32, or all");
        let (address, digits) = match text.split_once('/') {
            Some((address, digits)) => (address, Some(digits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| refuse())?;
        let longest = if written.is_ipv4() { 32 } else { 128 };
        let length: u8 = match digits {
            Some(digits) => digits.parse().ok().filter(|length| *length <= longest).ok_or_else(refuse)?,
            None => longest,
        };
        let mapped = written.to_canonical();
        let (address, length) = match (written.is_ipv6() && mapped.is_ipv4(), length.checked_sub(MAPPED)) {
            (true, Some(length)) => (mapped, length),
            // Wider than all mapped addresses: a network of IPv6 itself.
            _ => (written, length),
        };
        let network = Self::Prefix { address: first(address, length), length };
        match first(address, length) == address {
            true => Ok(network),
            false => Err(format!("{text:?} has bits behind its prefix; write {network}")),
        }
    }

    /// Whether an address, mapped or not, is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match *self {
            Self::All => true,
            Self::Prefix { address: ours, length } => {
                let address = address.to_canonical();
                address.is_ipv4() == ours.is_ipv4() && first(address, length) == ours
            }
        }
    }
}

/// The first address of a network: what is behind the prefix becomes zero.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => IpAddr::V6(prefix(v6, length)),
    }
}

/// The same of an IPv6 address.
fn prefix(address: Ipv6Addr, length: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
    (address.to_bits() & mask).into()
}

/// Whom a client is counted as: an IPv4 address by itself, of IPv6 the /64, which one subscriber has all of (RFC 6177).
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(prefix(v6, 64)),
        v4 => v4,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Prefix { address, length } => match (address, length) {
                (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{address}"),
                _ => write!(f, "{address}/{length}"),
            },
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/31", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("::ffff:192.0.2.0/120", "192.0.2.255", "192.0.3.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "255.255.255.255", "2001:db8::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert!(parsed.contains(ip(inside)), "{network} {inside}");
            assert!(!parsed.contains(ip(outside)), "{network} {outside}");
        }
        assert!(Network::All.contains(ip("::")) && Network::All.contains(ip("1.2.3.4")));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in
            ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8x", "/8", "ALL", "10.0.0"]
        {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
        let slip = Network::parse("10.1.2.3/8").unwrap_err();
        assert!(slip.ends_with("write 10.0.0.0/8"), "{slip}");
    }

    #[test]
    fn a_subscriber_of_ipv6_has_a_prefix() {
        assert_eq!(subscriber(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(subscriber(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bits: u32, length in 0u8..=32) {
            let network = Network::Prefix { address: first(IpAddr::V4(bits.into()), length), length };
            prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
            prop_assert!(network.contains(IpAddr::V4(bits.into())));
            prop_assert!(network.contains(IpAddr::V6(std::net::Ipv4Addr::from(bits).to_ipv6_mapped())));
        }

        #[test]
        fn the_wider_network_holds_the_narrower(bits: u128, short in 0u8..=128, long in 0u8..=128) {
            let (short, long) = (short.min(long), short.max(long));
            let wide = Network::Prefix { address: first(IpAddr::V6(bits.into()), short), length: short };
            prop_assert!(wide.contains(first(IpAddr::V6(bits.into()), long)) || IpAddr::V6(bits.into()).to_canonical().is_ipv4());
        }
    }
}
