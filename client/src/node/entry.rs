//! The link to the entry: dialled, watched, and replaced by that of another relay when it falls silent.

use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::link::{LinkId, Peer};

use super::{ClientNode, Failure, NoPath, Now, Strikes};

/// An entry that does not answer for so long is replaced. Its link is given up only later, and what stands on it goes on
/// should it speak again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The entry in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) relay: RelayId,
    pub(super) link: LinkId,
    dialled: Instant,
}

impl ClientNode {
    /// The entry, dialled if need be; `None` while its link does not stand.
    pub(super) fn entry_up(&mut self, now: Now) -> Result<Option<Entry>, NoPath> {
        if let Some(entry) = self.entry
            && self.config.view.usable(&entry.relay, now.unix()).is_ok()
        {
            return Ok(Some(entry).filter(|entry| self.links.is_up(entry.link)));
        }
        self.entry = None;
        let id = self.paths.entry(&self.config.view, now, self.config.hops)?;
        if self.distrusts(&id) {
            self.paths.avoid(now.instant, id);
            return Ok(None);
        }
        if let Some(relay) = self.config.view.get(&id)
            && let Some(address) = relay.addresses.first()
        {
            let peer = Peer { id, link_key: relay.link_key, address: *address };
            match self.links.dial(now, &peer) {
                Ok(link) => {
                    self.entry = Some(Entry { relay: id, link, dialled: now.instant });
                }
                Err(error) => self.counts.last_error = Some(error.to_string()),
            }
        }
        Ok(self.entry.filter(|entry| self.links.is_up(entry.link)))
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
            self.lost(now, key, Failure::TimedOut);
        }
    }

    /// Goes on with another entry.
    pub(super) fn leave_entry(&mut self, now: Now) {
        if let Some(entry) = self.entry.take() {
            self.paths.avoid(now.instant, entry.relay);
            self.strikes = Strikes::default();
        }
    }
}
