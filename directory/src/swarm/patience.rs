//! When few relays are believed to be all that there are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::swarm::place::Subnet;

/// So long more relays are waited for.
const WAIT: Duration = Duration::from_mins(5);
/// Bootstrap addresses of so many subnets must have told what they know; of one, where all may be in one site.
const WITNESSES: usize = 2;
/// The most subnets that are remembered.
const MOST: usize = 32;

/// How long few relays have been known, and whom we have heard since.
///
/// Only bootstrap addresses count: they are named by whoever made the network file, all others by those who may be hiding relays.
#[derive(Debug)]
pub(super) struct Patience {
    needed: usize,
    since: Option<Instant>,
    witnesses: BTreeSet<Subnet>,
}

impl Patience {
    pub(super) const fn new(local: bool) -> Self {
        Self { needed: if local { 1 } else { WITNESSES }, since: None, witnesses: BTreeSet::new() }
    }

    /// A bootstrap address in this subnet has told all that it knows.
    pub(super) fn heard(&mut self, subnet: Subnet) {
        if self.since.is_some() && self.witnesses.len() < MOST {
            self.witnesses.insert(subnet);
        }
    }

    /// Whether those that are known are believed to be all; `few`: they are few.
    // path.guard.9
    pub(super) fn ends(&mut self, now: Instant, few: bool) -> bool {
        if !few {
            self.since = None;
            self.witnesses.clear();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) >= WAIT && self.witnesses.len() >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(n: u8) -> Subnet {
        Subnet::of([93, n, 1, 1].into())
    }

    #[expect(clippy::disallowed_methods, reason = "a beginning; time goes on by hand")]
    fn beginning() -> Instant {
        Instant::now()
    }

    // path.guard.9
    #[test]
    fn few_are_believed_after_a_time_on_the_word_of_two_subnets() {
        let (now, mut patience) = (beginning(), Patience::new(false));
        patience.heard(subnet(1));
        assert!(!patience.ends(now, true), "what was heard before does not count");
        patience.heard(subnet(1));
        patience.heard(subnet(1));
        assert!(!patience.ends(now + 100 * WAIT, true), "one subnet may be one liar");
        patience.heard(subnet(2));
        assert!(!patience.ends(now + WAIT / 2, true));
        assert!(patience.ends(now + WAIT, true));
        assert!(!patience.ends(now + WAIT, false));
        assert!(!patience.ends(now + 2 * WAIT, true), "it begins anew");
        for n in 0..=255 {
            patience.heard(subnet(n));
        }
        assert_eq!(patience.witnesses.len(), MOST);
        let mut local = Patience::new(true);
        assert!(!local.ends(now, true));
        local.heard(subnet(1));
        assert!(local.ends(now + WAIT, true));
    }
}
