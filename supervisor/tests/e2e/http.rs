//! HTTP over a raw socket: what is sent and what comes is exactly what the test says and sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait for a byte of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// The head of an answer, and the connection behind it.
pub struct Answer {
    /// For example `HTTP/1.1`.
    pub version: String,
    /// Status code.
    pub status: u16,
    fields: Vec<(String, String)>,
    /// The body, and whatever else comes.
    pub body: BufReader<TcpStream>,
}

impl Answer {
    /// Reads the head. Panics if it is none.
    pub fn read(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let mut body = BufReader::new(stream);
        let mut line = || {
            let mut text = String::new();
            body.read_line(&mut text).unwrap();
            text.strip_suffix("\r\n").unwrap_or_else(|| panic!("{text:?} is no line of a head")).to_owned()
        };
        let first = line();
        let (version, rest) = first.split_once(' ').unwrap_or_else(|| panic!("{first:?} is no status line"));
        let status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {first:?}"));
        let version = version.to_owned();
        let mut fields = Vec::new();
        loop {
            let field = line();
            if field.is_empty() {
                return Self { version, status, fields, body };
            }
            let (name, value) = field.split_once(':').unwrap_or_else(|| panic!("{field:?} is no field"));
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(field, _)| field == name);
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} comes twice");
        Some(&value.1)
    }

    /// Fields that tell browsers about other sites' pages.
    pub fn cors_fields(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("access-control-")).collect()
    }

    /// The body up to the end of the connection.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        text
    }
}

/// Sends bytes on a new connection and reads the head of the answer.
pub fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    Answer::read(stream)
}

/// An HTTP/1.1 request without a body; `fields` end with CRLF each.
pub fn request(address: SocketAddr, method: &str, path: &str, fields: &str) -> Answer {
    send(address, format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n").as_bytes())
}

/// A plain GET.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, "")
}
