//! The choice of a path: which relays, in which order, at which price (docs/spec/05-paths.md).

use std::sync::Arc;

use circuit::aead::Suite;
use circuit::keys::{Random, RelayId};
use circuit::node::Now;
use circuit::setup::{PathHop, Role, Terms};
use directory::atlas::{Atlas, Blank};
use directory::descriptor::epoch;
use directory::view::{Unfit, View};
use payments::Address;
use payments::amount::Rate;
use payments::class::Class;

use self::roster::{Candidate, Roster};
use self::search::Search;
use crate::guards::{Guards, Standing};
use crate::quality::Quality;
use crate::wishes::{Location, Place, Wishes};

mod market;
mod no_path;
mod roster;
mod search;

pub use self::market::{CELLS_PER_GIB, per_gib};
pub use self::no_path::NoPath;
pub use self::roster::MOST_TIMES_MEDIAN;

/// Chooses relays by wishes, price, bandwidth and own measurements.
#[derive(Debug)]
pub struct Paths {
    rng: Random,
    view: View,
    wishes: Wishes,
    atlas: Arc<dyn Atlas>,
    guards: Guards,
    quality: Quality,
    shunned: Vec<Address>,
    roster: Option<Roster>,
}

/// What a path is chosen from, and with.
struct Parts<'a> {
    rng: &'a mut Random,
    roster: &'a Roster,
    wishes: &'a Wishes,
    quality: &'a Quality,
    guards: &'a mut Guards,
    shunned: &'a [Address],
    view: &'a View,
}

impl Paths {
    /// A chooser whose randomness is `rng`; it knows no guards yet, and no table of addresses.
    pub fn new(rng: Random, view: View, wishes: Wishes) -> Self {
        Self {
            rng,
            view,
            wishes,
            atlas: Arc::new(Blank),
            guards: Guards::default(),
            quality: Quality::default(),
            shunned: vec![],
            roster: None,
        }
    }

    /// The same, with guards that were stored.
    #[must_use]
    pub fn with_guards(self, guards: Guards) -> Self {
        Self { guards, ..self }
    }

    /// The same, where relays are where a table of addresses says.
    #[must_use]
    pub fn with_atlas(self, atlas: Arc<dyn Atlas>) -> Self {
        Self { atlas, roster: None, ..self }
    }

    /// The relays that are known.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Other relays are known now.
    // path.quality.1
    pub fn set_view(&mut self, now: Now, view: View) {
        let old = std::mem::replace(&mut self.view, view);
        let sequence = |view: &View, id: &_| view.get(id).map(|relay| relay.sequence);
        self.quality.pardon(now.instant, |id| sequence(&self.view, id) > sequence(&old, id));
        self.roster = None;
    }

    /// What the user wants.
    pub const fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// The guards.
    pub const fn guards(&self) -> &Guards {
        &self.guards
    }

    /// The guards, to tell what became of them.
    pub const fn guards_mut(&mut self) -> &mut Guards {
        &mut self.guards
    }

    /// What was measured.
    pub const fn quality(&self) -> &Quality {
        &self.quality
    }

    /// The owners of relays that are no entries for now, where there are others: they have lied about money.
    // pay.meter.1
    pub fn set_shunned(&mut self, owners: Vec<Address>) {
        self.shunned = owners;
    }

    /// What was measured, to add to it.
    pub const fn quality_mut(&mut self) -> &mut Quality {
        &mut self.quality
    }

    /// Where a relay is.
    pub fn location(&self, id: &RelayId) -> Location {
        self.view.get(id).map_or_else(Location::default, |relay| roster::location(relay, &*self.atlas))
    }

    /// Why no path has a relay, if that is so: what is wrong with it, or else the setting of the wish that rules it out.
    pub fn unfit(&self, now: Now, id: &RelayId) -> Option<Result<Unfit, &'static str>> {
        if let Err(unfit) = self.view.usable(id, now.unix()) {
            return Some(Ok(unfit));
        }
        let places = [Place::Entry, Place::Middle, Place::Exit];
        let at = self.location(id);
        places.iter().all(|place| self.wishes.unmet(*place, id, at).is_some()).then_some(Err("exclude"))
    }

    /// Makes the list of relays anew where it is no longer right.
    fn parts(&mut self, now: Now, port: Option<u16>) -> Parts<'_> {
        let unix = now.unix();
        let old = self.roster.take().filter(|roster| roster.holds(unix));
        let mut roster = old.unwrap_or_else(|| Roster::new(&self.view, unix, &self.wishes, &*self.atlas));
        roster.open_market(&self.view, self.wishes.hops, port);
        Parts {
            rng: &mut self.rng,
            roster: self.roster.insert(roster),
            wishes: &self.wishes,
            quality: &self.quality,
            guards: &mut self.guards,
            shunned: &self.shunned,
            view: &self.view,
        }
    }

    /// The entry to be used: the first guard that does not rest; a new one only when all rest, and while they are few.
    // path.guard.1
    pub fn entry(&mut self, now: Now) -> Result<RelayId, NoPath> {
        let parts = self.parts(now, None);
        let usable = parts.roster.all().len();
        let hops = parts.wishes.hops;
        let (view, unix) = (parts.view, now.unix());
        let or_few = |why| view.gap().map_or(why, NoPath::FewKnown);
        if usable < hops {
            return Err(or_few(NoPath::TooFewRelays { known: parts.roster.known(), usable, hops }));
        }
        parts.guards.note(now.instant, |id| standing(view, id, unix));
        let fit = parts.entries().map_err(or_few)?;
        parts.guards.expire(unix);
        let ids: Vec<_> = parts.guards.iter().map(|guard| guard.id).collect();
        let Parts { rng, roster, wishes, quality, guards, .. } = parts;
        let mut search = Search::new(roster, wishes, quality, rng, now.instant);
        let mut leads_on = |id: &RelayId| {
            fit.iter().find(|(entry, _)| entry.id == *id).is_some_and(|(entry, class)| {
                search.class = *class;
                search.path(entry).is_some()
            })
        };
        let old: Vec<_> = ids.iter().copied().filter(|id| leads_on(id)).collect();
        if let Some(entry) = guards.choose(now.instant, |id| old.contains(id)) {
            return Ok(entry);
        }
        let (lost, few) = (guards.lost(now.instant), view.gap());
        if lost.is_none()
            && few.is_none()
            && let Some(entry) = new_guard(&mut search, &fit, &ids)
        {
            guards.add(unix, entry, search.rng);
            return Ok(entry);
        }
        if let Some(entry) = guards.longest_rested(|id| old.contains(id)) {
            return Ok(entry);
        }
        if let Some(lost) = lost {
            return Err(NoPath::GuardsLost(lost));
        }
        // path.guard.9
        if let Some(few) = few {
            return Err(NoPath::FewKnown(few));
        }
        // Nobody leads on: of the first it can be said why.
        let Some((entry, class)) = fit.first() else {
            return Err(NoPath::NoExit { usable, port: 0, exits: 0, owners: 0, needed: 0 });
        };
        search.class = *class;
        Err(search.why_not(entry))
    }

    /// A guard that comes before the entry in use, and rests no longer.
    // path.guard.1
    pub(crate) fn better(&mut self, now: Now, entry: &RelayId) -> Option<RelayId> {
        let mut before = self.guards.awake_before(now.instant, entry);
        if before.is_empty() {
            return None;
        }
        let fit = self.parts(now, None).entries().ok()?;
        before.retain(|id| fit.iter().any(|(relay, _)| relay.id == *id));
        before.into_iter().find(|id| self.choose(now, *id, None).is_ok())
    }

    /// A path from `entry` to an exit for `port` (any exit where there is none); no relay twice (circuit.setup.8).
    pub fn choose(&mut self, now: Now, entry: RelayId, port: Option<u16>) -> Result<Vec<PathHop>, NoPath> {
        self.choose_via(now, entry, port, None)
    }

    /// The same, with a relay that the path must have: as its exit if it is one, else as the first middle.
    pub fn choose_via(
        &mut self,
        now: Now,
        entry: RelayId,
        port: Option<u16>,
        via: Option<RelayId>,
    ) -> Result<Vec<PathHop>, NoPath> {
        let Parts { rng, roster, wishes, quality, view, .. } = self.parts(now, port);
        let (usable, hops) = (roster.all().len(), wishes.hops);
        let entry =
            roster.get(&entry).ok_or_else(|| NoPath::TooFewRelays { known: roster.known(), usable, hops })?;
        let class = class(roster, wishes, entry, port)?;
        let mut search = Search::new(roster, wishes, quality, rng, now.instant);
        (search.port, search.class, search.via) = (port, class, via);
        let path = search.path(entry).ok_or_else(|| search.why_not(entry))?;
        let terms = terms(class, entry, hops);
        let path: Option<_> =
            path.iter().zip(terms).map(|(relay, terms)| hop(view, relay, now, terms)).collect();
        // A path is never shorter than it was asked for.
        path.ok_or_else(|| NoPath::TooFewRelays { known: roster.known(), usable, hops })
    }
}

impl<'a> Parts<'a> {
    /// The relays that wishes and prices leave for the entry, each with the class of its paths.
    // path.price.3
    fn entries(&self) -> Result<Vec<(&'a Candidate, Option<Class>)>, NoPath> {
        let (roster, wishes, hops) = (self.roster, self.wishes, self.wishes.hops);
        let market = roster.market(None)?;
        let could =
            |relay: &Candidate| (hops > 1 || relay.serves(None)) && market.is_none_or(|m| m.is_entry(relay));
        let fit = search::entries(roster, wishes, could)?;
        let class = |relay| market.and_then(|market| market.class(relay));
        let mut fit: Vec<_> = fit.into_iter().map(|relay| (relay, class(relay))).collect();
        let honest =
            |relay: &Candidate| relay.payment.is_none_or(|payment| !self.shunned.contains(&payment.owner));
        if fit.iter().any(|(relay, _)| honest(relay)) {
            fit.retain(|(relay, _)| honest(relay));
        }
        let Some((market, max)) = market.zip(wishes.max_price) else { return Ok(fit) };
        let (ruled_out, least) = (fit.len(), fit.iter().filter_map(|(relay, _)| market.price(relay)).min());
        fit.retain(|(relay, _)| market.price(relay).is_some_and(|price| price <= max));
        match least {
            Some(least) if fit.is_empty() => Err(NoPath::TooDear { ruled_out, least, max, hops, port: 0 }),
            _ => Ok(fit),
        }
    }
}

/// What is known of a relay. Where the registry has it and no descriptor that can be used is known, somebody may be keeping it from
/// us; a relay that is not in a signed list any more has gone.
// path.guard.8
fn standing(view: &View, id: &RelayId, unix: u64) -> Standing {
    match view.usable(id, unix) {
        Err(Unfit::Missing | Unfit::Expired { .. } | Unfit::NoOnionKey { .. }) if view.is_bonded(id) => {
            Standing::Hidden
        }
        Err(Unfit::Missing | Unfit::Unregistered | Unfit::BondTooLow { .. }) => Standing::Gone,
        _ => Standing::Known,
    }
}

/// A new guard: with other owners and subnets than the others, and no exit where paths have several relays, since exits
/// are scarcer; as far as there are such ones from which a path leads on.
fn new_guard(
    search: &mut Search<'_>,
    fit: &[(&Candidate, Option<Class>)],
    old: &[RelayId],
) -> Option<RelayId> {
    let others: Vec<_> = old.iter().filter_map(|id| search.roster.get(id)).collect();
    let (hops, now) = (search.wishes.hops, search.now);
    let ranks: [fn(bool, bool, bool) -> bool; 5] = [
        |trusted, distinct, spare| trusted && distinct && spare,
        |trusted, distinct, _| trusted && distinct,
        |trusted, _, _| trusted,
        |_, distinct, _| distinct,
        |_, _, _| true,
    ];
    let mut barred = vec![];
    for rank in ranks {
        loop {
            let drawn = search.draw(
                |search, relay| {
                    let trusted = !search.quality.is_avoided(now, &relay.id);
                    let distinct = !others.iter().any(|other| relay.clashes(other, search.wishes));
                    let spare = hops == 1 || relay.exit.is_none();
                    rank(trusted, distinct, spare)
                        && !old.contains(&relay.id)
                        && !barred.contains(&relay.id)
                        && fit.binary_search_by_key(&relay.id, |(fit, _)| fit.id).is_ok()
                },
                |_, _| false,
            );
            let Some(entry) = drawn else { break };
            let class = fit.iter().find(|(fit, _)| fit.id == entry.id).and_then(|(_, class)| *class);
            search.class = class;
            if search.path(entry).is_some() {
                return Some(entry.id);
            }
            barred.push(entry.id);
        }
    }
    None
}

/// The class of paths from this entry, if its price is not too high; `None` on a free network.
// path.price.3
fn class(
    roster: &Roster,
    wishes: &Wishes,
    entry: &Candidate,
    port: Option<u16>,
) -> Result<Option<Class>, NoPath> {
    let Some(market) = roster.market(port)? else { return Ok(None) };
    let class = market.class(entry).ok_or_else(|| market.no_exit())?;
    let least = market::price(class, entry, wishes.hops);
    match wishes.max_price {
        Some(max) if least > max => {
            Err(NoPath::TooDear { ruled_out: 1, least, max, hops: wishes.hops, port: port.unwrap_or(0) })
        }
        _ => Ok(Some(class)),
    }
}

/// The conditions of all hops, entry first.
fn terms(class: Option<Class>, entry: &Candidate, hops: usize) -> Vec<Terms> {
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

fn hop(view: &View, relay: &Candidate, now: Now, terms: Terms) -> Option<PathHop> {
    let epoch = epoch(now.unix());
    let onion = *view.onion_key(&relay.id, epoch)?;
    Some(PathHop { id: relay.id, onion, epoch, suite: Suite::Aegis128L, terms })
}

#[cfg(test)]
mod tests;
