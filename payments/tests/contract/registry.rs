//! Who may do what with pots, and the registry of relays.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolError as _;
use payments::abi::OnionPay::{
    self, KeysChanged, RelayChanged, addReserveCall, cancelUnlockCall, depositCall, moveToReserveCall,
    registerCall, relayCountCall, relaysAtCall, setOnlyPayeeCall, setSignerCall, startUnlockCall,
    withdrawCall, withdrawReserveCall,
};
use payments::abi::uint96;
use payments::amount::Wei;

use crate::world::{DAY, ETHER, MIN_BOND, World, actor, any, events};

const KEY: B256 = B256::repeat_byte(7);

fn selector<E: alloy_sol_types::SolError>() -> Vec<u8> {
    E::SELECTOR.to_vec()
}

fn listed(world: &World) -> Vec<(Address, B256)> {
    let count = world.read(&relayCountCall {});
    let page = world.read(&relaysAtCall { from: U256::ZERO, n: U256::MAX });
    assert_eq!(U256::from(page.page.len()), count);
    page.page.iter().map(|relay| (relay.owner, relay.idKey)).collect()
}

#[test]
fn no_stranger_moves_anything() {
    let mut world = World::new();
    let (owner, thief) = (actor(0), actor(1).address);
    world.fund(&owner, ETHER, ETHER);
    let before = world.pot(owner.address);
    let one = uint96(Wei(1)).unwrap();
    // Every call acts on its sender's own pot, which is empty.
    world.refused(
        thief,
        0,
        &withdrawCall { to: thief, amount: one },
        &selector::<OnionPay::AmountTooLarge>(),
    );
    world.refused(thief, 0, &moveToReserveCall { amount: one }, &selector::<OnionPay::AmountTooLarge>());
    world.refused(thief, 0, &withdrawReserveCall { to: thief }, &selector::<OnionPay::NotUnlocking>());
    world.refused(thief, 0, &startUnlockCall {}, &selector::<OnionPay::ReserveTooLow>());
    world.refused(thief, 0, &cancelUnlockCall {}, &selector::<OnionPay::NotUnlocking>());
    world.refused(thief, 0, &registerCall { idKey: KEY }, &selector::<OnionPay::ReserveTooLow>());
    let outcome = world.ok(thief, 0, &setSignerCall { signer: thief });
    assert_eq!(
        events::<KeysChanged>(&outcome),
        [KeysChanged { owner: thief, signer: thief, onlyPayee: Address::ZERO }]
    );
    world.ok(thief, 0, &setOnlyPayeeCall { payee: thief });
    // The signer has no power over the pot either.
    world.refused(
        owner.signer.address(),
        0,
        &withdrawCall { to: thief, amount: one },
        &selector::<OnionPay::AmountTooLarge>(),
    );
    assert_eq!(world.pot(owner.address), before);
    // And the zero address gets nothing.
    let zero = selector::<OnionPay::Zero>();
    world.refused(owner.address, 0, &withdrawCall { to: Address::ZERO, amount: one }, &zero);
    world.refused(owner.address, 1, &depositCall { owner: Address::ZERO }, &zero);
}

#[test]
fn a_balance_leaves_at_once_and_exactly() {
    let mut world = World::new();
    let (owner, to) = (actor(0), actor(30).address);
    world.fund(&owner, ETHER, 0);
    let amount = uint96(Wei(ETHER / 3)).unwrap();
    world.ok(owner.address, 0, &withdrawCall { to, amount });
    assert_eq!(world.evm.balance(to), U256::from(ETHER / 3));
    assert_eq!(world.money(owner.address), (ETHER - ETHER / 3, 0));
    world.ok(owner.address, 0, &moveToReserveCall { amount });
    assert_eq!(world.money(owner.address), (ETHER - 2 * (ETHER / 3), ETHER / 3));
    assert_eq!(world.evm.balance(world.contract), U256::from(ETHER - ETHER / 3));
}

#[test]
fn a_relay_is_bonded_and_stays_away_after_an_unlock() {
    let mut world = World::new();
    let owner = actor(0).address;
    let register = registerCall { idKey: KEY };
    world.ok(owner, MIN_BOND - 1, &addReserveCall {});
    world.refused(owner, 0, &register, &selector::<OnionPay::ReserveTooLow>());
    world.ok(owner, 1, &addReserveCall {});
    world.refused(owner, 0, &registerCall { idKey: B256::ZERO }, &selector::<OnionPay::Zero>());
    let outcome = world.ok(owner, 0, &register);
    assert_eq!(
        events::<RelayChanged>(&outcome),
        [RelayChanged { owner, seq: 1, idKey: KEY, registered: true }]
    );
    world.refused(owner, 0, &register, &selector::<OnionPay::AlreadyRegistered>());
    // No update: another key needs another registration.
    world.refused(
        owner,
        0,
        &registerCall { idKey: B256::repeat_byte(8) },
        &selector::<OnionPay::AlreadyRegistered>(),
    );
    assert_eq!(listed(&world), [(owner, KEY)]);

    let outcome = world.ok(owner, 0, &startUnlockCall {});
    assert_eq!(
        events::<RelayChanged>(&outcome),
        [RelayChanged { owner, seq: 2, idKey: KEY, registered: false }]
    );
    assert_eq!(listed(&world), []);
    world.refused(owner, 0, &register, &selector::<OnionPay::Unlocking>());
    let start = world.evm.time();
    world.ok(owner, 0, &cancelUnlockCall {});
    let early = OnionPay::TooEarly { time: (start + 7 * DAY).try_into().unwrap() }.abi_encode();
    world.refused(owner, 0, &register, &early);
    world.warp(7 * DAY - 1);
    world.refused(owner, 0, &register, &early);
    world.warp(1);
    world.ok(owner, 0, &register);
    assert_eq!(listed(&world), [(owner, KEY)]);
}

#[test]
fn a_squatted_key_keeps_its_owner_from_nothing() {
    let mut world = World::new();
    for n in 0..3 {
        world.ok(actor(n).address, MIN_BOND, &addReserveCall {});
        world.ok(actor(n).address, 0, &registerCall { idKey: KEY });
    }
    assert_eq!(listed(&world), [0, 1, 2].map(|n| (actor(n).address, KEY)));
    world.ok(actor(0).address, 0, &startUnlockCall {});
    assert_eq!(
        listed(&world),
        [2, 1].map(|n| (actor(n).address, KEY)),
        "the last takes the place of the first"
    );
    world.ok(actor(1).address, 0, &startUnlockCall {});
    assert_eq!(listed(&world), [(actor(2).address, KEY)]);
    world.ok(actor(2).address, 0, &startUnlockCall {});
    assert_eq!(listed(&world), []);
}

#[test]
fn a_default_deregisters_only_below_the_bond() {
    let mut world = World::new();
    let (relay, payee) = (actor(0), actor(1).address);
    world.fund(&relay, 0, 4 * MIN_BOND);
    world.ok(relay.address, 0, &registerCall { idKey: KEY });
    let claim = world.ticket(&relay, payee, 0, MIN_BOND);
    assert_eq!(world.try_redeem(payee, &any(&claim)), Ok(MIN_BOND));
    assert_eq!((world.money(relay.address), listed(&world).len()), ((0, 2 * MIN_BOND), 1));
    let claim = world.ticket(&relay, payee, 1, MIN_BOND / 2 + 1);
    let outcome = world.redeem(payee, &any(&claim));
    let away = RelayChanged { owner: relay.address, seq: 2, idKey: KEY, registered: false };
    assert_eq!(events::<RelayChanged>(&outcome), [away]);
    assert_eq!((world.money(relay.address), listed(&world).len()), ((0, MIN_BOND - 2), 0));
    // With a new bond it may come back.
    world.ok(relay.address, 2, &addReserveCall {});
    world.ok(relay.address, 0, &registerCall { idKey: KEY });
    assert_eq!(listed(&world).len(), 1);
}

#[test]
fn pages_end_where_the_list_ends() {
    let mut world = World::new();
    for n in 0..5 {
        world.ok(actor(n).address, MIN_BOND + u128::from(n), &addReserveCall {});
        world.ok(actor(n).address, 0, &registerCall { idKey: KEY });
    }
    let page = |from: U256, n: U256| {
        let page = world.read(&relaysAtCall { from, n });
        let reserves: Vec<_> = page.reserves.iter().map(|reserve| Wei::from(*reserve).0 - MIN_BOND).collect();
        (page.page.iter().map(|relay| relay.owner).collect::<Vec<_>>(), reserves)
    };
    let owners = |range: std::ops::Range<u8>| {
        (range.clone().map(|n| actor(n).address).collect(), range.map(u128::from).collect())
    };
    let [zero, two, four] = [0u64, 2, 4].map(U256::from);
    assert_eq!(page(zero, two), owners(0..2));
    assert_eq!(page(four, two), owners(4..5));
    assert_eq!(page(U256::from(5), two), owners(0..0));
    assert_eq!(page(U256::MAX, U256::MAX), owners(0..0));
    assert_eq!(page(two, U256::MAX), owners(2..5));
    assert_eq!(page(two, zero), owners(0..0));
}
