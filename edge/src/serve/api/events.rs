//! Server-sent events (WHATWG HTML 9.2): the host and its streams, told anew each second to all who listen. The supervisor
//! is asked once, however many these are.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};

use super::text;
use super::v2::{self, Status, Streams};
use crate::serve::Context;

/// How often it is told.
const EVERY: Duration = Duration::from_secs(1);

/// Streams of one event; others are to be asked for.
const STREAMS: u32 = 200;

/// Who may listen to a worker at a time.
const LISTENERS_MAX: usize = 64;

/// What is told, as it comes.
type Told = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>>>>;

/// An answer at once, or one that goes on.
pub(crate) type Body = Either<Full<Bytes>, StreamBody<Told>>;

/// What is told.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Event {
    /// Milliseconds since 1970.
    now_ms: u64,
    status: Status,
    streams: Streams,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Cell<usize>,
    told: RefCell<Weak<watch::Sender<Bytes>>>,
}

/// One who listens, for as long as it lives.
struct Listener {
    events: Rc<Events>,
    /// Asking goes on for as long as somebody has it.
    _told: Rc<watch::Sender<Bytes>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.events.listeners.set(self.events.listeners.get() - 1);
    }
}

impl Events {
    /// The channel that all listen to; with the first who does, asking begins, and with the last it ends.
    fn channel(&self, cx: &Context) -> Rc<watch::Sender<Bytes>> {
        if let Some(told) = self.told.borrow().upgrade() {
            return told;
        }
        let told = Rc::new(watch::Sender::new(Bytes::from_static(b": begins\n\n")));
        self.told.replace(Rc::downgrade(&told));
        spawn_local(tell(cx.clone(), Rc::downgrade(&told)));
        told
    }
}

async fn tell(cx: Context, told: Weak<watch::Sender<Bytes>>) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if told.strong_count() == 0 {
            return;
        }
        let event = async { anyhow::Ok((v2::status(&cx).await?, v2::streams(&cx, 0, STREAMS).await?)) };
        let bytes = match event.await {
            Ok((status, streams)) => {
                let event = Event { now_ms: super::v1::now_ms(), status, streams };
                let json = serde_json::to_string(&event).unwrap_or_default();
                Bytes::from(format!("data: {json}\n\n"))
            }
            // The page waits for what comes next.
            Err(error) => Bytes::from(format!("event: silent\ndata: {}\n\n", serde_json::json!(error.to_string()))),
        };
        let Some(told) = told.upgrade() else { return };
        told.send_replace(bytes);
    }
}

/// The answer to one who listens from now on.
pub(super) fn answer(cx: &Context) -> Response<Body> {
    let events = cx.events.clone();
    if events.listeners.get() >= LISTENERS_MAX {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many listen already\n").map(Either::Left);
    }
    events.listeners.set(events.listeners.get() + 1);
    let told = events.channel(cx);
    let news = WatchStream::new(told.subscribe());
    let listener = Listener { events, _told: told };
    let frames = news.map(move |bytes| {
        // It listens for as long as its answer lives.
        let _ = &listener;
        Ok(Frame::data(bytes))
    });
    // Who listens goes to the next worker by itself (WHATWG HTML 9.2.3), and keeps none from leaving.
    let hub = cx.hub.clone();
    let frames: Told =
        Box::pin(futures_util::StreamExt::take_until(frames, Box::pin(async move { hub.going().await })));
    let mut response = Response::new(Either::Right(StreamBody::new(frames)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx's word for what must not wait in its buffers.
    fields.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
