//! The money around a client: its payer, and the tills of relays that say what the fuzzer likes.

use std::collections::BTreeMap;

use circuit::ledger::AccountId;
use circuit::node::Now;
use circuit::packet::CircuitWord;
use circuit::relay::Relay;
use client::node::ClientNode;
use client::payer::Payer;
use payments::Address;
use payments::amount::Wei;
use payments::frame::{Frame, Level, Role};
use payments::till::Till;

use crate::input::Input;
use crate::neighbour::{ASK, Neighbour, owner};
use crate::payments::{account, forge, signer, till, wallet};

/// What a client pays ahead, in cells, and a draw more for each new link (pay.account.1): 64 are enough for all inputs.
const AHEAD: u128 = 1_536 + 65 * 384;

fn pot() -> Address {
    signer(9).address()
}

pub(super) fn payer() -> Payer {
    Payer::new(wallet(pot(), 9, 384 * u128::from(ASK)))
}

/// Keeps the client's records at once, and looks at what it pays.
pub(super) fn serve(now: Now, node: &mut ClientNode, peaks: &mut BTreeMap<AccountId, u128>) {
    while let Some((id, _)) = node.payer_mut().and_then(Payer::poll_record) {
        node.with_payer(now, |payer, ledger| payer.persisted(now, ledger, id));
    }
    let Some(payer) = node.payer() else { return };
    for id in payer.accounts() {
        let account = node.ledger().get(id).unwrap();
        let peak = peaks.entry(id).or_default();
        *peak = account.committed.max(*peak);
        assert!(account.paid <= *peak + AHEAD * u128::from(ASK), "{account:?}, {peak} committed at most");
    }
}

/// The till of a relay.
pub(super) struct Teller {
    till: Till,
    account: Option<AccountId>,
    /// What was said to the client, or by it.
    said: Vec<Frame>,
}

impl Teller {
    pub(super) fn new(n: u8) -> Self {
        Self { till: till(owner(n)), account: None, said: vec![] }
    }

    /// What the client's circuits are charged to.
    pub(super) fn account(&mut self, relay: &mut Relay) -> AccountId {
        *self.account.get_or_insert_with(|| relay.ledger_mut().open())
    }

    /// Takes what the client says; what is said to it.
    pub(super) fn act(&mut self, now: Now, relay: &mut Relay, neighbour: &mut Neighbour) -> Vec<Frame> {
        let link = neighbour.up.last().copied();
        for frame in core::mem::take(&mut neighbour.frames) {
            if let (Frame::Grant { circuit, cells }, Some(link)) = (frame, link) {
                let _ = relay.handle_grant(link, CircuitWord::from_bits(circuit), cells);
            }
            self.said.push(frame);
            if let Ok(credited) = self.till.handle(now.unix(), pot(), &frame, Some(&account(9))) {
                let id = self.account(relay);
                relay.ledger_mut().credit(id, credited.0);
                relay.credited(id);
            }
        }
        while let Some((id, _)) = self.till.poll_record() {
            self.till.persisted(id);
        }
        while let Some(claim) = self.till.poll_claim() {
            self.till.redeemed(pot(), claim.session.nonce, true);
        }
        let mut answers = vec![];
        while answers.len() < 8
            && let Some((_, frame)) = self.till.poll_frame()
        {
            answers.push(frame);
        }
        self.said.extend(&answers);
        answers
    }

    /// Counts and levels of its own making, or something that was said, changed.
    pub(super) fn lie(&self, input: &mut Input<'_>) -> Option<Frame> {
        let wei = |input: &mut Input<'_>| Wei(u128::from(input.u16()) << 12);
        match input.u8() % 8 {
            0 => Some(Frame::Credit(Level::Paused)),
            1 => Some(Frame::Credit(Level::Low)),
            2 => Some(Frame::Credit(Level::Ok)),
            3 => Some(Frame::Meter { role: Role::Payee, cells: 9, due: wei(input), credited: wei(input) }),
            _ => {
                let frame = self.said.get(input.below(self.said.len())).copied()?;
                forge(input, frame)
            }
        }
    }
}
