//! Clients on raw sockets that note what comes, and when.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_wire::rtmp::client::{Event, Handshake, Purpose, Request};
use weir_wire::rtmp::{Client, Limits, Output};

use super::flv::{Tag, Tags};
use super::http;
use crate::common::eventually;

/// What a peer noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// Media with the time of its arrival.
    pub tags: Vec<(Instant, Tag)>,
    /// Codes of the server's answers, `NetStream.Play.Start` and so on, in their order, and their descriptions.
    pub statuses: Vec<(String, String)>,
    /// Where the server sent it instead.
    pub redirect: Option<String>,
    /// How it ended, when it has.
    pub end: Option<String>,
}

impl Notes {
    /// The media.
    pub fn media(&self) -> Vec<Tag> {
        self.tags.iter().map(|(_, tag)| tag.clone()).collect()
    }

    /// Whether the server said this.
    pub fn said(&self, code: &str) -> bool {
        self.statuses.iter().any(|(said, _)| said == code)
    }

    /// The longest time between two arrivals.
    pub fn longest_pause(&self) -> Duration {
        self.tags.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }
}

/// A connected client.
pub struct Peer {
    socket: TcpStream,
    local: SocketAddr,
    notes: Arc<Mutex<Notes>>,
    reader: Option<JoinHandle<()>>,
}

impl Peer {
    /// Plays HTTP-FLV.
    pub fn flv(address: SocketAddr, path: &str) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        Self::start(socket, |socket, notes| {
            let answer = http::Answer::read(socket);
            if answer.status != 200 {
                return format!("status {}", answer.status);
            }
            for tag in Tags::new(answer.body) {
                match tag {
                    Ok(tag) => notes.lock().unwrap().tags.push((Instant::now(), tag)),
                    Err(error) => return error.to_string(),
                }
            }
            "end of body".to_owned()
        })
    }

    /// Plays RTMP; the stream may carry a query.
    pub fn play(address: SocketAddr, app: &str, stream: &str) -> Self {
        Self::rtmp(address, Purpose::Play, &format!("rtmp://{address}/{app}"), app, stream)
    }

    /// Asks to publish by RTMP, and sends nothing more.
    pub fn publish(address: SocketAddr, app: &str, stream: &str) -> Self {
        Self::rtmp(address, Purpose::Publish, &format!("rtmp://{address}/{app}"), app, stream)
    }

    /// Plays or publishes with a `tcUrl` of its own.
    pub fn rtmp(address: SocketAddr, purpose: Purpose, tc_url: &str, app: &str, stream: &str) -> Self {
        let request = Request {
            purpose,
            tc_url: tc_url.to_owned(),
            app: app.to_owned(),
            stream: stream.to_owned(),
            handshake: Handshake::DigestFirst,
        };
        let socket = TcpStream::connect(address).unwrap();
        Self::start(socket, |socket, notes| talk(socket, request, notes).unwrap_or_else(|error| error))
    }

    fn start(socket: TcpStream, read: impl FnOnce(TcpStream, &Mutex<Notes>) -> String + Send + 'static) -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (theirs, local) = (socket.try_clone().unwrap(), socket.local_addr().unwrap());
        let shared = notes.clone();
        let reader = std::thread::spawn(move || {
            let end = read(theirs, &shared);
            shared.lock().unwrap().end = Some(end);
        });
        Self { socket, local, notes, reader: Some(reader) }
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Looks at what it noted so far.
    pub fn look<T>(&self, look: impl FnOnce(&Notes) -> T) -> T {
        look(&self.notes.lock().unwrap())
    }

    /// Waits until `look` finds what it wants in the notes.
    pub fn wait<T>(&self, what: &str, within: Duration, mut look: impl FnMut(&Notes) -> Option<T>) -> T {
        eventually(&format!("{} sees {what}", self.local), within, || self.look(&mut look))
    }

    /// Waits for that many more messages of media.
    pub fn wait_media(&self, more: usize, within: Duration) {
        Self::wait_media_of([self], more, within);
    }

    /// Waits until each of them has that many more messages of media.
    pub fn wait_media_of<'a>(peers: impl IntoIterator<Item = &'a Self>, more: usize, within: Duration) {
        let count = |peer: &Self| peer.look(|notes| notes.tags.len());
        let wanted: Vec<_> = peers.into_iter().map(|peer| (peer, count(peer) + more)).collect();
        for (peer, wanted) in wanted {
            peer.wait(&format!("{wanted} messages"), within, |notes| (notes.tags.len() >= wanted).then_some(()));
        }
    }

    /// Panics if its connection has ended.
    pub fn assert_connected(&self) {
        self.look(|notes| assert_eq!(notes.end, None, "{} was to stay connected", self.local));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.socket.shutdown(Shutdown::Both).ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// Drives the protocol machine until the server closes.
fn talk(mut socket: TcpStream, request: Request, notes: &Mutex<Notes>) -> Result<String, String> {
    let mut client = Client::new(Instant::now(), request, Limits::default(), [7; 32], 4096);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        loop {
            match client.poll() {
                Output::Send(bytes) => socket.write_all(&bytes).map_err(|error| error.to_string())?,
                Output::Event(event) => note(&mut notes.lock().unwrap(), event),
                Output::Wait(_) => break,
            }
        }
        let count = socket.read(&mut buffer).map_err(|error| error.to_string())?;
        if count == 0 {
            return Ok("closed by the server".to_owned());
        }
        client.handle(Instant::now(), &buffer[..count]).map_err(|error| error.to_string())?;
    }
}

fn note(notes: &mut Notes, event: Event) {
    match event {
        Event::Started => notes.statuses.push(("started".to_owned(), String::new())),
        Event::Media { kind, timestamp, body } => {
            notes.tags.push((Instant::now(), Tag { kind: kind as u8, timestamp, body: body.to_vec() }));
        }
        Event::Status { code, description } => notes.statuses.push((code, description)),
        Event::Refused { code, description, redirect } => {
            notes.statuses.push((code, description));
            notes.redirect = redirect;
        }
    }
}
