//! A server of callbacks that answers as its path says, and remembers what it was told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::SOON;
use crate::common::eventually;

/// How long `/slow` takes.
pub const SLOW: Duration = Duration::from_secs(3);

/// One callback.
#[derive(Clone, Debug)]
pub struct Told {
    /// Path of the URL.
    pub path: String,
    /// The body as it came.
    pub text: String,
    /// The same, read.
    pub body: Value,
}

/// See the module. It lives as long as the test's process.
#[derive(Clone)]
pub struct Callbacks {
    /// Where it listens.
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Callbacks {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self { address: listener.local_addr().unwrap(), told: Arc::default() };
        let shared = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let this = shared.clone();
                std::thread::spawn(move || this.serve(stream));
            }
        });
        this
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it was told so far, in its order.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// What it was told of one kind.
    pub fn told_of(&self, action: &str) -> Vec<Value> {
        self.told().into_iter().map(|told| told.body).filter(|body| body["action"] == action).collect()
    }

    /// Waits for so many of a kind.
    pub fn wait(&self, action: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} {action}"), SOON, || {
            let found = self.told_of(action);
            (found.len() >= count).then_some(found)
        })
    }

    /// One connection, with one request after the other.
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while let Some((head, body)) = read(&mut reader) {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let text = String::from_utf8(body).unwrap();
            let body = serde_json::from_str(&text).unwrap_or_default();
            if head.starts_with("POST ") {
                assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
            }
            self.told.lock().unwrap().push(Told { path: path.clone(), text, body });
            if answer(&path, &mut stream).is_err() {
                return;
            }
        }
    }
}

fn answer(path: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    let mut say = |status: &str, body: &str| {
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    match path {
        "/yes" => say("200 OK", "0"),
        "/object" => say("201 Created", "{\"code\":0,\"data\":null}"),
        "/no" => say("200 OK", "{\"code\":1}"),
        "/forbidden" => say("403 Forbidden", "0"),
        "/garbage" => say("200 OK", "<html>\u{1}"),
        "/fault" => say("500 Internal Server Error", "0"),
        "/redirect" => say("302 Found\r\nLocation: /yes", "0"),
        "/huge" => {
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n{{\"code\":0,\"x\":\"")?;
            let part = [b'a'; 65536];
            (0..1000).try_for_each(|_| stream.write_all(&part))
        }
        "/nonsense" => {
            stream.write_all(b"\x00\x01 not HTTP\r\n\r\n").and_then(|()| Err(std::io::ErrorKind::Other.into()))
        }
        "/close" => Err(std::io::ErrorKind::Other.into()),
        "/slow" => {
            sleep(SLOW);
            say("200 OK", "0")
        }
        other => panic!("nothing is at {other}"),
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
