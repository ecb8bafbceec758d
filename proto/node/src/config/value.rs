//! The value types of the configuration: durations, sizes, counts, `auto`, listening addresses.
//!
//! Each is one scalar of text that can be read and written back: [`Scalar`]. The written form is what
//! travels to the workers as JSON, so `parse(show(x)) == x` holds for every value.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

/// Most addresses that one listener may have.
pub const LISTEN_MAX: usize = 16;

/// A value written as one word of text.
pub trait Scalar: Sized {
    /// What may be written, for error texts: "a duration such as 350ms or 10s".
    const WANTED: &'static str;

    /// Reads the word; the error is a sentence that says what is wrong and what to write.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes the word that [`Scalar::parse`] reads back as the same value.
    fn show(&self) -> String;
}

/// Splits `12ms` into its digits and its unit. `None` when there is no number in front.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Milliseconds in each unit of time, the largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes in each unit of size, the largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// The largest unit that divides `value` evenly, so that `90s` stays `90s` and `60s` becomes `1m`.
fn show_in(units: &[(&str, u64)], value: u64) -> String {
    match units.iter().find(|(_, unit)| value != 0 && value.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", value / unit),
        None => "0".to_owned(),
    }
}

impl Scalar for Duration {
    const WANTED: &'static str = "a duration such as 350ms, 10s, 1m or 2h";

    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a duration; write one such as 350ms, 10s, 1m or 2h");
        let (number, unit) = number_and_unit(text).ok_or_else(refuse)?;
        if unit.is_empty() {
            return match number {
                0 => Ok(Self::ZERO),
                n => Err(format!("{n} has no unit; write {n}ms, {n}s or {n}m")),
            };
        }
        let (_, millis) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        let total = number.checked_mul(*millis).filter(|total| *total <= DURATION_MAX_MILLIS);
        total
            .map(Self::from_millis)
            .ok_or_else(|| format!("{text:?} is longer than {DURATION_MAX_TEXT}; write a shorter duration"))
    }

    fn show(&self) -> String {
        match u64::try_from(self.as_millis()) {
            Ok(0) => "0s".to_owned(),
            Ok(millis) => show_in(&TIME_UNITS, millis),
            Err(_) => DURATION_MAX_TEXT.to_owned(),
        }
    }
}

/// Longest duration of the configuration. Far from any overflow when it is added to a clock.
const DURATION_MAX_MILLIS: u64 = 10_000 * 3_600_000;
const DURATION_MAX_TEXT: &str = "10000h";

/// A size in bytes: `8MiB`, `64KiB`, `1GiB`, or plain bytes.
impl Scalar for usize {
    const WANTED: &'static str = "a size such as 64KiB, 8MiB or 1GiB";

    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a size; write one such as 64KiB, 8MiB or 1GiB, or plain bytes");
        let (number, unit) = number_and_unit(text).ok_or_else(refuse)?;
        let bytes = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() => 1,
            None => return Err(like_a_binary_unit(number, unit).unwrap_or_else(refuse)),
        };
        let total = number.checked_mul(bytes).and_then(|total| Self::try_from(total).ok());
        total.ok_or_else(|| format!("{text:?} is larger than any memory; write a smaller size"))
    }

    fn show(&self) -> String {
        show_in(&SIZE_UNITS, *self as u64)
    }
}

/// `8MB`, `8M` and `8mib` are not read: they mean 10^6 to some and 2^20 to others, so ask.
fn like_a_binary_unit(number: u64, unit: &str) -> Option<String> {
    let letter = match unit.bytes().next()?.to_ascii_uppercase() {
        b'K' => "KiB",
        b'M' => "MiB",
        b'G' => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}: sizes are counted in powers of 1024; write {number}{letter}"))
}

/// A count of things.
impl Scalar for u32 {
    const WANTED: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is not a whole number between 0 and {}", Self::MAX))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A value that the program may choose by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    /// `auto`: chosen at run time.
    #[default]
    Auto,
    /// The operator's own value.
    Is(T),
}

impl<T> Auto<T> {
    /// The operator's value, or `None` for `auto`.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Is(value) => Some(value),
        }
    }
}

impl<T: Scalar> Scalar for Auto<T> {
    const WANTED: &'static str = "auto or a value";

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        T::parse(text).map(Self::Is).map_err(|_| format!("{text:?} is not understood; write auto or {}", T::WANTED))
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Is(value) => value.show(),
        }
    }
}

/// Where a service listens: nowhere (`off`), or one or several addresses.
///
/// A bare port is `0.0.0.0:PORT`, every IPv4 address of the host. IPv6 is asked for by its own address, as
/// in `[1935, "[::]:1935"]`: an IPv6 socket takes IPv6 clients only, so both can stand side by side and the
/// same file works on hosts with and without IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen(Vec<SocketAddr>);

impl Listen {
    /// Listens nowhere.
    pub const OFF: Self = Self(Vec::new());

    /// Every IPv4 address of the host at `port`.
    pub fn port(port: u16) -> Self {
        Self(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))])
    }

    /// The given addresses, in this order. None of them means `off`.
    pub fn at(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(addresses.into_iter().collect())
    }

    /// True for `off`.
    pub fn is_off(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses; empty for `off`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }

    /// The addresses of worker `index` where worker i takes port + i. Addresses whose port would pass 65535
    /// are left out (a loaded configuration has none).
    pub fn of_worker(&self, index: u16) -> Vec<SocketAddr> {
        let shifted = |address: &SocketAddr| Some(SocketAddr::new(address.ip(), address.port().checked_add(index)?));
        self.0.iter().filter_map(shifted).collect()
    }
}

/// Reads one address of a listener: `1935`, `0.0.0.0:1935`, `[::]:1935`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let address = match text.parse::<u16>() {
        Ok(port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        Err(_) if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
            return Err(format!("{text} is not a port; write 1..=65535"));
        }
        Err(_) => text.parse::<SocketAddr>().map_err(|_| refuse_address(text))?,
    };
    if address.port() == 0 {
        return Err("0 is not a port; write 1..=65535, or off to listen nowhere".to_owned());
    }
    Ok(address)
}

fn refuse_address(text: &str) -> String {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let with_port = SocketAddr::new(ip, 1935);
        return format!("{text:?} has no port; write it as in \"{with_port}\"");
    }
    format!(
        "{text:?} is not an address; write a port (1935), \"ADDRESS:PORT\" with a numeric address, a list of these, or off"
    )
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_off() {
            return serializer.serialize_str("off");
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for address in &self.0 {
            list.serialize_element(&address.to_string())?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListenVisitor)
    }
}

struct ListenVisitor;

impl<'de> Visitor<'de> for ListenVisitor {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port, \"ADDRESS:PORT\", a list of these, or off")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        match text.trim() {
            "off" => Ok(Listen::OFF),
            text => parse_address(text).map(|address| Listen(vec![address])).map_err(E::custom),
        }
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Listen, E> {
        self.visit_str(&port.to_string())
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Listen, E> {
        match on {
            false => Ok(Listen::OFF),
            true => Err(E::custom("on is not an address; write a port, or off to listen nowhere")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Listen, A::Error> {
        let mut addresses = Vec::new();
        while let Some(Address(address)) = list.next_element()? {
            if addresses.len() == LISTEN_MAX {
                return Err(de::Error::custom(format!(
                    "more than {LISTEN_MAX} addresses; listen on a wildcard address instead"
                )));
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(de::Error::custom("the list is empty; write off to listen nowhere"));
        }
        Ok(Listen(addresses))
    }
}

/// One element of a listener's list.
struct Address(SocketAddr);

impl Scalar for Address {
    const WANTED: &'static str = "a port or \"ADDRESS:PORT\"";

    fn parse(text: &str) -> Result<Self, String> {
        parse_address(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar::deserialize(deserializer)
    }
}

/// `#[serde(with = "scalar")]`: a field whose type is a [`Scalar`].
pub(super) mod scalar {
    use super::*;

    pub(crate) fn serialize<T: Scalar, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.show())
    }

    pub(crate) fn deserialize<'de, T: Scalar, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}
