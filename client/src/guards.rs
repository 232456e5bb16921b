//! The few relays by which a client enters, the same ones for months (docs/spec/05-paths.md section 2).
//!
//! Every entry sees who we are; who changes entries often meets a bad one soon.

use std::time::{Duration, Instant};

use circuit::keys::{NetworkId, Random, RelayId};
use rand_core::Rng as _;
use wire::{Full, Malformed, Reader, Writer};

/// The most relays that are guards at once, of those that can be used.
// path.guard.1
pub const MAX_GUARDS: usize = 3;
/// The most that are remembered; among them those that are given up or gone, and may come back.
pub const MAX_REMEMBERED: usize = 20;
/// The longest file of guards.
pub const MAX_FILE: usize = HEADER + MAX_REMEMBERED * GUARD + CHECK;

const DAY: u64 = 24 * 3600;
/// How long a relay is a guard: between these, so that clients do not change theirs together.
const SHORTEST_LIFE: u64 = 90 * DAY;
const LONGEST_LIFE: u64 = 120 * DAY;
/// A guard that failed this often in a row, while others worked, is given up.
const MAX_STRIKES: u8 = 12;
/// How long a guard that failed rests at first, and at most.
const SHORTEST_REST: Duration = Duration::from_mins(1);
const LONGEST_REST: Duration = Duration::from_mins(32);
/// A guard over which fewer than three in ten of at least so many circuits stood steers paths, or is of no use.
const ENOUGH_TRIED: u32 = 100;
/// Counts are halved at this, so that the newest count most.
const MOST_TRIED: u32 = 400;
/// Circuits are counted in steps of so many: a file is not written for each.
const STEP: u32 = 20;

/// How long a guard that is hidden is waited for before another one is drawn in its place.
const WAIT: Duration = Duration::from_mins(1);
/// While so many guards are lost, hidden or given up, no other is drawn.
const MAX_LOST: usize = 5;

const MAGIC: &[u8; 4] = b"CHVG";
const FORMAT: u8 = 1;
const HEADER: usize = 4 + 1 + 16 + 1;
const GUARD: usize = 32 + 8 + 8 + 8 + 4 + 4 + 1;
const CHECK: usize = 16;

/// One guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The relay.
    pub id: RelayId,
    /// Since when, in unix seconds.
    pub added: u64,
    /// Until when, in unix seconds.
    pub expires: u64,
    /// When the first circuit stood over it, in unix seconds; 0: none has.
    pub confirmed: u64,
    /// Circuits begun over it, of late.
    pub tried: u32,
    /// Those of them that stood.
    pub built: u32,
    /// How often it failed in a row while others worked.
    pub strikes: u8,
    /// It has failed, and nobody else has worked since.
    failed: bool,
    rests: u32,
    rest_until: Option<Instant>,
    /// Since when it is hidden: registered, and not known as a relay that can be used.
    hidden: Option<Instant>,
    /// Chain or list prove that it has gone by itself.
    gone: bool,
}

/// What is known of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// How it is reached.
    Known,
    /// That it is registered, and no more.
    Hidden,
    /// That it is no relay of the network any more.
    Gone,
}

/// Why no new guard may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many guards are hidden.
    pub hidden: usize,
    /// How many others are given up.
    pub given_up: usize,
    /// Whether it is only a matter of a minute.
    pub waits: bool,
}

impl Guard {
    fn new(id: RelayId, unix: u64, rng: &mut Random) -> Self {
        let life = SHORTEST_LIFE + rng.next_u64() % (LONGEST_LIFE - SHORTEST_LIFE);
        Self {
            id,
            added: unix,
            expires: unix.saturating_add(life),
            confirmed: 0,
            tried: 0,
            built: 0,
            strikes: 0,
            failed: false,
            rests: 0,
            rest_until: None,
            hidden: None,
            gone: false,
        }
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| until > now)
    }

    /// Whether it is used only where no other guard is left.
    // path.guard.3
    const fn is_given_up(&self) -> bool {
        self.strikes >= MAX_STRIKES || self.steers()
    }

    /// Whether too few of its circuits stand.
    // path.guard.6
    const fn steers(&self) -> bool {
        self.tried >= ENOUGH_TRIED && self.built.saturating_mul(10) < self.tried.saturating_mul(3)
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.put(&self.id.0)?;
        out.u64(self.added)?;
        out.u64(self.expires)?;
        out.u64(self.confirmed)?;
        out.u32(self.tried)?;
        out.u32(self.built)?;
        out.u8(self.strikes)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: RelayId(*r.array("guard")?),
            added: r.u64("guard")?,
            expires: r.u64("guard")?,
            confirmed: r.u64("guard")?,
            tried: r.u32("guard")?,
            built: r.u32("guard")?,
            strikes: r.u8("guard")?,
            failed: false,
            rests: 0,
            rest_until: None,
            hidden: None,
            gone: false,
        })
    }
}

/// The guards of a client, in the order in which they are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    list: Vec<Guard>,
    changed: bool,
}

impl Guards {
    /// All that are remembered, in the order in which they are used.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Guard> {
        self.list.iter()
    }

    /// Whether there is something new to be stored since this was last asked.
    pub const fn take_changed(&mut self) -> bool {
        core::mem::replace(&mut self.changed, false)
    }

    /// Forgets those whose time is over.
    // path.guard.4
    pub(crate) fn expire(&mut self, unix: u64) {
        self.retain(|guard| guard.expires > unix);
    }

    /// The relay to enter by, of those that fit and are not given up: the first that does not rest, and where all rest and no
    /// other may be added, the one that has rested longest. `None` where a new one is wanted.
    // path.guard.1
    pub(crate) fn choose(&self, now: Instant, fits: impl Fn(&RelayId) -> bool) -> Option<RelayId> {
        let fit: Vec<_> = self.in_use().filter(|guard| fits(&guard.id)).take(MAX_GUARDS).collect();
        let awake = fit.iter().find(|guard| !guard.rests(now));
        // When nobody answers it may be our own network.
        let rested = || fit.iter().min_by_key(|guard| guard.rest_until).filter(|_| fit.len() >= MAX_GUARDS);
        awake.or_else(rested).map(|guard| guard.id)
    }

    fn in_use(&self) -> impl Iterator<Item = &Guard> {
        self.list.iter().filter(|guard| !guard.is_given_up())
    }

    /// Notes what is known of each guard now.
    pub(crate) fn note(&mut self, now: Instant, standing: impl Fn(&RelayId) -> Standing) {
        for guard in &mut self.list {
            let standing = standing(&guard.id);
            guard.hidden = (standing == Standing::Hidden).then(|| guard.hidden.unwrap_or(now));
            guard.gone = standing == Standing::Gone;
        }
    }

    /// Why no new guard may be drawn: who can keep descriptors or answers from us would have one after the other drawn, until
    /// it is one of his.
    // path.guard.8
    pub(crate) fn lost(&self, now: Instant) -> Option<Lost> {
        let since = || self.list.iter().filter_map(|guard| guard.hidden);
        let given_up = |guard: &&Guard| guard.is_given_up() && guard.hidden.is_none() && !guard.gone;
        let (hidden, given_up) = (since().count(), self.list.iter().filter(given_up).count());
        let most = hidden + given_up >= MAX_LOST;
        let waits = !most && since().any(|since| now.saturating_duration_since(since) < WAIT);
        (waits || most).then_some(Lost { hidden, given_up, waits })
    }

    /// Those before a relay that do not rest; all, if it is given up.
    pub(crate) fn awake_before(&self, now: Instant, id: &RelayId) -> Vec<RelayId> {
        let before = self.list.iter().take_while(|guard| guard.id != *id || guard.is_given_up());
        before.filter(|guard| !guard.is_given_up() && !guard.rests(now)).map(|guard| guard.id).collect()
    }

    /// The one that has rested longest, of those that fit, be they given up; those that steer come last.
    pub(crate) fn longest_rested(&self, fits: impl Fn(&RelayId) -> bool) -> Option<RelayId> {
        self.list
            .iter()
            .filter(|guard| fits(&guard.id))
            .min_by_key(|guard| (guard.steers(), guard.rest_until))
            .map(|guard| guard.id)
    }

    /// Whether a relay is a guard.
    pub fn has(&self, id: &RelayId) -> bool {
        self.list.iter().any(|guard| guard.id == *id)
    }

    /// Makes a relay a guard, after all others.
    pub(crate) fn add(&mut self, unix: u64, id: RelayId, rng: &mut Random) {
        if self.has(&id) {
            return;
        }
        // path.guard.7: who takes guards out of the view, one after the other, does not have the first forgotten.
        self.list.truncate(MAX_REMEMBERED - 1);
        self.list.push(Guard::new(id, unix, rng));
        self.changed = true;
    }

    /// A guard does not answer, or refuses: it rests, longer each time that others have worked since the last.
    pub(crate) fn failed(&mut self, now: Instant, id: &RelayId) {
        let Some(guard) = self.get_mut(id) else { return };
        // When nobody has worked since, it may have been our own network.
        if !core::mem::replace(&mut guard.failed, true) {
            guard.rests = guard.rests.saturating_add(1);
        }
        let doublings = guard.rests.saturating_sub(1).min(8);
        guard.rest_until = Some(now + (SHORTEST_REST * (1 << doublings)).min(LONGEST_REST));
    }

    /// A circuit stood over a guard: it is confirmed, and what others failed before counts against them.
    // path.guard.2 path.guard.3
    pub(crate) fn worked(&mut self, unix: u64, id: &RelayId) {
        let mut changed = false;
        for guard in &mut self.list {
            if guard.id == *id {
                changed |= guard.strikes > 0 || guard.confirmed == 0;
                guard.strikes = 0;
                guard.rests = 0;
                guard.rest_until = None;
                guard.failed = false;
                if guard.confirmed == 0 {
                    guard.confirmed = unix.max(1);
                }
            } else if core::mem::replace(&mut guard.failed, false) {
                guard.strikes = guard.strikes.saturating_add(1);
                changed = true;
            }
        }
        if changed {
            self.changed = true;
            // Those that were used come first, in the order of their first use.
            self.list.sort_by_key(|guard| if guard.confirmed == 0 { u64::MAX } else { guard.confirmed });
        }
    }

    /// A circuit over a guard stood, or did not though the guard answered; whether the guard is given up for that.
    // path.guard.6
    pub(crate) fn count(&mut self, id: &RelayId, built: bool) -> bool {
        let Some(guard) = self.get_mut(id) else { return false };
        let before = guard.steers();
        guard.tried += 1;
        guard.built += u32::from(built);
        let noted = guard.tried.is_multiple_of(STEP);
        if guard.tried >= MOST_TRIED {
            guard.tried /= 2;
            guard.built /= 2;
        }
        let steers = guard.steers();
        self.changed |= noted || steers != before;
        steers && !before
    }

    fn get_mut(&mut self, id: &RelayId) -> Option<&mut Guard> {
        self.list.iter_mut().find(|guard| guard.id == *id)
    }

    fn retain(&mut self, keep: impl FnMut(&Guard) -> bool) {
        let before = self.list.len();
        self.list.retain(keep);
        self.changed |= self.list.len() != before;
    }

    /// What is stored of the guards in a network.
    // path.guard.5
    pub fn encode(&self, network: NetworkId) -> Vec<u8> {
        let mut buffer = [0; MAX_FILE];
        let mut out = Writer::new(&mut buffer);
        let written = self.write(network, &mut out).map_or(0, |()| out.written());
        let mut bytes: Vec<_> = buffer.into_iter().take(written).collect();
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    fn write(&self, network: NetworkId, out: &mut Writer<'_>) -> Result<(), Full> {
        out.put(MAGIC)?;
        out.u8(FORMAT)?;
        out.put(&network.0)?;
        out.u8(u8::try_from(self.list.len()).map_err(|_| Full)?)?;
        self.list.iter().try_for_each(|guard| guard.write(out))
    }

    /// Reads what was stored; `None` if it is of another network.
    // path.guard.5
    pub fn decode(bytes: &[u8], network: NetworkId) -> Result<Option<Self>, Malformed> {
        let (body, sum) = bytes.split_last_chunk::<CHECK>().ok_or(Malformed("length"))?;
        if check(body) != *sum {
            return Err(Malformed("checksum"));
        }
        let mut r = Reader::new(body);
        if r.array("magic")? != MAGIC || r.u8("format")? != FORMAT {
            return Err(Malformed("format (another version of chive wrote it)"));
        }
        let other = r.array("network")? != &network.0;
        let count = usize::from(r.u8("guards")?);
        if count > MAX_REMEMBERED {
            return Err(Malformed("guards (at most 20)"));
        }
        let list: Vec<_> = (0..count).map(|_| Guard::read(&mut r)).collect::<Result<_, _>>()?;
        r.finish("guards")?;
        let twice = |at: usize, id| list.iter().take(at).any(|guard| guard.id == id);
        if list.iter().enumerate().any(|(at, guard)| twice(at, guard.id) || guard.built > guard.tried) {
            return Err(Malformed("guards (a relay twice, or counts that cannot be)"));
        }
        Ok((!other).then_some(Self { list, changed: false }))
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut out = [0; CHECK];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests;
