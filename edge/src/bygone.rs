//! Bytes to players of streams that this worker pulls no longer: with them, what is told of a stream never goes back while
//! somebody else still has it.

use std::cell::RefCell;
use std::collections::VecDeque;

use weir_media::StreamName;

/// Streams that are remembered; the oldest is forgotten for a new one.
const REMEMBERED_MAX: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Bygone(RefCell<VecDeque<(StreamName, u64)>>);

impl Bygone {
    /// A stream goes that has sent so much.
    pub(crate) fn put(&self, name: &StreamName, sent: u64) {
        if sent == 0 {
            return;
        }
        let mut list = self.0.borrow_mut();
        if list.len() >= REMEMBERED_MAX {
            list.pop_front();
        }
        list.push_back((name.clone(), sent));
    }

    /// It comes again: what it goes on from.
    pub(crate) fn take(&self, name: &StreamName) -> u64 {
        let mut list = self.0.borrow_mut();
        let at = list.iter().position(|(known, _)| known == name);
        at.and_then(|at| list.remove(at)).map_or(0, |(_, sent)| sent)
    }

    /// Looks at each.
    pub(crate) fn each(&self, mut look: impl FnMut(&StreamName, u64)) {
        self.0.borrow().iter().for_each(|(name, sent)| look(name, *sent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> StreamName {
        StreamName { vhost: "v".into(), app: "live".into(), stream: number.to_string().into() }
    }

    #[test]
    fn what_was_sent_is_gone_on_from() {
        let bygone = Bygone::default();
        (0..=REMEMBERED_MAX).for_each(|number| bygone.put(&name(number), number as u64 + 1));
        assert_eq!((bygone.take(&name(0)), bygone.take(&name(7)), bygone.take(&name(7))), (0, 8, 0));
        let mut sum = 0;
        bygone.each(|_, sent| sum += sent);
        assert_eq!(sum, (1..=REMEMBERED_MAX as u64 + 1).sum::<u64>() - 1 - 8);
    }
}
