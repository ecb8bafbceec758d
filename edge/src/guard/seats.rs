//! How many are there: of each address, and of each stream. Of this worker alone.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use weir_media::StreamName;
use weir_node::access::{Action, subscriber};
use weir_node::config::Limits;

/// What is counted. Entries are there while somebody sits on them, so there are no more than clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Address(Action, Box<str>, IpAddr),
    Stream(Action, StreamName),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seats(RefCell<FxHashMap<Of, u32>>);

/// One place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Rc<Seats>,
    of: Of,
}

impl Seats {
    /// A place among those of the address, and one among those of the stream; `None`: one of them is full.
    pub(super) fn take(
        self: &Rc<Self>,
        limits: &Limits,
        action: Action,
        name: &StreamName,
        ip: IpAddr,
    ) -> Option<[Seat; 2]> {
        let (per_ip, per_stream) = match action {
            // The origin lets one publisher in.
            Action::Publish => (limits.publishers_per_ip, 0),
            Action::Play => (limits.players_per_ip, limits.players_per_stream),
        };
        let [address, stream] = places(action, name, ip);
        let taken = self.0.borrow();
        let has_room = |of: &Of, limit: u32| limit == 0 || taken.get(of).is_none_or(|count| *count < limit);
        let fits = has_room(&address, per_ip) && has_room(&stream, per_stream);
        drop(taken);
        fits.then(|| self.keep(action, name, ip))
    }

    /// The same for one that is there already, whatever the limits are.
    pub(super) fn keep(self: &Rc<Self>, action: Action, name: &StreamName, ip: IpAddr) -> [Seat; 2] {
        places(action, name, ip).map(|of| {
            *self.0.borrow_mut().entry(of.clone()).or_default() += 1;
            Seat { seats: self.clone(), of }
        })
    }
}

fn places(action: Action, name: &StreamName, ip: IpAddr) -> [Of; 2] {
    [Of::Address(action, name.vhost.clone(), subscriber(ip)), Of::Stream(action, name.clone())]
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.borrow_mut();
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_of_their_address_and_stream_and_free_again() {
        let seats = Rc::new(Seats::default());
        let limits = Limits { publishers_per_ip: 1, players_per_ip: 2, players_per_stream: 3 };
        let name =
            |vhost: &str, stream: &str| StreamName { vhost: vhost.into(), app: "live".into(), stream: stream.into() };
        let take = |action, name: &StreamName, ip: &str| seats.take(&limits, action, name, ip.parse().unwrap());
        let (a, b, other) = (name("v", "a"), name("v", "b"), name("w", "a"));
        let first = take(Action::Play, &a, "192.0.2.1").unwrap();
        let second = take(Action::Play, &b, "::ffff:192.0.2.1").unwrap();
        assert!(take(Action::Play, &a, "192.0.2.1").is_none(), "of the address");
        let publisher = take(Action::Publish, &a, "192.0.2.1").unwrap();
        assert!(take(Action::Publish, &b, "192.0.2.1").is_none());
        assert!(take(Action::Play, &other, "192.0.2.1").is_some(), "each vhost counts for itself");
        let more = ["2001:db8::1", "2001:db8:0:1::1"].map(|ip| take(Action::Play, &a, ip).unwrap());
        assert!(take(Action::Play, &a, "192.0.2.9").is_none(), "of the stream");
        drop(first);
        let again = take(Action::Play, &a, "192.0.2.9").unwrap();
        assert!(take(Action::Play, &a, "192.0.2.10").is_none());
        // Who comes from another process has a seat whatever the limits are.
        let kept = seats.keep(Action::Play, &a, "192.0.2.10".parse().unwrap());
        drop((second, publisher, more, again, kept));
        assert!(seats.0.borrow().is_empty());
    }
}
