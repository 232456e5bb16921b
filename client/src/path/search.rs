//! The search for one path: weighted draws, and steps back where they lead nowhere.

use std::time::Instant;

use circuit::keys::{Random, RelayId};
use directory::payment::Payment;
use payments::class::Class;
use rand_core::Rng as _;

use super::no_path::NoPath;
use super::roster::{Candidate, Roster};
use crate::quality::Quality;
use crate::wishes::{Place, RuledOut, Wishes};

/// Relays that are drawn before all that fit are listed.
const DRAWS: usize = 16;
/// Relays that are looked at for one path at most, whatever the network is like.
const MOST_LOOKED_AT: usize = 3_000_000;

/// The search for a path over one entry.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) roster: &'a Roster,
    pub(super) wishes: &'a Wishes,
    pub(super) quality: &'a Quality,
    pub(super) rng: &'a mut Random,
    pub(super) now: Instant,
    pub(super) port: Option<u16>,
    /// What hops are paid, on a paid network.
    pub(super) class: Option<Class>,
    /// A relay that the path must have.
    pub(super) via: Option<RelayId>,
    looked_at: usize,
}

impl<'a> Search<'a> {
    pub(super) const fn new(
        roster: &'a Roster,
        wishes: &'a Wishes,
        quality: &'a Quality,
        rng: &'a mut Random,
        now: Instant,
    ) -> Self {
        Self { roster, wishes, quality, rng, now, port: None, class: None, via: None, looked_at: 0 }
    }

    /// Whether a relay may be the exit, by wishes and price.
    fn may_end(&self, relay: &Candidate) -> bool {
        // path.price.1
        relay.unmet(Place::Exit).is_none()
            && relay.serves(self.port)
            && self.accepts(relay, |class, ask| ask.exit_ask <= class.exit.rate())
    }

    /// Whether a relay may be a middle, by wishes and price.
    fn may_carry(&self, relay: &Candidate) -> bool {
        relay.unmet(Place::Middle).is_none()
            && self.accepts(relay, |class, ask| ask.ask <= class.middle.rate())
    }

    /// Whether a relay accepts the price of the class; on a free network each does.
    fn accepts(&self, relay: &Candidate, accepts: impl Fn(Class, &Payment) -> bool) -> bool {
        self.class.is_none_or(|class| relay.payment.is_some_and(|payment| accepts(class, &payment)))
    }

    fn clashes(&self, relay: &Candidate, path: &[&Candidate]) -> bool {
        path.iter().any(|other| relay.clashes(other, self.wishes))
    }

    /// A path from an entry, if there is one.
    pub(super) fn path(&mut self, entry: &'a Candidate) -> Option<Vec<&'a Candidate>> {
        let hops = self.wishes.hops;
        if hops == 1 {
            return Some(vec![entry])
                .filter(|_| self.may_end(entry) && self.via.is_none_or(|via| via == entry.id));
        }
        let via = self.via.filter(|via| *via != entry.id);
        let ends =
            via.filter(|via| hops == 2 || self.roster.get(via).is_some_and(|relay| self.may_end(relay)));
        let mut barred = vec![];
        loop {
            let exit = self.draw(
                |search, relay| {
                    search.may_end(relay)
                        && ends.is_none_or(|via| via == relay.id)
                        && !relay.clashes(entry, search.wishes)
                        && !barred.contains(&relay.id)
                },
                |search, relay| hops == 2 && search.is_bad_edge(entry, relay),
            )?;
            let mut path = vec![entry, exit];
            let middle = if ends.is_some() { None } else { via };
            if self.fill(&mut path, hops - 2, middle, &mut vec![]) {
                return Some(path);
            }
            barred.push(exit.id);
        }
    }

    /// Puts so many relays before the exit, with `via` as the first of them; false if that cannot be.
    fn fill(
        &mut self,
        path: &mut Vec<&'a Candidate>,
        missing: usize,
        via: Option<RelayId>,
        barred: &mut Vec<RelayId>,
    ) -> bool {
        if missing == 0 {
            return true;
        }
        let known = barred.len();
        loop {
            let (before, after) = (path.iter().rev().nth(1).copied(), path.last().copied());
            let middle = self.draw(
                |search, relay| {
                    search.may_carry(relay)
                        && via.is_none_or(|via| via == relay.id)
                        && !search.clashes(relay, path)
                        && !barred.contains(&relay.id)
                },
                |search, relay| {
                    before.is_some_and(|before| search.is_bad_edge(before, relay))
                        || after.is_some_and(|after| search.is_bad_edge(relay, after))
                },
            );
            let Some(middle) = middle else {
                barred.truncate(known);
                return false;
            };
            path.insert(path.len() - 1, middle);
            if self.fill(path, missing - 1, None, barred) {
                return true;
            }
            path.remove(path.len() - 2);
            // Whatever comes beside it, no path has this one.
            barred.push(middle.id);
        }
    }

    fn is_bad_edge(&self, from: &Candidate, to: &Candidate) -> bool {
        self.quality.is_bad_edge(self.now, &from.id, &to.id)
    }

    /// One of the relays that fit, by weight, of those that are trusted; if none is, of those whose failure is longest ago.
    // path.weight.2 path.quality.1
    pub(super) fn draw(
        &mut self,
        fits: impl Fn(&Self, &Candidate) -> bool,
        is_bad: impl Fn(&Self, &Candidate) -> bool,
    ) -> Option<&'a Candidate> {
        if self.looked_at > MOST_LOOKED_AT {
            return None;
        }
        let (roster, quality, now) = (self.roster, self.quality, self.now);
        let all = roster.weight();
        for _ in 0..DRAWS {
            // The bias of a 64-bit draw over so small a sum is far below anything that can be seen.
            let relay = roster.at(self.rng.next_u64().checked_rem(all)?)?;
            let trusted = || !quality.is_avoided(now, &relay.id) && !is_bad(self, relay);
            if fits(self, relay) && trusted() && self.is_lucky(quality.factor(now, &relay.id)) {
                return Some(relay);
            }
        }
        self.looked_at += roster.all().len();
        let fit: Vec<_> = roster.weighted().filter(|(relay, _)| fits(self, relay)).collect();
        let doubt = |relay: &Candidate| (is_bad(self, relay), quality.avoided(now, &relay.id));
        let least = fit.iter().map(|(relay, _)| doubt(relay)).min()?;
        let best: Vec<_> = fit.into_iter().filter(|(relay, _)| doubt(relay) == least).collect();
        let factors =
            best.iter().map(|(relay, weight)| weight.saturating_mul(parts(quality.factor(now, &relay.id))));
        let mut place = self.rng.next_u64().checked_rem(factors.clone().sum())?;
        for ((relay, _), weight) in best.iter().zip(factors) {
            match place.checked_sub(weight) {
                Some(rest) => place = rest,
                None => return Some(relay),
            }
        }
        None
    }

    fn is_lucky(&mut self, chance: f32) -> bool {
        self.rng.next_u64() % WHOLE < parts(chance)
    }

    /// Why no path from this entry is found.
    // path.wish.2
    pub(super) fn why_not(&self, entry: &Candidate) -> NoPath {
        let (usable, port, hops) = (self.roster.all().len(), self.port.unwrap_or(0), self.wishes.hops);
        let no_exit = |exits| NoPath::NoExit { usable, port, exits, owners: 1, needed: 1 };
        let serves = |relay: &Candidate| relay.serves(self.port) && (hops > 1 || relay.id == entry.id);
        let (of, ruled_out, left) = self.roster.left_for(Place::Exit, serves);
        let distinct = left.iter().filter(|relay| hops == 1 || !relay.clashes(entry, self.wishes));
        if !distinct.clone().any(|relay| self.may_end(relay)) {
            if ruled_out.sum() == 0 {
                return no_exit(if hops == 1 { 0 } else { of });
            }
            let dear = left.iter().filter(|relay| !self.may_end(relay)).count();
            let alike = left.len() - dear;
            return NoPath::Wishes { place: Place::Exit, of, port, ruled_out, dear, alike };
        }
        let (of, ruled_out, left) = self.roster.left_for(Place::Middle, |relay| {
            self.accepts(relay, |class, ask| ask.ask <= class.middle.rate())
        });
        if left.len() < hops && ruled_out.sum() > 0 {
            return NoPath::Wishes { place: Place::Middle, of, port, ruled_out, dear: usable - of, alike: 0 };
        }
        let [owners, subnets, countries, systems] = Roster::kinds(&left);
        let countries = self.wishes.distinct_countries.then_some(countries);
        let systems = left.iter().any(|relay| relay.at.systems().next().is_some()).then_some(systems);
        NoPath::TooAlike { left: left.len(), hops, owners, subnets, systems, countries, ruled_out }
    }
}

/// What a factor of 1 is in whole parts.
const WHOLE: u64 = 256;

/// How many parts of the whole a factor is.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a factor is from 0 to 1")]
fn parts(factor: f32) -> u64 {
    (factor * 256.0) as u64
}

/// How many relays each wish rules out for the entry, and whether any are left.
pub(super) fn entries<'a>(
    roster: &'a Roster,
    wishes: &Wishes,
    could: impl Fn(&Candidate) -> bool,
) -> Result<Vec<&'a Candidate>, NoPath> {
    let (of, ruled_out, left): (usize, RuledOut, _) = roster.left_for(Place::Entry, could);
    if left.is_empty() && ruled_out.sum() > 0 {
        let place = if wishes.hops == 1 { Place::Exit } else { Place::Entry };
        return Err(NoPath::Wishes { place, of, port: 0, ruled_out, dear: 0, alike: 0 });
    }
    Ok(left)
}
