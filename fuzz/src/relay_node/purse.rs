//! The money around a relay: its cashier, and a client's wallet that is used as the fuzzer likes.

use circuit::ledger::AccountId;
use circuit::node::Now;
use circuit::origin::Origin;
use circuit::relay::Asks;
use circuit::setup::{PathHop, Role, Terms};
use payments::Address;
use payments::amount::Wei;
use payments::frame::Frame;
use payments::wallet::Wallet;
use router::cashier::{Cashier, CashierConfig};
use router::node::RelayNode;

use crate::input::Input;
use crate::neighbour::ASK;
use crate::payments::{DOMAIN, account, forge, signer, till, wallet};

/// The cells of a draw.
const UNIT: u128 = 384;

/// The pot of the relay under test.
fn owner() -> Address {
    crate::neighbour::owner(1)
}

/// The pot of the client.
pub(super) fn payer() -> Address {
    signer(9).address()
}

pub(super) fn config() -> (Asks, CashierConfig) {
    let config =
        CashierConfig { owner: owner(), wallet: wallet(owner(), 8, 1), till: till(owner()), meters: vec![] };
    (Asks { forward: ASK, exit: ASK }, config)
}

pub(super) struct Purse {
    wallet: Wallet,
    target: u128,
    own: Option<AccountId>,
    /// What the relay has said, and what the wallet has.
    heard: Vec<Frame>,
    said: Vec<Frame>,
}

impl Purse {
    pub(super) fn new() -> Self {
        let wallet = wallet(payer(), 9, UNIT * u128::from(ASK));
        Self { wallet, target: 0, own: None, heard: vec![], said: vec![] }
    }

    /// Serves what the relay's money wants of the outside.
    pub(super) fn serve(now: Now, node: &mut RelayNode) {
        while let Some((book, id, _)) = node.cashier_mut().and_then(Cashier::poll_record) {
            node.with_cashier(now, |cashier, ledger| cashier.persisted(now, ledger, book, id));
        }
        while let Some(address) = node.cashier_mut().and_then(Cashier::poll_lookup) {
            let seen = account(9);
            node.with_cashier(now, |cashier, ledger| cashier.seen(now, ledger, address, seen));
        }
        while let Some(claim) = node.cashier_mut().and_then(Cashier::poll_claim) {
            assert_eq!(claim.signer(&DOMAIN), Some(payer()), "a win that nobody has signed");
            node.with_cashier(now, |cashier, _| {
                cashier.redeemed_by_us(payer(), claim.session.nonce, true);
            });
        }
    }

    /// Gives the wallet what came from the relay.
    pub(super) fn take(&mut self, now: Now, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            // Whoever is at the other end was not honest; the relay is.
            let handled = self.wallet.handle(now.unix(), owner(), &frame);
            let honest = handled.is_ok() || !frame.is_for_payer();
            assert!(honest, "{handled:?} for {frame:?}");
            self.heard.push(frame);
        }
    }

    /// Has the wallet pay so many draws more; what it says.
    pub(super) fn pay(&mut self, now: Now, draws: u128) -> Vec<Frame> {
        self.target += draws * UNIT * u128::from(ASK);
        self.wallet.pay(now.unix(), owner(), Wei(self.target));
        self.wallet.handle_timeout(now.unix());
        while let Some((id, _)) = self.wallet.poll_record() {
            self.wallet.persisted(now.unix(), id);
        }
        let mut frames = vec![];
        while frames.len() < 8
            && let Some((_, frame)) = self.wallet.poll_frame()
        {
            frames.push(frame);
        }
        self.said.extend(&frames);
        frames
    }

    /// Something that was said before, changed.
    pub(super) fn forge(&mut self, input: &mut Input<'_>) -> Vec<Frame> {
        let all = if input.u8() & 1 == 1 { &self.heard } else { &self.said };
        let frame = all.get(input.below(all.len())).copied();
        frame.and_then(|frame| forge(input, frame)).into_iter().collect()
    }

    /// Puts prices on a path; the account that its client pays from.
    pub(super) fn price(&mut self, origin: &mut Origin, path: &mut [PathHop]) -> AccountId {
        let last = path.len() - 1;
        let role = if last == 0 { Role::Exit } else { Role::Forward };
        let rate_in = wire::compact::encode(ASK).unwrap();
        path[0].terms = Terms { class: 0, role, rate_in, rate_out: 0 };
        *self.own.get_or_insert_with(|| origin.ledger_mut().open())
    }
}
