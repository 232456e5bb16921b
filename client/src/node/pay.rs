//! How the entry is paid, and how much circuits may send back.

use std::net::SocketAddr;
use std::time::Duration;

use circuit::error::DropReason;
use circuit::keys::RelayId;
use circuit::ledger::{AccountId, Ledger};
use circuit::link::LinkId;
use circuit::node::Now;
use circuit::packet::{Cell, CircuitWord, PACKET, Packet, PacketType};
use circuit::setup::PathHop;
use circuit::table::CircuitKey;
use payments::Address;
use payments::frame::{Frame, Frames};
use payments::wallet::Refusal;

use super::{ClientNode, Entry, Failure, Payer};

/// The backward cells that all circuits of a link have granted together: 8 MiB of them (pay.grant.5).
const WINDOW: u64 = 6_000;
/// The most and the fewest of one circuit that has streams.
const MOST: u64 = 4_096;
const FEWEST: u64 = 128;
/// A grant that nothing followed is said again after so long, so often.
const AGAIN: Duration = Duration::from_secs(1);
const TIMES: u8 = 3;

/// The entry is not paid yet for what is to be built.
pub(super) struct NotPaid;

impl ClientNode {
    /// Its money, to look at.
    pub const fn payer(&self) -> Option<&Payer> {
        self.payer.as_ref()
    }

    /// The packets sent with frames of payments.
    pub const fn payment_packets(&self) -> u64 {
        self.payment_packets
    }

    /// What the entry is owed and was paid.
    pub const fn ledger(&self) -> &Ledger {
        self.origin.ledger()
    }

    /// Its money, to take from what it has for the outside.
    pub const fn payer_mut(&mut self) -> Option<&mut Payer> {
        self.payer.as_mut()
    }

    /// Tells the money what has happened outside: records kept, the pot seen.
    pub fn with_payer<T>(&mut self, now: Now, work: impl FnOnce(&mut Payer, &mut Ledger) -> T) -> Option<T> {
        let result = work(self.payer.as_mut()?, self.origin.ledger_mut());
        self.worked = true;
        self.wake_all();
        self.act(now);
        self.settle(now);
        Some(result)
    }

    fn owner(&self, entry: Entry) -> Option<Address> {
        self.paths.view().payment(&entry.relay).map(|payment| payment.owner)
    }

    /// The account that a circuit is charged to; none if it is free.
    pub(super) fn account_for(
        &mut self,
        now: Now,
        entry: Entry,
        path: &[PathHop],
    ) -> Result<Option<AccountId>, NotPaid> {
        let compact = path.first().map_or(0, |hop| hop.terms.rate_in);
        let rate = wire::compact::decode(compact).unwrap_or_default();
        if rate == 0 {
            return Ok(None);
        }
        let owner = self.owner(entry).ok_or(NotPaid)?;
        let payer = self.payer.as_mut().ok_or(NotPaid)?;
        self.worked = true;
        let ledger = self.origin.ledger_mut();
        let account = payer.entry_up(now, ledger, entry.link, owner);
        ledger.engage(account, rate);
        if !self.origin.may_build(account, rate) {
            payer.noted(now, self.origin.ledger_mut(), account);
        }
        let refusal = payer.refusal(owner);
        let paid = self.origin.may_build(account, rate);
        if let Some(refusal) = refusal.filter(|_| !paid) {
            self.counts.last_error = Some(format!("the entry is not paid: {refusal}"));
        }
        // pay.credit.6: an entry that does not answer is as good as one that refuses; what is wrong with our own pot is not its fault.
        self.note_refusal(now, !paid && refusal.is_none_or(|why| matches!(why, Refusal::Payee(_))));
        if paid { Ok(Some(account)) } else { Err(NotPaid) }
    }

    /// The entry has not got what it was paid ahead.
    pub(super) fn not_credited(&mut self, now: Now) {
        let owner = self.entry.and_then(|entry| self.owner(entry));
        if let (Some(owner), Some(payer)) = (owner, &mut self.payer) {
            if payer.unknown(now, self.origin.ledger_mut(), owner).is_err() {
                payer.leave(now, self.origin.ledger(), owner);
            }
            self.leave_dishonest(now);
        }
    }

    /// Takes the frames of payments of a control packet.
    pub(super) fn handle_payments(&mut self, now: Now, link: LinkId, cell: &Cell) -> Result<(), DropReason> {
        self.worked = true;
        let mut taken = Ok(());
        for frame in Frames::new(cell) {
            let payer = self.payer.as_mut().ok_or(DropReason::Misbehaved)?;
            taken = match frame {
                Ok(frame) => payer.handle(now, self.origin.ledger_mut(), link, &frame),
                Err(malformed) => Err(malformed.into()),
            };
            if taken.is_err() {
                break;
            }
        }
        self.leave_dishonest(now);
        self.wake_all();
        taken
    }

    /// Whether a relay is not to be paid at the moment, for what it did.
    pub(super) fn distrusts(&self, relay: &RelayId) -> bool {
        let owner = self.paths.view().payment(relay).map(|payment| payment.owner);
        owner.zip(self.payer.as_ref()).is_some_and(|(owner, payer)| payer.distrusts(owner))
    }

    /// Leaves an entry that lies or takes more than it can explain, and all circuits over it.
    // pay.meter.1
    fn leave_dishonest(&mut self, now: Now) {
        let Some(entry) = self.entry.filter(|entry| self.distrusts(&entry.relay)) else { return };
        self.counts.last_error =
            Some("the entry was left: it charged for what it did not carry, or lied about draws".to_owned());
        self.leave_entry(now);
        let over: Vec<_> =
            self.pool.keys().filter(|key| self.origin.link(**key) == Some(entry.link)).copied().collect();
        for key in over {
            self.origin.close(now, key);
            self.lost(now, key, Failure::Destroyed);
        }
    }

    /// Circuits that waited until the entry was paid go on.
    fn wake_all(&mut self) {
        for key in self.pool.keys() {
            self.flows.wake(*key);
        }
    }

    /// Pays what the ledger has noted.
    pub(super) fn act_on_money(&mut self, now: Now) {
        let Some(payer) = &mut self.payer else { return };
        while let Some(account) = self.origin.ledger_mut().poll_note() {
            self.worked = true;
            payer.noted(now, self.origin.ledger_mut(), account);
        }
    }

    /// Lets circuits that have streams send back more, when one of them has used a good part of what it may.
    pub(super) fn grant(&mut self, key: CircuitKey) {
        if self.payer.is_none() || self.flows.on(key) == 0 {
            return;
        }
        let window = self.window();
        if !self.grant_one(key, window, window / 4) {
            return;
        }
        // The others go in the same packet.
        let others: Vec<_> = self.pool.keys().copied().filter(|other| self.flows.on(*other) > 0).collect();
        for other in others {
            self.grant_one(other, window, window / 16);
        }
    }

    fn window(&self) -> u64 {
        let active = self.pool.keys().filter(|key| self.flows.on(**key) > 0).count() as u64;
        (WINDOW / active.max(1)).clamp(FEWEST, MOST)
    }

    fn grant_one(&mut self, key: CircuitKey, window: u64, step: u64) -> bool {
        let granted = self.origin.grant(key, window, step);
        self.say(granted)
    }

    fn say(&mut self, granted: Option<(LinkId, CircuitWord, u64)>) -> bool {
        let (Some((link, word, cells)), Some(payer)) = (granted, &mut self.payer) else { return false };
        payer.send(link, Frame::Grant { circuit: word.with_kind(PacketType::Cell).to_bits(), cells });
        true
    }

    /// Says grants again that nothing has followed, then asks the exit for a sign of life, and leaves what gives none.
    pub(super) fn grant_again(&mut self, now: Now) {
        if self.payer.is_none() {
            return;
        }
        let (mut silent, mut dead) = (vec![], vec![]);
        for (key, circuit) in &mut self.pool {
            if self.flows.on(*key) == 0 {
                circuit.probe = None;
                continue;
            }
            // pay.deliver.2: only if what asks was sent.
            let patience = 3 * circuit.patience();
            let gives_none = |(at, sent)| circuit.sent > sent && at + patience <= now.instant;
            let waits = now.instant.saturating_duration_since(circuit.heard)
                >= AGAIN * (1 + u32::from(circuit.repeats));
            if circuit.probe.is_some_and(gives_none) {
                dead.push(*key);
            } else if waits && circuit.repeats < TIMES {
                circuit.repeats += 1;
                silent.push(*key);
            } else if waits && circuit.repeats == TIMES {
                circuit.repeats += 1;
                circuit.probe = Some((now.instant, circuit.sent));
                self.flows.ping(*key);
            }
        }
        for key in dead {
            self.leave_circuit(now, key);
        }
        for key in silent {
            let granted = self.origin.granted(key);
            self.say(granted);
        }
    }

    /// Lets what was not answered be said again.
    pub(super) fn pay_timeout(&mut self, now: Now) {
        if let Some(payer) = &mut self.payer {
            payer.handle_timeout(now, self.origin.ledger_mut());
            self.worked = true;
        }
    }

    /// Writes frames of payments that wait.
    pub(super) fn transmit_payments(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        let payer = self.payer.as_mut()?;
        loop {
            let mut packet = Packet::blank(out);
            let link = payer.poll_frames(packet.cell())?;
            packet.set_word(CircuitWord::CONTROL);
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                self.payment_packets += 1;
                return Some(to);
            }
        }
    }
}
