//! What calls cost, printed, and limited where the economy of tickets rests on it.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use payments::abi::OnionPay::{
    self, addReserveCall, depositCall, redeemCall, redeemManyCall, registerCall, setOnlyPayeeCall,
    setSignerCall, startUnlockCall, withdrawCall, withdrawReserveCall,
};
use payments::abi::uint96;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::evm::Transaction;

use crate::world::{DAY, ETHER, MIN_BOND, Terms, World, actor, any, full};

/// About 0.3 USD.
const FACE: u128 = 123_456_789_000_000;
const STEADY: u64 = 57_000;
const COLD: u64 = 75_000;
const MARGINAL: u64 = 30_000;

/// A ticket with the numbers of real ones: random words, draw 32 of 64, odds of 1 in 13,653.
fn real(world: &World, payer: u8, payee: Address, nonce: u32) -> Claim {
    let terms = Terms {
        nonce,
        face: FACE,
        win_prob: u64::MAX / 13_653,
        expiry: world.evm.time() + 2 * DAY,
        draw: 32,
        secret: alloy_primitives::keccak256([payer, 1]),
        rand: alloy_primitives::keccak256([payer, 2]),
        ..Terms::default()
    };
    terms.that(true).sign(&world.domain(), &actor(payer), payee)
}

/// Payers 0 to 7 (bound to the payee if `bound`), and a relay as payee that has been paid by all of them before.
fn world(bound: bool) -> (World, Address) {
    let mut world = World::new();
    let payee = actor(15).address;
    world.ok(payee, ETHER, &addReserveCall {});
    for n in 0..8 {
        if bound {
            world.ok(actor(n).address, 0, &setOnlyPayeeCall { payee });
        }
        world.fund(&actor(n), ETHER, ETHER);
        let first = real(&world, n, payee, 0);
        assert!(world.redeem(payee, &full(&first)).success);
    }
    (world, payee)
}

fn single(world: &World, from: Address, claim: &OnionPay::Claim) -> u64 {
    let outcome = world.clone().redeem(from, claim);
    assert!(outcome.success);
    outcome.gas_used
}

fn batch(world: &World, from: Address, claims: Vec<OnionPay::Claim>) -> u64 {
    let items = claims.len();
    let outcome = world.clone().ok(from, 0, &redeemManyCall { claims });
    let codes = redeemManyCall::abi_decode_returns(&outcome.output).unwrap().codes;
    assert_eq!(codes, vec![0; items]);
    outcome.gas_used
}

#[test]
fn tickets_cost_what_the_draw_value_is_sized_for() {
    for bound in [false, true] {
        let (world, payee) = world(bound);
        let steady = single(&world, payee, &full(&real(&world, 0, payee, 1)));
        let cold = single(&world, payee, &full(&real(&world, 0, payee, 256)));
        let claims: Vec<_> = (0..8).map(|n| full(&real(&world, n, payee, 1))).collect();
        let one = batch(&world, payee, claims[..1].to_vec());
        let payers = (batch(&world, payee, claims) - one) / 7;
        let same: Vec<_> = (1..9).map(|nonce| full(&real(&world, 0, payee, nonce))).collect();
        let same = (batch(&world, payee, same) - one) / 7;
        println!(
            "gas, {} pot, draw 32: redeem {steady} steady, {cold} with a new word of nonces; \
             in a batch {one} for the first, {payers} for each further payer, {same} for each further ticket of one payer",
            if bound { "bound" } else { "open" },
        );
        assert!(steady <= STEADY, "{steady} > {STEADY}");
        assert!(cold <= COLD, "{cold} > {COLD}");
        assert!(payers <= MARGINAL, "{payers} > {MARGINAL}");
        assert!(same <= MARGINAL, "{same} > {MARGINAL}");
    }
}

#[test]
fn the_rarer_cases_cost_no_more_than_the_redeemer_reserves_for_them() {
    let (mut world, payee) = world(false);
    let stranger = actor(14).address;
    let new = single(&world, stranger, &full(&real(&world, 0, stranger, 0)));
    let last = Terms { draw: 64, nonce: 1, face: FACE, ..Terms::default() };
    let last = single(&world, payee, &full(&last.sign(&world.domain(), &actor(0), payee)));
    // A registered payer's default: the dearest ticket there is.
    world.ok(actor(0).address, 0, &registerCall { idKey: B256::repeat_byte(1) });
    world.ok(actor(1).address, 0, &registerCall { idKey: B256::repeat_byte(2) });
    let all = Terms { draw: 64, nonce: 256, face: 3 * ETHER, ..Terms::default() };
    let all = any(&all.sign(&world.domain(), &actor(0), payee));
    let default = single(&world, payee, &all);
    // Freed storage is refunded at the end only: the limit must cover it.
    let tx = world.transaction(payee, 0, &redeemCall { claim: all });
    let enough = |gas_limit: &u64| {
        world.evm.view(&Transaction { gas_limit: *gas_limit, ..tx.clone() }).unwrap().success
    };
    let limit = (default..).step_by(1_000).find(enough).unwrap();
    println!(
        "gas: redeem {new} for a payee without a pot, {last} at draw 64, {default} for a relay's default ({limit} before refunds)"
    );
    assert!(new <= 95_000, "{new}");
    assert!(last <= 62_000, "{last}");
    assert!(limit <= 180_000, "{limit}");
}

#[test]
fn other_calls_are_printed() {
    let mut world = World::new();
    let owner = actor(0).address;
    let amount = uint96(Wei(MIN_BOND)).unwrap();
    let mut notes = Vec::new();
    let mut note = |name: &str, gas: u64| notes.push(format!("{name} {gas}"));
    note("setSigner", world.ok(owner, 0, &setSignerCall { signer: owner }).gas_used);
    note("setOnlyPayee", world.ok(owner, 0, &setOnlyPayeeCall { payee: actor(1).address }).gas_used);
    note("deposit", world.ok(owner, ETHER, &depositCall { owner }).gas_used);
    note("addReserve", world.ok(owner, ETHER, &addReserveCall {}).gas_used);
    note("register", world.ok(owner, 0, &registerCall { idKey: B256::repeat_byte(1) }).gas_used);
    note("startUnlock", world.ok(owner, 0, &startUnlockCall {}).gas_used);
    note("withdraw", world.ok(owner, 0, &withdrawCall { to: owner, amount }).gas_used);
    world.warp(7 * DAY);
    note("withdrawReserve", world.ok(owner, 0, &withdrawReserveCall { to: owner }).gas_used);
    println!("gas: {}", notes.join(", "));
}
