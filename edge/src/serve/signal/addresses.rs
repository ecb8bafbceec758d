//! How many connections there are of each address (`edge.signal.connections_per_ip`). Of this worker alone.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use weir_node::access::subscriber;

/// See the module. Entries are there while somebody is, so there are no more than clients.
#[derive(Debug, Default)]
pub(crate) struct Addresses(RefCell<FxHashMap<IpAddr, u32>>);

/// One connection, for as long as it lives.
#[derive(Debug)]
pub(in crate::serve) struct Place {
    addresses: Rc<Addresses>,
    of: IpAddr,
}

impl Addresses {
    /// One more, where no more than `limit` may be; 0: any number. `None`: there are as many.
    pub(super) fn take(self: &Rc<Self>, ip: IpAddr, limit: u32) -> Option<Place> {
        let of = subscriber(ip);
        let mut counts = self.0.borrow_mut();
        let count = counts.entry(of).or_default();
        if limit != 0 && *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.borrow_mut();
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_they_are_free_again() {
        let addresses = Rc::new(Addresses::default());
        let take = |ip: &str, limit| addresses.take(ip.parse().unwrap(), limit);
        let (one, two) = (take("192.0.2.1", 2).unwrap(), take("::ffff:192.0.2.1", 2).unwrap());
        assert!(take("192.0.2.1", 2).is_none());
        let others = [take("192.0.2.2", 1).unwrap(), take("192.0.2.1", 0).unwrap(), take("2001:db8::1", 1).unwrap()];
        assert!(take("2001:db8::2", 1).is_none(), "the same line");
        drop((one, others));
        assert!(take("192.0.2.1", 2).is_some());
        drop(two);
        assert!(addresses.0.borrow().is_empty());
    }
}
