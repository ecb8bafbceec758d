//! HTTP-FLV: a GET, and tags in a body of any framing (RFC 9112, 6 and 7.1).

use super::flv::Tags;
use super::{Error, Media};
use crate::net::{Reason, Wire};
use crate::target::Target;

/// Bytes of a response head.
const HEAD_MAX: usize = 16 * 1024;
/// Header fields of one response.
const FIELDS_MAX: usize = 64;
/// Bytes of a line that tells a chunk's size, or of a trailer field.
const LINE_MAX: usize = 1024;
/// Lines behind the last chunk.
const TRAILERS_MAX: usize = 64;

/// A player's conversation over HTTP.
pub(crate) struct Http {
    request: String,
    head: ResponseHead,
    body: Option<Body>,
    tags: Tags,
}

impl Http {
    /// One that will ask for stream `number`.
    pub(crate) fn new(target: &Target, number: usize) -> Self {
        let request = request(target, number);
        Self { request, head: ResponseHead::default(), body: None, tags: Tags::new() }
    }

    /// TCP is connected.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn connected(&self, wire: &mut Wire) -> Result<(), Reason> {
        wire.send(self.request.as_bytes())
    }

    /// Takes what came and hands each tag to `media`.
    ///
    /// # Errors
    /// The server refused, ended the stream or sends something else.
    pub(crate) fn received(&mut self, mut bytes: &[u8], media: &mut impl FnMut(Media<'_>)) -> Result<(), Error> {
        if self.body.is_none() {
            self.body = self.head.read(&mut bytes)?;
        }
        let Some(body) = &mut self.body else { return Ok(()) };
        while let Some(part) = body.read(&mut bytes)? {
            self.tags.read(part, media)?;
        }
        Ok(())
    }
}

/// The request for stream `number`.
pub(super) fn request(target: &Target, number: usize) -> String {
    let (path, host) = (target.path(number), &target.authority);
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weir-loadtest\r\nAccept: */*\r\n\r\n")
}

/// Gathers a response's head.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    bytes: Vec<u8>,
}

impl ResponseHead {
    /// Takes bytes up to the end of the head, and says how the body comes once that is here.
    ///
    /// # Errors
    /// It is no head, or none of a success.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Body>, Error> {
        let before = self.bytes.len();
        let room = HEAD_MAX.saturating_sub(before);
        self.bytes.extend_from_slice(input.get(..room).unwrap_or(input));
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.bytes.len() < HEAD_MAX => {
                *input = &[];
                return Ok(None);
            }
            _ => return Err(Error::HttpHead),
        };
        let code = response.code.unwrap_or_default();
        if !(200..300).contains(&code) {
            return Err(Error::HttpStatus(code));
        }
        let field = |name: &str| {
            let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| str::from_utf8(field.value).ok()).map(str::trim)
        };
        let body = if field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Body::Chunked(Chunked::default())
        } else if let Some(length) = field("content-length") {
            Body::Length(length.parse().map_err(|_| Error::HttpHead)?)
        } else {
            Body::UntilClose
        };
        *input = input.get(length - before..).unwrap_or_default();
        self.bytes = Vec::new();
        Ok(Some(body))
    }
}

/// How the end of a body is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// By the end of the connection.
    UntilClose,
    /// By its length; so many bytes are missing.
    Length(u64),
    /// In chunks.
    Chunked(Chunked),
}

impl Body {
    /// The next bytes of the body; `None` once all of `input` is read.
    ///
    /// # Errors
    /// The body is over or malformed.
    pub(crate) fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        match self {
            Self::UntilClose => Ok(take(input, u64::MAX)),
            Self::Length(0) => Err(Error::Ended),
            Self::Length(missing) => Ok(take(input, *missing).inspect(|part| *missing -= part.len() as u64)),
            Self::Chunked(chunked) => chunked.read(input),
        }
    }
}

/// At most `limit` bytes of what is there, if there are any.
fn take<'a>(input: &mut &'a [u8], limit: u64) -> Option<&'a [u8]> {
    let count = input.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
    let (part, rest) = input.split_at_checked(count)?;
    *input = rest;
    (!part.is_empty()).then_some(part)
}

/// Takes a chunked body apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunked {
    place: Place,
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The line that tells a chunk's size.
    #[default]
    Size,
    /// So many bytes are missing of a chunk.
    Data(u64),
    /// The empty line behind a chunk.
    DataEnd,
    /// Lines behind the last chunk, up to an empty one.
    Trailers,
}

impl Chunked {
    fn read<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        loop {
            if let Place::Data(missing) = self.place {
                let part = take(input, missing);
                let missing = missing - part.map_or(0, |part| part.len() as u64);
                self.place = if missing == 0 { Place::DataEnd } else { Place::Data(missing) };
                return Ok(part);
            }
            let Some(line) = self.line(input)? else { return Ok(None) };
            self.place = match self.place {
                Place::Size => match size(&line)? {
                    0 => Place::Trailers,
                    size => Place::Data(size),
                },
                Place::Trailers if line.is_empty() => return Err(Error::Ended),
                Place::Trailers if self.trailers >= TRAILERS_MAX => return Err(Error::Chunked),
                Place::Trailers => {
                    self.trailers += 1;
                    Place::Trailers
                }
                _ if line.is_empty() => Place::Size,
                _ => return Err(Error::Chunked),
            };
        }
    }

    /// The next line without its end, if all of it is here.
    fn line(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (part, rest) = match end {
            Some(end) => (input.get(..end).unwrap_or_default(), input.get(end + 1..).unwrap_or_default()),
            None => (*input, &[][..]),
        };
        if self.line.len() + part.len() > LINE_MAX {
            return Err(Error::Chunked);
        }
        self.line.extend_from_slice(part);
        *input = rest;
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }
}

/// The size in hexadecimal digits, up to an extension.
fn size(line: &[u8]) -> Result<u64, Error> {
    let text = str::from_utf8(line).map_err(|_| Error::Chunked)?;
    let digits = text.split(';').next().unwrap_or_default().trim();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::Chunked);
    }
    u64::from_str_radix(digits, 16).map_err(|_| Error::Chunked)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head, then body, from pieces of `step` bytes; and how it ended.
    fn body(response: &[u8], step: usize) -> (Vec<u8>, Result<(), Error>) {
        let (mut head, mut body, mut out) = (ResponseHead::default(), None, Vec::new());
        for mut piece in response.chunks(step) {
            if body.is_none() {
                match head.read(&mut piece) {
                    Ok(found) => body = found,
                    Err(error) => return (out, Err(error)),
                }
            }
            let Some(body) = &mut body else { continue };
            loop {
                match body.read(&mut piece) {
                    Ok(Some(part)) => out.extend_from_slice(part),
                    Ok(None) => break,
                    Err(error) => return (out, Err(error)),
                }
            }
            assert!(piece.is_empty());
        }
        (out, Ok(()))
    }

    fn each_step(response: &str, wanted: &str, ended: bool) {
        for step in [1, 2, 3, 5, 17, response.len()] {
            let (out, end) = body(response.as_bytes(), step);
            assert_eq!(str::from_utf8(&out).unwrap(), wanted, "{step}");
            assert_eq!(matches!(end, Err(Error::Ended)), ended, "{step}: {end:?}");
        }
    }

    #[test]
    fn bodies_of_each_framing() {
        each_step("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nabcdef", "abcdef", false);
        each_step("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabcdef", "abcdef", false);
        each_step("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcdef", "abc", true);
        let chunks = "3\r\nabc\r\nA;x=y\r\n0123456789\r\n";
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        each_step(&format!("{head}{chunks}"), "abc0123456789", false);
        each_step(&format!("{head}{chunks}0\r\n\r\nmore"), "abc0123456789", true);
        each_step(&format!("{head}{chunks}0\r\nA: b\r\n\r\n"), "abc0123456789", true);
    }

    #[test]
    fn malformed_chunks() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let long = "1".repeat(LINE_MAX + 1);
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS_MAX + 1));
        for chunks in ["\r\n", "x\r\n", "-1\r\n", "+1\r\n", "3\r\nabcd\r\n", "11112222333344445\r\n", &long, &trailers]
        {
            let (_, end) = body(format!("{head}{chunks}").as_bytes(), 9);
            assert!(matches!(end, Err(Error::Chunked)), "{chunks:?}: {end:?}");
        }
    }

    #[test]
    fn heads_that_are_refused() {
        let not_found = body(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 4).1;
        assert!(matches!(not_found, Err(Error::HttpStatus(404))));
        assert!(matches!(body(b"RTMP hello\r\n\r\n", 4).1, Err(Error::HttpHead)));
        assert!(matches!(body(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 4).1, Err(Error::HttpHead)));
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'a'; HEAD_MAX]].concat();
        assert!(matches!(body(&long, 1000).1, Err(Error::HttpHead)));
    }

    #[test]
    fn fuzz_body() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
            let whole = [head, bytes].concat();
            assert_eq!(body(&whole, 1).0, body(&whole, whole.len()).0);
        });
    }
}
