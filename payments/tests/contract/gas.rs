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

/// The least limit with which the call succeeds: freed storage is refunded at the end only.
fn limit(world: &World, from: Address, call: &impl SolCall) -> u64 {
    let tx = world.transaction(from, 0, call);
    let enough = |gas_limit: &u64| {
        world.evm.view(&Transaction { gas_limit: *gas_limit, ..tx.clone() }).is_ok_and(|tried| tried.success)
    };
    (21_000..).step_by(1_000).find(enough).unwrap()
}

/// The dearest ticket there is: the default of a registered payer that ends its registration.
fn default(world: &World, payer: u8, payee: Address) -> OnionPay::Claim {
    let terms = Terms { draw: 64, nonce: 256, face: 3 * ETHER, ..Terms::default() };
    any(&terms.sign(&world.domain(), &actor(payer), payee))
}

#[test]
fn the_rarer_cases_cost_what_the_document_says() {
    let (mut world, payee) = world(false);
    let stranger = actor(14).address;
    let new = single(&world, stranger, &full(&real(&world, 0, stranger, 0)));
    let last = Terms { draw: 64, nonce: 1, face: FACE, ..Terms::default() };
    let last = single(&world, payee, &full(&last.sign(&world.domain(), &actor(0), payee)));
    world.ok(actor(0).address, 0, &registerCall { idKey: B256::repeat_byte(1) });
    world.ok(actor(1).address, 0, &registerCall { idKey: B256::repeat_byte(2) });
    let claim = default(&world, 0, payee);
    let used = single(&world, payee, &claim);
    let alone = limit(&world, payee, &redeemCall { claim });
    println!(
        "gas: redeem {new} for a payee without a pot, {last} at draw 64, {used} for a relay's default ({alone} before refunds)"
    );
    assert!(new <= 95_000, "{new}");
    assert!(last <= 62_000, "{last}");
    assert!(alone <= 180_000, "{alone}");
}

// pay.redeem.4
#[cfg(feature = "io")]
#[test]
fn a_batch_of_defaults_needs_no_more_gas_than_the_redeemer_reserves() {
    let (mut world, payee) = world(false);
    for n in 0..8 {
        world.ok(actor(n).address, 0, &registerCall { idKey: B256::repeat_byte(1 + n) });
    }
    // By a payee that is paid for the first time, too.
    let stranger = actor(14).address;
    for (payee, tickets) in [(stranger, 1), (stranger, 8), (payee, 1), (payee, 8)] {
        let claims: Vec<_> = (0..tickets).map(|n| default(&world, n, payee)).collect();
        batch(&world, payee, claims.clone());
        let reserved = payments::redeemer::gas(claims.len());
        let needed = limit(&world, payee, &redeemManyCall { claims });
        println!("gas: {tickets} defaults in a batch need {needed}, the redeemer reserves {reserved}");
        assert!(needed <= reserved, "{needed} > {reserved}");
    }
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
