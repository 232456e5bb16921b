//! The choice of a path: which relays, in which order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::keys::{Random, RelayId};
use circuit::node::Now;
use circuit::setup::{PathHop, Terms};
use directory::descriptor::{SignedDescriptor, epoch};
use directory::view::View;
use rand_core::Rng as _;

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
    /// No exit for this port.
    #[error("none of {usable} usable relays is an exit{}", for_port(*port))]
    NoExit {
        /// With a valid descriptor and an onion key.
        usable: usize,
        /// Asked for; 0 stands for any.
        port: u16,
    },
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
}

impl Paths {
    /// A chooser whose randomness is `rng`.
    pub const fn new(rng: Random) -> Self {
        Self { rng, entries: Vec::new(), avoided: BTreeMap::new() }
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
        let spare_exits = usable.iter().filter(|relay| relay.exit.is_some()).count() > 1;
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
        tried_first.ok_or(NoPath::NoExit { usable: usable.len(), port: 0 })
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
        let mut path = vec![entry];
        if hops > 1 {
            let exits: Vec<_> = usable
                .iter()
                .filter(|relay| {
                    relay.exit.as_ref().is_some_and(|exit| port.is_none_or(|port| exit.accepts(port)))
                        && relay.id != entry
                })
                .map(|relay| relay.id)
                .collect();
            let exit = self
                .pick_trusted(now, &exits)
                .ok_or_else(|| NoPath::NoExit { usable: usable.len(), port: port.unwrap_or(0) })?;
            while path.len() + 1 < hops {
                let middles: Vec<_> = usable
                    .iter()
                    .map(|relay| relay.id)
                    .filter(|id| *id != exit && !path.contains(id))
                    .collect();
                let middle = self.pick_trusted(now, &middles).ok_or_else(|| NoPath::TooFewRelays {
                    known: view.iter().len(),
                    usable: usable.len(),
                    hops,
                })?;
                path.push(middle);
            }
            path.push(exit);
        } else if let Some(port) = port
            && !view.get(&entry).is_some_and(|r| r.exit.as_ref().is_some_and(|exit| exit.accepts(port)))
        {
            return Err(NoPath::NoExit { usable: usable.len(), port });
        }
        Ok(path.iter().filter_map(|id| hop(view, now, id)).collect())
    }

    /// One of them at random, of those that are not avoided; if all are, of those whose failure is longest ago.
    fn pick_trusted(&mut self, now: Now, ids: &[RelayId]) -> Option<RelayId> {
        let failed = |id: &RelayId| self.avoided.get(id).filter(|until| **until > now.instant).copied();
        let longest_ago = ids.iter().map(failed).min()?;
        let best: Vec<_> = ids.iter().copied().filter(|id| failed(id) == longest_ago).collect();
        self.pick(&best)
    }

    fn pick(&mut self, ids: &[RelayId]) -> Option<RelayId> {
        let count = u64::try_from(ids.len()).ok().filter(|count| *count > 0)?;
        // The bias of a 64-bit draw over so few relays is far below anything that can be seen.
        let at = usize::try_from(self.rng.next_u64() % count).ok()?;
        ids.get(at).copied()
    }
}

fn usable(view: &View, now: Now) -> impl Iterator<Item = &SignedDescriptor> {
    view.iter().filter(move |relay| view.usable(&relay.id, now.unix()).is_ok())
}

fn hop(view: &View, now: Now, id: &RelayId) -> Option<PathHop> {
    let epoch = epoch(now.unix());
    let onion = *view.onion_key(id, epoch)?;
    Some(PathHop { id: *id, onion, epoch, suite: Suite::Aegis128L, terms: Terms::default() })
}

#[cfg(test)]
mod tests;
