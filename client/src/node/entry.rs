//! The link to the entry: dialled, watched, and replaced by that of another relay when it falls silent.

use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::link::{LinkId, Peer};
use circuit::setup::Status;

use super::{Circuit, ClientNode, Event, Failure, NoPath, Now, Payer, Purpose, Strikes};

/// An entry that does not answer for so long is replaced. Its link is given up only later, and what stands on it goes on
/// should it speak again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// An entry that takes no payment for so long is replaced: it may not see the chain, and others may have open sessions.
const REFUSAL: Duration = Duration::from_secs(10);

/// The entry in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) relay: RelayId,
    pub(super) link: LinkId,
    pub(super) peer: Peer,
    dialled: Instant,
    /// Since when it takes no payment.
    refuses: Option<Instant>,
}

impl ClientNode {
    /// The entry, dialled if need be; `None` while its link does not stand.
    pub(super) fn entry_up(&mut self, now: Now) -> Result<Option<Entry>, NoPath> {
        if let Some(entry) = self.entry
            && self.paths.view().usable(&entry.relay, now.unix()).is_ok()
            && !self.distrusts(&entry.relay)
        {
            return Ok(Some(entry).filter(|entry| self.links.is_up(entry.link)));
        }
        self.entry = None;
        self.shun();
        let id = self.paths.entry(now)?;
        if self.distrusts(&id) {
            // There are no others.
            return Ok(None);
        }
        self.entry = self.dial(now, id);
        self.tell_guards();
        Ok(self.entry.filter(|entry| self.links.is_up(entry.link)))
    }

    /// Rules out as entries whom the money distrusts.
    // pay.meter.1
    fn shun(&mut self) {
        let owners = self.payer.as_ref().map(Payer::distrusted).unwrap_or_default();
        self.paths.set_shunned(owners);
    }

    fn dial(&mut self, now: Now, id: RelayId) -> Option<Entry> {
        let relay = self.paths.view().get(&id)?;
        let peer = Peer { id, link_key: relay.link_key, address: relay.dialled()? };
        match self.links.dial(now, &peer) {
            Ok(link) => Some(Entry { relay: id, link, peer, dialled: now.instant, refuses: None }),
            Err(error) => {
                self.counts.last_error = Some(error.to_string());
                None
            }
        }
    }

    /// Tries a guard again that comes before the entry in use, and goes back to it once it answers; what stands over the
    /// other one goes on, and takes nothing new.
    // path.guard.1
    pub(super) fn return_to_guard(&mut self, now: Now) {
        let Some(entry) = self.entry.filter(|entry| self.links.is_up(entry.link)) else {
            self.probe = None;
            return;
        };
        let Some(probe) = self.probe.filter(|probe| !self.distrusts(&probe.relay)) else {
            self.shun();
            let better = self.paths.better(now, &entry.relay);
            self.probe = better.and_then(|id| self.dial(now, id));
            return;
        };
        if self.links.is_up(probe.link) {
            self.probe = None;
            self.entry = Some(probe);
            for (key, circuit) in &mut self.pool {
                circuit.retired |= self.origin.link(*key) == Some(entry.link);
            }
        } else if now.instant.saturating_duration_since(probe.dialled) > PATIENCE {
            self.probe = None;
            self.paths.guards_mut().failed(now.instant, &probe.relay);
        }
    }

    /// Replaces an entry that is silent; circuits that stand over it take nothing new until it speaks again.
    pub(super) fn watch_entry(&mut self, now: Now) {
        let Some(entry) = self.entry else { return };
        let silence = if self.links.is_up(entry.link) {
            self.links.silence(now, entry.link)
        } else {
            now.instant.saturating_duration_since(entry.dialled)
        };
        if silence < PATIENCE.max(3 * self.links.rtt(entry.link).unwrap_or_default()) {
            return;
        }
        self.leave_entry(now);
        let mut unanswered = vec![];
        for (key, circuit) in &mut self.pool {
            if self.origin.link(*key) == Some(entry.link) {
                if circuit.opened.is_none() {
                    unanswered.push(*key);
                }
                circuit.silent.get_or_insert(now.instant);
            }
        }
        for key in unanswered {
            self.origin.close(now, key);
            self.lost(now, key, Failure::Silent);
        }
    }

    /// The entry takes our payment, or does not.
    pub(super) fn note_refusal(&mut self, now: Now, refuses: bool) {
        let Some(entry) = &mut self.entry else { return };
        entry.refuses = refuses.then(|| entry.refuses.unwrap_or(now.instant));
        if entry.refuses.is_some_and(|since| now.instant.saturating_duration_since(since) >= REFUSAL) {
            self.leave_entry(now);
        }
    }

    /// Goes on with another entry.
    pub(super) fn leave_entry(&mut self, now: Now) {
        if let Some(entry) = self.entry.take() {
            self.paths.quality_mut().strike(now.instant, entry.relay);
            self.paths.guards_mut().failed(now.instant, &entry.relay);
            self.strikes = Strikes::default();
        }
    }

    /// A circuit was not built though its entry answered: of a guard over which few are, nothing good is to be expected.
    // path.guard.6
    pub(super) fn count_against_guard(&mut self, now: Now, circuit: &Circuit, failure: Failure) {
        let beyond = matches!(
            failure,
            Failure::Refused(Status::Unreachable)
                | Failure::TimedOut
                | Failure::BadReply
                | Failure::Destroyed
        );
        let Some(guard) = circuit.path.first() else { return };
        if !beyond || matches!(circuit.purpose, Purpose::Test(_)) {
            return;
        }
        if self.paths.guards_mut().count(guard, false) {
            self.counts.last_error = Some(
                "a guard was given up: fewer than three in ten of the circuits over it came to stand"
                    .to_owned(),
            );
            if self.entry.is_some_and(|entry| entry.relay == *guard) {
                self.leave_entry(now);
            }
        }
        self.tell_guards();
    }

    /// Has the guards stored where they have changed.
    // path.guard.5
    pub(super) fn tell_guards(&mut self) {
        if self.paths.guards_mut().take_changed() {
            self.events.push_back(Event::Guards);
        }
    }

    /// What is to be stored of the guards.
    pub fn guards(&self) -> Vec<u8> {
        self.paths.guards().encode(self.network)
    }
}
