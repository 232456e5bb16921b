//! A payer that opens sessions with many payees at once, beyond what its pot covers.

use std::collections::BTreeMap;

use alloy_primitives::Address;

use super::pair::{DOMAIN, NOW, PAYER, VALUE, signer, till_limits, wallet_limits};
use crate::amount::Wei;
use crate::frame::Frame;
use crate::till::{PayerAccount, Till};
use crate::wallet::{Pot, Wallet};

const PAYEES: u8 = 40;
/// A win pays so many draws.
const DRAWS: u128 = 40;
const FACE: u128 = VALUE.0 * DRAWS;
/// What the pot holds and what secures it, in faces: enough for one payee.
const BALANCE: u128 = 6;
const RESERVE: u128 = 4;
/// The sessions of a client at one payee.
const OPEN: u128 = 2;
/// Wins are redeemed, and pots seen, after so many rounds.
const BLOCK: u32 = 12;

/// A payee, and a wallet that was made for it alone and believes in a pot without end.
struct Victim {
    till: Till,
    wallet: Wallet,
    won: u128,
    redeemed: u128,
}

fn victim(n: u8) -> (Address, Victim) {
    let payee = Address::repeat_byte(n);
    let mut wallet = Wallet::new(DOMAIN, PAYER, signer(), [n; 32], wallet_limits());
    let pot = Pot { balance: Wei(1 << 90), reserve: Wei(1 << 90), unlocking: false, only_payee: None };
    wallet.on_account(NOW, Some(pot));
    let till = Till::new(DOMAIN, payee, [n; 32], [n; 32], till_limits());
    (payee, Victim { till, wallet, won: 0, redeemed: 0 })
}

impl Victim {
    /// Carries frames both ways until nothing moves; the wins that came of it.
    fn settle(&mut self, payee: Address, account: &PayerAccount) -> Vec<u32> {
        let mut wins = vec![];
        loop {
            let mut moved = false;
            while let Some((id, _)) = self.wallet.poll_record() {
                self.wallet.persisted(NOW, id);
                moved = true;
            }
            while let Some((id, _)) = self.till.poll_record() {
                self.till.persisted(id);
                moved = true;
            }
            while let Some((_, frame)) = self.wallet.poll_frame() {
                let _ = self.till.handle(NOW, PAYER, &frame, Some(account));
                moved = true;
            }
            while let Some((_, frame)) = self.till.poll_frame() {
                // A payee that refuses is asked no more.
                if !matches!(frame, Frame::SessionOk { answer, .. } if answer != crate::frame::Answer::Yes) {
                    self.wallet.handle(NOW, payee, &frame).unwrap();
                }
                moved = true;
            }
            while let Some(claim) = self.till.poll_claim() {
                self.won += claim.session.face.0;
                wins.push(claim.session.nonce);
            }
            if !moved {
                return wins;
            }
        }
    }
}

// pay.pot.2, pay.pot.4
#[test]
fn a_payer_in_overdraft_at_many_payees_costs_each_a_few_faces_at_most() {
    let mut victims: BTreeMap<_, _> = (1..=PAYEES).map(|n| victim(n + 0x40)).collect();
    let (mut balance, mut reserve) = (BALANCE * FACE, RESERVE * FACE);
    let mut seen = account(balance, reserve);
    let mut waiting = vec![];
    let mut stopped = None;
    for round in 1..=400u32 {
        let mut credited = 0;
        for (payee, victim) in &mut victims {
            let before = victim.till.credited(PAYER).0;
            let target = Wei(victim.wallet.paid(*payee).0 + 3 * VALUE.0);
            victim.wallet.pay(NOW, *payee, target);
            let wins = victim.settle(*payee, &seen);
            waiting.extend(wins.into_iter().map(|nonce| (*payee, nonce)));
            credited += victim.till.credited(PAYER).0 - before;
            // What a payee holds and is not paid is never more than it saw, and its open sessions.
            let exposed = victim.till.unredeemed(PAYER).0;
            assert!(exposed <= (BALANCE - 4 + OPEN) * FACE, "{exposed} in round {round}");
        }
        if balance < 4 * FACE && reserve < 4 * FACE && credited == 0 {
            stopped.get_or_insert(round);
        }
        if round % BLOCK == 0 {
            for (payee, nonce) in waiting.drain(..) {
                // As the contract does: out of the balance, then half of the reserve, as much burnt.
                let paid = FACE.min(balance);
                let short = (FACE - paid).min(reserve / 2);
                balance -= paid;
                reserve -= 2 * short;
                let victim = victims.get_mut(&payee).unwrap();
                victim.redeemed += paid + short;
                victim.till.redeemed(PAYER, nonce, true);
            }
            seen = account(balance, reserve);
        }
    }
    assert!(stopped.is_some_and(|round| round < 200), "{stopped:?}: nobody serves it any more");
    let worst = victims.values().map(|victim| victim.won - victim.redeemed).max().unwrap();
    assert!(worst <= (BALANCE - 4 + OPEN) * FACE, "{worst}");
    assert!(victims.values().any(|victim| victim.won > victim.redeemed), "it was an overdraft");
    assert_eq!(balance, 0);
}

fn account(balance: u128, reserve: u128) -> PayerAccount {
    PayerAccount {
        balance: Wei(balance),
        reserve: Wei(reserve),
        unlocking: false,
        signer: signer().address(),
        only_payee: None,
        head_stale: false,
        registered: false,
    }
}
