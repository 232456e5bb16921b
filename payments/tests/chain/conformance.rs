//! What every back-end does the same: each test runs on each of them.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolValue as _};
use payments::abi::OnionPay::OnionPayEvents;
use payments::abi::{OnionPay, uint96};
use payments::amount::Wei;
use payments::chain::action::Action;
use payments::chain::{At, CHANGES, Call, Chain, Error, Limits, Place, Receipt};
use payments::claim::Claim;
use payments::draw::Chain as Draws;
use payments::session::{Domain, Session, Signer};

use crate::lab::{Lab, embedded, mined, signer};

const ETHER: u128 = 1_000_000_000_000_000_000;
const LIMITS: Limits = Limits { gas: 300_000, price: 1_000_000_000_000 };

async fn send(chain: &Arc<dyn Chain>, signer: &Signer, call: &impl SolCall, value: Wei) -> Receipt {
    let call = Call::new(&chain.domain(), call, value);
    let hash = chain.send(signer, call, LIMITS).await.unwrap();
    let receipt = mined(chain, hash).await;
    assert!(receipt.success);
    receipt
}

/// A pot of one ether in balance and reserve each, and a ticket of it that won.
async fn ticket(lab: &Lab, payer: &Signer, payee: Address, nonce: u32, face: Wei) -> Claim {
    let chain = lab.chain();
    lab.fund(payer.address()).await;
    if chain.account(payer.address(), At::Latest).await.unwrap().signer.is_none() {
        send(&chain, payer, &OnionPay::setSignerCall { signer: payer.address() }, Wei::ZERO).await;
        send(&chain, payer, &OnionPay::depositCall { owner: payer.address() }, Wei(ETHER)).await;
        send(&chain, payer, &OnionPay::addReserveCall {}, Wei(ETHER)).await;
    }
    let draws = Draws::new(keccak256(nonce.to_be_bytes()), 8);
    let rand = B256::repeat_byte(7);
    let expiry = chain.head(At::Latest).await.unwrap().time + 48 * 3600;
    let session = Session {
        payer: payer.address(),
        payee,
        nonce,
        anchor: draws.anchor(),
        rand_hash: keccak256(rand),
        face,
        win_prob: u64::MAX,
        expiry,
    };
    let signature = payer.sign(&session.digest(&chain.domain()));
    Claim { session, draw: 5, link: draws.link(5).unwrap(), rand, signature }
}

#[tokio::test]
async fn money_goes_where_it_should_to_the_wei() {
    for (name, lab) in Lab::all().await {
        println!("{name}");
        let (chain, owner) = (lab.chain(), signer(1));
        let address = owner.address();
        let poor = Call::new(&chain.domain(), &OnionPay::depositCall { owner: address }, Wei(5));
        let error = chain.send(&owner, poor, LIMITS).await.unwrap_err();
        assert!(matches!(error, Error::NoGasMoney { has: Wei::ZERO, .. }), "{error}");
        lab.fund(address).await;
        let before = chain.purse(address).await.unwrap();
        assert_eq!((before.wei, before.nonce, before.pending), (Wei(10 * ETHER), 0, 0));
        let first = chain.head(At::Latest).await.unwrap().number + 1;
        let mut spent = Wei::ZERO;
        for value in [5, 7] {
            spent = spent.saturating_add(
                send(&chain, &owner, &OnionPay::depositCall { owner: address }, Wei(value)).await.fee(),
            );
        }
        spent = spent.saturating_add(send(&chain, &owner, &OnionPay::addReserveCall {}, Wei(30)).await.fee());
        spent =
            spent.saturating_add(send(&chain, &owner, &OnionPay::startUnlockCall {}, Wei::ZERO).await.fee());
        let after = chain.purse(address).await.unwrap();
        assert_eq!(
            Some(after.wei),
            before.wei.checked_sub(Wei(42)).and_then(|left| left.checked_sub(spent)),
            "{name}"
        );
        assert_eq!((after.nonce, after.pending), (4, 4));
        let account = chain.account(address, At::Latest).await.unwrap();
        assert_eq!((account.balance, account.reserve), (Wei(12), Wei(30)));
        let head = chain.head(At::Latest).await.unwrap();
        assert_eq!(account.unlock_at, Some(head.time + 7 * 24 * 3600));
        assert_eq!((account.signer, account.only_payee, account.registered), (None, None, false));

        let events = chain.events(first, head.number).await.unwrap();
        let balances: Vec<_> = events
            .iter()
            .map(|(_, event)| match event {
                OnionPayEvents::AccountChanged(changed) => {
                    (changed.owner, Wei::from(changed.balance), Wei::from(changed.reserve))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(balances, [(5, 0), (12, 0), (12, 30), (12, 30)].map(|(b, r)| (address, Wei(b), Wei(r))));
        let blocks: Vec<_> = events.iter().map(|(log, _)| log.block).collect();
        assert!(blocks.is_sorted() && blocks.iter().all(|block| (first..=head.number).contains(block)));
        assert_eq!(events[0].0.hash, chain.head(At::Block(blocks[0])).await.unwrap().hash);
        // A transfer to anyone.
        let friend = Address::repeat_byte(9);
        let hash = chain.send(&owner, Call::transfer(friend, Wei(77)), LIMITS).await.unwrap();
        mined(&chain, hash).await;
        assert_eq!(chain.purse(friend).await.unwrap().wei, Wei(77), "{name}");
    }
}

#[tokio::test]
async fn the_final_state_is_an_older_one_and_blocks_hang_together() {
    for (name, lab) in Lab::all().await {
        let (chain, owner) = (lab.chain(), signer(2));
        lab.fund(owner.address()).await;
        lab.mine(5).await;
        send(&chain, &owner, &OnionPay::depositCall { owner: owner.address() }, Wei(5)).await;
        let (latest, final_) =
            (chain.head(At::Latest).await.unwrap(), chain.head(At::Finalized).await.unwrap());
        assert_eq!(final_.number + 2, latest.number, "{name}");
        assert!(final_.time <= latest.time);
        assert_eq!(chain.head(At::Block(final_.number)).await.unwrap(), final_);
        assert_eq!(chain.account(owner.address(), At::Latest).await.unwrap().balance, Wei(5));
        assert_eq!(chain.account(owner.address(), At::Finalized).await.unwrap().balance, Wei::ZERO);
        assert_eq!(chain.account(owner.address(), At::Block(latest.number)).await.unwrap().balance, Wei(5));
        lab.mine(2).await;
        assert_eq!(chain.account(owner.address(), At::Finalized).await.unwrap().balance, Wei(5));
        latest.fresh(latest.time + 60, 60).unwrap();
        let error = latest.fresh(latest.time + 61, 60).unwrap_err();
        assert_eq!(error, Error::Stale { number: latest.number, age: 61 });
    }
}

#[tokio::test]
async fn a_ticket_is_paid_once_and_told_as_an_event() {
    for (name, lab) in Lab::all().await {
        let (chain, payer, payee) = (lab.chain(), signer(3), signer(4));
        lab.fund(payee.address()).await;
        let claim = ticket(&lab, &payer, payee.address(), 9, Wei(1000)).await;
        let shown = OnionPay::Claim::new(&claim, Wei(1000), true).unwrap();
        let call = OnionPay::redeemCall { claim: shown };
        let used = async |at| chain.is_used(payer.address(), payee.address(), 9, at).await.unwrap();
        assert!(!used(At::Latest).await);
        let receipt = send(&chain, &payee, &call, Wei::ZERO).await;
        assert!(used(At::Latest).await && !used(At::Finalized).await);
        lab.mine(2).await;
        assert!(used(At::Finalized).await);
        let events = chain.events(receipt.block, receipt.block).await.unwrap();
        let paid: Vec<_> = events
            .into_iter()
            .filter_map(|(_, event)| match event {
                OnionPayEvents::Redeemed(paid) => {
                    Some((paid.payer, paid.payee, paid.nonce, Wei::from(paid.payout), paid.defaulted))
                }
                _ => None,
            })
            .collect();
        assert_eq!(paid, [(payer.address(), payee.address(), 9, Wei(1000), false)], "{name}");
        assert_eq!(chain.account(payee.address(), At::Latest).await.unwrap().balance, Wei(1000));
        let again =
            chain.send(&payee, Call::new(&chain.domain(), &call, Wei::ZERO), LIMITS).await.unwrap_err();
        assert!(again.to_string().contains("Used") || name == "server", "{again}");
        assert!(matches!(again, Error::Reverted(_)), "{again}");
    }
}

#[tokio::test]
async fn the_registry_is_read_whole_and_its_root_follows_from_the_events() {
    for (name, lab) in Lab::all().await {
        let chain = lab.chain();
        let first = chain.head(At::Latest).await.unwrap().number;
        for byte in 20..25 {
            let owner = signer(byte);
            lab.fund(owner.address()).await;
            send(&chain, &owner, &OnionPay::addReserveCall {}, Wei(ETHER)).await;
            send(&chain, &owner, &OnionPay::registerCall { idKey: B256::repeat_byte(byte) }, Wei::ZERO).await;
        }
        send(&chain, &signer(21), &OnionPay::startUnlockCall {}, Wei::ZERO).await;
        lab.mine(2).await;
        let registry = chain.registry().await.unwrap();
        let mut keys: Vec<_> =
            registry.relays.iter().map(|relay| (relay.owner, relay.id_key[0], relay.reserve)).collect();
        keys.sort_by_key(|(_, key, _)| *key);
        assert_eq!(keys, [20, 22, 23, 24].map(|byte| (signer(byte).address(), byte, Wei(ETHER))), "{name}");
        let mut events = chain.events(first, registry.head.number).await.unwrap();
        let only = chain.events_of(first, registry.head.number, CHANGES).await.unwrap();
        assert!(only.len() < events.len(), "{name}");
        events.retain(|(_, event)| matches!(event, OnionPayEvents::RelayChanged(_)));
        assert_eq!(only, events, "{name}");
        let changes = events.into_iter().filter_map(|(_, event)| match event {
            OnionPayEvents::RelayChanged(changed) => Some(changed),
            _ => None,
        });
        let fold = |root: B256, change: OnionPay::RelayChanged| {
            let seq = U256::from(change.seq);
            keccak256((root, seq, change.owner, change.idKey, change.registered).abi_encode())
        };
        assert_eq!((changes.fold(B256::ZERO, fold), 6), (registry.root, registry.seq));
    }
}

#[tokio::test]
async fn what_the_contract_refuses_costs_nothing_and_says_why() {
    for (name, lab) in Lab::all().await {
        let (chain, owner) = (lab.chain(), signer(5));
        lab.fund(owner.address()).await;
        let withdraw = OnionPay::withdrawCall { to: owner.address(), amount: uint96(Wei(1)).unwrap() };
        let call = Call::new(&chain.domain(), &withdraw, Wei::ZERO);
        let error = chain.send(&owner, call, LIMITS).await.unwrap_err();
        assert_eq!(
            error,
            Error::Reverted(match name {
                "server" => "execution reverted: the balance does not cover the amount".into(),
                _ => "the balance does not cover the amount".into(),
            })
        );
        let deposit =
            || Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(1));
        let dear = chain.send(&owner, deposit(), Limits { price: 1, ..LIMITS }).await.unwrap_err();
        assert!(matches!(dear, Error::FeeTooHigh { limit: 1, .. }), "{dear}");
        assert_eq!(chain.purse(owner.address()).await.unwrap().wei, Wei(10 * ETHER), "{name}");
    }
}

#[tokio::test]
async fn a_transaction_that_waits_is_replaced_by_a_dearer_one_only() {
    for (name, lab) in Lab::all().await {
        let (chain, owner) = (lab.chain(), signer(6));
        lab.fund(owner.address()).await;
        lab.set_instant(false).await;
        let deposit =
            |wei| Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(wei));
        let first = chain.prepare(&owner, deposit(1), LIMITS, None).await.unwrap();
        chain.broadcast(first.raw.clone()).await.unwrap();
        chain.broadcast(first.raw.clone()).await.expect("twice is no error");
        let purse = chain.purse(owner.address()).await.unwrap();
        assert_eq!((purse.nonce, purse.pending), (0, 1), "{name}");
        assert_eq!(chain.receipt(first.hash).await.unwrap(), None);

        let same = Place { nonce: 0, ..Place::default() };
        let cheap = chain.prepare(&owner, deposit(2), LIMITS, Some(same)).await.unwrap();
        let error = chain.broadcast(cheap.raw).await.unwrap_err();
        assert_eq!(error, Error::Underpriced, "{name}");
        let place = Place { nonce: 0, max_fee: first.place.max_fee * 2, tip: first.place.tip * 2 };
        let dear = chain.prepare(&owner, deposit(3), LIMITS, Some(place)).await.unwrap();
        assert_eq!(dear.place.nonce, 0);
        chain.broadcast(dear.raw).await.unwrap();
        let second = chain.send(&owner, deposit(10), LIMITS).await.unwrap();
        lab.mine(1).await;
        assert_eq!(chain.receipt(first.hash).await.unwrap(), None, "{name}");
        assert!(chain.receipt(dear.hash).await.unwrap().unwrap().success);
        assert!(chain.receipt(second).await.unwrap().unwrap().success);
        assert_eq!(chain.account(owner.address(), At::Latest).await.unwrap().balance, Wei(13));
        // The first one's turn is over.
        assert_eq!(chain.broadcast(first.raw).await.unwrap_err(), Error::NonceUsed, "{name}");
    }
}

#[tokio::test]
async fn a_reorganisation_takes_back_what_was_not_final() {
    for (name, lab) in Lab::all().await {
        let (chain, owner) = (lab.chain(), signer(7));
        lab.fund(owner.address()).await;
        send(&chain, &owner, &OnionPay::depositCall { owner: owner.address() }, Wei(1)).await;
        lab.mine(3).await;
        let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(2));
        let signed = chain.prepare(&owner, deposit, LIMITS, None).await.unwrap();
        chain.broadcast(signed.raw.clone()).await.unwrap();
        let receipt = mined(&chain, signed.hash).await;
        assert_eq!(chain.account(owner.address(), At::Latest).await.unwrap().balance, Wei(3));
        lab.reorganise(1).await;
        assert_ne!(chain.head(At::Block(receipt.block)).await.unwrap().hash, receipt.hash, "{name}");
        assert_eq!(chain.receipt(signed.hash).await.unwrap(), None, "{name}");
        assert_eq!(chain.account(owner.address(), At::Latest).await.unwrap().balance, Wei(1), "{name}");
        assert_eq!(chain.events(receipt.block, receipt.block + 1).await.unwrap(), []);
        assert_eq!(chain.purse(owner.address()).await.unwrap().nonce, 1);
        chain.broadcast(signed.raw).await.expect("it can be sent again");
        lab.mine(1).await;
        assert!(chain.receipt(signed.hash).await.unwrap().unwrap().success, "{name}");
        assert_eq!(chain.account(owner.address(), At::Latest).await.unwrap().balance, Wei(3));
    }
}

#[tokio::test]
async fn every_action_takes_the_gas_that_is_told_before() {
    let lab = Lab::Embedded(embedded());
    let (chain, owner, payee) = (lab.chain(), signer(8), signer(9));
    let address = owner.address();
    lab.fund(payee.address()).await;
    let claim = ticket(&lab, &payee, address, 0, Wei(1000)).await;
    lab.fund(address).await;
    let mut measured = Vec::new();
    let mut run = async |action: Action, call: Call| {
        let hash = chain.send(&owner, call, LIMITS).await.unwrap();
        measured.push((action, chain.receipt(hash).await.unwrap().unwrap().gas));
    };
    let call = |call: &dyn Fn(&Domain) -> Call| call(&chain.domain());
    run(
        Action::SetKeys,
        call(&|d| Call::new(d, &OnionPay::setOnlyPayeeCall { payee: payee.address() }, Wei::ZERO)),
    )
    .await;
    run(Action::Deposit, call(&|d| Call::new(d, &OnionPay::depositCall { owner: address }, Wei(ETHER))))
        .await;
    run(Action::AddReserve, call(&|d| Call::new(d, &OnionPay::addReserveCall {}, Wei(ETHER)))).await;
    run(
        Action::Register,
        call(&|d| Call::new(d, &OnionPay::registerCall { idKey: B256::repeat_byte(1) }, Wei::ZERO)),
    )
    .await;
    let withdraw = OnionPay::withdrawCall { to: Address::repeat_byte(1), amount: uint96(Wei(1)).unwrap() };
    run(Action::Withdraw, call(&|d| Call::new(d, &withdraw, Wei::ZERO))).await;
    run(Action::StartUnlock, call(&|d| Call::new(d, &OnionPay::startUnlockCall {}, Wei::ZERO))).await;
    run(Action::CancelUnlock, call(&|d| Call::new(d, &OnionPay::cancelUnlockCall {}, Wei::ZERO))).await;
    let shown = OnionPay::Claim::new(&claim, Wei(1000), true).unwrap();
    run(Action::Redeem, call(&|d| Call::new(d, &OnionPay::redeemCall { claim: shown.clone() }, Wei::ZERO)))
        .await;
    run(Action::StartUnlock, call(&|d| Call::new(d, &OnionPay::startUnlockCall {}, Wei::ZERO))).await;
    if let Lab::Embedded(embedded) = &lab {
        embedded.tick(1_000_000 + 8 * 24 * 3600).unwrap();
    }
    let take = OnionPay::withdrawReserveCall { to: Address::repeat_byte(2) };
    run(Action::WithdrawReserve, call(&|d| Call::new(d, &take, Wei::ZERO))).await;
    run(Action::Transfer, Call::transfer(payee.address(), Wei(1))).await;
    let limits = Limits { gas: Action::Deploy.gas(), ..LIMITS };
    let (signed, contract) = chain.prepare_contract(&owner, limits).await.unwrap();
    assert_ne!(contract, chain.domain().contract);
    chain.broadcast(signed.raw).await.unwrap();
    measured.push((Action::Deploy, chain.receipt(signed.hash).await.unwrap().unwrap().gas));
    println!("{measured:?}");
    for action in Action::ALL {
        let used = measured.iter().filter(|(of, _)| *of == action).map(|(_, gas)| *gas).max().unwrap();
        assert!(used <= action.gas() && used * 2 >= action.gas(), "{action:?} took {used}");
    }
}
