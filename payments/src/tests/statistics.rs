//! What is won is what is drawn, on average.

use super::pair::{PAYEE, PAYER, Pair, till_limits, wallet_limits};
use crate::offer::Face;
use crate::till::TillLimits;
use crate::wallet::WalletLimits;

const FACE: u32 = 256;
const DRAWS: u32 = 1_000_000;

// pay.draw.2
#[test]
fn a_million_draws_win_what_they_are_worth() {
    let mut pair = Pair::with(
        WalletLimits { max_open: 8, ..wallet_limits() },
        TillLimits { face: Face::Draws(FACE), ..till_limits() },
    );
    pair.account.registered = true;
    let value = 1000u128;
    let mut target = 0;
    while target < u128::from(DRAWS) * value {
        target += 40 * value;
        pair.pay(target);
        pair.settle();
        for nonce in core::mem::take(&mut pair.claims).into_keys() {
            pair.wallet.redeemed(pair.now, PAYEE, nonce).unwrap();
            pair.till.redeemed(PAYER, nonce, true);
        }
        pair.revealed.clear();
        pair.signed.clear();
    }
    pair.settle_for(2);
    let view = pair.till.snapshot()[0];
    assert_eq!(view.credited, pair.wallet.paid(PAYEE));
    assert!(view.draws >= DRAWS.into());
    let (draws, p) = (f64::from(DRAWS), 1.0 / f64::from(FACE));
    let wins = f64::from(u32::try_from(view.wins).unwrap());
    let sigma = (draws * p * (1.0 - p)).sqrt();
    assert!((wins - draws * p).abs() < 4.0 * sigma, "{wins} wins, {} expected, sigma {sigma}", draws * p);
    assert_eq!(view.won.0, u128::from(view.wins) * u128::from(FACE) * value);
}
