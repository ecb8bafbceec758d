//! Whether a sibling worker takes a new client in the place of this one. Pure.

use super::{State, Time};

/// How much fuller than the sibling a worker must be: else two workers would play ping-pong with their guesses.
pub const MARGIN: f64 = 0.2;

/// Clients that are passed on a second. The sibling's load is a second old, and each client makes it larger.
pub const PER_SECOND: f64 = 50.0;

/// An edge worker that may take clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sibling {
    /// Its slot.
    pub slot: u32,
    /// Its incarnation.
    pub incarnation: u64,
}

/// How full a sibling is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Who.
    pub who: Sibling,
    /// What it says of itself.
    pub state: State,
    /// How full it is, 0 to 1.
    pub load: f64,
}

/// Chooses the sibling, at a bounded rate.
#[derive(Clone, Copy, Debug)]
pub struct Relief {
    allowed: f64,
    last: Option<Time>,
}

impl Default for Relief {
    fn default() -> Self {
        Self { allowed: PER_SECOND, last: None }
    }
}

impl Relief {
    /// Who takes the next client of a worker that is `load` full: the emptiest of `siblings` that is well and clearly
    /// emptier. Each answer counts against [`PER_SECOND`].
    pub fn pass_to(&mut self, now: Time, load: f64, siblings: &[Load]) -> Option<Sibling> {
        let passed = self.last.replace(now).map_or(0.0, |last| now.saturating_sub(last).as_secs_f64());
        self.allowed = (self.allowed + passed * PER_SECOND).min(PER_SECOND);
        let fits = |sibling: &&Load| sibling.state == State::Ok && sibling.load + MARGIN <= load;
        let best = siblings.iter().filter(fits).min_by(|a, b| a.load.total_cmp(&b.load))?;
        if self.allowed < 1.0 {
            return None;
        }
        self.allowed -= 1.0;
        Some(best.who)
    }
}
