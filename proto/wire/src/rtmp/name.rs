//! From what clients send to a stream's name. SRS's URL forms are all understood:
//!
//! ```text
//! rtmp://host/app/stream?vhost=v    rtmp://host/app?vhost=v/stream    rtmp://host/app...vhost...v/stream
//! rtmp://host/app/stream?domain=v   rtmp://host/app#vhost=v/stream    rtmp://host/app/_definst_/stream
//! ```
//!
//! App and stream are one path whose last segment is the stream, so that `a` + `b/c` and `a/b` + `c` are the same
//! stream. Segments are percent-decoded, as they are in HTTP paths.
use super::Limits;

/// The app of a path that has only a stream.
const DEFAULT_APP: &str = "__defaultApp__";
/// The instance name that some encoders insert.
const DEFAULT_INSTANCE: &str = "_definst_";

/// Why a client's URL is refused. The text may be shown to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No stream name at all.
    #[error("the stream has no name")]
    Empty,
    /// The application, stream or host is too long.
    #[error("the {what} is longer than {limit} bytes")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Bytes allowed.
        limit: usize,
    },
    /// A `.` or `..` segment.
    #[error("the name holds a . or .. segment")]
    Dots,
    /// A control character.
    #[error("the name holds a control character")]
    Control,
    /// A percent sign that no two hexadecimal digits follow, or an encoded slash.
    #[error("the name holds a bad percent sequence")]
    Percent,
    /// Not text.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// A virtual host with characters that no host name has.
    #[error("the virtual host is not a host name")]
    Vhost,
}

/// What `connect` said about the stream.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) vhost: Box<str>,
    pub(super) app: Box<str>,
    /// Without the question mark.
    pub(super) query: Box<str>,
}

/// The stream that a publish or play command means.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) vhost: String,
    pub(super) app: String,
    pub(super) stream: String,
    pub(super) query: String,
}

impl Base {
    /// Reads `connect`'s `app` and `tcUrl`.
    pub(super) fn new(app: &str, tc_url: &str, limits: &Limits) -> Result<Self, NameError> {
        let (app, tc_url) = (modern(app), modern(tc_url));
        let after_scheme = tc_url.split_once("://").map_or("", |(_, rest)| rest);
        let (authority, url_path) =
            after_scheme.split_at(after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len()));
        let (url_path, url_query) = split_query(url_path);
        let (app_path, app_query) = split_query(&app);
        let query = if app_query.is_empty() { url_query } else { app_query };
        let segments = segments([if app_path.is_empty() { url_path } else { app_path }])?;
        let app = segments.join("/");
        check_length("application name", &app, limits.name)?;
        check_length("query", query, limits.query)?;
        let vhost = match vhost_of(query).or_else(|| vhost_of(url_query)) {
            Some(vhost) => vhost.to_owned(),
            None => host(authority).to_ascii_lowercase(),
        };
        check_vhost(&vhost, limits)?;
        Ok(Self { vhost: vhost.into(), app: app.into(), query: query.into() })
    }

    /// The stream that `name`, the first argument of publish or play, means on this connection.
    pub(super) fn resolve(&self, name: &str, limits: &Limits) -> Result<Target, NameError> {
        let name = modern(name);
        let (path, stream_query) = split_query(&name);
        // Some clients take all after the app's question mark for its query: rtmp://host/app?vhost=v/stream.
        let (base_query, behind) = match self.query.rsplit_once('/') {
            Some((query, stream)) if path.is_empty() => (query, stream),
            _ => (&*self.query, ""),
        };
        // The app was decoded when it came: only the stream still has to be.
        let mut all: Vec<String> = self.app.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        all.extend(segments([path, behind])?);
        let stream = all.pop().ok_or(NameError::Empty)?;
        let app = if all.is_empty() { DEFAULT_APP.to_owned() } else { all.join("/") };
        let query = match (base_query, stream_query) {
            (one, "") | ("", one) => one.to_owned(),
            (first, second) => format!("{first}&{second}"),
        };
        check_length("application name", &app, limits.name)?;
        check_length("stream name", &stream, limits.name)?;
        check_length("query", &query, limits.query)?;
        let vhost = vhost_of(stream_query).or_else(|| vhost_of(base_query)).unwrap_or(&self.vhost).to_owned();
        check_vhost(&vhost, limits)?;
        Ok(Target { vhost, app, stream, query })
    }
}

/// The stream that an HTTP request means: `path` without its extension, `host` as the Host header has it.
///
/// # Errors
/// The path cannot be a stream's.
pub fn from_url(host: &str, path: &str, query: &str, limits: &Limits) -> Result<super::StreamRequest, NameError> {
    let base = Base::new("", &format!("http://{host}/"), limits)?;
    let Target { vhost, app, stream, query } = base.resolve(&format!("{path}?{query}"), limits)?;
    Ok(super::StreamRequest { vhost, app, stream, query })
}

/// Turns SRS's old spelling of a query into the usual one.
fn modern(text: &str) -> String {
    text.replacen("...vhost...", "?vhost=", 1)
}

/// Path and query; a fragment counts as a query.
fn split_query(text: &str) -> (&str, &str) {
    text.find(['?', '#']).map_or((text, ""), |at| (text.get(..at).unwrap_or(text), text.get(at + 1..).unwrap_or("")))
}

/// The virtual host that a query names.
fn vhost_of(query: &str) -> Option<&str> {
    let value = |key: &str| {
        query
            .split(['&', '?', '#'])
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            .filter(|v| !v.is_empty())
    };
    let vhost = value("vhost").or_else(|| value("domain"))?;
    Some(vhost.split('/').next().unwrap_or(vhost))
}

/// The host name of a URL's authority.
fn host(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(host, _)| host),
    }
}

/// The decoded segments of paths, without empty ones and the default instance.
fn segments<const N: usize>(paths: [&str; N]) -> Result<Vec<String>, NameError> {
    let parts = paths.into_iter().flat_map(|path| path.split('/'));
    parts.filter(|part| !part.is_empty() && *part != DEFAULT_INSTANCE).map(segment).collect()
}

fn segment(part: &str) -> Result<String, NameError> {
    let text = decode(part)?;
    if text.contains('\u{fffd}') {
        return Err(NameError::NotUtf8);
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    if text.contains('/') {
        return Err(NameError::Percent);
    }
    if text == "." || text == ".." { Err(NameError::Dots) } else { Ok(text) }
}

fn decode(part: &str) -> Result<String, NameError> {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.as_bytes().split_first_chunk::<2>().ok_or(NameError::Percent)?;
        let [Some(high), Some(low)] = digits.map(|digit| char::from(digit).to_digit(16)) else {
            return Err(NameError::Percent);
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| NameError::Percent)?);
        bytes.extend_from_slice(rest);
    }
    String::from_utf8(bytes).map_err(|_| NameError::NotUtf8)
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.len() > limit { Err(NameError::TooLong { what, limit }) } else { Ok(()) }
}

fn check_vhost(vhost: &str, limits: &Limits) -> Result<(), NameError> {
    check_length("virtual host", vhost, limits.name)?;
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '*');
    if vhost.chars().all(plain) && !vhost.contains("..") { Ok(()) } else { Err(NameError::Vhost) }
}
