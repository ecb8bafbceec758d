//! A few threads that run pipelines.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::{io, thread};

use tokio::sync::mpsc;

use super::{Chunk, Coded, Error, Pipeline, Target};

/// Frames that wait to be read, of one transcoder: about two seconds.
const WAITING_MAX: usize = 100;

/// Frames that wait to be fetched, of one transcoder: about two seconds.
const READY_MAX: usize = 100;

/// Frames of one transcoder that are read before it is another one's turn.
const TURN: usize = 8;

/// How the names of the threads begin. A panic on one of them is caught, where the build unwinds: what then ends the
/// process on other threads' panics has to leave these out.
const THREAD: &str = "audio-";

/// Threads that are shared by transcoders. Dropping it ends them; transcoders that are left give nothing more.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    turns: Mutex<Turns>,
    wake: Condvar,
}

#[derive(Default)]
struct Turns {
    lanes: VecDeque<Arc<Lane>>,
    closed: bool,
}

/// One transcoder's side of the pool.
struct Lane {
    input: Mutex<Input>,
    /// Held by the thread whose turn it is; none after an end.
    work: Mutex<Option<Work>>,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Input {
    chunks: VecDeque<Chunk>,
    /// It stands in `Turns`, or a thread has it.
    scheduled: bool,
}

struct Work {
    pipeline: Pipeline,
    output: mpsc::Sender<Coded>,
}

/// No panic happens while a lock is held, but where it is caught; a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// With so many threads, one at least.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut this = Self { shared, threads: Vec::new() };
        for i in 0..threads.max(1) {
            let shared = this.shared.clone();
            let thread = thread::Builder::new().name(format!("{THREAD}{i}")).spawn(move || run(&shared))?;
            this.threads.push(thread);
        }
        Ok(this)
    }

    /// A transcoder to this target.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn transcoder(&self, target: Target) -> Result<Transcoder, Error> {
        Pipeline::new(target).map(|pipeline| self.run(pipeline))
    }

    /// A transcoder that is this pipeline.
    pub(super) fn run(&self, pipeline: Pipeline) -> Transcoder {
        let (output, ready) = mpsc::channel(READY_MAX);
        let work = Mutex::new(Some(Work { pipeline, output }));
        let (dropped, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let lane = Arc::new(Lane { input: Mutex::default(), work, dropped, failed });
        Transcoder { lane, shared: self.shared.clone(), ready }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.turns).closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // What it ran was caught.
            let _ = thread.join();
        }
    }
}

/// A handle to a pipeline in a pool. Dropping it ends the pipeline.
pub(crate) struct Transcoder {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    ready: mpsc::Receiver<Coded>,
}

impl Transcoder {
    /// Gives it a frame; never waits. Where too many wait already the oldest is dropped, and counted.
    pub(crate) fn send(&self, chunk: Chunk) {
        let mut input = lock(&self.lane.input);
        if input.chunks.len() >= WAITING_MAX {
            input.chunks.pop_front();
            self.lane.dropped.fetch_add(1, Ordering::Relaxed);
        }
        input.chunks.push_back(chunk);
        if !core::mem::replace(&mut input.scheduled, true) {
            drop(input);
            schedule(&self.shared, self.lane.clone());
        }
    }

    /// The next frame; none when the pipeline has ended. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Coded> {
        self.ready.recv().await
    }

    /// The next frame, if there is one already.
    #[cfg(test)]
    pub(crate) fn try_recv(&mut self) -> Option<Coded> {
        self.ready.try_recv().ok()
    }

    /// Frames that were dropped because they waited too long on either side.
    pub(crate) fn dropped(&self) -> u64 {
        self.lane.dropped.load(Ordering::Relaxed)
    }

    /// Frames that could not be read.
    pub(crate) fn failed(&self) -> u64 {
        self.lane.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Transcoder {
    fn drop(&mut self) {
        lock(&self.lane.input).chunks.clear();
    }
}

fn schedule(shared: &Shared, lane: Arc<Lane>) {
    lock(&shared.turns).lanes.push_back(lane);
    shared.wake.notify_one();
}

fn run(shared: &Shared) {
    let mut out = Vec::new();
    while let Some(lane) = next(shared) {
        if turn(&lane, &mut out) {
            schedule(shared, lane);
        }
    }
}

/// The lane whose turn it is; none when the pool closes.
fn next(shared: &Shared) -> Option<Arc<Lane>> {
    let mut turns = lock(&shared.turns);
    loop {
        if turns.closed {
            return None;
        }
        if let Some(lane) = turns.lanes.pop_front() {
            return Some(lane);
        }
        turns = shared.wake.wait(turns).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Reads some frames; true where there are more.
fn turn(lane: &Lane, out: &mut Vec<Coded>) -> bool {
    for _ in 0..TURN {
        let chunk = {
            let mut input = lock(&lane.input);
            let chunk = input.chunks.pop_front();
            input.scheduled = chunk.is_some();
            chunk
        };
        let Some(chunk) = chunk else { return false };
        let mut work = lock(&lane.work);
        let Some(Work { pipeline, output }) = &mut *work else { continue };
        // A codec that panics ends its own stream's sound and no other's; where the build aborts, all of the process.
        match catch_unwind(AssertUnwindSafe(|| pipeline.push(&chunk, out))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                lane.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "sound was not transcoded");
            }
            Err(_) => {
                lane.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("a codec panicked; this stream's sound is not transcoded any more");
                out.clear();
                *work = None;
                continue;
            }
        }
        for coded in out.drain(..) {
            if output.try_send(coded).is_err() {
                lane.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    true
}
