//! Where the load goes: `rtmp://host:port/app/stream`, `http://host:port/app/stream.flv` or `webrtc://host:port/app/stream`,
//! with `{i}` for a number.

use std::net::{SocketAddr, ToSocketAddrs};

const RTMP_PORT: u16 = 1935;
const HTTP_PORT: u16 = 80;
const API_PORT: u16 = 1985;
const JANUS_PORT: u16 = 8088;
/// Bytes of a URL.
const URL_MAX: usize = 4096;

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// RTMP over TCP.
    Rtmp,
    /// HTTP/1.1 over TCP.
    Http,
    /// WebRTC, by SRS's API.
    Webrtc,
    /// WebRTC, by the API of Janus; the last part of the path is a mountpoint of its streaming plugin.
    Janus,
}

/// A URL whose host has been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What is spoken there.
    pub(crate) scheme: Scheme,
    /// The first address of the host.
    pub(crate) address: SocketAddr,
    /// Host and port as the URL has them.
    pub(crate) authority: String,
    /// What follows the authority, from its slash on, with `{i}` still in it.
    path: String,
}

/// Why a URL is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// None of the schemes.
    #[error("{0:?} begins neither with rtmp:// nor with http://, webrtc:// or janus://")]
    Scheme(String),
    /// Longer than [`URL_MAX`].
    #[error("the URL is longer than {URL_MAX} bytes")]
    TooLong,
    /// No path, or one that names no stream.
    #[error("{0:?} names no application and stream")]
    Path(String),
    /// The host is not known.
    #[error("{authority:?} is no address: {reason}")]
    Host {
        /// Host and port.
        authority: String,
        /// What the resolver says.
        reason: String,
    },
}

impl Target {
    /// Reads a URL and looks its host up, once for all connections.
    ///
    /// # Errors
    /// The URL has another form or its host has no address.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        if url.len() > URL_MAX {
            return Err(Error::TooLong);
        }
        let schemes = [
            ("rtmp://", Scheme::Rtmp, RTMP_PORT),
            ("http://", Scheme::Http, HTTP_PORT),
            ("webrtc://", Scheme::Webrtc, API_PORT),
            ("janus://", Scheme::Janus, JANUS_PORT),
        ];
        let found =
            schemes.into_iter().find_map(|(prefix, scheme, port)| Some((url.strip_prefix(prefix)?, scheme, port)));
        let (rest, scheme, port) = found.ok_or_else(|| Error::Scheme(url.to_owned()))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let named = match scheme {
            // An application and a stream.
            Scheme::Rtmp | Scheme::Webrtc => path.split('?').next().unwrap_or_default().trim_matches('/').contains('/'),
            Scheme::Http | Scheme::Janus => path.starts_with('/'),
        };
        if !named || path.contains(char::is_whitespace) {
            return Err(Error::Path(url.to_owned()));
        }
        let address = lookup(authority, port)
            .map_err(|reason| Error::Host { authority: authority.to_owned(), reason: reason.to_string() })?;
        Ok(Self { scheme, address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The path for connection `number`, query and all.
    pub(crate) fn path(&self, number: usize) -> String {
        self.path.replace("{i}", &number.to_string())
    }

    /// Application and stream (with its query) for connection `number`: the stream is the last part of the path.
    pub(crate) fn app_and_stream(&self, number: usize) -> (String, String) {
        let path = self.path(number);
        let (before, query) = path.split_at(path.find('?').unwrap_or(path.len()));
        let (app, stream) = before.rsplit_once('/').unwrap_or(("", before));
        (app.trim_matches('/').to_owned(), format!("{stream}{query}"))
    }
}

fn lookup(authority: &str, port: u16) -> std::io::Result<SocketAddr> {
    let has_port = authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let text = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let first = text.to_socket_addrs()?.next();
    first.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "it has none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target = Target::parse("rtmp://127.0.0.1/a/b/s{i}?vhost=v&i={i}").unwrap();
        assert_eq!((target.scheme, target.address), (Scheme::Rtmp, "127.0.0.1:1935".parse().unwrap()));
        assert_eq!(target.app_and_stream(7), ("a/b".to_owned(), "s7?vhost=v&i=7".to_owned()));
        let target = Target::parse("http://[::1]:8080/live/s.flv?token=1").unwrap();
        assert_eq!((target.scheme, target.address), (Scheme::Http, "[::1]:8080".parse().unwrap()));
        assert_eq!(target.path(3), "/live/s.flv?token=1");
        assert_eq!(
            Target::parse("http://[::1]/a.flv").unwrap().address,
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))
        );
    }

    #[test]
    fn refusals() {
        for url in ["", "srt://h/a/b", "rtmp://127.0.0.1", "rtmp://127.0.0.1/app", "rtmp://127.0.0.1/app?x=/y"] {
            assert!(matches!(Target::parse(url), Err(Error::Scheme(_) | Error::Path(_))), "{url}");
        }
        assert!(matches!(Target::parse("http://127.0.0.1/a b"), Err(Error::Path(_))));
        assert!(matches!(Target::parse("rtmp://127.0.0.1:99999/a/b"), Err(Error::Host { .. })));
        assert_eq!(Target::parse(&"r".repeat(URL_MAX + 1)), Err(Error::TooLong));
    }
}
