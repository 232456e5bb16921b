//! Wins become money.

use payments::amount::Wei;
use payments::chain::{Call, Chain, Limits};
use payments::redeemer::{State, Totals};

use crate::world::{GAS_MONEY, GWEI, HOUR, World, payee, payer};

#[tokio::test]
async fn wins_of_many_payers_are_paid_in_one_transaction_and_final_when_the_block_is() {
    let mut world = World::new();
    let claims = [world.claim(0, 0), world.claim(0, 1), world.claim(1, 0), world.claim(2, 7)];
    let mut redeemer = world.redeemer();
    for claim in claims {
        redeemer.add(claim, world.now).await.unwrap();
        redeemer.add(claim, world.now).await.unwrap();
    }
    let faces = Wei(claims.iter().map(|claim| claim.session.face.0).sum());
    assert_eq!(redeemer.unredeemed(), faces);
    assert_eq!(redeemer.step(world.now, 1).await.unwrap(), []);
    assert!(redeemer.wins().all(|win| win.state == State::Sent));
    assert_eq!(world.chain.waiting().len(), 1);
    world.chain.mine().unwrap();
    assert_eq!(world.balance(), faces);
    for _ in 0..2 {
        assert_eq!(redeemer.step(world.now, 1).await.unwrap(), []);
        assert!(redeemer.wins().all(|win| win.state == State::Mined), "it may still be taken back");
        world.chain.mine().unwrap();
    }
    assert_eq!(redeemer.step(world.now, 1).await.unwrap().len(), 4);
    assert!(redeemer.wins().all(|win| win.state == State::Final { payout: win.claim.session.face }));
    let Totals { paid, payout, lost, fees, .. } = redeemer.totals();
    assert_eq!((paid, payout, lost), (4, faces, 0));
    assert_eq!(fees, world.spent().await);
    assert_eq!(redeemer.unredeemed(), Wei::ZERO);
    // Nothing is left to do, also after a restart.
    drop(redeemer);
    world.close();
    let mut redeemer = world.redeemer();
    for claim in claims {
        redeemer.add(claim, world.now).await.unwrap();
    }
    assert_eq!(redeemer.step(world.now, 1).await.unwrap(), []);
    assert_eq!(redeemer.totals().paid, 4);
    assert_eq!(world.chain.waiting().len(), 0);
}

#[tokio::test]
async fn wins_of_a_bound_pot_wait_and_all_others_do_not() {
    let mut world = World::new();
    world.bind(0);
    let mut redeemer = world.redeemer();
    let (patient, hasty) = (world.claim(0, 0), world.claim(1, 0));
    redeemer.add(patient, world.now).await.unwrap();
    redeemer.add(hasty, world.now).await.unwrap();
    let start = world.now;
    let state = |redeemer: &payments::redeemer::Redeemer, index: usize| {
        let address = payer(index).address();
        redeemer.wins().find(|win| win.claim.session.payer == address).unwrap().state
    };
    redeemer.step(world.now, 0x1234_5678_9abc).await.unwrap();
    assert_eq!((state(&redeemer, 0), state(&redeemer, 1)), (State::New, State::Sent));
    let mut paid_after = None;
    for hour in 1..=13 {
        world.pass(HOUR);
        redeemer.step(world.now, hour).await.unwrap();
        if state(&redeemer, 0) != State::New {
            paid_after = Some(world.now - start);
            break;
        }
    }
    let waited = paid_after.expect("within 12 hours");
    assert!((HOUR..=13 * HOUR).contains(&waited), "{waited}");
    // With more of it at stake than a quarter of the reserve, there is no waiting.
    world.settle(&mut redeemer).await;
    for nonce in 10..13 {
        redeemer.add(world.claim(0, nonce), world.now).await.unwrap();
    }
    redeemer.step(world.now, 5).await.unwrap();
    assert!(redeemer.wins().filter(|win| win.claim.session.nonce >= 10).all(|win| win.state == State::Sent));
}

#[tokio::test]
async fn a_pot_that_is_short_pays_out_of_its_reserve() {
    let mut world = World::new();
    world.empty_balance(0);
    let mut redeemer = world.redeemer();
    let claim = world.claim(0, 0);
    redeemer.add(claim, world.now).await.unwrap();
    world.settle(&mut redeemer).await;
    assert_eq!(world.balance(), claim.session.face);
    assert_eq!(redeemer.totals().payout, claim.session.face);
}

#[tokio::test]
async fn more_wins_than_one_transaction_holds_take_several() {
    let mut world = World::new();
    world.give_payers(Wei(1 << 68));
    let mut redeemer = world.redeemer();
    let mut faces = Wei::ZERO;
    for nonce in 0..150 {
        let claim = world.claim(1 + usize::try_from(nonce % 2).unwrap(), nonce);
        faces = faces.saturating_add(claim.session.face);
        redeemer.add(claim, world.now).await.unwrap();
    }
    world.settle(&mut redeemer).await;
    assert_eq!((world.balance(), redeemer.totals().payout), (faces, faces));
    let purse = world.chain.purse(payee().address()).await.unwrap();
    assert_eq!(purse.nonce, 3, "150 wins, at most 64 in one");
    assert_eq!(redeemer.totals().fees, world.spent().await);
}

// pay.redeem.4
#[tokio::test]
async fn a_default_that_ends_a_registration_has_gas_enough_at_the_first_attempt() {
    let mut world = World::new();
    world.register(0);
    world.empty_balance(0);
    let claim = world.whole_reserve(0);
    let mut redeemer = world.redeemer();
    redeemer.add(claim, world.now).await.unwrap();
    world.settle(&mut redeemer).await;
    assert_eq!((world.balance(), redeemer.totals().payout), (claim.session.face, claim.session.face));
    assert!(!world.is_registered(0));
    let purse = world.chain.purse(payee().address()).await.unwrap();
    assert_eq!(purse.nonce, 1, "one transaction");
    assert_eq!(redeemer.totals().fees, world.spent().await);
}

#[tokio::test]
async fn a_purse_that_covers_few_tickets_pays_for_few_at_a_time() {
    let mut world = World::new();
    let chain: &dyn Chain = &world.chain;
    let away = Call::transfer(payer(0).address(), Wei(GAS_MONEY.0 - 1_500_000 * GWEI));
    chain.send(&payee(), away, Limits { gas: 21_000, price: 2 * GWEI }).await.unwrap();
    world.chain.mine().unwrap();
    let mut redeemer = world.redeemer();
    let mut faces = Wei::ZERO;
    for nonce in 0..10 {
        let claim = world.claim(1, nonce);
        faces = faces.saturating_add(claim.session.face);
        redeemer.add(claim, world.now).await.unwrap();
    }
    world.settle(&mut redeemer).await;
    assert_eq!((world.balance(), redeemer.totals().lost), (faces, 0));
    assert!(world.chain.purse(payee().address()).await.unwrap().nonce > 2);
}
