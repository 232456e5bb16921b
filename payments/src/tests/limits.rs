//! Pots that do not cover what is to be paid, stale chains, and tables that are full.

use alloy_primitives::Address;

use super::pair::{DOMAIN, NOW, PAYEE, PAYER, Pair, account, pot, signer, till_limits, wallet_limits};
use crate::amount::Wei;
use crate::frame::{Answer, Frame};
use crate::offer::Face;
use crate::till::{PayerAccount, Till, TillError, TillLimits};
use crate::wallet::{Pot, Refusal, Wallet, WalletError};

/// With the till's limits of the tests every face is 40,000 wei.
const FACE: u128 = 40_000;

fn answer(account: Option<PayerAccount>) -> Frame {
    let mut till = Till::new(DOMAIN, PAYEE, [2; 32], [3; 32], till_limits());
    let want = Frame::Want { payer: PAYER, floor: 7, value: Wei(1000) };
    till.handle(NOW, PAYER, &want, account.as_ref()).unwrap();
    till.poll_frame().unwrap().1
}

// pay.pot.2
#[test]
fn a_till_offers_only_what_is_covered() {
    let own = account();
    let enough = PayerAccount { balance: Wei(4 * FACE), reserve: Wei(4 * FACE), ..own };
    let bound = PayerAccount { only_payee: Some(PAYEE), reserve: Wei(2 * FACE), ..enough };
    for good in [own, enough, bound] {
        assert!(matches!(answer(Some(good)), Frame::Offer { .. }), "{good:?}");
    }
    let less = |wei: Wei| Wei(wei.0 - 1);
    for (bad, why) in [
        (PayerAccount { balance: less(enough.balance), ..enough }, Answer::Balance),
        (PayerAccount { reserve: less(enough.reserve), ..enough }, Answer::Reserve),
        (PayerAccount { reserve: less(bound.reserve), ..bound }, Answer::Reserve),
        (PayerAccount { unlocking: true, ..enough }, Answer::Unlocking),
        (PayerAccount { only_payee: Some(PAYER), ..enough }, Answer::Bound),
        (PayerAccount { head_stale: true, ..enough }, Answer::Stale),
        (PayerAccount { signer: Address::ZERO, ..enough }, Answer::NoPot),
    ] {
        assert_eq!(answer(Some(bad)), Frame::SessionOk { nonce: 7, answer: why });
    }
    assert_eq!(answer(None), Frame::SessionOk { nonce: 7, answer: Answer::NoPot });
}

// pay.pot.1
#[test]
fn a_wallet_signs_only_what_is_covered() {
    let enough = Pot { balance: Wei(4 * FACE), reserve: Wei(4 * FACE), ..pot() };
    let refusal = |pot| {
        let mut pair = Pair::new();
        pair.wallet.on_account(NOW, pot);
        pair.pay(5000);
        pair.settle();
        (pair.wallet.paid(PAYEE).0, pair.wallet.refusal(PAYEE))
    };
    let less = |wei: Wei| Wei(wei.0 - 1);
    let need = Wei(4 * FACE);
    assert_eq!(refusal(Some(enough)), (5000, None));
    let poor = Pot { balance: less(need), ..enough };
    assert_eq!(refusal(Some(poor)), (0, Some(Refusal::Balance { need, have: less(need) })));
    let thin = Pot { reserve: less(need), ..enough };
    assert_eq!(refusal(Some(thin)), (0, Some(Refusal::Reserve { need, have: less(need) })));
    assert_eq!(refusal(Some(Pot { unlocking: true, ..enough })), (0, Some(Refusal::Unlocking)));
    assert_eq!(refusal(Some(Pot { only_payee: Some(PAYER), ..enough })), (0, Some(Refusal::Bound(PAYER))));
    assert_eq!(refusal(None), (0, Some(Refusal::NoPot)));
    let bound = Pot { only_payee: Some(PAYEE), reserve: Wei(2 * FACE), ..enough };
    assert_eq!(refusal(Some(bound)), (5000, None));
}

// pay.pot.1
#[test]
fn known_wins_are_kept_in_the_balance() {
    let mut pair = Pair::new();
    let balance = Wei(7 * FACE);
    pair.wallet.on_account(NOW, Some(Pot { balance, ..pot() }));
    pair.pay(10_000_000);
    pair.settle_for(5);
    let view = pair.wallet.snapshot()[0];
    assert!(matches!(view.refusal, Some(Refusal::Balance { .. })), "{view:?}");
    assert!(view.owed.0 > 3 * FACE && view.owed <= balance, "{view:?}");
    // It goes on when wins are redeemed, or something is deposited.
    pair.wallet.on_account(NOW, Some(pot()));
    pair.settle_for(5);
    assert!(pair.wallet.paid(PAYEE) > view.paid);
}

// pay.pot.3
#[test]
fn a_stale_chain_stops_draws_at_a_quarter_of_the_reserve() {
    // A win on the way would end the session: then with other odds.
    assert!((20..60).any(stale_run));
}

/// With a face of `draws` draws, and a quarter of the reserve worth half as many.
fn stale_run(draws: u32) -> bool {
    let face = u128::from(draws) * 1000;
    let mut pair = Pair::with(wallet_limits(), TillLimits { face: Face::Draws(draws), ..till_limits() });
    pair.pay(1000);
    pair.settle();
    pair.account = PayerAccount { head_stale: true, reserve: Wei(2 * face), ..account() };
    let covered = u128::from(draws / 2) + 1;
    for target in 2..=covered {
        pair.pay(target * 1000);
        let draw = pair.up.pop_front().unwrap();
        let credited = pair.till_gets(&draw);
        if pair.till.snapshot()[0].wins > 0 {
            return false;
        }
        assert_eq!(credited, Ok(Wei(1000)));
    }
    pair.pay((covered + 1) * 1000);
    let draw = pair.up.pop_front().unwrap();
    assert_eq!(pair.till_gets(&draw), Err(TillError::Stale));
    // The chain is back: the same draw counts.
    pair.account.head_stale = false;
    assert_eq!(pair.till_gets(&draw), Ok(Wei(1000)));
    true
}

// pay.pot.4
#[test]
fn a_session_ends_when_its_reserve_is_gone() {
    let mut pair = Pair::with(wallet_limits(), TillLimits { face: Face::Draws(1000), ..till_limits() });
    pair.pay(1000);
    pair.settle();
    pair.account.reserve = Wei(2 * 1_000_000 - 1);
    pair.pay(2000);
    pair.settle();
    assert_eq!((pair.wallet.paid(PAYEE), pair.till.credited(PAYER)), (Wei(1000), Wei(1000)));
    assert!(matches!(pair.wallet.refusal(PAYEE), None | Some(Refusal::Payee(Answer::Reserve))));
}

// pay.nonce.2, pay.table.1
#[test]
fn what_strangers_send_leaves_nothing_behind() {
    let limits = TillLimits { max_payers: 10, ..till_limits() };
    let mut till = Till::new(DOMAIN, PAYEE, [2; 32], [3; 32], limits);
    let pot = account();
    let mut ask = |n: u8, floor, account: Option<&PayerAccount>| {
        let payer = Address::repeat_byte(n);
        till.handle(NOW + u64::from(n), payer, &Frame::Want { payer, floor, value: Wei(1) }, account)
            .unwrap();
        (till.poll_frame().unwrap().1, till.snapshot().len())
    };
    for n in 50..200 {
        assert!(matches!(ask(n, 0, None), (Frame::SessionOk { answer: Answer::NoPot, .. }, 0)));
    }
    for n in 50..200 {
        let (frame, payers) = ask(n, 0, Some(&pot));
        assert!(matches!(frame, Frame::Offer { .. }) && payers <= 10);
    }
    // The same question has the same answer; others have one nonce each.
    let (first, _) = ask(199, 0, Some(&pot));
    assert_eq!(ask(199, 0, Some(&pot)).0, first);
    let mut nonces = vec![];
    for floor in [1, 2, 3, 1000, 999] {
        let Frame::Offer { offer, .. } = ask(199, floor, Some(&pot)).0 else { panic!() };
        assert!(offer.nonce >= floor);
        nonces.push(offer.nonce);
    }
    assert_eq!(nonces, [1, 2, 3, 1000, 1000]);
    assert!(matches!(ask(199, u32::MAX, Some(&pot)).0, Frame::SessionOk { answer: Answer::Full, .. }));
}

// pay.table.1
#[test]
fn a_payer_has_so_many_sessions_and_no_more() {
    let mut pair = Pair::new();
    pair.wallet = Wallet::new(
        DOMAIN,
        PAYER,
        signer(),
        [1; 32],
        crate::wallet::WalletLimits { max_open: 16, ..wallet_limits() },
    );
    pair.wallet.on_account(NOW, Some(pot()));
    for target in 0..200u128 {
        pair.pay(target * 70_000);
        pair.settle();
        assert!(pair.till.snapshot()[0].sessions <= 2);
    }
}

// pay.frame.2
#[test]
fn nobody_pays_itself() {
    let mut wallet = Wallet::new(DOMAIN, PAYEE, signer(), [1; 32], wallet_limits());
    wallet.pay(NOW, PAYEE, Wei(1));
    assert_eq!(wallet.poll_frame(), None);
    let mut till = Till::new(DOMAIN, PAYEE, [2; 32], [3; 32], till_limits());
    let want = Frame::Want { payer: PAYEE, floor: 0, value: Wei(1) };
    assert!(matches!(till.handle(NOW, PAYEE, &want, Some(&account())), Err(TillError::Misbehaved(_))));
    let foreign = Frame::Want { payer: PAYER, floor: 0, value: Wei(1) };
    assert!(till.handle(NOW, Address::ZERO, &foreign, Some(&account())).is_err());
    // Frames of the other role, or of nobody who is known, do nothing.
    for frame in
        [Frame::Credit(crate::frame::Level::Low), Frame::SessionOk { nonce: 0, answer: Answer::Gone }]
    {
        assert_eq!(till.handle(NOW, PAYER, &frame, None), Ok(Wei(0)));
        assert_eq!(wallet.handle(NOW, PAYER, &frame), Ok::<(), WalletError>(()));
    }
    assert_eq!((till.poll_frame(), wallet.poll_frame()), (None, None));
}
