//! The prices of a paid network: the class that a path is of, and what it costs (docs/spec/05-paths.md section 4).

use std::collections::BTreeMap;

use directory::chain::Chain;
use directory::payment::Payment;
use payments::Address;
use payments::amount::{Rate, Tier, Wei};
use payments::class::Class;

use super::no_path::NoPath;
use super::roster::Candidate;

/// The bytes of an application that a cell carries at least, when there are enough of them: a QUIC packet without its
/// header (5), tag (4) and the header of a stream frame (15).
const PAYLOAD: u64 = circuit::cell::MAX_DATA as u64 - 24;
/// The cells that carry 1 GiB; acknowledgements and accounting, a few in a hundred, come on top.
pub const CELLS_PER_GIB: u64 = (1u64 << 30).div_ceil(PAYLOAD);

/// What 1 GiB costs at so much per cell.
pub fn per_gib(rate: Rate) -> Wei {
    rate.times(CELLS_PER_GIB)
}

/// What the usable relays of a paid network ask, for paths of one length to one port.
#[derive(Debug)]
pub(super) struct Market {
    /// What each middle is paid.
    middle: Tier,
    /// What an exit is paid at least.
    exit: Tier,
    /// Who has an exit, and the least that one of the owner's exits asks, in the order of the asks.
    exits: Vec<(Rate, Address)>,
    hops: usize,
    no_exit: NoPath,
}

/// What each hop of a path from this entry is paid and pays on.
pub(super) fn rates(class: Class, entry: &Candidate, hops: usize) -> Vec<(Rate, Rate)> {
    let ask = |payment: Payment| if hops == 1 { payment.exit_ask } else { payment.ask };
    class.rates(entry.payment.map_or(Rate::FREE, ask), hops)
}

/// What a cell of such a path costs.
pub(super) fn price(class: Class, entry: &Candidate, hops: usize) -> Rate {
    rates(class, entry, hops).first().map_or(Rate::FREE, |(rate_in, _)| *rate_in)
}

impl Market {
    /// The least tiers that enough owners accept: whoever is the entry, so that the class does not tell.
    // path.price.1
    pub(super) fn new(
        usable: &[Candidate],
        chain: &Chain,
        hops: usize,
        port: Option<u16>,
    ) -> Result<Self, NoPath> {
        let operators = usize::from(chain.exit_operators);
        let middles = lowest(usable.iter().filter_map(|relay| Some((relay.owner()?, relay.payment?.ask))));
        if middles.len() < hops {
            return Err(NoPath::TooFewOwners { usable: usable.len(), owners: middles.len(), hops });
        }
        let exits = usable.iter().filter(|relay| relay.serves(port));
        let count = exits.clone().count();
        let exits = lowest(exits.filter_map(|relay| Some((relay.owner()?, relay.payment?.exit_ask))));
        let no_exit = NoPath::NoExit {
            usable: usable.len(),
            port: port.unwrap_or(0),
            exits: count,
            owners: exits.len(),
            needed: operators,
        };
        let tier =
            |asks: &[(Rate, Address)], owners: usize| Tier::covering(asks.get(owners.checked_sub(1)?)?.0);
        // An exit's relays may be middles too, so there are as many owners of middles; if not, the prices are absurd.
        let middle = tier(&middles, operators.max(hops)).ok_or(no_exit)?;
        let exit = tier(&exits, operators).ok_or(no_exit)?;
        Ok(Self { middle, exit, exits, hops, no_exit })
    }

    /// The class of paths from an entry; `None` if nobody but its owner has an exit.
    pub(super) fn class(&self, entry: &Candidate) -> Option<Class> {
        let (middle, mut exit) = (self.middle, self.exit);
        if self.hops > 1 {
            // Where one operator is enough it must be another one than the entry's.
            let (ask, _) = self.exits.iter().find(|(_, other)| Some(*other) != entry.owner())?;
            if *ask > exit.rate() {
                exit = Tier::covering(*ask)?;
            }
        }
        Some(Class { middle, exit })
    }

    /// What a cell costs from this entry on.
    pub(super) fn price(&self, entry: &Candidate) -> Option<Rate> {
        Some(price(self.class(entry)?, entry, self.hops))
    }

    /// Whether a relay is an entry for this network's clients: it asks no more than the others are paid.
    // path.price.2
    pub(super) fn is_entry(&self, relay: &Candidate) -> bool {
        let accepts = |payment: Payment| match self.hops {
            1 => relay.exit.is_some() && payment.exit_ask <= self.exit.rate(),
            _ => payment.ask <= self.middle.rate(),
        };
        relay.payment.is_some_and(accepts) && self.class(relay).is_some()
    }

    /// That nobody is left for the end of a path.
    pub(super) const fn no_exit(&self) -> NoPath {
        self.no_exit
    }
}

/// The least that each owner asks, ascending; without what no tier pays.
fn lowest(asks: impl Iterator<Item = (Address, Rate)>) -> Vec<(Rate, Address)> {
    let highest = Tier::new(Tier::MAX).map_or(Rate::FREE, Tier::rate);
    let mut least = BTreeMap::new();
    for (owner, ask) in asks.filter(|(_, ask)| *ask <= highest) {
        least.entry(owner).and_modify(|least: &mut Rate| *least = ask.min(*least)).or_insert(ask);
    }
    let mut all: Vec<_> = least.into_iter().map(|(owner, ask)| (ask, owner)).collect();
    all.sort_unstable();
    all
}
