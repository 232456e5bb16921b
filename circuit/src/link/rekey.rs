//! New keys for a running link, by two control frames (docs/spec/01-link.md section 4).

use core::time::Duration;
use std::time::Instant;

use crate::error::DropReason;
use crate::keys::DhSecret;
use crate::node::Now;

use super::control::Renewal;
use super::indices::Place;
use super::session::{Ends, Keys, RENEW_AGE, RENEW_PACKETS, Session, Side};
use super::state::{Link, Shared, passed};

const REKEY_AGAIN: Duration = Duration::from_secs(1);
/// A responder takes part in a rekey of keys of this age only: each costs two key agreements.
const REKEY_AFTER: Duration = Duration::from_secs(1);

/// Our half of new keys, as the initiator.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) index: u32,
    pub(super) secret: DhSecret,
    again: Instant,
}

impl Link {
    /// When REKEY is to be sent.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        let session = self.current.as_ref().filter(|s| s.side == Side::Initiator && s.confirmed)?;
        let early = session.sealer.next() >= RENEW_PACKETS;
        Some(match &self.asked {
            Some(asked) => asked.again,
            None if early => session.born,
            None => session.born + RENEW_AGE,
        })
    }

    /// Asks for new keys, or asks again.
    pub(super) fn ask_for_keys(&mut self, now: Now, shared: &mut Shared) {
        let again = now.after(REKEY_AGAIN);
        if let Some(asked) = &mut self.asked {
            asked.again = again;
        } else if let Some(index) = shared.indices.claim(&mut shared.rng, Place::Link(self.slot)) {
            self.asked = Some(Asked { index, secret: DhSecret::random(&mut shared.rng), again });
        }
        self.wants.rekey = true;
        self.be_ready(shared);
    }

    /// REKEY came: answers it, once per set of keys.
    pub(super) fn rekey(
        &mut self,
        now: Now,
        index: u32,
        theirs: Renewal,
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let current =
            self.current.as_ref().filter(|s| s.side == Side::Responder && s.opener.index() == index);
        let Some(current) = current.filter(|s| passed(now.instant, s.born, REKEY_AFTER)) else {
            return Ok(());
        };
        // link.control.2
        if let Some((asked, _)) = &self.answered {
            self.wants.rekeyed |= *asked == theirs;
            self.be_ready(shared);
            return Ok(());
        }
        let secret = DhSecret::random(&mut shared.rng);
        let agreed = secret.agree(&theirs.ephemeral).map_err(|_| DropReason::Misbehaved)?;
        let keys = Keys::of_rekey(&current.chain, &agreed, &theirs.ephemeral, &secret.public());
        let place = Place::Link(self.slot);
        let ours = shared.indices.claim(&mut shared.rng, place).ok_or(DropReason::Limit)?;
        let ends = Ends { side: Side::Responder, suite: current.suite, ours, theirs: theirs.index };
        self.next = Some(Session::new(now.instant, &keys, ends, shared.ring()));
        self.answered = Some((theirs, Renewal { index: ours, ephemeral: secret.public() }));
        self.wants.rekeyed = true;
        self.be_ready(shared);
        Ok(())
    }

    /// REKEYED came: the initiator seals with the new keys from now on.
    pub(super) fn rekeyed(
        &mut self,
        now: Now,
        index: u32,
        theirs: Renewal,
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let current = self.current.as_ref().filter(|session| session.opener.index() == index);
        let (Some(current), Some(asked)) = (current, &self.asked) else {
            return Ok(());
        };
        let agreed = asked.secret.agree(&theirs.ephemeral).map_err(|_| DropReason::Misbehaved)?;
        let keys = Keys::of_rekey(&current.chain, &agreed, &asked.secret.public(), &theirs.ephemeral);
        let ends =
            Ends { side: Side::Initiator, suite: current.suite, ours: asked.index, theirs: theirs.index };
        self.asked = None;
        let session = Session::new(now.instant, &keys, ends, shared.ring());
        self.begin(now, session, shared);
        Ok(())
    }
}
