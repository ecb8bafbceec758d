//! Clients that come and go at a steady rate.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// C1 and S1 are 1536 bytes; the answer is S0, S1 and S2.
const PART: usize = 1536;

/// The longest that a client waits for its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// One client: connected, shaken hands, gone.
#[derive(Debug)]
pub struct Call {
    /// When it began.
    pub at: Instant,
    /// When it had its answer.
    pub answered: Instant,
    /// What went wrong with the connect.
    pub connect: Option<String>,
    /// What went wrong after it.
    pub handshake: Option<String>,
}

/// The clients, each on a thread of its own so that one that waits delays no other.
pub struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
    pacer: Option<JoinHandle<()>>,
}

impl Load {
    /// One RTMP client each `every`.
    pub fn rtmp(address: SocketAddr, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stopped, results) = (stop.clone(), calls.clone());
        let pacer = thread::spawn(move || {
            let mut clients = Vec::new();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let results = results.clone();
                clients.push(thread::spawn(move || {
                    let call = call(address);
                    results.lock().unwrap().push(call);
                }));
                next += every;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        Self { stop, calls, pacer: Some(pacer) }
    }

    /// Ends it and tells of every client.
    pub fn finish(mut self) -> Vec<Call> {
        self.end();
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer.take() {
            pacer.join().ok();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn call(address: SocketAddr) -> Call {
    let at = Instant::now();
    let (connect, handshake) = match TcpStream::connect(address) {
        Ok(stream) => (None, shake_hands(stream).err().map(|error| error.to_string())),
        Err(error) => (Some(error.to_string()), None),
    };
    Call { at, answered: Instant::now(), connect, handshake }
}

fn shake_hands(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hello = [0; 1 + PART];
    hello[0] = 3;
    stream.write_all(&hello)?;
    let mut answer = [0; 1 + 2 * PART];
    stream.read_exact(&mut answer)?;
    if answer[0] != 3 {
        return Err(io::Error::other("no version 3 in the answer"));
    }
    stream.write_all(&answer[1..=PART])
}
