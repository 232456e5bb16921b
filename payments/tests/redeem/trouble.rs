//! Crashes, reorganisations, no money, no line, other people's transactions.

use std::sync::atomic::Ordering;

use payments::abi::OnionPay;
use payments::amount::Wei;
use payments::chain::{Call, Chain, Error as ChainError, Limits, Place};
use payments::redeemer::{Error, Reason, State};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::world::{GAS_MONEY, GWEI, HOUR, World, payee, payer};

fn chain_error(error: Error) -> ChainError {
    match error {
        Error::Chain(error) => error,
        other => panic!("{other}"),
    }
}

// pay.redeem.1
#[tokio::test]
async fn a_kill_after_any_answer_of_the_chain_loses_nothing_and_pays_nothing_twice() {
    let mut kills = 0;
    for point in 0.. {
        let mut world = World::new();
        let claims = [world.claim(0, 0), world.claim(1, 1), world.claim(1, 2)];
        let faces = Wei(claims.iter().map(|claim| claim.session.face.0).sum());
        world.budget.store(point, Ordering::SeqCst);
        let mut redeemer = world.redeemer();
        for claim in claims {
            redeemer.add(claim, world.now).await.unwrap();
        }
        let mut killed = false;
        for _ in 0..6 {
            if redeemer.step(world.now, 1).await.is_err() {
                killed = true;
                break;
            }
            world.pass(12);
        }
        drop(redeemer);
        world.close();
        world.budget.store(i64::MAX, Ordering::SeqCst);
        let mut redeemer = world.redeemer();
        for claim in claims {
            redeemer.add(claim, world.now).await.unwrap();
        }
        world.settle(&mut redeemer).await;
        assert_eq!(
            (world.balance(), redeemer.totals().payout),
            (faces, faces),
            "killed after {point} answers"
        );
        assert_eq!((redeemer.totals().paid, redeemer.totals().lost), (3, 0));
        assert_eq!(redeemer.totals().fees, world.spent().await, "killed after {point} answers");
        drop(redeemer);
        world.close();
        if !killed {
            break;
        }
        kills += 1;
    }
    println!("killed after each of {kills} answers");
    assert!(kills > 30);
}

// pay.redeem.1
#[tokio::test]
async fn whatever_happens_in_any_order_the_sums_agree_to_the_wei() {
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new();
        let mut redeemer = world.redeemer();
        let (mut claims, mut faces) = (Vec::new(), Wei::ZERO);
        for _ in 0..120 {
            match rng.next_u32() % 16 {
                0 if claims.len() < 20 => {
                    let nonce = u32::try_from(claims.len()).unwrap();
                    let claim = world.claim(usize::try_from(rng.next_u32() % 3).unwrap(), nonce);
                    faces = faces.saturating_add(claim.session.face);
                    claims.push(claim);
                    redeemer.add(claim, world.now).await.unwrap();
                }
                1 => world.budget.store((rng.next_u32() % 16).into(), Ordering::SeqCst),
                2 => world.budget.store(i64::MAX, Ordering::SeqCst),
                3 => {
                    world.chain.reorganise((1 + rng.next_u32() % 2).into(), rng.next_u32() % 2 == 0).unwrap();
                }
                4 => world.chain.set_base_fee(GWEI * u128::from(1 + rng.next_u32() % 60)),
                5 => drop(world.chain.forget_waiting()),
                6 => {
                    drop(redeemer);
                    world.close();
                    redeemer = world.redeemer();
                    for claim in &claims {
                        redeemer.add(*claim, world.now).await.unwrap();
                    }
                }
                7..10 => world.pass((rng.next_u32() % 60).into()),
                _ => {
                    let _ = redeemer.step(world.now, rng.next_u64()).await;
                }
            }
        }
        world.budget.store(i64::MAX, Ordering::SeqCst);
        world.chain.set_base_fee(GWEI);
        world.settle(&mut redeemer).await;
        // The last transactions too.
        for _ in 0..4 {
            world.pass(12);
            redeemer.step(world.now, 1).await.unwrap();
        }
        let totals = redeemer.totals();
        assert_eq!((world.balance(), totals.payout), (faces, faces), "seed {seed}");
        assert_eq!((totals.paid, totals.lost), (u64::try_from(claims.len()).unwrap(), 0), "seed {seed}");
        assert_eq!(totals.fees, world.spent().await, "seed {seed}");
        drop(redeemer);
        world.close();
    }
}

#[tokio::test]
async fn without_money_for_gas_wins_wait_until_there_is_some() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    // All but a little is given away.
    let chain: &dyn Chain = &world.chain;
    let away = Call::transfer(payer(0).address(), Wei(GAS_MONEY.0 - 100_000 * GWEI));
    chain.send(&payee(), away, Limits { gas: 21_000, price: 2 * GWEI }).await.unwrap();
    world.chain.mine().unwrap();
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    let error = chain_error(redeemer.step(world.now, 1).await.unwrap_err());
    assert!(
        matches!(error, ChainError::NoGasMoney { address, .. } if address == payee().address()),
        "{error}"
    );
    assert!(error.to_string().contains("send it ether"), "{error}");
    world.pass(HOUR);
    world.chain.give(payee().address(), Wei(1 << 60)).unwrap();
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), claim.session.face);
}

#[tokio::test]
async fn a_dead_line_and_dear_gas_are_waited_out() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    world.budget.store(0, Ordering::SeqCst);
    let error = chain_error(redeemer.step(world.now, 1).await.unwrap_err());
    assert!(matches!(error, ChainError::Down(_)), "{error}");
    world.budget.store(i64::MAX, Ordering::SeqCst);
    world.chain.set_base_fee(60 * GWEI);
    world.pass(HOUR);
    let error = chain_error(redeemer.step(world.now, 1).await.unwrap_err());
    assert!(matches!(error, ChainError::FeeTooHigh { .. }), "{error}");
    world.chain.set_base_fee(GWEI);
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), claim.session.face);
}

#[tokio::test]
async fn a_transaction_that_gas_has_outrun_is_replaced() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    redeemer.step(world.now, 1).await.unwrap();
    let first = world.chain.waiting();
    world.chain.set_base_fee(10 * GWEI);
    for _ in 0..2 {
        world.pass(12);
        redeemer.step(world.now, 1).await.unwrap();
        assert_eq!(world.chain.waiting(), first, "not before some blocks have passed");
    }
    world.pass(12);
    redeemer.step(world.now, 1).await.unwrap();
    let second = world.chain.waiting();
    assert!(second.len() == 1 && second != first, "one in its place");
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), claim.session.face);
    assert_eq!(world.chain.purse(payee().address()).await.unwrap().nonce, 1);
    assert_eq!(redeemer.totals().fees, world.spent().await);
}

#[tokio::test]
async fn another_transaction_of_the_same_address_may_take_the_place() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    redeemer.step(world.now, 1).await.unwrap();
    let chain: &dyn Chain = &world.chain;
    let place = Place { nonce: 0, max_fee: 40 * GWEI, tip: 40 * GWEI };
    let away = Call::transfer(payer(0).address(), Wei(1));
    let other =
        chain.prepare(&payee(), away, Limits { gas: 21_000, price: 50 * GWEI }, Some(place)).await.unwrap();
    chain.broadcast(other.raw).await.unwrap();
    world.pass(12);
    assert_eq!(world.balance(), Wei::ZERO);
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), claim.session.face);
    assert_eq!(redeemer.totals().paid, 1);
}

#[tokio::test]
async fn an_empty_pot_is_tried_until_the_end_and_filled_in_time_it_pays() {
    let mut world = World::new();
    // Balance and reserve are gone; only what comes in later can pay.
    for index in [0, 1] {
        world.empty_reserve(index);
        world.empty_balance(index);
    }
    let (filled, empty) = (world.claim(0, 0), world.claim(1, 0));
    let mut redeemer = world.redeemer();
    redeemer.add(filled, world.now).await.unwrap();
    redeemer.add(empty, world.now).await.unwrap();
    for _ in 0..10 {
        redeemer.step(world.now, 1).await.unwrap();
        world.pass(HOUR);
    }
    assert!(redeemer.wins().all(|win| win.state == State::New));
    // A single wei does not buy the ticket.
    world.call(0, &OnionPay::depositCall { owner: payer(0).address() }, Wei(1));
    redeemer.step(world.now, 1).await.unwrap();
    assert_eq!(world.chain.waiting().len(), 0);
    world.call(0, &OnionPay::depositCall { owner: payer(0).address() }, filled.session.face);
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), filled.session.face);
    let totals = redeemer.totals();
    assert_eq!((totals.paid, totals.lost, totals.missed), (1, 1, empty.session.face));
    let lost = redeemer.wins().find(|win| win.claim == empty).unwrap();
    assert_eq!(lost.state, State::Lost(Reason::Worthless));
}

#[tokio::test]
async fn what_comes_too_late_is_lost_and_said_to_be() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    world.pass(49 * HOUR);
    redeemer.step(world.now, 1).await.unwrap();
    assert!(redeemer.wins().all(|win| win.state == State::New), "a reorganisation may still take time back");
    world.pass(12);
    world.pass(12);
    let over = redeemer.step(world.now, 1).await.unwrap();
    assert_eq!(over.iter().map(|win| win.state).collect::<Vec<_>>(), [State::Lost(Reason::Expired)]);
    assert_eq!(world.chain.waiting().len(), 0);
    // A week later nobody remembers it, and it is not taken in again.
    world.pass(8 * 24 * HOUR);
    redeemer.add(world.claim(1, 1), world.now).await.unwrap();
    redeemer.step(world.now, 1).await.unwrap();
    redeemer.add(claim, world.now).await.unwrap();
    assert_eq!(redeemer.wins().count(), 1);
    assert_eq!(redeemer.totals().lost, 1);
}

#[tokio::test]
async fn a_win_that_somebody_else_has_redeemed_is_paid_once_and_costs_no_gas() {
    let mut world = World::new();
    let claim = world.claim(0, 0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    let shown = OnionPay::Claim::new(&claim, claim.session.face, false).unwrap();
    let chain: &dyn Chain = &world.chain;
    let call = Call::new(&chain.domain(), &OnionPay::redeemCall { claim: shown }, Wei::ZERO);
    let limits = Limits { gas: 300_000, price: 2 * GWEI };
    let hash = chain.send(&payee(), call, limits).await.unwrap();
    world.chain.mine().unwrap();
    let fee = world.chain.receipt(hash).await.unwrap().unwrap().fee();
    world.settle(&mut redeemer).await;
    assert_eq!((world.balance(), redeemer.totals().payout), (claim.session.face, claim.session.face));
    assert_eq!(world.spent().await, fee);
}
