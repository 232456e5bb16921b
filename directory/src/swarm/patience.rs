//! When few relays are believed to be all that there are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::swarm::place::Subnet;

/// So long more relays are waited for.
const WAIT: Duration = Duration::from_mins(5);

/// Who was found at a bootstrap address when it was dialed, and in which subnet that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    /// Which of the addresses that the network file names.
    pub(super) index: usize,
    pub(super) subnet: Subnet,
    pub(super) peer: PeerId,
}

impl Witness {
    /// Whether nothing says that both are one.
    fn is_apart(&self, other: &Self) -> bool {
        self.index != other.index && self.subnet != other.subnet && self.peer != other.peer
    }
}

/// What is believed of the relays that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// They are not few.
    Enough,
    /// They are few, and others may be kept from us.
    Hidden,
    /// They are few, and no more run.
    All,
}

/// How long few relays have been known, and whom we have heard since.
///
/// Only bootstrap addresses count: they are named by whoever made the network file, all others by those who may be hiding relays.
#[derive(Debug)]
pub(super) struct Patience {
    /// Whether the user says that few are all that there are.
    told: bool,
    /// Whether one witness is enough: all may be in one site.
    local: bool,
    since: Option<Instant>,
    /// One of each address, whatever its name leads to.
    witnesses: BTreeMap<usize, Witness>,
}

impl Patience {
    pub(super) const fn new(told: bool, local: bool) -> Self {
        Self { told, local, since: None, witnesses: BTreeMap::new() }
    }

    /// Who was found at a bootstrap address has told all that it knows.
    pub(super) fn heard(&mut self, witness: Witness) {
        if self.since.is_some() && !self.suffices() {
            self.witnesses.insert(witness.index, witness);
        }
    }

    /// Whether one witness, or two that are apart, have been heard.
    fn suffices(&self) -> bool {
        let all = || self.witnesses.values();
        if self.local {
            !self.witnesses.is_empty()
        } else {
            all().any(|one| all().any(|other| one.is_apart(other)))
        }
    }

    /// What is believed of those that are known; `few`: they are few.
    // path.guard.9
    pub(super) fn look(&mut self, now: Instant, few: bool) -> Belief {
        if !few {
            self.since = None;
            self.witnesses.clear();
            return Belief::Enough;
        }
        let since = *self.since.get_or_insert(now);
        let waited = now.saturating_duration_since(since) >= WAIT && self.suffices();
        if self.told || waited { Belief::All } else { Belief::Hidden }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::identity;
    use crate::swarm::place::peer_of;

    /// The peer `peer`, found at the address `index` in the subnet `subnet`.
    fn witness(index: usize, subnet: u8, peer: u8) -> Witness {
        let peer = peer_of(&identity(peer).id()).unwrap();
        Witness { index, subnet: Subnet::of([93, subnet, 1, 1].into()), peer }
    }

    #[expect(clippy::disallowed_methods, reason = "a beginning; time goes on by hand")]
    fn beginning() -> Instant {
        Instant::now()
    }

    // path.guard.9
    #[test]
    fn few_are_believed_after_a_time_on_the_word_of_two_subnets() {
        let (now, mut patience) = (beginning(), Patience::new(false, false));
        patience.heard(witness(0, 1, 1));
        assert_eq!(patience.look(now, true), Belief::Hidden, "what was heard before does not count");
        patience.heard(witness(1, 2, 2));
        assert_eq!(patience.look(now + 100 * WAIT, true), Belief::Hidden, "one address is one liar");
        patience.heard(witness(0, 1, 1));
        assert_eq!(patience.look(now + WAIT / 2, true), Belief::Hidden);
        assert_eq!(patience.look(now + WAIT, true), Belief::All);
        assert_eq!(patience.look(now + WAIT, false), Belief::Enough);
        assert_eq!(patience.look(now + 2 * WAIT, true), Belief::Hidden, "it begins anew");
        let mut local = Patience::new(false, true);
        assert_eq!(local.look(now, true), Belief::Hidden);
        local.heard(witness(0, 1, 1));
        assert_eq!(local.look(now + WAIT, true), Belief::All);
        let mut told = Patience::new(true, false);
        assert_eq!(
            [true, false, true].map(|few| told.look(now, few)),
            [Belief::All, Belief::Enough, Belief::All]
        );
    }

    // path.guard.9
    #[test]
    fn two_witnesses_share_no_address_no_subnet_and_no_peer() {
        let now = beginning();
        let believes = |witnesses: &[Witness]| {
            let mut patience = Patience::new(false, false);
            assert_eq!(patience.look(now, true), Belief::Hidden);
            for witness in witnesses {
                patience.heard(*witness);
            }
            patience.look(now + WAIT, true) == Belief::All
        };
        let first = witness(0, 1, 1);
        assert!(believes(&[first, witness(1, 2, 2)]));
        assert!(!believes(&[first, witness(0, 2, 2)]), "one name with addresses in two subnets");
        assert!(!believes(&[first, witness(1, 1, 2)]), "one subnet");
        assert!(!believes(&[first, witness(1, 2, 1)]), "one peer");
        // A name that leads elsewhere each time keeps the word of no other from being heard, nor ends what was believed.
        let many: Vec<_> = (2..200).map(|n| witness(0, n, n)).collect();
        assert!(!believes(&many));
        assert!(believes(&[&many[..], &[witness(1, 1, 1)]].concat()));
        assert!(believes(&[&[first, witness(1, 2, 2)][..], &many].concat()));
    }
}
