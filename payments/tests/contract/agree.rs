//! Rust and Solidity agree; so do the interface in Rust and the one that the compiler wrote.

use std::collections::BTreeSet;

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolError, SolEvent, SolInterface as _};
use payments::abi::OnionPay::{self, Code, OnionPayCalls, OnionPayErrors, OnionPayEvents, Redeemed};
use payments::abi::{creation_code, runtime_code};
use payments::amount::Wei;
use payments::claim::Claim;
use payments::draw::{Chain, wins};
use payments::evm::{Evm, MAX_GAS, Rejected, Transaction};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::world::{DAY, ETHER, Terms, World, actor, any, deploy, events};

fn word(rng: &mut ChaCha12Rng) -> B256 {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes.into()
}

// Invariant 13.
#[test]
fn rust_and_solidity_agree_on_digest_chain_win_and_payout() {
    let mut rng = ChaCha12Rng::seed_from_u64(13);
    let mut world = World::new();
    let (mut paid, mut lost) = (0, 0);
    for n in 0..2_000u32 {
        let (payer, payee) = (actor((n % 8) as u8), actor(8 + (n % 7) as u8));
        if n < 8 {
            world.fund(&payer, 1000 * ETHER, ETHER);
        }
        world.evm.set_chain_id(rng.next_u64() >> 11);
        let (mut chain_id, draws) = (world.evm.chain_id(), 1 + (rng.next_u64() % 64) as u16);
        let terms = Terms {
            nonce: rng.next_u64() as u32,
            face: u128::from(rng.next_u64() >> (rng.next_u64() % 60)) + 1,
            win_prob: rng.next_u64(),
            expiry: world.evm.time() + rng.next_u64() % (3 * DAY),
            draws,
            draw: 1 + (rng.next_u64() % u64::from(draws)) as u16,
            secret: word(&mut rng),
            rand: word(&mut rng),
        };
        let mut claim = terms.sign(&world.domain(), &payer, payee.address);
        // A third of them with something wrong.
        match rng.next_u64() % 18 {
            0 => claim.link = word(&mut rng),
            1 => claim.draw += 1,
            2 => claim.rand = word(&mut rng),
            3 => claim.signature.0[(rng.next_u64() % 64) as usize] ^= 1 << (rng.next_u64() % 8),
            4 => claim.session.face = Wei(claim.session.face.0 + 1),
            5 => chain_id ^= 1,
            _ => {}
        }
        world.evm.set_chain_id(chain_id);
        let valid = rust(&world, &claim) == Some(payer.signer.address());
        let result = world.try_redeem(payee.address, &any(&claim));
        match (valid, result) {
            (true, Ok(payout)) => assert_eq!(payout, claim.session.face.0),
            (false, Err(Code::BadChain | Code::NoWin | Code::BadSignature | Code::BadTerms)) => {}
            (_, result) => panic!("Rust says {valid}, Solidity {result:?}, of {claim:?}"),
        }
        paid += u32::from(valid);
        lost += u32::from(!valid);
    }
    assert!(paid > 500 && lost > 500, "{paid} {lost}");
}

fn rust(world: &World, claim: &Claim) -> Option<alloy_primitives::Address> {
    claim.signer(&world.domain())
}

// Invariant 12.
#[test]
fn a_million_draws_win_as_often_as_they_should() {
    let mut rng = ChaCha12Rng::seed_from_u64(12);
    for shift in [1, 2, 6] {
        let (win_prob, draws, mut won) = (u64::MAX >> shift, 1_000_000 / 3 + 1, 0u32);
        let chains = draws / 64 + 1;
        for _ in 0..chains {
            let (chain, rand) = (Chain::new(word(&mut rng), 64), word(&mut rng));
            won += (1..=64).filter(|i| wins(&chain.link(*i).unwrap(), &rand, win_prob)).count() as u32;
        }
        let (n, p) = (f64::from(chains * 64), 0.5f64.powi(shift));
        let sigma = (n * p * (1.0 - p)).sqrt();
        assert!((f64::from(won) - n * p).abs() < 4.0 * sigma, "{won} of {n} at {p}");
    }
    for _ in 0..10_000 {
        let (link, rand) = (word(&mut rng), word(&mut rng));
        assert!(!wins(&link, &rand, 0) && wins(&link, &rand, u64::MAX));
    }
}

#[test]
fn the_interface_in_rust_is_the_one_of_the_artifact() {
    let json = include_str!("../../contracts/artifact/OnionPay.json");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["bytecode"], creation_code().to_string());
    assert_eq!(json["runtime"], runtime_code().to_string());
    assert!(runtime_code().len() > 5_000 && runtime_code().len() <= 24_576);
    let mut found = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for item in json["abi"].as_array().unwrap() {
        let hash = keccak256(format!("{}{}", item["name"].as_str().unwrap(), types(&item["inputs"])));
        let kind = ["function", "event", "error"].iter().position(|kind| item["type"] == *kind).unwrap();
        found[kind].insert(if kind == 1 { hash.to_vec() } else { hash[..4].to_vec() });
    }
    let ours = [
        OnionPayCalls::selectors().map(|selector| selector.to_vec()).collect::<BTreeSet<_>>(),
        OnionPayEvents::SELECTORS.iter().map(|selector| selector.to_vec()).collect(),
        OnionPayErrors::selectors().map(|selector| selector.to_vec()).collect(),
    ];
    assert_eq!(found, ours);
}

/// The types of a list of parameters, as they go into a selector.
fn types(list: &serde_json::Value) -> String {
    let one = |item: &serde_json::Value| {
        let name = item["type"].as_str().unwrap();
        name.strip_prefix("tuple").map_or_else(|| name.into(), |rest| types(&item["components"]) + rest)
    };
    format!("({})", list.as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(","))
}

#[test]
fn a_machine_survives_export_and_nothing_else_is_one() {
    let mut world = World::new();
    world.fund(&actor(0), ETHER, ETHER);
    let bytes = world.evm.export();
    let copy = Evm::import(&bytes).unwrap();
    assert_eq!((copy.export(), &copy), (bytes.clone(), &world.evm));
    // It goes on from there as the first does.
    let claim = any(&world.ticket(&actor(0), actor(1).address, 0, ETHER));
    let mut other = World { evm: copy, contract: world.contract };
    let outcomes = [other.redeem(actor(1).address, &claim), world.redeem(actor(1).address, &claim)];
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(events::<Redeemed>(&outcomes[0]).len(), 1);
    assert_eq!(other.evm.export(), world.evm.export());
    assert_ne!(other.evm.export(), bytes);
    for cut in (0..bytes.len()).step_by(7) {
        assert!(Evm::import(&bytes[..cut]).is_err());
    }
    assert!(Evm::import(&[&bytes[..], &[0]].concat()).is_err());
    assert!(Evm::import(&[&[9], &bytes[1..]].concat()).is_err());
}

#[test]
fn a_machine_rejects_what_no_block_may_hold_and_views_change_nothing() {
    let mut world = World::new();
    let call = OnionPay::depositCall { owner: actor(0).address };
    let before = world.evm.export();
    let from = actor(0).address;
    let good = world.transaction(from, 5, &call);
    assert!(world.evm.view(&good).unwrap().success);
    let poor = Transaction { from: actor(40).address, gas_price: 7, ..good.clone() };
    let needed = U256::from(5 + 7 * MAX_GAS);
    assert_eq!(world.evm.transact(&poor), Err(Rejected::NoMoney { needed, balance: U256::ZERO }));
    let large = Transaction { gas_limit: MAX_GAS + 1, ..good.clone() };
    assert!(matches!(world.evm.transact(&large), Err(Rejected::Other(_))));
    let small = Transaction { gas_limit: 20_000, ..good.clone() };
    assert!(matches!(world.evm.transact(&small), Err(Rejected::Other(_))));
    assert_eq!(world.evm.export(), before);
    // What fails costs its fee and a nonce, and changes nothing else.
    let (nonce, balance) = (world.evm.nonce(from), world.evm.balance(from));
    let failing = Transaction { gas_price: 3, data: vec![1, 2, 3, 4].into(), ..good };
    let outcome = world.evm.transact(&failing).unwrap();
    assert!(!outcome.success && outcome.logs.is_empty());
    assert_eq!(world.evm.nonce(from), nonce + 1);
    assert_eq!(world.evm.balance(from), balance - U256::from(3 * outcome.gas_used));
    assert_eq!(world.evm.balance(world.contract), U256::ZERO);
    // Deploying again makes another contract.
    assert_ne!(deploy(&mut world.evm, creation_code()), world.contract);
}

// The compiler checks that these are the names that others use.
const _: [&str; 3] = [OnionPay::redeemCall::SIGNATURE, OnionPay::Refused::SIGNATURE, Redeemed::SIGNATURE];
