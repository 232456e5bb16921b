//! The embedded chain on disk.

use payments::abi::OnionPay;
use payments::amount::Wei;
use payments::chain::embedded::{Embedded, Options};
use payments::chain::{At, Call, Chain, Error, Limits};

use crate::lab::signer;

const LIMITS: Limits = Limits { gas: 300_000, price: 1_000_000_000_000 };

#[tokio::test]
async fn an_embedded_chain_goes_on_where_its_file_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain");
    let owner = signer(1);
    let address = owner.address();
    let options = Options { genesis: vec![(address, Wei(1 << 70))], time: 100, ..Options::default() };
    let mut sent = Vec::new();
    let mut heads = Vec::new();
    for round in 1..=4u64 {
        let embedded = Embedded::open(&path, options.clone()).unwrap();
        let chain: &dyn Chain = &embedded;
        if let Some(head) = heads.last() {
            assert_eq!(chain.head(At::Latest).await.unwrap(), *head);
        }
        let deposit =
            Call::new(&chain.domain(), &OnionPay::depositCall { owner: address }, Wei(round.into()));
        sent.push(chain.send(&owner, deposit, LIMITS).await.unwrap());
        for tick in 0..20 {
            embedded.tick(1000 * round + tick).unwrap();
        }
        heads.push(chain.head(At::Latest).await.unwrap());
        assert_eq!(heads.last().unwrap().time, 1000 * round + 19);
    }
    let embedded = Embedded::open(&path, options.clone()).unwrap();
    let chain: &dyn Chain = &embedded;
    assert_eq!(chain.account(address, At::Latest).await.unwrap().balance, Wei(10));
    assert_eq!(chain.purse(address).await.unwrap().nonce, 4);
    for hash in sent {
        assert!(chain.receipt(hash).await.unwrap().unwrap().success);
    }
    let head = chain.head(At::Latest).await.unwrap();
    assert_eq!(chain.events(0, head.number).await.unwrap().len(), 4);
    let error = Embedded::open(&path, options.clone()).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    drop(embedded);
    let other = Options { chain_id: 5, ..options };
    assert!(matches!(
        Embedded::open(&path, other),
        Err(Error::WrongChain { found: 31_337, expected: 5, .. })
    ));
}

#[tokio::test]
async fn blocks_that_are_final_are_not_taken_back() {
    let embedded = Embedded::new(Options::default()).unwrap();
    for _ in 0..5 {
        embedded.mine().unwrap();
    }
    let before = embedded.head(At::Latest).await.unwrap();
    embedded.reorganise(3, false).unwrap();
    assert_eq!(embedded.head(At::Latest).await.unwrap(), before);
    embedded.reorganise(2, false).unwrap();
    let after = embedded.head(At::Latest).await.unwrap();
    assert_eq!(after.number, before.number + 1);
    assert_ne!(embedded.head(At::Block(before.number)).await.unwrap().hash, before.hash);
}

#[tokio::test]
async fn what_a_reorganisation_takes_back_waits_again() {
    let owner = signer(1);
    let genesis = vec![(owner.address(), Wei(1 << 70))];
    let embedded = Embedded::new(Options { genesis, ..Options::default() }).unwrap();
    let chain: &dyn Chain = &embedded;
    embedded.mine().unwrap();
    let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(1));
    let hash = chain.send(&owner, deposit, LIMITS).await.unwrap();
    embedded.reorganise(1, false).unwrap();
    assert_eq!(chain.receipt(hash).await.unwrap(), None);
    assert_eq!(embedded.waiting(), [hash]);
    // A price above what it offers keeps it waiting.
    embedded.set_base_fee(u128::MAX >> 64);
    embedded.mine().unwrap();
    assert_eq!(chain.receipt(hash).await.unwrap(), None);
    embedded.set_base_fee(1);
    embedded.mine().unwrap();
    assert!(chain.receipt(hash).await.unwrap().unwrap().success);
    assert_eq!(embedded.forget_waiting(), 0);
}
