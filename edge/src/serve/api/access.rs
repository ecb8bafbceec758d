//! Who may ask. With a password or a token in the configuration, whoever has it; without, only this host itself.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use weir_node::config::Api;

/// Fields that a proxy adds: who asks is not who is connected.
const FORWARDED: [HeaderName; 3] = [
    HeaderName::from_static("forwarded"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Without the password or token, or with a wrong one.
    Unknown,
    /// From another host, and there is no password that it could have.
    NotLocal,
    /// A page of another site asks.
    OtherSite,
}

impl Denied {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Unknown => "the user and password, or the token, of edge.api are needed",
            Self::NotLocal => {
                "without edge.api.password or edge.api.token in the configuration, only this host itself may ask, by \
                 localhost or its address"
            }
            Self::OtherSite => "pages of other sites may not ask",
        }
    }
}

/// Whether the sender of these fields may ask; `changes`: it wants to change something.
pub(super) fn check(api: &Api, fields: &HeaderMap, peer: SocketAddr, changes: bool) -> Result<(), Denied> {
    let field = |name: &HeaderName| fields.get(name).and_then(|value| value.to_str().ok());
    let (host, origin) = (field(&HOST).unwrap_or_default(), field(&ORIGIN));
    // `null` and what is no URL is another site's.
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
    // For a picture or a link browsers send no Origin, but say where the page is (Fetch Metadata).
    let fetched = matches!(field(&FETCH_SITE), Some("cross-site" | "same-site"));
    let other_site = origin.is_some_and(|origin| !own(origin)) || changes && fetched;
    if !api.password.is_empty() || !api.token.is_empty() {
        let credentials = field(&AUTHORIZATION).unwrap_or_default();
        // A browser adds a password that it knows to whatever another site's page asks for.
        return match knows(api, credentials) {
            true if changes && other_site => Err(Denied::OtherSite),
            true => Ok(()),
            false => Err(Denied::Unknown),
        };
    }
    if other_site {
        return Err(Denied::OtherSite);
    }
    let forwarded = FORWARDED.iter().any(|name| fields.contains_key(name));
    // By its name, another site's page could ask that has its own name point here.
    let local = peer.ip().to_canonical().is_loopback() && !forwarded && is_plain(host);
    if local { Ok(()) } else { Err(Denied::NotLocal) }
}

/// RFC 7617 and RFC 6750.
fn knows(api: &Api, credentials: &str) -> bool {
    let Some((scheme, value)) = credentials.split_once(' ') else { return false };
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return !api.token.is_empty() && api.token.is(value);
    }
    if !scheme.eq_ignore_ascii_case("basic") || api.password.is_empty() {
        return false;
    }
    let Some(pair) = STANDARD.decode(value).ok().and_then(|pair| String::from_utf8(pair).ok()) else { return false };
    pair.split_once(':').is_some_and(|(user, password)| user == api.user && api.password.is(password))
}

/// `localhost` or an address, with or without a port.
fn is_plain(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => {
            let Some((address, rest)) = v6.split_once(']') else { return false };
            return address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || rest.starts_with(':'));
        }
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(api: &Api, peer: &str, fields: &[(&'static str, &str)]) -> Result<(), Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        check(api, &map, peer.parse().unwrap(), true)
    }

    #[test]
    fn without_a_password_only_this_host() {
        let (api, host) = (Api::default(), ("host", "127.0.0.1:1985"));
        assert_eq!(ask(&api, "127.0.0.1:5", &[host]), Ok(()));
        assert_eq!(ask(&api, "[::1]:5", &[("host", "[::1]:1985")]), Ok(()));
        assert_eq!(ask(&api, "[::ffff:127.0.0.1]:5", &[("host", "localhost")]), Ok(()));
        assert_eq!(ask(&api, "192.0.2.1:5", &[host]), Err(Denied::NotLocal));
        for field in ["x-forwarded-for", "x-real-ip", "forwarded"] {
            assert_eq!(ask(&api, "127.0.0.1:5", &[host, (field, "192.0.2.1")]), Err(Denied::NotLocal), "{field}");
        }
        for name in ["evil.example", "127.0.0.1.evil.example", "[::1].evil", "[x]", ""] {
            assert_eq!(ask(&api, "127.0.0.1:5", &[("host", name)]), Err(Denied::NotLocal), "{name}");
        }
        assert_eq!(ask(&api, "127.0.0.1:5", &[host, ("origin", "http://127.0.0.1:1985")]), Ok(()));
        for (from, answer) in [("cross-site", Err(Denied::OtherSite)), ("same-origin", Ok(())), ("none", Ok(()))] {
            assert_eq!(ask(&api, "127.0.0.1:5", &[host, ("sec-fetch-site", from)]), answer, "{from}");
        }
        for site in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            assert_eq!(ask(&api, "127.0.0.1:5", &[host, ("origin", site)]), Err(Denied::OtherSite), "{site}");
        }
    }

    #[test]
    fn with_one_whoever_has_it() {
        let api = Api { user: "op".into(), password: "a:b".into(), token: "t0k".into(), ..Api::default() };
        let ask = |credentials: &str| ask(&api, "192.0.2.1:5", &[("host", "h"), ("authorization", credentials)]);
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!((ask(&basic("op:a:b")), ask("bearer t0k")), (Ok(()), Ok(())));
        for wrong in [&basic("op:a"), &basic("x:a:b"), &basic("op"), "Basic ?", "Bearer", "Bearer t0", "Digest t0k", ""]
        {
            assert_eq!(ask(wrong), Err(Denied::Unknown), "{wrong}");
        }
        let local = check(&api, &HeaderMap::new(), "127.0.0.1:5".parse().unwrap(), false);
        assert_eq!(local, Err(Denied::Unknown), "this host, too");
        let empty = Api { token: "t".into(), ..Api::default() };
        let fields = [("host", "h"), ("authorization", &*basic(":"))];
        assert_eq!(self::ask(&empty, "192.0.2.1:5", &fields), Err(Denied::Unknown), "no password is none");
    }
}
