//! One publisher of this worker, carried to the origin that owns its stream.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tracing::{debug, warn};
use weir_media::{Frame, FrameId, Gop, Kind, StreamName, Timeline};
use weir_node::handover::STATE_MAX;
use weir_node::lately::Lately;
use weir_node::rows;
use weir_proto::session;
use weir_proto::supervisor::StreamRow;
use weir_wire::relay::{self, Decoder, Record};

use crate::handover;
use crate::hub::{Hub, add};
use crate::publish::{Action, Ended, Publish};
use crate::quality::{Look, Quality};
use crate::relay::Link;
use crate::stats::{Protocol, Traffic};

/// Ends the publication when dropped.
#[derive(Debug)]
pub(crate) struct Publication {
    name: StreamName,
    key: u64,
    hub: Weak<Hub>,
    link: Rc<Link>,
    inner: RefCell<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    publish: Publish,
    channel: Option<u32>,
    gop: Gop,
    timeline: Option<Timeline>,
    ended: Option<Ended>,
    /// The group was let go while the origin was away: nothing is sent until the next one starts.
    until_group: bool,
    quality: Quality,
    traffic: Option<Rc<Traffic>>,
    /// Bytes of its publisher's frames, and how many these are.
    received: u64,
    frames: u64,
    lately: Lately,
    since: Instant,
}

impl Publication {
    /// Claims `name` for a publisher whose query string has the digest `key`.
    pub(crate) fn new(hub: &Rc<Hub>, name: StreamName, key: u64, link: Rc<Link>) -> Rc<Self> {
        let inner = Inner {
            publish: Publish::new(Instant::now(), link.is_up()),
            channel: None,
            gop: Gop::new(hub.gop_limits()),
            timeline: None,
            ended: None,
            until_group: false,
            quality: Quality::new(Instant::now()),
            traffic: None,
            received: 0,
            frames: 0,
            lately: Lately::default(),
            since: Instant::now(),
        };
        let hub_weak = Rc::downgrade(hub);
        let publication =
            Rc::new(Self { name, key, hub: hub_weak, link, inner: RefCell::new(inner), changed: Notify::new() });
        hub.add_publication(&publication);
        publication.drive();
        publication
    }

    /// Goes on with what was granted in another process; [`session::Publisher`] is what that one's
    /// [`departing`](Self::departing) said. `None`: it is nothing that could have been said.
    pub(crate) fn arrive(hub: &Rc<Hub>, state: &session::Publisher, link: Rc<Link>) -> Option<Rc<Self>> {
        let next = state.next?;
        let next = FrameId { epoch: next.epoch, seq: next.seq };
        let line = state.timeline?;
        let mut gop = Gop::new(hub.gop_limits());
        let (mut decoder, mut records) = (Decoder::new(), BytesMut::from(&state.group[..]));
        while let Some(record) = decoder.decode(&mut records).ok()? {
            if let Record::Frame { frame, .. } = record {
                gop.push(&Frame { body: Bytes::copy_from_slice(&frame.body), ..frame });
            }
        }
        hub.publish_memory(0, gop.bytes());
        let inner = Inner {
            publish: Publish::arriving(Instant::now(), link.is_up(), next),
            channel: None,
            gop,
            timeline: Some(Timeline::restore(line.base, line.begun.then_some((line.raw, line.out)))),
            ended: None,
            until_group: false,
            quality: Quality::new(Instant::now()),
            traffic: None,
            received: 0,
            frames: 0,
            lately: Lately::default(),
            since: Instant::now(),
        };
        let (key, hub_weak) = (state.key, Rc::downgrade(hub));
        let name = handover::name(state.name.as_ref()?);
        let publication =
            Rc::new(Self { name, key, hub: hub_weak, link, inner: RefCell::new(inner), changed: Notify::new() });
        hub.add_publication(&publication);
        publication.drive();
        Some(publication)
    }

    /// What [`arrive`](Self::arrive) needs, but for what its feed knows. `None`: it was not granted, or has ended.
    pub(crate) fn departing(&self) -> Option<session::Publisher> {
        let inner = &*self.inner.borrow();
        if inner.ended.is_some() {
            return None;
        }
        let next = inner.publish.departing()?;
        let (base, last) = inner.timeline.as_ref()?.save();
        let (raw, out) = last.unwrap_or_default();
        let mut group = BytesMut::new();
        // One that would not fit stays: the origin has it, and the next one begins soon.
        if inner.gop.bytes() < STATE_MAX / 2 {
            for frame in inner.group() {
                relay::encode(&mut group, &Record::Frame { channel: 0, frame: frame.clone() });
            }
        }
        Some(session::Publisher {
            name: Some(handover::name_of(&self.name)),
            key: self.key,
            next: Some(session::FrameId { epoch: next.epoch, seq: next.seq }),
            timeline: Some(session::Timeline { base, begun: last.is_some(), raw, out }),
            group: group.to_vec(),
            ..session::Publisher::default()
        })
    }

    /// It goes on in another process: nothing is ended. What waits for the origin still goes there.
    pub(crate) fn departed(&self) {
        if let Some(channel) = self.inner.borrow_mut().channel.take() {
            self.link.abandon(channel);
        }
    }

    pub(crate) fn name(&self) -> &StreamName {
        &self.name
    }

    /// How well the publisher sends.
    pub(crate) fn quality(&self, now: Instant) -> Look {
        self.inner.borrow_mut().quality.look(now)
    }

    /// Notes how many bytes came so far.
    pub(crate) fn note(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.lately.note(inner.received);
    }

    /// What operators are told of it. `noted`: the time since [`Publication::note`].
    pub(crate) fn describe(&self, row: &mut StreamRow, noted: Duration) {
        let inner = self.inner.borrow();
        let alive = inner.since.elapsed();
        row.clients += 1;
        row.received += inner.received;
        row.received_bps += inner.lately.bps(inner.received, noted, alive);
        row.frames += inner.frames;
        row.alive_ms = u64::try_from(alive.as_millis()).unwrap_or(u64::MAX);
        rows::describe(row, &inner.gop);
    }

    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Waits for the origin's word.
    ///
    /// # Errors
    /// Why the stream may not be published.
    pub(crate) async fn granted(self: &Rc<Self>) -> Result<(), Ended> {
        loop {
            let deadline = {
                let inner = &mut *self.inner.borrow_mut();
                if let Some(ended) = &inner.ended {
                    return Err(ended.clone());
                }
                if inner.timeline.is_some() {
                    return Ok(());
                }
                match inner.publish.poll() {
                    Action::Wait(Some(deadline)) => deadline,
                    _ => Instant::now(),
                }
            };
            self.changed_until(deadline).await;
        }
    }

    /// Waits until something changes, or the time comes that the states wait for.
    async fn changed_until(self: &Rc<Self>, deadline: Instant) {
        if tokio::time::timeout_at(deadline.into(), self.changed.notified()).await.is_err() {
            self.inner.borrow_mut().publish.handle_timeout(Instant::now());
            self.drive();
        }
    }

    /// Set when the origin ended it.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.inner.borrow().ended.clone()
    }

    /// Returns when the publication ends other than by its client.
    pub(crate) async fn end(self: &Rc<Self>) -> Ended {
        loop {
            if let Some(ended) = self.ended() {
                return ended;
            }
            let wait = self.inner.borrow_mut().publish.poll();
            match wait {
                Action::Wait(Some(deadline)) => self.changed_until(deadline).await,
                _ => self.changed.notified().await,
            }
        }
    }

    /// Names a message that arrived at `now` and carries it on.
    pub(crate) fn push(&self, now: Instant, kind: Kind, timestamp_ms: u32, body: Bytes) {
        let inner = &mut *self.inner.borrow_mut();
        let Some(timeline) = &mut inner.timeline else { return };
        let repairs = timeline.repairs();
        let dts = timeline.map(timestamp_ms);
        let bridged = timeline.repairs() > repairs;
        if bridged {
            warn!(stream = %self.name, timestamp_ms, "the publisher's clock jumped and was bridged");
        }
        let Some((id, send)) = inner.publish.next_frame() else { return };
        let frame = Frame::new(id, kind, dts, body);
        inner.received += frame.body.len() as u64;
        inner.frames += 1;
        if !frame.info.config {
            inner.quality.frame(now, kind, dts, frame.body.len(), bridged);
        }
        let before = inner.gop.bytes();
        let starts = inner.gop.push(&frame);
        if let Some(hub) = self.hub.upgrade() {
            hub.stats().frame(kind);
            let traffic = inner.traffic.get_or_insert_with(|| hub.stats().traffic(&self.name));
            add(traffic.received.of(Protocol::Rtmp), frame.body.len() as u64);
            if !hub.publish_memory(before, inner.gop.bytes()) {
                hub.publish_memory(inner.gop.bytes(), 0);
                inner.gop.clear_frames();
            }
        }
        if let (true, Some(channel)) = (send, inner.channel) {
            if inner.until_group && !starts && !frame.info.config {
                return;
            }
            inner.until_group &= !starts;
            self.link.frame(channel, frame, starts);
        }
    }

    /// Whether the relay has taken enough that more may be read from the publisher.
    pub(crate) fn has_room(&self) -> bool {
        self.inner.borrow().channel.is_none_or(|channel| self.link.has_room(channel))
    }

    /// Returns when it has, or when the link is lost.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            self.link.room().await;
        }
    }

    /// The origin's answer on this publication's channel.
    pub(crate) fn record(self: &Rc<Self>, record: Record) {
        match record {
            Record::Claimed { first, base, .. } => self.inner.borrow_mut().publish.claimed(first, base),
            Record::Refused { refusal, reason, .. } => self.inner.borrow_mut().publish.refused(refusal, reason),
            _ => return,
        }
        self.drive();
    }

    pub(crate) fn link_changed(self: &Rc<Self>, up: bool) {
        {
            let inner = &mut *self.inner.borrow_mut();
            inner.channel = None;
            if up { inner.publish.link_up() } else { inner.publish.link_down() }
        }
        self.drive();
    }

    fn drive(self: &Rc<Self>) {
        loop {
            let action = self.inner.borrow_mut().publish.poll();
            match action {
                Action::Claim(resume) => {
                    let channel = self.link.claim(self, self.name.clone(), self.key, resume);
                    self.inner.borrow_mut().channel = Some(channel);
                }
                Action::Granted(_, base) => self.inner.borrow_mut().timeline = Some(Timeline::new(base)),
                Action::Replay => self.replay(),
                Action::End(ended) => self.inner.borrow_mut().ended = Some(ended),
                Action::Wait(until) => {
                    if until.is_some() {
                        // Who waits learns the time that is waited for now.
                        self.changed.notify_one();
                    }
                    break;
                }
            }
            self.changed.notify_one();
        }
    }

    /// What the origin needs to go on as if nothing had happened; it drops what it still knows.
    fn replay(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let Some(channel) = inner.channel else { return };
        debug!(stream = %self.name, "published again at the origin");
        inner.until_group = !inner.gop.joinable();
        let first = inner.gop.frames().next().map(|frame| frame.id);
        for frame in inner.group() {
            self.link.frame(channel, frame.clone(), Some(frame.id) == first);
        }
    }
}

impl Inner {
    /// Configuration in the order in which it came, then the current group.
    fn group(&self) -> impl Iterator<Item = &Frame> {
        let mut configs: Vec<&Frame> = self.gop.start_configs().iter().collect();
        configs.sort_by_key(|frame| frame.id);
        configs.into_iter().chain(self.gop.frames())
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        if let Some(channel) = inner.channel.take() {
            self.link.close(channel);
        }
        if let Some(hub) = self.hub.upgrade() {
            hub.publish_memory(inner.gop.bytes(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Directory;
    use std::time::Duration;
    use weir_wire::relay::Refusal;

    #[test]
    fn a_claim_refused_for_a_reason_that_passes_is_sent_again_before_and_after_the_grant() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        rt.block_on(async {
            let guard = crate::guard::Guard::new(weir_node::hooks::Identity::new("", ""), String::new());
            let hub = Hub::new(Rc::default(), Directory::new(&[], 1), guard);
            let link = Link::new(Rc::downgrade(&hub), 0, 1 << 20);
            let name = StreamName { vhost: "v".into(), app: "a".into(), stream: "s".into() };
            let p = Publication::new(&hub, name, 0, link);
            p.link_changed(true);
            let refuse = |refusal| p.record(Record::Refused { channel: 1, refusal, reason: String::new() });
            // The claim on the first link is never answered.
            p.link_changed(false);
            p.link_changed(true);
            let first = p.inner.borrow().channel;
            let claimed_again = async |first| {
                let again = async {
                    while p.inner.borrow().channel == first {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(5), again).await.expect("claimed again");
            };
            let watch = async {
                refuse(Refusal::Busy);
                claimed_again(first).await;
                p.record(Record::Claimed { channel: 2, first: FrameId { epoch: 1, seq: 1 }, base: 0 });
            };
            let (granted, ()) = tokio::join!(p.granted(), watch);
            granted.unwrap();
            let first = p.inner.borrow().channel;
            let watch = async {
                refuse(Refusal::Closing);
                claimed_again(first).await;
                refuse(Refusal::Stale);
            };
            let (ended, ()) = tokio::join!(p.end(), watch);
            assert_eq!(ended, Ended::Refused(Refusal::Stale, String::new()));
        });
        rt.shutdown_background();
    }
}
