//! Random losses, repeats, disorder, crashes: nothing is lost, and nothing is paid twice.

use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use super::pair::{PAYEE, PAYER, Pair, till_limits, wallet_limits};
use crate::offer::Face;
use crate::till::TillLimits;
use crate::wallet::WalletLimits;

fn pick(rng: &mut ChaCha8Rng, below: usize) -> usize {
    usize::try_from(rng.next_u32()).unwrap() % below.max(1)
}

/// Moves one frame of a direction: out of order, sometimes twice or not at all.
fn deliver(pair: &mut Pair, rng: &mut ChaCha8Rng, up: bool) {
    let queue = if up { &mut pair.up } else { &mut pair.down };
    let at = if pick(rng, 3) == 0 { pick(rng, queue.len()) } else { 0 };
    let Some(frame) = (if pick(rng, 10) == 0 { queue.get(at).copied() } else { queue.remove(at) }) else {
        return;
    };
    if pick(rng, 6) == 0 {
        return;
    }
    if up {
        pair.till_gets(&frame).unwrap();
    } else {
        pair.wallet_gets(&frame).unwrap();
    }
}

fn run(seed: u64, face: u32, open: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let till_limits = TillLimits { face: Face::Draws(face), ..till_limits() };
    let wallet_limits = WalletLimits { max_open: open, ..wallet_limits() };
    let mut pair = Pair::with(wallet_limits, till_limits);
    pair.account.registered = open > 2;
    let mut target = 0;
    for _ in 0..400 {
        match pick(&mut rng, 16) {
            0..=2 => {
                target += u128::from(rng.next_u32() % 30_000);
                pair.pay(target);
            }
            3..=6 => deliver(&mut pair, &mut rng, true),
            7..=10 => deliver(&mut pair, &mut rng, false),
            11 => pair.write(pick(&mut rng, 3), 0),
            12 => pair.write(0, pick(&mut rng, 3)),
            13 => pair.tick(pick(&mut rng, 5).try_into().unwrap()),
            14 if pick(&mut rng, 4) == 0 => {
                pair.crash_wallet(wallet_limits);
                pair.pay(target);
            }
            15 if pick(&mut rng, 4) == 0 => pair.crash_till(till_limits),
            15 => pair.redeem(pick(&mut rng, 3)),
            _ => (),
        }
    }
    pair.settle_for(200);
    let (paid, credited) = (pair.wallet.paid(PAYEE), pair.till.credited(PAYER));
    assert_eq!(paid, credited);
    assert!(paid.0 >= target && paid.0 < target + 1000, "{paid} for {target}");
    // Nonces are never used for two sessions.
    assert!(pair.signed.values().all(|anchors| anchors.len() == 1));
    // Once all sessions are over the payer has checked every draw: no win was missed, and none is claimed twice.
    pair.tick(11 * 3600);
    pair.settle();
    for _ in 0..150 {
        pair.tick(60);
        pair.settle();
    }
    // A win that was redeemed before a crash may have been found again since.
    pair.redeem(0);
    let (payer, payee) = (pair.wallet.snapshot()[0], pair.till.snapshot()[0]);
    assert_eq!((payer.sessions, payee.sessions), (0, 0));
    assert_eq!((payer.wins, payer.won, payer.draws), (payee.wins, payee.won, payee.draws));
    assert_eq!(payee.wins, u64::try_from(pair.claims.len()).unwrap());
    assert_eq!(pair.wallet.paid(PAYEE), pair.till.credited(PAYER));
    assert_eq!(payer.owed, payee.unredeemed);
}

// pay.rotate.1
#[test]
fn a_session_whose_end_is_not_heard_is_remembered_while_all_that_may_end_do() {
    run(3_223_893_975_992_078_775, 2, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, rng_algorithm: RngAlgorithm::ChaCha, failure_persistence: None, ..ProptestConfig::default() })]

    // pay.disk.2, pay.disk.3, pay.rotate.1
    #[test]
    fn nothing_is_lost_and_nothing_is_paid_twice(seed: u64, face in 2u32..200, open in 2usize..9) {
        run(seed, face, open);
    }
}
