//! A server of a few lines, and a file to publish.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_media::flv::{FILE_HEADER, TagInfo, write_tag};
use weir_media::{Frame, FrameId, Kind};
use weir_wire::rtmp::{Event, Limits, Output, Server, chunk};

const CHUNK_SIZE: u32 = 4096;

/// Players of a stream with this name are thrown out after so many messages.
pub(crate) const SHORT: (&str, usize) = ("short", 20);

/// What publishers sent and players wait for, by the stream's name.
#[derive(Default)]
struct Hub {
    streams: HashMap<String, Stream>,
}

#[derive(Default)]
struct Stream {
    configs: Vec<u8>,
    players: Vec<(TcpStream, usize)>,
}

/// Starts a server that passes RTMP messages on as they come. It ends with the test.
pub(crate) fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hub = Arc::new(Mutex::new(Hub::default()));
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, hub) = (socket.unwrap(), hub.clone());
            thread::spawn(move || serve(socket, &hub));
        }
    });
    address
}

/// Serves one client until it leaves.
fn serve(mut socket: TcpStream, hub: &Mutex<Hub>) {
    socket.set_nodelay(true).unwrap();
    let mut machine = Server::new(Instant::now(), Limits::default(), [7; 32], CHUNK_SIZE);
    let (mut stream, mut playing) = (String::new(), None);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        if machine.handle(Instant::now(), &buffer[..count]).is_err() {
            return;
        }
        loop {
            match machine.poll() {
                Output::Send(bytes) => {
                    if socket.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Output::Event(Event::Connect(_)) => machine.accept_connect().unwrap(),
                Output::Event(Event::Publish(request)) => {
                    stream = request.stream;
                    machine.accept_publish().unwrap();
                }
                Output::Event(Event::Play(request)) => {
                    machine.accept_play().unwrap();
                    playing = Some(request.stream);
                }
                Output::Event(Event::Media { kind, timestamp, body }) => pass_on(hub, &stream, kind, timestamp, &body),
                Output::Event(Event::Close(_)) => return,
                Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
        // Behind all that the machine has to say.
        if let Some(stream) = playing.take() {
            join(hub, stream, &socket);
        }
    }
}

fn join(hub: &Mutex<Hub>, stream: String, socket: &TcpStream) {
    let mut hub = hub.lock().unwrap();
    let stream = hub.streams.entry(stream).or_default();
    let mut player = socket.try_clone().unwrap();
    if player.write_all(&stream.configs).is_ok() {
        stream.players.push((player, 0));
    }
}

fn pass_on(hub: &Mutex<Hub>, name: &str, kind: Kind, timestamp: u32, body: &Bytes) {
    let mut message = Vec::new();
    chunk::write_message(&mut message, chunk::CSID_VIDEO, kind as u8, 1, timestamp, body, CHUNK_SIZE);
    let mut hub = hub.lock().unwrap();
    let stream = hub.streams.entry(name.to_owned()).or_default();
    if TagInfo::parse(kind, body).config {
        stream.configs.extend_from_slice(&message);
    }
    stream.players.retain_mut(|(player, sent)| {
        *sent += 1;
        if name == SHORT.0 && *sent > SHORT.1 {
            let _ = player.shutdown(std::net::Shutdown::Both);
            return false;
        }
        player.write_all(&message).is_ok()
    });
}

/// Two seconds of 25 pictures and 40 pieces of sound each, small as they are.
pub(crate) fn flv(directory: &Path) -> PathBuf {
    let mut out = FILE_HEADER.to_vec();
    let mut tag = |kind, ms: i64, body: Vec<u8>| {
        write_tag(&mut out, &Frame::new(FrameId::default(), kind, ms * 1000, Bytes::from(body)));
    };
    tag(Kind::Video, 0, vec![0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xff, 0xe1, 0, 1, 0x67, 1, 0, 1, 0x68]);
    tag(Kind::Audio, 0, vec![0xaf, 0, 0x12, 0x10]);
    for ms in 0..2000 {
        if ms % 40 == 0 {
            let head = if ms % 1000 == 0 { [0x17, 1, 0, 0, 0] } else { [0x27, 1, 0, 0, 0] };
            tag(Kind::Video, ms, [head.as_slice(), &[0, 0, 0, 100], &[0x41; 100]].concat());
        }
        if ms % 25 == 0 {
            tag(Kind::Audio, ms, [[0xaf, 1].as_slice(), &[9; 30]].concat());
        }
    }
    let path = directory.join("two-seconds.flv");
    fs::write(&path, out).unwrap();
    path
}

/// Waits until `done` says so, not for ever.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::sleep(Duration::from_millis(10));
    }
}
