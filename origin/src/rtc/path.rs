//! Which addresses a peer was verified at, and the one that it chose.

use super::socket::Path;

/// Addresses that one peer is known at; more replace the oldest. A phone has a few, behind a few NATs.
const PATHS_MAX: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    known: Vec<Path>,
    selected: Option<Path>,
}

/// What a verified check changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: bool,
    pub(crate) forgotten: Option<Path>,
    pub(crate) selected: bool,
}

impl Paths {
    /// A verified check came over a path; `chosen`: the peer nominates it (RFC 8445 7.3.1.5).
    pub(crate) fn verified(&mut self, path: Path, chosen: bool) -> Change {
        let mut change = Change::default();
        match self.known.iter_mut().find(|known| known.peer() == path.peer()) {
            Some(known) => *known = path,
            None => {
                if self.known.len() == PATHS_MAX {
                    let oldest =
                        self.known.iter().position(|known| Some(known.peer()) != self.selected.map(Path::peer));
                    change.forgotten = oldest.map(|at| self.known.remove(at));
                }
                self.known.push(path);
                change.added = true;
            }
        }
        // Until it has chosen, what works is used.
        if (chosen || self.selected.is_none()) && self.selected != Some(path) {
            change.selected = self.selected.is_none_or(|selected| selected.peer() != path.peer());
            self.selected = Some(path);
        }
        change
    }

    /// Where to send.
    pub(crate) fn selected(&self) -> Option<Path> {
        self.selected
    }

    /// All of them.
    pub(crate) fn known(&self) -> impl Iterator<Item = Path> {
        self.known.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { socket: 0, peer: ([192, 0, 2, 1], port).into(), local: None }
    }

    #[test]
    fn the_first_is_used_until_one_is_chosen() {
        let mut paths = Paths::default();
        assert_eq!(paths.verified(path(1), false), Change { added: true, forgotten: None, selected: true });
        assert_eq!(paths.verified(path(2), false), Change { added: true, forgotten: None, selected: false });
        assert_eq!(paths.selected(), Some(path(1)));
        assert!(paths.verified(path(2), true).selected);
        assert!(!paths.verified(path(2), true).selected && !paths.verified(path(1), false).selected);
        assert_eq!(paths.selected(), Some(path(2)));
        let local = Path { local: Some([127, 0, 0, 2].into()), ..path(2) };
        assert_eq!(paths.verified(local, true), Change::default(), "the same peer by another address of ours");
        assert_eq!(paths.selected(), Some(local));
    }

    #[test]
    fn old_ones_are_forgotten_but_not_the_chosen() {
        let mut paths = Paths::default();
        paths.verified(path(1), true);
        let forgotten: Vec<_> = (2..20).filter_map(|port| paths.verified(path(port), false).forgotten).collect();
        assert_eq!(forgotten, (2..13).map(path).collect::<Vec<_>>());
        assert_eq!((paths.selected(), paths.known().count()), (Some(path(1)), PATHS_MAX));
    }
}
