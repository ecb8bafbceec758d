//! Logging of every process of weir: one line an event, as text or as JSON.
//!
//! ```text
//! 2026-01-31T12:00:00.123Z INFO  edge/0 stream published stream=live/s client=10.0.0.7:4711
//! {"time":"2026-01-31T12:00:00.123Z","level":"info","role":"edge","worker":0,"target":"weir_edge::hub",...}
//! ```
//!
//! What clients send may stand in a line, so control characters are escaped: nobody can forge a line. Addresses of
//! streams go through [`crate::secret`] first. Processes share one file: it is opened for appending and each line is
//! one write.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::ser::{Serialize, SerializeMap, Serializer};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{LOG_VARIABLE, Log, LogFormat, LogLevel};

/// Longest message and longest value of a field, in bytes; the rest is cut off.
pub const VALUE_MAX: usize = 4096;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file of `log.file` cannot be opened for appending.
    #[error("log.file: {path} cannot be opened: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The variable [`LOG_VARIABLE`] is no filter.
    #[error("environment {LOG_VARIABLE}: {0}; write a level, or levels by module, as in info,weir_edge=debug")]
    Filter(String),
    /// [`init`] was called before.
    #[error("logging was set up before")]
    Twice,
}

/// Where this process writes, for [`reopen`].
static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// What this process writes, for [`set_level`].
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets up the log of this process; `role` and `worker` stand in each line, as `edge/0`, or `weir` without a number.
///
/// The level of the configuration is that of weir's own modules; libraries write warnings and errors. A filter in
/// [`LOG_VARIABLE`] takes the place of both.
pub fn init(config: &Log, role: &str, worker: Option<u32>) -> Result<(), LogError> {
    let filter = filter(config.level, std::env::var(LOG_VARIABLE).ok().as_deref())?;
    let lines = Lines::new(config, role, worker)?;
    SINK.set(lines.sink.clone()).map_err(|_| LogError::Twice)?;
    let (filter, handle) = reload::Layer::new(filter);
    FILTER.set(handle).map_err(|_| LogError::Twice)?;
    Registry::default().with(lines.with_filter(filter)).try_init().map_err(|_| LogError::Twice)
}

/// Changes the least severe level of weir's own modules. A filter in [`LOG_VARIABLE`] stays in force.
pub fn set_level(level: LogLevel) {
    let filter = filter(level, std::env::var(LOG_VARIABLE).ok().as_deref());
    if let (Some(handle), Ok(filter)) = (FILTER.get(), filter) {
        handle.reload(filter).ok();
    }
}

/// Opens the log file again under its name, after a rotation has moved it (SIGUSR1). The old file stays in use when
/// that fails. Does nothing where the log goes to standard error.
pub fn reopen() -> Result<(), LogError> {
    SINK.get().map_or(Ok(()), |sink| sink.reopen())
}

fn filter(level: LogLevel, variable: Option<&str>) -> Result<EnvFilter, LogError> {
    let own = match level {
        LogLevel::Error => "error".to_owned(),
        // What peers offer and this end does not know is no news.
        level => format!("warn,rtc_dtls=error,weir={}", level.as_str()),
    };
    let text = variable.filter(|text| !text.trim().is_empty()).unwrap_or(&own);
    EnvFilter::try_new(text).map_err(|e| LogError::Filter(e.to_string()))
}

enum Sink {
    Stderr,
    File { path: PathBuf, file: Mutex<File> },
}

impl Sink {
    fn new(config: &Log) -> Result<Self, LogError> {
        if config.file.is_empty() {
            return Ok(Self::Stderr);
        }
        let path = PathBuf::from(&config.file);
        let file = Mutex::new(open(&path)?);
        Ok(Self::File { path, file })
    }

    fn reopen(&self) -> Result<(), LogError> {
        if let Self::File { path, file } = self {
            let new = open(path)?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    /// One write, so that lines of several processes do not mix. A log that cannot be written stops nobody.
    fn write(&self, line: &str) {
        let _ = match self {
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::File { file, .. } => file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()),
        };
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| LogError::Open { path: path.display().to_string(), source })
}

/// The layer that makes lines of events.
struct Lines {
    sink: Arc<Sink>,
    format: LogFormat,
    role: String,
    worker: Option<u32>,
    colour: bool,
}

impl Lines {
    fn new(config: &Log, role: &str, worker: Option<u32>) -> Result<Self, LogError> {
        let sink = Arc::new(Sink::new(config)?);
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = matches!(*sink, Sink::Stderr) && io::stderr().is_terminal() && !no_colour;
        Ok(Self { sink, format: config.format, role: role.to_owned(), worker, colour })
    }

    fn text(&self, now: OffsetDateTime, level: Level, event: &Collected) -> String {
        let (paint, dim, plain) = match (self.colour, level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[2m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[2m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[32m", "\x1b[2m", "\x1b[0m"),
            (true, _) => ("\x1b[34m", "\x1b[2m", "\x1b[0m"),
        };
        let mut line = format!("{dim}{}{plain} {paint}{:<5}{plain} {}", Time(now), level.as_str(), self.role);
        if let Some(worker) = self.worker {
            let _ = write!(line, "/{worker}");
        }
        let _ = write!(line, " {}", Escaped(&event.message));
        for (name, value) in &event.fields.0 {
            let _ = write!(line, " {dim}{name}={plain}{value}");
        }
        line.push('\n');
        line
    }

    fn json(&self, now: OffsetDateTime, level: Level, target: &str, event: &Collected) -> String {
        let line = JsonLine {
            time: Time(now).to_string(),
            level: level.as_str().to_ascii_lowercase(),
            role: &self.role,
            worker: self.worker,
            target,
            message: &event.message,
            fields: &event.fields,
        };
        let mut line = serde_json::to_string(&line).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut collected = Collected::default();
        event.record(&mut collected);
        let (now, level) = (OffsetDateTime::now_utc(), *event.metadata().level());
        self.sink.write(&match self.format {
            LogFormat::Text => self.text(now, level, &collected),
            LogFormat::Json => {
                let target = collected.target.as_deref().unwrap_or_else(|| event.metadata().target());
                self.json(now, level, target, &collected)
            }
        });
    }
}

#[derive(serde::Serialize)]
struct JsonLine<'a> {
    time: String,
    level: String,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<u32>,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Fields::is_empty")]
    fields: &'a Fields,
}

/// RFC 3339 in UTC with milliseconds.
struct Time(OffsetDateTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time) = (self.0.date(), self.0.time());
        let (hour, minute, second, milli) = time.as_hms_milli();
        let month = u8::from(date.month());
        write!(f, "{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", date.year(), date.day())
    }
}

/// Message and fields of one event.
#[derive(Default)]
struct Collected {
    message: String,
    fields: Fields,
    /// Where a record of the `log` crate came from; such arrive with their metadata as fields.
    target: Option<String>,
}

#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Bool(value) => return value.fmt(f),
            Self::Signed(value) => return value.fmt(f),
            Self::Unsigned(value) => return value.fmt(f),
            Self::Float(value) => return value.fmt(f),
            Self::Text(text) => text,
        };
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '"' || c == '=') {
            return write!(f, "\"{}\"", Escaped(&text.replace('\\', "\\\\").replace('"', "\\\"")));
        }
        Escaped(text).fmt(f)
    }
}

/// Text whose control characters, line ends among them, are written as escapes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|c| c.is_control()) {
                Some(last) => {
                    f.write_str(part.strip_suffix(last).unwrap_or_default())?;
                    write!(f, "{}", last.escape_default())?;
                }
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl Collected {
    fn put(&mut self, field: &Field, value: Value) {
        match value {
            Value::Text(text) if field.name() == "message" => self.message = text,
            Value::Text(text) if field.name() == "log.target" => self.target = Some(text),
            _ if field.name().starts_with("log.") => {}
            value => self.fields.0.push((field.name(), value)),
        }
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded(String::new());
        // An error says that the text was cut off, or that the value could not be shown; what there is is kept.
        let _ = write!(text, "{value:?}");
        self.put(field, Value::Text(text.0));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Bounded(String::new());
        let _ = text.write_str(value);
        self.put(field, Value::Text(text.0));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Float(value));
    }
}

/// Text of at most [`VALUE_MAX`] bytes, with an ellipsis where it was cut.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = VALUE_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        // char::len_utf8 is at most 4, so the cut is at one of these.
        let fits = (0..=room).rev().take(4).find_map(|end| text.get(..end)).unwrap_or_default();
        self.0.push_str(fits);
        self.0.push('…');
        Err(fmt::Error)
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
