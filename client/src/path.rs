//! The choice of a path: which relays, in which order, at which price.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::keys::{Random, RelayId};
use circuit::node::Now;
use circuit::setup::{PathHop, Role, Terms};
use directory::descriptor::{SignedDescriptor, epoch};
use directory::payment::Payment;
use directory::view::View;
use payments::amount::Rate;
use payments::class::Class;
use rand_core::Rng as _;

use self::market::{Market, owner, serves};

mod market;

pub use self::market::{CELLS_PER_GIB, per_gib};

/// How long a relay that may have failed is avoided where others will do.
const AVOIDED: Duration = Duration::from_mins(1);
/// The most relays that are used as entries: each of them sees who we are.
const MAX_ENTRIES: usize = 3;

/// Why there is no path; says what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// Too few relays for so many hops.
    #[error(
        "{usable} of {known} known relays can be used now, and a path of {hops} hops needs {hops}: lower the number of hops, get a newer network file, or correct this computer's clock"
    )]
    TooFewRelays {
        /// In the view.
        known: usize,
        /// With a valid descriptor and an onion key.
        usable: usize,
        /// Asked for.
        hops: usize,
    },
    /// Too few owners for so many hops, on a paid network.
    #[error(
        "the {usable} relays that can be used now are of {owners} owners, and a path of {hops} hops needs {hops} of them: lower the number of hops, or get a newer network file"
    )]
    TooFewOwners {
        /// Relays that can be used.
        usable: usize,
        /// Their owners whose prices are on the scale.
        owners: usize,
        /// Asked for.
        hops: usize,
    },
    /// No exit for this port, or on a paid network too few of them for a price that tells nobody apart.
    #[error("{}", no_exit(*usable, *port, *exits, *owners, *needed))]
    NoExit {
        /// With a valid descriptor and an onion key.
        usable: usize,
        /// Asked for; 0 stands for any.
        port: u16,
        /// Relays that are exits for the port.
        exits: usize,
        /// Their owners, on a paid network.
        owners: usize,
        /// The owners that a price class needs; 0 on a free network.
        needed: usize,
    },
    /// The maximum price is too low.
    #[error(
        "a path of {hops} hops{} costs at least {} wei per GiB, and the maximum price of {} wei per GiB rules out {ruled_out} of the relays that may be its entry: raise the maximum price, or lower the number of hops",
        for_port(*port), per_gib(*least), per_gib(*max)
    )]
    TooDear {
        /// Relays that could be the entry at a higher price.
        ruled_out: usize,
        /// What the cheapest of them costs per cell, the whole path included.
        least: Rate,
        /// What a cell may cost.
        max: Rate,
        /// Asked for.
        hops: usize,
        /// Asked for; 0 stands for any.
        port: u16,
    },
}

impl NoPath {
    /// The port without which there might be a path.
    pub const fn port(&self) -> Option<u16> {
        match *self {
            Self::NoExit { port, .. } | Self::TooDear { port, .. } if port != 0 => Some(port),
            _ => None,
        }
    }
}

fn no_exit(usable: usize, port: u16, exits: usize, owners: usize, needed: usize) -> String {
    let port = for_port(port);
    if exits == 0 || needed == 0 {
        format!("none of {usable} usable relays is an exit{port}")
    } else if owners < needed {
        format!(
            "{exits} of {usable} usable relays are exits{port}, of {owners} owners, and a price that {needed} owners accept is needed: get a newer network file, or one that asks for fewer exit operators"
        )
    } else {
        format!(
            "{exits} of {usable} usable relays are exits{port}, but no others than those of the entry's owner at a price of the scale: get a newer network file"
        )
    }
}

fn for_port(port: u16) -> String {
    if port == 0 { String::new() } else { format!(" for port {port}") }
}

/// Chooses relays at random, keeps to few entries, and avoids for a while what may have failed.
#[derive(Debug)]
pub struct Paths {
    rng: Random,
    /// In the order they were chosen; the first that is not avoided is used.
    entries: Vec<RelayId>,
    avoided: BTreeMap<RelayId, Instant>,
    /// The most that a cell may cost in all, on a paid network.
    pub max_price: Option<Rate>,
}

impl Paths {
    /// A chooser whose randomness is `rng`.
    pub const fn new(rng: Random) -> Self {
        Self { rng, entries: Vec::new(), avoided: BTreeMap::new(), max_price: None }
    }

    /// Avoids a relay for a while.
    pub fn avoid(&mut self, now: Instant, relay: RelayId) {
        self.avoided.insert(relay, now + AVOIDED);
    }

    /// Trusts a relay again: it took part in something that worked.
    pub fn trust(&mut self, relay: &RelayId) {
        self.avoided.remove(relay);
    }

    /// Whether a relay may have failed a while ago, and has taken part in nothing that worked since.
    pub fn is_avoided(&self, now: Instant, relay: &RelayId) -> bool {
        self.avoided.get(relay).is_some_and(|until| *until > now)
    }

    /// The entry to be used; a new one only when all are avoided that were used before, and while they are few.
    ///
    /// With one hop the entry is the exit too. Otherwise relays that are no exits come first: exits are scarcer, and one
    /// must be left for the end of the path.
    pub fn entry(&mut self, view: &View, now: Now, hops: usize) -> Result<RelayId, NoPath> {
        let single = hops == 1;
        let usable: Vec<_> = usable(view, now).collect();
        if usable.len() < hops {
            return Err(NoPath::TooFewRelays { known: view.iter().len(), usable: usable.len(), hops });
        }
        let market = market(view, &usable, hops, None)?;
        let usable = self.entries_for(market.as_ref(), usable, hops)?;
        self.entries
            .retain(|id| usable.iter().any(|relay| relay.id == *id && (!single || relay.exit.is_some())));
        if let Some(entry) = self.entries.iter().find(|id| !self.is_avoided(now.instant, id)) {
            return Ok(*entry);
        }
        // When nobody answers it may be our own network: the one that was avoided first is tried again.
        let tried_first = self.entries.iter().min_by_key(|id| self.avoided.get(id)).copied();
        if let Some(entry) = tried_first.filter(|_| self.entries.len() >= MAX_ENTRIES) {
            return Ok(entry);
        }
        let spare_exits = market.is_some() || usable.iter().filter(|relay| relay.exit.is_some()).count() > 1;
        let ranks: [fn(bool, bool, bool) -> bool; 4] = [
            |avoided, fit, _| !avoided && fit,
            |avoided, _, spare| !avoided && spare,
            |_, fit, _| fit,
            |_, _, spare| spare,
        ];
        for rank in ranks {
            let suits = |relay: &&&SignedDescriptor| {
                let fit = relay.exit.is_some() == single;
                let new = !self.entries.contains(&relay.id);
                new && rank(self.is_avoided(now.instant, &relay.id), fit, spare_exits && !single)
            };
            let ids: Vec<_> = usable.iter().filter(suits).map(|relay| relay.id).collect();
            if let Some(entry) = self.pick(&ids) {
                self.entries.push(entry);
                return Ok(entry);
            }
        }
        tried_first.ok_or(NoPath::NoExit { usable: usable.len(), port: 0, exits: 0, owners: 0, needed: 0 })
    }

    /// Those that may be the entry: on a paid network the price counts.
    // directory.path.4
    fn entries_for<'a>(
        &self,
        market: Option<&Market>,
        mut usable: Vec<&'a SignedDescriptor>,
        hops: usize,
    ) -> Result<Vec<&'a SignedDescriptor>, NoPath> {
        let Some(market) = market else { return Ok(usable) };
        usable.retain(|relay| market.is_entry(relay));
        let Some(max) = self.max_price else { return Ok(usable) };
        let (ruled_out, least) = (usable.len(), usable.iter().filter_map(|relay| market.price(relay)).min());
        usable.retain(|relay| market.price(relay).is_some_and(|price| price <= max));
        match least {
            Some(least) if usable.is_empty() => Err(NoPath::TooDear { ruled_out, least, max, hops, port: 0 }),
            _ => Ok(usable),
        }
    }

    /// A path of `hops` relays from `entry` to an exit for `port` (any exit where there is none); no relay twice
    /// (circuit.setup.8).
    pub fn choose(
        &mut self,
        view: &View,
        now: Now,
        entry: RelayId,
        hops: usize,
        port: Option<u16>,
    ) -> Result<Vec<PathHop>, NoPath> {
        let usable: Vec<_> = usable(view, now).collect();
        let too_few = NoPath::TooFewRelays { known: view.iter().len(), usable: usable.len(), hops };
        let entry = *usable.iter().find(|relay| relay.id == entry).ok_or(too_few)?;
        let class = self.class(view, &usable, entry, hops, port)?;
        let no_exit = NoPath::NoExit {
            usable: usable.len(),
            port: port.unwrap_or(0),
            exits: if class.is_some() {
                usable.iter().filter(|relay| serves(relay, port)).count()
            } else {
                0
            },
            owners: 1,
            needed: 1,
        };
        let mut path = vec![entry];
        if hops > 1 {
            let exits = usable.iter().filter(|relay| serves(relay, port) && !clashes(relay, &path));
            // directory.path.2
            let exits: Vec<_> = exits
                .filter(|relay| qualifies(relay, class, |class, ask| ask.exit_ask <= class.exit.rate()))
                .copied()
                .collect();
            let exit = self.pick_trusted(now, &exits).ok_or(no_exit)?;
            path.push(exit);
            while path.len() < hops {
                let middles = usable.iter().filter(|relay| !clashes(relay, &path));
                let middles: Vec<_> = middles
                    .filter(|relay| qualifies(relay, class, |class, ask| ask.ask <= class.middle.rate()))
                    .copied()
                    .collect();
                let middle = self.pick_trusted(now, &middles).ok_or(too_few)?;
                path.insert(path.len() - 1, middle);
            }
        } else if !serves(entry, port) {
            return Err(no_exit);
        }
        let terms = terms(class, entry, hops);
        Ok(path.iter().zip(terms).filter_map(|(relay, terms)| hop(relay, now, terms)).collect())
    }

    /// What each cell of a path from `entry` costs in all; nothing on a free network.
    pub fn price(
        &self,
        view: &View,
        now: Now,
        entry: RelayId,
        hops: usize,
        port: Option<u16>,
    ) -> Result<Rate, NoPath> {
        let usable: Vec<_> = usable(view, now).collect();
        let too_few = NoPath::TooFewRelays { known: view.iter().len(), usable: usable.len(), hops };
        let entry = *usable.iter().find(|relay| relay.id == entry).ok_or(too_few)?;
        let class = self.class(view, &usable, entry, hops, port)?;
        Ok(class.map_or(Rate::FREE, |class| market::price(class, entry, hops)))
    }

    /// The class of paths from this entry, if its price is not too high; `None` on a free network.
    // directory.path.4
    fn class(
        &self,
        view: &View,
        usable: &[&SignedDescriptor],
        entry: &SignedDescriptor,
        hops: usize,
        port: Option<u16>,
    ) -> Result<Option<Class>, NoPath> {
        let Some(market) = market(view, usable, hops, port)? else { return Ok(None) };
        let class = market.class(entry).ok_or_else(|| market.no_exit())?;
        let least = market::price(class, entry, hops);
        match self.max_price {
            Some(max) if least > max => {
                Err(NoPath::TooDear { ruled_out: 1, least, max, hops, port: port.unwrap_or(0) })
            }
            _ => Ok(Some(class)),
        }
    }

    /// One of them at random, of those that are not avoided; if all are, of those whose failure is longest ago.
    fn pick_trusted<'a>(
        &mut self,
        now: Now,
        relays: &[&'a SignedDescriptor],
    ) -> Option<&'a SignedDescriptor> {
        let failed = |relay: &&SignedDescriptor| {
            self.avoided.get(&relay.id).filter(|until| **until > now.instant).copied()
        };
        let longest_ago = relays.iter().map(failed).min()?;
        let best: Vec<_> = relays.iter().copied().filter(|relay| failed(relay) == longest_ago).collect();
        self.pick(&best)
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let count = u64::try_from(choices.len()).ok().filter(|count| *count > 0)?;
        // The bias of a 64-bit draw over so few relays is far below anything that can be seen.
        let at = usize::try_from(self.rng.next_u64() % count).ok()?;
        choices.get(at).copied()
    }
}

fn usable(view: &View, now: Now) -> impl Iterator<Item = &SignedDescriptor> {
    view.iter().filter(move |relay| view.usable(&relay.id, now.unix()).is_ok())
}

/// What the relays ask; `None` on a free network.
fn market(
    view: &View,
    usable: &[&SignedDescriptor],
    hops: usize,
    port: Option<u16>,
) -> Result<Option<Market>, NoPath> {
    view.chain().map(|chain| Market::new(usable, chain, hops, port)).transpose()
}

/// Whether a relay or its owner is in the path already (circuit.setup.8).
// directory.path.1
fn clashes(relay: &SignedDescriptor, path: &[&SignedDescriptor]) -> bool {
    let same_owner = |other: &SignedDescriptor| owner(relay).is_some() && owner(relay) == owner(other);
    path.iter().any(|other| other.id == relay.id || same_owner(other))
}

/// Whether a relay accepts the price of a class; on a free network each does.
fn qualifies(
    relay: &SignedDescriptor,
    class: Option<Class>,
    accepts: impl Fn(Class, &Payment) -> bool,
) -> bool {
    class.is_none_or(|class| relay.payment.is_some_and(|payment| accepts(class, &payment)))
}

/// The conditions of all hops, entry first.
fn terms(class: Option<Class>, entry: &SignedDescriptor, hops: usize) -> Vec<Terms> {
    let Some(class) = class else { return vec![Terms::default(); hops] };
    let rates = market::rates(class, entry, hops);
    let compact = |rate: Rate| rate.encode().unwrap_or(0);
    let role = |hop: usize| if hop + 1 == hops { Role::Exit } else { Role::Forward };
    (0..)
        .zip(rates)
        .map(|(hop, (rate_in, rate_out))| Terms {
            class: class.number(),
            role: role(hop),
            rate_in: compact(rate_in),
            rate_out: compact(rate_out),
        })
        .collect()
}

fn hop(relay: &SignedDescriptor, now: Now, terms: Terms) -> Option<PathHop> {
    let epoch = epoch(now.unix());
    let onion = *relay.onion_key(epoch)?;
    Some(PathHop { id: relay.id, onion, epoch, suite: Suite::Aegis128L, terms })
}

#[cfg(test)]
mod tests;
