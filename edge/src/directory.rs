//! Which origin worker owns a stream: rendezvous hashing over the configured list.

use std::fmt;

use weir_media::StreamName;

/// One origin worker, as the list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Slot of an origin worker of this host.
    Local(u32),
    /// Control address `HOST:PORT`.
    Remote(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(slot) => write!(f, "{slot}"),
            Self::Remote(address) => f.write_str(address),
        }
    }
}

/// The list, the same on all hosts. Never ordered by health: each edge would see another, so a dead origin's streams
/// wait for its return.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    origins: Vec<Origin>,
}

impl Directory {
    /// `remotes` as configured; without them the origin workers of this host.
    pub(crate) fn new(remotes: &[String], local: u32) -> Self {
        let origins = if remotes.is_empty() {
            (0..local).map(Origin::Local).collect()
        } else {
            remotes.iter().cloned().map(Origin::Remote).collect()
        };
        Self { origins }
    }

    pub(crate) fn len(&self) -> usize {
        self.origins.len()
    }

    pub(crate) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Index of the origin that owns `name`. `None`: the list is empty.
    pub(crate) fn locate(&self, name: &StreamName) -> Option<usize> {
        (0..self.origins.len()).max_by_key(|&i| weight(&self.origins[i], name))
    }
}

/// The weight of an origin for a stream: all processes of all versions must compute the same.
fn weight(origin: &Origin, name: &StreamName) -> u64 {
    let mut hash = match origin {
        Origin::Local(slot) => fnv(OFFSET, &slot.to_be_bytes()),
        Origin::Remote(address) => fnv(OFFSET, address.as_bytes()),
    };
    for part in [&name.vhost, &name.app, &name.stream] {
        hash = fnv(fnv(hash, part.as_bytes()), &[0]);
    }
    // FNV alone leaves the high bits of short names alike; this is the finalizer of SplitMix64.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: usize) -> StreamName {
        StreamName { vhost: "v".into(), app: "live".into(), stream: format!("s{i}").into() }
    }

    #[test]
    fn streams_spread_and_few_move_when_an_origin_is_added() {
        let list: Vec<String> = (0..4).map(|i| format!("10.0.0.{i}:7000")).collect();
        let three = Directory::new(&list[..3], 0);
        let four = Directory::new(&list, 0);
        let mut share = [0; 4];
        let mut moved = 0;
        for i in 0..4000 {
            let (before, after) = (three.locate(&name(i)).unwrap(), four.locate(&name(i)).unwrap());
            share[after] += 1;
            assert!(before == after || after == 3, "a stream moves only to the new origin");
            moved += usize::from(before != after);
        }
        assert!(share.iter().all(|n| (850..1150).contains(n)), "{share:?}");
        assert_eq!(moved, share[3]);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let list: Vec<String> = (0..3).map(|i| format!("10.0.0.{i}:7000")).collect();
        let turned: Vec<String> = list.iter().rev().cloned().collect();
        let (a, b) = (Directory::new(&list, 0), Directory::new(&turned, 0));
        for i in 0..100 {
            let (x, y) = (a.locate(&name(i)).unwrap(), b.locate(&name(i)).unwrap());
            assert_eq!(a.origins()[x], b.origins()[y]);
        }
        assert_eq!(Directory::new(&[], 0).locate(&name(0)), None);
    }
}
