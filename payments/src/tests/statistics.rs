//! What is paid out is rate times cells, on average.

use super::pair::{PAYEE, PAYER, Pair, till_limits};
use crate::amount::Wei;
use crate::offer::Face;
use crate::till::TillLimits;
use crate::wallet::WalletLimits;

const DRAWS: u32 = 1_000_000;
/// A draw is worth so many cells.
const UNIT: u128 = 384;

/// Pays for a million draws' cells at `rate`, where a win is worth `face` draws: the draws and the wins of it.
fn draw(rate: u128, face: u32) -> (u64, u64) {
    let value = rate * UNIT;
    let mut pair = Pair::with(
        WalletLimits { redemption_cost: Wei(1 << 60), max_open: 8, value: Wei(value), max_value: Wei(value) },
        TillLimits { face: Face::Draws(face), ..till_limits() },
    );
    pair.account.registered = true;
    let mut cells = 0;
    while cells < u128::from(DRAWS) * UNIT {
        // As far as sessions last: they end early where wins are frequent.
        cells += UNIT * u128::from(face.min(40));
        pair.pay(cells * rate);
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
    assert_eq!(view.credited.0, rate * cells, "credit is rate times cells, to the wei");
    assert_eq!(view.won.0, u128::from(view.wins) * u128::from(face) * value);
    (view.draws, view.wins)
}

// pay.draw.2
#[test]
fn a_million_draws_pay_out_rate_times_cells_within_four_sigma() {
    for (rate, face) in [(7, 32), (1_000, 256), (123_457, 4_096)] {
        let (draws, wins) = draw(rate, face);
        assert!(draws >= DRAWS.into());
        let float = |n: u64| f64::from(u32::try_from(n).unwrap());
        let (n, p) = (float(draws), 1.0 / f64::from(face));
        let cells = n * 384.0;
        let rate = f64::from(u32::try_from(rate).unwrap());
        // In wei: what wins pay, what the cells cost, and how far chance takes them apart.
        let paid = float(wins) * f64::from(face) * rate * 384.0;
        let sigma = (n * p * (1.0 - p)).sqrt() * f64::from(face) * rate * 384.0;
        let off = (paid - rate * cells) / sigma;
        println!("rate {rate}, face of {face} draws: {draws} draws, {wins} wins, {off:+.2} sigma");
        assert!(off.abs() < 4.0, "{off} sigma");
    }
}
