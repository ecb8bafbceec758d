//! HTTP request heads (RFC 9112), as far as routing a media request needs them.

/// The largest request head, in bytes.
pub const HEAD_MAX: usize = 16 * 1024;

/// Header fields of one request.
const FIELDS_MAX: usize = 100;

/// A request up to its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Method, as sent.
    pub method: String,
    /// Path of the target, still encoded.
    pub path: String,
    /// Query of the target, without the question mark. It may carry a secret.
    pub query: String,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    /// The Host field, or the target's authority; empty if there is neither.
    pub host: String,
    /// Whether an Origin field was sent: a browser asks for another site's page.
    pub cross_origin: bool,
    /// The Referer field: the page that asks.
    pub referer: String,
    /// The Authorization field. It may carry a secret.
    pub authorization: String,
    /// All X-Forwarded-For fields, joined by commas: what proxies say of who asks.
    pub forwarded_for: String,
    /// Bytes of the head, with the empty line.
    pub length: usize,
}

/// Why a request is refused. The connection ends after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`HEAD_MAX`], or too many fields. Answer 431.
    #[error("the request head is too large")]
    TooLarge,
    /// Not HTTP/1. Answer 400.
    #[error("this is not an HTTP/1 request")]
    Malformed,
    /// Two different Host fields (RFC 9112 3.2). Answer 400.
    #[error("the request names two hosts")]
    TwoHosts,
}

/// Reads a head from the front of `input`; `None` while it is not complete.
///
/// # Errors
/// It never will be one.
pub fn parse_head(input: &[u8]) -> Result<Option<Head>, Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(input.get(..HEAD_MAX).unwrap_or(input)) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() >= HEAD_MAX => return Err(Error::TooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Error::TooLarge),
        Err(_) => return Err(Error::Malformed),
    };
    let target = request.path.unwrap_or_default();
    // A proxy's request names scheme and authority before the path (absolute-form, RFC 9112 3.2.2).
    let (authority, target) = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        _ => ("", target),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut hosts = request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case("host")).map(|f| f.value);
    let host = hosts.next();
    if hosts.any(|other| Some(other) != host) {
        return Err(Error::TwoHosts);
    }
    let host =
        if authority.is_empty() { host.and_then(|h| str::from_utf8(h).ok()).unwrap_or_default() } else { authority };
    let field = |name: &str| {
        let field = request.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name));
        field.and_then(|f| str::from_utf8(f.value).ok()).unwrap_or_default().trim().to_owned()
    };
    let forwarded = request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case("x-forwarded-for"));
    // What is no text in it says nothing, but what a proxy wrote behind that does.
    let forwarded = forwarded.map(|f| String::from_utf8_lossy(f.value));
    Ok(Some(Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        minor: request.version.unwrap_or_default(),
        host: host.trim().to_owned(),
        cross_origin: request.headers.iter().any(|f| f.name.eq_ignore_ascii_case("origin")),
        referer: field("referer"),
        authorization: field("authorization"),
        forwarded_for: forwarded.collect::<Vec<_>>().join(","),
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let text = b"GET /live/a.flv?token=1 HTTP/1.1\r\nhost: x:8080\r\nOrigin: http://y\r\nREFERER: http://y/p \r\nauthorization: Bearer t\r\n\r\nrest";
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str(), head.query.as_str()), ("GET", "/live/a.flv", "token=1"));
        assert_eq!((head.host.as_str(), head.cross_origin, head.minor), ("x:8080", true, 1));
        assert_eq!((head.referer.as_str(), head.authorization.as_str()), ("http://y/p", "Bearer t"));
        assert_eq!(&text[head.length..], b"rest");
        for end in 0..head.length {
            assert_eq!(parse_head(&text[..end]), Ok(None), "{end}");
        }
        let proxied =
            parse_head(b"GET / HTTP/1.1\r\nX-Forwarded-For: a, b\r\nx-forwarded-for: c\r\n\r\n").unwrap().unwrap();
        assert_eq!(proxied.forwarded_for, "a, b,c");
        let proxied = parse_head(b"GET / HTTP/1.1\r\nX-Forwarded-For: \xff, 192.0.2.9\r\n\r\n").unwrap().unwrap();
        assert!(proxied.forwarded_for.ends_with(", 192.0.2.9"), "a proxy's word is not lost by what a client wrote");
        let old = parse_head(b"GET http://v.example/live/a.flv HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((old.host.as_str(), old.path.as_str(), old.minor), ("v.example", "/live/a.flv", 0));
    }

    #[test]
    fn refusals() {
        assert_eq!(parse_head(b"\x16\x03\x01\x02\x00\x01"), Err(Error::Malformed));
        assert_eq!(parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Err(Error::TwoHosts));
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; HEAD_MAX]].concat();
        assert_eq!(parse_head(&long), Err(Error::TooLarge));
        let many = [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(FIELDS_MAX + 1)].concat();
        assert_eq!(parse_head(&many), Err(Error::TooLarge));
    }

    #[test]
    fn fuzz_head() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let _ = parse_head(bytes);
        });
    }
}
