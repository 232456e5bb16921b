//! Each attack on tickets that the design names, tried.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall as _;
use payments::abi::OnionPay::{
    self, Code, Redeemed, cancelUnlockCall, depositCall, isUsedCall, moveToReserveCall, redeemCall,
    redeemManyCall, setOnlyPayeeCall, setSignerCall, startUnlockCall, withdrawCall, withdrawReserveCall,
};
use payments::abi::{creation_code, uint96};
use payments::amount::Wei;
use payments::claim::Claim;
use payments::evm::Transaction;
use payments::session::{Session, Signature};

use crate::world::{Actor, DAY, ETHER, START, Terms, World, actor, any, deploy, events, full, slot};

const HALF_ORDER: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

fn funded(balance: u128, reserve: u128) -> (World, Actor, Actor) {
    let mut world = World::new();
    let (payer, payee) = (actor(0), actor(1));
    world.fund(&payer, balance, reserve);
    (world, payer, payee)
}

fn wei(amount: u128) -> alloy_primitives::aliases::U96 {
    uint96(Wei(amount)).unwrap()
}

#[test]
fn a_ticket_is_paid_once_into_the_payees_balance() {
    let (mut world, payer, payee) = funded(10 * ETHER, ETHER);
    let claim = world.ticket(&payer, payee.address, 7, ETHER);
    let outcome = world.redeem(payee.address, &full(&claim));
    assert!(outcome.success);
    let paid = events::<Redeemed>(&outcome);
    assert_eq!(paid.len(), 1);
    assert_eq!((paid[0].payer, paid[0].payee, paid[0].nonce), (payer.address, payee.address, 7));
    assert_eq!((paid[0].payout, paid[0].defaulted), (wei(ETHER), false));
    assert_eq!((world.money(payer.address), world.money(payee.address)), ((9 * ETHER, ETHER), (ETHER, 0)));
    let used = isUsedCall { payer: payer.address, payee: payee.address, nonce: 7 };
    let is_used = |nonce| world.read(&isUsedCall { nonce, ..used });
    assert_eq!([6, 7, 8, 7 + 256].map(is_used), [false, true, false, false]);

    // Again, by anyone, in any way.
    assert_eq!(world.try_redeem(payee.address, &any(&claim)), Err(Code::Used));
    // A second ticket of the same nonce is worth nothing either.
    let other = Terms { nonce: 7, face: 2 * ETHER, secret: B256::repeat_byte(9), ..Terms::default() };
    let other = other.sign(&world.domain(), &payer, payee.address);
    assert_eq!(world.try_redeem(payee.address, &full(&other)), Err(Code::Used));
    assert_eq!(world.money(payee.address), (ETHER, 0));
}

#[test]
fn withdrawing_in_front_of_a_redemption_costs_the_reserve_and_the_payee_nothing() {
    let (mut world, payer, payee) = funded(4 * ETHER, 4 * ETHER);
    let claim = world.ticket(&payer, payee.address, 0, 2 * ETHER);
    world.ok(payer.address, 0, &withdrawCall { to: actor(9).address, amount: wei(4 * ETHER) });
    assert_eq!(
        world.try_redeem(payee.address, &full(&claim)),
        Err(Code::Short),
        "he did not agree to a default"
    );
    assert_eq!(
        world.try_redeem(payee.address, &OnionPay::Claim { mayDefault: true, ..full(&claim) }),
        Ok(2 * ETHER)
    );
    // Paid 2 ether and burnt 2.
    assert_eq!((world.money(payer.address), world.money(payee.address)), ((0, 0), (2 * ETHER, 0)));
    assert_eq!(world.read(&OnionPay::burnedCall {}), U256::from(2 * ETHER));
    assert_eq!(world.pot(payer.address).defaults, 1);
    // The reserve pays half of what it holds, however large the face.
    let (mut world, payer, payee) = funded(ETHER, 4 * ETHER + 1);
    let claim = world.ticket(&payer, payee.address, 0, 100 * ETHER);
    assert_eq!(world.try_redeem(payee.address, &any(&claim)), Ok(3 * ETHER));
    assert_eq!(world.money(payer.address), (0, 1));
}

#[test]
fn no_third_party_can_redeem_or_force_a_shortfall() {
    let (mut world, payer, payee) = funded(ETHER, 8 * ETHER);
    world.fund(&payee, ETHER, 0);
    let (covered, short) =
        (world.ticket(&payer, payee.address, 0, ETHER), world.ticket(&payer, payee.address, 1, 2 * ETHER));
    let claims = vec![full(&covered), any(&covered), full(&short), any(&short)];
    let before = world.pot(payer.address);
    for stranger in [actor(9).address, payer.address, payer.signer.address()] {
        for claim in &claims {
            assert_eq!(world.try_redeem(stranger, claim), Err(Code::WrongCaller));
        }
        let outcome = world.ok(stranger, 0, &redeemManyCall { claims: claims.clone() });
        assert!(outcome.logs.is_empty());
    }
    assert_eq!(world.pot(payer.address), before);
    // One wei that a stranger adds changes nothing of what the payee gets.
    world.ok(actor(9).address, 1, &depositCall { owner: payer.address });
    let signer = payee.signer.address();
    assert_eq!(world.try_redeem(signer, &any(&short)), Ok(2 * ETHER), "the payee's signer may");
    // A signer of yesterday is a stranger.
    world.ok(payee.address, 0, &setSignerCall { signer: Address::ZERO });
    assert_eq!(world.try_redeem(signer, &any(&covered)), Err(Code::WrongCaller));
    assert_eq!(world.try_redeem(payee.address, &any(&covered)), Ok(ETHER));
}

#[test]
fn a_payer_cannot_use_up_the_nonce_of_a_win_with_a_ticket_of_its_own() {
    for bound in [false, true] {
        let mut world = World::new();
        let (payer, payee, friend) = (actor(0), actor(1), actor(2));
        if bound {
            world.ok(payer.address, 0, &setOnlyPayeeCall { payee: payee.address });
        }
        world.fund(&payer, 10 * ETHER, 4 * ETHER);
        world.fund(&payee, 0, 0);
        let win = world.ticket(&payer, payee.address, 5, ETHER);
        // A second session of that nonce over one wei. Its `rand` is the payer's own, so that it wins as it likes.
        let (secret, rand) = (B256::repeat_byte(8), B256::repeat_byte(9));
        let rival = Terms { nonce: 5, secret, rand, ..Terms::default() };
        let rival = rival.sign(&world.domain(), &payer, payee.address);
        let mut lost = world.clone();
        assert_eq!(lost.try_redeem(payee.address, &full(&rival)), Ok(1), "nothing else is wrong with it");
        assert_eq!(lost.try_redeem(payee.address, &full(&win)), Err(Code::Used));

        let friends = world.ticket(&payer, friend.address, 5, 1);
        let claims = [&rival, &win, &rival, &friends].map(full).to_vec();
        for thief in [payer.address, payer.signer.address(), friend.address, friend.signer.address()] {
            for claim in [full(&rival), any(&rival)] {
                assert_eq!(world.try_redeem(thief, &claim), Err(Code::WrongCaller));
            }
            let outcome = world.ok(thief, 0, &redeemManyCall { claims: claims.clone() });
            let result = redeemManyCall::abi_decode_returns(&outcome.output).unwrap();
            let friends = match (thief == friend.address, bound) {
                (false, _) => Code::WrongCaller,
                (true, false) => Code::Paid,
                (true, true) => Code::WrongPayee,
            };
            let refused = Code::WrongCaller as u8;
            assert_eq!(result.codes, [refused, refused, refused, friends as u8]);
        }
        assert!(!world.read(&isUsedCall { payer: payer.address, payee: payee.address, nonce: 5 }));
        for own in [payee.address, payee.signer.address()] {
            let mut alone = world.clone();
            assert_eq!(alone.try_redeem(own, &full(&win)), Ok(ETHER));
            let outcome =
                world.clone().ok(own, 0, &redeemManyCall { claims: vec![full(&win), full(&rival)] });
            let result = redeemManyCall::abi_decode_returns(&outcome.output).unwrap();
            assert_eq!(result.codes, [Code::Paid, Code::Used].map(|code| code as u8));
            assert_eq!(result.total, U256::from(ETHER));
        }
    }
}

#[test]
fn a_payee_gets_what_he_asks_for_or_keeps_his_ticket() {
    let (mut world, payer, payee) = funded(ETHER, 2 * ETHER);
    let claim = world.ticket(&payer, payee.address, 0, 3 * ETHER);
    let ask = |min: u128| OnionPay::Claim { minPayout: wei(min), ..any(&claim) };
    assert_eq!(world.try_redeem(payee.address, &ask(2 * ETHER + 1)), Err(Code::BelowMinimum));
    assert_eq!(world.money(payer.address), (ETHER, 2 * ETHER));
    assert_eq!(world.try_redeem(payee.address, &ask(2 * ETHER)), Ok(2 * ETHER));
    // An empty pot pays nothing and uses up nothing.
    let claim = world.ticket(&payer, payee.address, 1, ETHER);
    assert_eq!(world.try_redeem(payee.address, &any(&claim)), Err(Code::BelowMinimum));
    assert!(!world.read(&isUsedCall { payer: payer.address, payee: payee.address, nonce: 1 }));
}

#[test]
fn a_ticket_is_good_at_one_contract_of_one_chain_only() {
    let (mut world, payer, payee) = funded(10 * ETHER, ETHER);
    let claim = full(&world.ticket(&payer, payee.address, 0, ETHER));
    // Another contract of the same code.
    let mut twin = world.clone();
    twin.contract = deploy(&mut twin.evm, creation_code());
    twin.fund(&payer, 10 * ETHER, ETHER);
    assert_eq!(twin.try_redeem(payee.address, &claim), Err(Code::BadSignature));
    // The same address on a chain that split off.
    let mut fork = world.clone();
    fork.evm.set_chain_id(99);
    assert_eq!(fork.try_redeem(payee.address, &claim), Err(Code::BadSignature));
    let there = fork.ticket(&payer, payee.address, 0, ETHER);
    assert_eq!(world.try_redeem(payee.address, &full(&there)), Err(Code::BadSignature));
    assert_eq!(
        fork.try_redeem(payee.address, &full(&there)),
        Ok(ETHER),
        "the separator follows the chain's number"
    );
    assert_eq!(world.try_redeem(payee.address, &claim), Ok(ETHER));
}

#[test]
fn nothing_that_is_signed_can_be_changed() {
    let (mut world, payer, payee) = funded(10 * ETHER, 10 * ETHER);
    world.fund(&actor(2), 10 * ETHER, 0);
    let claim = full(&world.ticket(&payer, payee.address, 0, ETHER));
    let changed = [
        (OnionPay::Claim { payer: actor(2).address, ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { payee: actor(3).address, ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { nonce: 1, ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { anchor: claim.link, ..claim.clone() }, Code::BadChain),
        (OnionPay::Claim { face: wei(ETHER + 1), ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { winProb: u64::MAX - 1, ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { winProb: 0, ..claim.clone() }, Code::NoWin),
        (
            OnionPay::Claim {
                expiry: claim.expiry + alloy_primitives::aliases::U40::from(1),
                ..claim.clone()
            },
            Code::BadSignature,
        ),
        (OnionPay::Claim { draw: 2, ..claim.clone() }, Code::BadChain),
        (OnionPay::Claim { draw: 0, link: claim.anchor, ..claim.clone() }, Code::BadTerms),
        (OnionPay::Claim { link: B256::ZERO, ..claim.clone() }, Code::BadChain),
        (OnionPay::Claim { rand: B256::ZERO, ..claim.clone() }, Code::BadSignature),
        (OnionPay::Claim { payer: payee.address, ..claim.clone() }, Code::BadTerms),
        (OnionPay::Claim { face: wei(0), ..claim.clone() }, Code::BadTerms),
    ];
    for (changed, code) in changed {
        assert_eq!(world.try_redeem(changed.payee, &changed), Err(code), "{changed:?}");
    }
    assert_eq!(world.try_redeem(payee.address, &claim), Ok(ETHER));
}

#[test]
fn draws_are_counted_from_1_to_64_and_only_winners_are_paid() {
    let (mut world, payer, payee) = funded(100 * ETHER, ETHER);
    let terms = |nonce, draw, draws| Terms { nonce, draw, draws, face: ETHER, ..Terms::default() };
    for (nonce, draw) in [(1, 1), (2, 7), (3, 8), (4, 9), (5, 63), (6, 64)] {
        let claim = terms(nonce, draw, 64).sign(&world.domain(), &payer, payee.address);
        assert_eq!(world.try_redeem(payee.address, &full(&claim)), Ok(ETHER), "draw {draw}");
    }
    let mut long = full(&terms(7, 64, 64).sign(&world.domain(), &payer, payee.address));
    // 65 links: the anchor of a chain of 64, hashed once more.
    let anchor = keccak256(long.anchor);
    let session = Session {
        payer: payer.address,
        payee: payee.address,
        nonce: 7,
        anchor,
        rand_hash: keccak256(long.rand),
        face: Wei(ETHER),
        win_prob: u64::MAX,
        expiry: START + DAY,
    };
    let signature = payer.signer.sign(&session.digest(&world.domain()));
    let claim = Claim { session, draw: 65, link: long.link, rand: long.rand, signature };
    long = full(&claim);
    assert_eq!(world.try_redeem(payee.address, &long), Err(Code::BadTerms));
    let losing = Terms { nonce: 8, face: ETHER, win_prob: u64::MAX / 2, ..Terms::default() }.that(false);
    let losing = losing.sign(&world.domain(), &payer, payee.address);
    assert_eq!(world.try_redeem(payee.address, &full(&losing)), Err(Code::NoWin));
}

#[test]
fn a_ticket_has_its_time() {
    let (mut world, payer, payee) = funded(10 * ETHER, ETHER);
    let until = |expiry| Terms { face: ETHER, expiry, ..Terms::default() };
    let far = until(START + 3 * DAY + 1).sign(&world.domain(), &payer, payee.address);
    assert_eq!(world.try_redeem(payee.address, &full(&far)), Err(Code::TooFar));
    let mut edge = world.clone();
    edge.warp(1);
    assert_eq!(edge.try_redeem(payee.address, &full(&far)), Ok(ETHER));
    let day = until(START + DAY).sign(&world.domain(), &payer, payee.address);
    world.warp(DAY);
    assert_eq!(world.clone().try_redeem(payee.address, &full(&day)), Ok(ETHER), "the last second counts");
    world.warp(1);
    assert_eq!(world.try_redeem(payee.address, &full(&day)), Err(Code::Expired));
}

/// What the curve says about a signature, asked of the chain's own precompile, which takes a high `s`.
fn precompile(world: &World, digest: B256, v: u8, r: B256, s: B256) -> Address {
    let data = [digest.as_slice(), &U256::from(v).to_be_bytes::<32>(), r.as_slice(), s.as_slice()].concat();
    let to = Some(Address::with_last_byte(1));
    let tx = Transaction { to, data: data.into(), gas_limit: 100_000, ..Transaction::default() };
    Address::from_word(B256::from_slice(&world.evm.view(&tx).unwrap().output))
}

#[test]
fn a_signature_has_one_form() {
    let (mut world, payer, payee) = funded(10 * ETHER, 0);
    let claim = world.ticket(&payer, payee.address, 0, ETHER);
    let digest = claim.session.digest(&world.domain());
    let good = full(&claim);
    let order = U256::from_be_slice(&alloy_primitives::hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let (parity, s) = (good.vs[0] >> 7 == 1, U256::from_be_bytes(good.vs.0) & (U256::MAX >> 1));
    let top: U256 = U256::from(1) << 255;
    // The twin that the curve's algebra allows does not fit beside the parity bit; whatever is made of it is refused.
    for vs in [order - s, (order - s) | top, (order - s) & !top, s | if parity { U256::ZERO } else { top }] {
        let forged = OnionPay::Claim { vs: B256::from(vs), ..good.clone() };
        assert_eq!(world.try_redeem(payee.address, &forged), Err(Code::BadSignature));
    }
    for (r, vs) in
        [(B256::ZERO, good.vs), (good.r, B256::ZERO), (B256::ZERO, B256::ZERO), (B256::from(order), good.vs)]
    {
        let forged = OnionPay::Claim { r, vs, ..good.clone() };
        assert_eq!(world.try_redeem(payee.address, &forged), Err(Code::BadSignature));
    }
    // A high `s` that fits: the signature is right by the curve, and refused here and in Rust.
    let r = B256::from(alloy_primitives::hex!(
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    ));
    let half = U256::from_str_radix(HALF_ORDER, 16).unwrap();
    for (s, taken) in [(half, true), (half + U256::from(1), false)] {
        let signer = precompile(&world, digest, 27, r, B256::from(s));
        assert_ne!(signer, Address::ZERO);
        world.ok(payer.address, 0, &setSignerCall { signer });
        let forged = OnionPay::Claim { r, vs: B256::from(s), ..good.clone() };
        let compact = Signature([r.0, s.to_be_bytes::<32>()].concat().try_into().unwrap());
        assert_eq!(compact.recover(&digest), taken.then_some(signer));
        let expected = if taken { Ok(ETHER) } else { Err(Code::BadSignature) };
        assert_eq!(world.clone().try_redeem(payee.address, &forged), expected);
    }
}

#[test]
fn a_pot_without_a_signer_pays_nobody() {
    let mut world = World::new();
    let (payer, payee) = (actor(0), actor(1));
    world.ok(payer.address, ETHER, &depositCall { owner: payer.address });
    // What recovers to the zero address is no signature of the zero signer.
    for (r, vs) in [(B256::ZERO, B256::ZERO), (B256::repeat_byte(0xff), B256::with_last_byte(1))] {
        let claim = OnionPay::Claim { r, vs, ..full(&world.ticket(&payer, payee.address, 0, ETHER)) };
        assert_eq!(world.try_redeem(payee.address, &claim), Err(Code::BadSignature));
    }
    assert_eq!(world.money(payer.address), (ETHER, 0));
}

#[test]
fn stray_bits_in_the_arguments_revert() {
    let (mut world, payer, payee) = funded(10 * ETHER, 10 * ETHER);
    let claim = full(&world.ticket(&payer, payee.address, 0, ETHER));
    let clean = world.transaction(payee.address, 0, &redeemCall { claim: claim.clone() });
    let other = full(&world.ticket(&payer, payee.address, 1, ETHER));
    let many = redeemManyCall { claims: vec![claim, other] };
    let many = world.transaction(payee.address, 0, &many);
    // The first byte of each word that is narrower than 32 bytes; in the batch, of the second item. `mayDefault`, which is not
    // signed, is read only where it matters.
    for (tx, start) in [(&clean, 4), (&many, 4 + 64 + 14 * 32)] {
        for word in [0, 1, 2, 4, 5, 6, 7, 12] {
            let mut data = tx.data.to_vec();
            data[start + 32 * word] = 0x80;
            let dirty = Transaction { data: data.into(), ..tx.clone() };
            assert!(!world.clone().evm.transact(&dirty).unwrap().success, "word {word}");
        }
    }
    assert!(world.evm.transact(&clean).unwrap().success);
    // Too little of it, and ether with what takes none.
    for cut in 0..clean.data.len() {
        let short = Transaction { data: clean.data.slice(..cut), ..clean.clone() };
        assert!(!world.evm.view(&short).unwrap().success);
    }
    assert!(!world.evm.view(&Transaction { value: U256::from(1), ..clean }).unwrap().success);
}

#[test]
fn paying_oneself_gains_nothing() {
    let (mut world, payer, _) = funded(2 * ETHER, 4 * ETHER);
    let own = world.ticket(&payer, payer.address, 0, ETHER);
    assert_eq!(world.try_redeem(payer.address, &any(&own)), Err(Code::BadTerms));
    // Through a second address the locked reserve comes out at half, and the other half burns.
    let second = actor(1);
    let claim = world.ticket(&payer, second.address, 0, 100 * ETHER);
    assert_eq!(world.try_redeem(second.address, &any(&claim)), Ok(4 * ETHER));
    assert_eq!(world.money(payer.address), (0, 0));
    assert_eq!(world.read(&OnionPay::burnedCall {}), U256::from(2 * ETHER));
}

#[test]
fn one_bad_item_spoils_no_batch_and_a_repeated_one_is_paid_once() {
    let (mut world, payer, payee) = funded(3 * ETHER, 8 * ETHER);
    let tickets: Vec<_> = (0..5).map(|n| world.ticket(&payer, payee.address, n, ETHER)).collect();
    let (good, again) = (full(&tickets[0]), full(&tickets[0]));
    let forged = OnionPay::Claim { nonce: 99, ..full(&tickets[1]) };
    let bad = OnionPay::Claim { face: wei(0), ..full(&tickets[1]) };
    let claims = vec![
        bad,
        good,
        forged,
        again,
        full(&tickets[1]),
        full(&tickets[2]),
        full(&tickets[3]),
        any(&tickets[4]),
    ];
    let outcome = world.ok(payee.address, 0, &redeemManyCall { claims });
    let result = redeemManyCall::abi_decode_returns(&outcome.output).unwrap();
    let codes = [
        Code::BadTerms,
        Code::Paid,
        Code::BadSignature,
        Code::Used,
        Code::Paid,
        Code::Paid,
        Code::Short,
        Code::Paid,
    ];
    assert_eq!(result.codes, codes.map(|code| code as u8));
    assert_eq!(result.total, U256::from(4 * ETHER));
    assert_eq!((world.money(payer.address), world.money(payee.address)), ((0, 6 * ETHER), (4 * ETHER, 0)));
    assert_eq!(events::<Redeemed>(&outcome).iter().filter(|paid| paid.defaulted).count(), 1);
    let none = world.ok(payee.address, 0, &redeemManyCall { claims: vec![] });
    assert!(none.logs.is_empty());
}

#[test]
fn no_item_can_use_up_the_gas_of_a_batch() {
    // Whatever an item says, it costs no more than the dearest one that is paid.
    let (mut world, payer, payee) = funded(ETHER, ETHER);
    let claim = full(&world.ticket(&payer, payee.address, 0, ETHER));
    let items = |claim: &OnionPay::Claim, n| redeemManyCall { claims: vec![claim.clone(); n] };
    for (draw, nonce) in [(u16::MAX, 0), (64, 0), (1, 5)] {
        let claim = OnionPay::Claim { draw, nonce, ..claim.clone() };
        let gas = |world: &World, n| world.clone().ok(payee.address, 0, &items(&claim, n)).gas_used;
        assert!(gas(&world, 20) - gas(&world, 10) < 10 * 30_000);
    }
    // With too little gas for all of it, nothing of it happens.
    let tickets = (0..4).map(|n| full(&world.ticket(&payer, payee.address, n, 1))).collect();
    let tx = world.transaction(payee.address, 0, &redeemManyCall { claims: tickets });
    let out = world.evm.transact(&Transaction { gas_limit: 120_000, ..tx }).unwrap();
    assert!(!out.success && out.logs.is_empty());
    assert_eq!(world.money(payer.address), (ETHER, ETHER));
}

#[test]
fn a_bound_pot_pays_its_payee_only() {
    let mut world = World::new();
    let (payer, payee) = (actor(0), actor(1));
    world.ok(payer.address, 0, &setOnlyPayeeCall { payee: payee.address });
    world.fund(&payer, 10 * ETHER, 4 * ETHER);
    let other = world.ticket(&payer, actor(2).address, 0, 100 * ETHER);
    assert_eq!(world.try_redeem(actor(2).address, &any(&other)), Err(Code::WrongPayee));
    let own = world.ticket(&payer, payee.address, 0, ETHER);
    assert_eq!(world.try_redeem(payee.address, &full(&own)), Ok(ETHER));
    world.refused(
        payer.address,
        0,
        &setOnlyPayeeCall { payee: Address::ZERO },
        &error::<OnionPay::ReserveNotEmpty>(),
    );
}

#[test]
fn keys_cannot_be_changed_under_a_reserve() {
    let (mut world, payer, payee) = funded(ETHER, ETHER);
    let new = actor(5).signer.address();
    let not_empty = error::<OnionPay::ReserveNotEmpty>();
    world.refused(payer.address, 0, &setSignerCall { signer: new }, &not_empty);
    world.ok(payer.address, 0, &startUnlockCall {});
    world.warp(7 * DAY);
    world.refused(payer.address, 0, &setSignerCall { signer: new }, &not_empty);
    let claim = world.ticket(&payer, payee.address, 0, ETHER);
    world.ok(payer.address, 0, &withdrawReserveCall { to: payer.address });
    world.ok(payer.address, 0, &setSignerCall { signer: new });
    assert_eq!(world.try_redeem(payee.address, &full(&claim)), Err(Code::BadSignature));
    let claim = world.ticket(&Actor { signer: actor(5).signer, ..payer }, payee.address, 0, ETHER);
    assert_eq!(world.try_redeem(payee.address, &full(&claim)), Ok(ETHER));
}

#[test]
fn an_unlock_cannot_outrun_tickets_nor_be_touched_by_others() {
    let (mut world, payer, payee) = funded(0, 4 * ETHER);
    world.ok(payer.address, 0, &startUnlockCall {});
    let at = world.pot(payer.address).unlockAt;
    world.refused(payer.address, 0, &startUnlockCall {}, &error::<OnionPay::Unlocking>());
    world.warp(DAY);
    // Strangers' ether goes to the balance and moves no date; the owner cannot slip in reserve under a running unlock.
    world.ok(actor(9).address, 5, &depositCall { owner: payer.address });
    assert_eq!(world.pot(payer.address).unlockAt, at);
    world.refused(payer.address, 1, &OnionPay::addReserveCall {}, &error::<OnionPay::Unlocking>());
    world.refused(payer.address, 0, &moveToReserveCall { amount: wei(5) }, &error::<OnionPay::Unlocking>());
    world.refused(actor(9).address, 0, &cancelUnlockCall {}, &error::<OnionPay::NotUnlocking>());
    world.warp(6 * DAY - 1);
    let early = world.send(payer.address, 0, &withdrawReserveCall { to: payer.address });
    assert!(!early.success);
    // Unlocked, and not withdrawn: still good for a ticket.
    world.warp(1);
    let claim = world.ticket(&payer, payee.address, 0, ETHER);
    let mut raced = world.clone();
    assert_eq!(raced.try_redeem(payee.address, &any(&claim)), Ok(ETHER));
    raced.ok(payer.address, 0, &withdrawReserveCall { to: payer.address });
    assert_eq!((raced.money(payer.address), raced.pot(payer.address).unlockAt.to::<u64>()), ((0, 0), 0));
    // A ticket never lives as long as an unlock.
    assert!(world.read(&OnionPay::MAX_TICKET_LIFECall {}) < world.read(&OnionPay::UNLOCK_DELAYCall {}));
    // Locked again, the wait begins anew.
    world.ok(payer.address, 0, &cancelUnlockCall {});
    world.refused(
        payer.address,
        0,
        &withdrawReserveCall { to: payer.address },
        &error::<OnionPay::NotUnlocking>(),
    );
}

#[test]
fn the_count_of_defaults_stops_at_its_maximum_and_payment_goes_on() {
    let (mut world, payer, payee) = funded(0, 1000 * ETHER);
    for defaults in [1, 2] {
        let claim = world.ticket(&payer, payee.address, defaults, 1);
        assert_eq!(world.try_redeem(payee.address, &any(&claim)), Ok(1));
        assert_eq!(u32::from(world.pot(payer.address).defaults), defaults);
    }
    // As if 65,534 had gone before.
    let mut word = world.evm.storage(world.contract, slot(payer.address)).to_be_bytes::<32>();
    word[1..3].copy_from_slice(&(u16::MAX - 1).to_be_bytes());
    world.poke(slot(payer.address), U256::from_be_bytes(word));
    for nonce in 3..6 {
        let claim = world.ticket(&payer, payee.address, nonce, 1);
        assert_eq!(world.try_redeem(payee.address, &any(&claim)), Ok(1));
        assert_eq!(world.pot(payer.address).defaults, u16::MAX);
    }
    assert_eq!(world.money(payer.address), (0, 1000 * ETHER - 2 * 5));
}

#[test]
fn calls_back_change_nothing() {
    let mut world = World::new();
    let json = include_str!("../../contracts/artifact/Reenter.json");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let code: Bytes = json["bytecode"].as_str().unwrap().parse().unwrap();
    let argument = world.contract.into_word();
    let thief = deploy(&mut world.evm, [code.as_ref(), argument.as_slice()].concat().into());
    let act = |world: &mut World, value: u128, data: Vec<u8>| {
        let to = Some(thief);
        let data = reenter::actCall { data: data.into() }.abi_encode().into();
        let tx = Transaction {
            to,
            data,
            value: U256::from(value),
            ..world.transaction(actor(0).address, 0, &cancelUnlockCall {})
        };
        world.evm.transact(&tx).unwrap().success
    };
    let arm = |world: &mut World, data: Vec<u8>| {
        let data = reenter::armCall { data: data.into() }.abi_encode().into();
        let tx = Transaction {
            to: Some(thief),
            data,
            ..world.transaction(actor(0).address, 0, &cancelUnlockCall {})
        };
        assert!(world.evm.transact(&tx).unwrap().success);
    };
    // Others' money is there to be stolen.
    world.fund(&actor(3), 50 * ETHER, 50 * ETHER);
    assert!(act(&mut world, 4 * ETHER, depositCall { owner: thief }.abi_encode()));
    assert!(act(&mut world, 4 * ETHER, OnionPay::addReserveCall {}.abi_encode()));
    let all = withdrawCall { to: thief, amount: wei(4 * ETHER) }.abi_encode();
    arm(&mut world, all.clone());
    let mut tried = world.clone();
    assert!(act(&mut tried, 0, all));
    assert_eq!(tried.evm.balance(thief), U256::from(4 * ETHER), "the balance, once");
    // In parts: every call back takes what is there, and together no more.
    let part = withdrawCall { to: thief, amount: wei(ETHER) }.abi_encode();
    arm(&mut world, part.clone());
    let mut tried = world.clone();
    assert!(act(&mut tried, 0, part));
    assert_eq!((tried.evm.balance(thief), tried.money(thief)), (U256::from(4 * ETHER), (0, 4 * ETHER)));
    // The reserve, and anything else while it is being paid.
    assert!(act(&mut world, 0, startUnlockCall {}.abi_encode()));
    world.warp(7 * DAY);
    let out = withdrawReserveCall { to: thief }.abi_encode();
    for back in [out.clone(), startUnlockCall {}.abi_encode(), cancelUnlockCall {}.abi_encode()] {
        arm(&mut world, back);
        let mut tried = world.clone();
        assert!(act(&mut tried, 0, out.clone()));
        assert_eq!((tried.evm.balance(thief), tried.money(thief)), (U256::from(4 * ETHER), (4 * ETHER, 0)));
        assert_eq!(tried.pot(thief).unlockAt.to::<u64>(), 0);
    }
    // A receiver that refuses keeps its money in the pot.
    let refuse = reenter::refuseCall { whether: true }.abi_encode().into();
    let tx = Transaction {
        to: Some(thief),
        data: refuse,
        ..world.transaction(actor(0).address, 0, &cancelUnlockCall {})
    };
    assert!(world.evm.transact(&tx).unwrap().success);
    assert!(!act(&mut world, 0, out));
    assert_eq!(world.money(thief), (4 * ETHER, 4 * ETHER));
}

#[test]
fn forced_ether_changes_nothing() {
    let (mut world, payer, payee) = funded(ETHER, ETHER);
    let plain = Transaction { to: Some(world.contract), value: U256::from(1), ..Transaction::default() };
    let plain = Transaction { from: actor(9).address, gas_limit: 100_000, ..plain };
    assert!(!world.evm.transact(&plain).unwrap().success, "it takes none that it does not book");
    let held = world.evm.balance(world.contract);
    assert_eq!(held, U256::from(2 * ETHER));
    world.evm.set_balance(world.contract, held + U256::from(7 * ETHER));
    assert_eq!(world.money(payer.address), (ETHER, ETHER));
    let claim = world.ticket(&payer, payee.address, 0, 5 * ETHER);
    assert_eq!(world.try_redeem(payee.address, &any(&claim)), Ok(ETHER + ETHER / 2));
    world.refused(
        payee.address,
        0,
        &withdrawCall { to: payee.address, amount: wei(ETHER + ETHER / 2 + 1) },
        &error::<OnionPay::AmountTooLarge>(),
    );
}

#[test]
fn amounts_of_more_than_96_bits_are_refused() {
    let mut world = World::new();
    let rich = actor(14).address;
    world.evm.set_balance(rich, U256::MAX >> 1);
    let most = Wei::MAX.0;
    let too_large = error::<OnionPay::AmountTooLarge>();
    world.refused(rich, most + 1, &depositCall { owner: rich }, &too_large);
    world.ok(rich, most, &depositCall { owner: rich });
    world.refused(rich, 1, &depositCall { owner: rich }, &too_large);
    world.refused(rich, most + 1, &OnionPay::addReserveCall {}, &too_large);
    world.ok(rich, most, &OnionPay::addReserveCall {});
    world.refused(rich, 0, &moveToReserveCall { amount: wei(1) }, &too_large);
    // A payee whose balance is full is not paid, and the batch goes on.
    world.fund(&actor(0), ETHER, 0);
    let claim = world.ticket(&actor(0), rich, 0, 1);
    assert_eq!(world.try_redeem(rich, &full(&claim)), Err(Code::Overflow));
    world.ok(rich, 0, &startUnlockCall {});
    world.warp(7 * DAY);
    world.ok(rich, 0, &withdrawReserveCall { to: rich });
    // Balance and half of the reserve together exceed 96 bits: the face is paid all the same.
    world.ok(rich, 0, &setSignerCall { signer: actor(14).signer.address() });
    world.ok(rich, most, &OnionPay::addReserveCall {});
    world.ok(rich, 0, &withdrawCall { to: rich, amount: wei(1) });
    let claim = world.ticket(&actor(14), actor(2).address, 0, most);
    assert_eq!(world.try_redeem(actor(2).address, &any(&claim)), Ok(most));
    assert_eq!(world.money(rich), (0, most - 2));
    // The largest face: nothing overflows on the way to what there is.
    let claim = world.ticket(&actor(0), actor(1).address, 0, most);
    assert_eq!(world.try_redeem(actor(1).address, &any(&claim)), Ok(ETHER));
}

mod reenter {
    alloy_sol_types::sol! {
        function act(bytes data) external payable;
        function arm(bytes data) external;
        function refuse(bool whether) external;
    }
}

/// The bytes of an error without arguments.
fn error<E: alloy_sol_types::SolError>() -> Vec<u8> {
    E::SELECTOR.to_vec()
}
