//! RPCs that are wrong, down, behind, or liars.

use std::time::Duration;

use alloy_primitives::{Address, Bytes};
use payments::abi::OnionPay;
use payments::amount::Wei;
use payments::chain::rpc::{Config, Rpc};
use payments::chain::{At, Call, Chain, Error, Limits};
use payments::session::Domain;

use crate::lab::{Anvil, config, embedded, signer};
use crate::server::Server;

const LIMITS: Limits = Limits { gas: 300_000, price: 1_000_000_000_000 };

#[tokio::test]
async fn a_wrong_chain_address_or_contract_is_said_at_once() {
    let chain = embedded();
    let domain = chain.domain();
    let server = Server::start(chain.clone()).await;
    let connect = async |domain| Rpc::connect(config(vec![server.url.clone()], domain)).await.unwrap_err();

    let error = connect(Domain { chain_id: 1, ..domain }).await;
    assert!(matches!(error, Error::WrongChain { found: 31_337, expected: 1, .. }), "{error}");
    // A path may be a key.
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = connect(Domain { contract: Address::repeat_byte(1), ..domain }).await;
    assert_eq!(error, Error::NoContract { contract: Address::repeat_byte(1), chain_id: 31_337 });
    server.set(|faults| faults.code = Some(Bytes::from_static(b"other")));
    assert_eq!(connect(domain).await, Error::OtherContract { contract: domain.contract });
    server.set(|faults| faults.code = None);
    assert!(Rpc::connect(config(vec![server.url.clone()], domain)).await.is_ok());
    for url in ["ftp://127.0.0.1/", "no url"] {
        let error = Rpc::connect(config(vec![url.into()], domain)).await.unwrap_err();
        assert!(matches!(error, Error::NoAddress(_)) && error.to_string().contains("https://"), "{error}");
    }
    // The second RPC is looked at too.
    let wrong = Server::start(chain).await;
    wrong.set(|faults| faults.chain_id = Some(10));
    let error = Rpc::connect(config(vec![server.url, wrong.url], domain)).await.unwrap_err();
    assert!(matches!(error, Error::WrongChain { found: 10, .. }), "{error}");
}

#[tokio::test]
async fn an_rpc_that_is_busy_is_asked_again_and_one_that_is_down_passed_by() {
    let chain = embedded();
    let (first, second) = (Server::start(chain.clone()).await, Server::start(chain.clone()).await);
    let rpc =
        Rpc::connect(config(vec![first.url.clone(), second.url.clone()], chain.domain())).await.unwrap();
    first.set(|faults| faults.busy = 2);
    assert_eq!(rpc.fees().await.unwrap(), chain.fees().await.unwrap());
    let others: Vec<_> = second.asked.lock().unwrap().clone();
    assert_eq!(
        others.iter().filter(|method| *method == "eth_gasPrice").count(),
        0,
        "the first one had an answer"
    );

    first.set(|faults| faults.down = true);
    assert_eq!(rpc.fees().await.unwrap(), chain.fees().await.unwrap());
    let asked = first.asked.lock().unwrap().len();
    for _ in 0..3 {
        rpc.head(At::Latest).await.unwrap();
        rpc.head(At::Finalized).await.unwrap();
    }
    assert_eq!(first.asked.lock().unwrap().len(), asked);
    second.set(|faults| faults.garbage = true);
    let error = rpc.fees().await.unwrap_err();
    assert!(matches!(error, Error::Down(_)) && error.passes(), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("cannot be reached") && said.contains("cannot be read") && !said.contains("secret"),
        "{said}"
    );
    first.set(|faults| faults.down = false);
    second.set(|faults| faults.garbage = false);
    assert!(rpc.fees().await.is_ok());
    // Both are asked again in the end.
    for _ in 0..40 {
        rpc.head(At::Latest).await.unwrap();
    }
    assert!(first.asked.lock().unwrap().len() > asked);
}

#[tokio::test]
async fn an_rpc_that_hangs_is_given_up_and_another_one_asked() {
    // Connections are taken by the system, and nobody answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    let chain = embedded();
    let hurried = |urls| Config { timeout: Duration::from_millis(300), ..config(urls, chain.domain()) };
    let error = Rpc::connect(hurried(vec![url.clone()])).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("gave no answer") && said.contains("--rpc") && !said.contains("secret"), "{said}");
    let other = Server::start(chain.clone()).await;
    let patient = config(vec![url, other.url], chain.domain());
    let rpc = Rpc::connect(Config { timeout: Duration::from_secs(2), ..patient }).await.unwrap();
    assert_eq!(rpc.fees().await.unwrap(), chain.fees().await.unwrap());
}

#[tokio::test]
async fn a_contract_that_is_not_final_yet_is_called_so() {
    let chain = embedded();
    for _ in 0..10 {
        chain.mine().unwrap();
    }
    let server = Server::start(chain.clone()).await;
    let rpc = Rpc::connect(config(vec![server.url.clone()], chain.domain())).await.unwrap();
    let young = (&rpc as &dyn Chain).head(At::Finalized).await.unwrap().number;
    server.set(|faults| faults.young = Some(young));
    let rpc: &dyn Chain = &rpc;
    for at in [At::Finalized, At::Block(young)] {
        let error = rpc.account(signer(1).address(), at).await.unwrap_err();
        assert!(matches!(error, Error::NotFinal { chain_id: 31_337, .. }) && error.passes(), "{error}");
        assert!(error.to_string().contains("not final yet"), "{error}");
    }
    assert!(matches!(rpc.registry().await, Err(Error::NotFinal { .. })));
    rpc.account(signer(1).address(), At::Latest).await.unwrap();
    server.set(|faults| faults.young = None);
    rpc.account(signer(1).address(), At::Finalized).await.unwrap();
}

#[tokio::test]
async fn a_chain_without_a_contract_is_asked_for_what_deploying_one_takes() {
    let chain = embedded();
    let server = Server::start(chain.clone()).await;
    let rpc = Rpc::bare(vec![server.url.clone()], 31_337).unwrap();
    assert_eq!(rpc.fees().await.unwrap(), chain.fees().await.unwrap());
    let wrong = Rpc::bare(vec![server.url.clone()], 1).unwrap();
    assert!(matches!(wrong.fees().await, Err(Error::WrongChain { found: 31_337, .. })));
}

#[tokio::test]
async fn a_server_that_is_no_rpc_is_called_so() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    let serves = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let reply = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
            let _ = stream.write_all(reply).await;
        }
    });
    let error = Rpc::connect(config(vec![url], embedded().domain())).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("HTTP status 404") && said.contains("no RPC"), "{said}");
    assert!(!said.contains("cannot be reached") && !said.contains("secret"), "{said}");
    serves.abort();
}

#[tokio::test]
async fn an_rpc_that_is_down_at_first_is_looked_at_before_it_is_believed() {
    let chain = embedded();
    let (first, second) = (Server::start(chain.clone()).await, Server::start(chain.clone()).await);
    second.set(|faults| {
        faults.down = true;
        faults.chain_id = Some(10);
    });
    let rpc =
        Rpc::connect(config(vec![first.url.clone(), second.url.clone()], chain.domain())).await.unwrap();
    first.set(|faults| faults.down = true);
    assert!(rpc.head(At::Latest).await.is_err());
    second.set(|faults| faults.down = false);
    let error = loop {
        match rpc.head(At::Latest).await.unwrap_err() {
            Error::Down(_) => {}
            error => break error,
        }
    };
    assert!(matches!(error, Error::WrongChain { found: 10, .. }), "{error}");
}

#[tokio::test]
async fn an_rpc_that_is_behind_is_asked_last() {
    let chain = embedded();
    let owner = signer(1);
    chain.give(owner.address(), Wei(1 << 70)).unwrap();
    let (stuck, good) = (Server::start(chain.clone()).await, Server::start(chain.clone()).await);
    let rpc = Rpc::connect(config(vec![stuck.url.clone(), good.url.clone()], chain.domain())).await.unwrap();
    let rpc: &dyn Chain = &rpc;
    let number = chain.mine().unwrap().number;
    stuck.set(|faults| faults.stuck = Some(number));
    let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(5));
    rpc.send(&owner, deposit, LIMITS).await.unwrap();
    for _ in 0..5 {
        chain.mine().unwrap();
    }
    let head = rpc.head(At::Latest).await.unwrap();
    assert_eq!(head.number, number + 6);
    assert_eq!(rpc.account(owner.address(), At::Latest).await.unwrap().balance, Wei(5), "not the old state");
    // What is final is what both know of.
    assert!(rpc.head(At::Finalized).await.unwrap().number < number);
}

// pay.chain.1
#[tokio::test]
async fn rpcs_that_contradict_each_other_are_not_believed_about_what_is_final() {
    let chain = embedded();
    let owner = signer(1);
    chain.give(owner.address(), Wei(1 << 70)).unwrap();
    let (liar, good) = (Server::start(chain.clone()).await, Server::start(chain.clone()).await);
    let both = Rpc::connect(config(vec![liar.url.clone(), good.url.clone()], chain.domain())).await.unwrap();
    let rpc: &dyn Chain = &both;
    let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(5));
    rpc.send(&owner, deposit, LIMITS).await.unwrap();
    for _ in 0..3 {
        chain.mine().unwrap();
    }
    let head = rpc.head(At::Finalized).await.unwrap();
    let disagree = |error: Error| assert!(matches!(error, Error::Disagree { .. }), "{error}");

    liar.set(|faults| faults.zeros = true);
    disagree(rpc.account(owner.address(), At::Finalized).await.unwrap_err());
    liar.set(|faults| faults.zeros = false);
    assert_eq!(rpc.account(owner.address(), At::Finalized).await.unwrap().balance, Wei(5));

    liar.set(|faults| faults.silent = true);
    disagree(rpc.events(1, head.number).await.unwrap_err());
    liar.set(|faults| faults.silent = false);
    assert_eq!(rpc.events(1, head.number).await.unwrap().len(), 1);

    liar.set(|faults| faults.forked = Some(head.number));
    chain.mine().unwrap();
    disagree(rpc.head(At::Finalized).await.unwrap_err());
}

// pay.chain.1
#[tokio::test]
async fn a_single_rpc_cannot_take_back_what_it_called_final() {
    let chain = embedded();
    for _ in 0..5 {
        chain.mine().unwrap();
    }
    let server = Server::start(chain.clone()).await;
    let rpc = Rpc::connect(config(vec![server.url.clone()], chain.domain())).await.unwrap();
    let head = rpc.head(At::Finalized).await.unwrap();
    server.set(|faults| faults.stuck = Some(head.number));
    assert_eq!(rpc.head(At::Finalized).await.unwrap(), head, "what is final stays");
    server.set(|faults| {
        faults.stuck = None;
        faults.forked = Some(1);
    });
    let error = rpc.head(At::Finalized).await.unwrap_err();
    assert!(matches!(error, Error::Disagree { .. }), "{error}");
}

#[tokio::test]
async fn a_number_of_blocks_may_stand_for_finality() {
    let chain = embedded();
    for _ in 0..9 {
        chain.mine().unwrap();
    }
    let server = Server::start(chain.clone()).await;
    let mut config = config(vec![server.url.clone()], chain.domain());
    config.depth = Some(1);
    let rpc = Rpc::connect(config).await.unwrap();
    assert_eq!(rpc.head(At::Finalized).await.unwrap().number, 8);
}

#[tokio::test]
async fn a_transaction_goes_to_all_rpcs_because_one_may_swallow_it() {
    let chain = embedded();
    let owner = signer(1);
    chain.give(owner.address(), Wei(1 << 70)).unwrap();
    let (bad, good) = (Server::start(chain.clone()).await, Server::start(chain.clone()).await);
    bad.set(|faults| faults.swallows = true);
    let rpc = Rpc::connect(config(vec![bad.url.clone(), good.url.clone()], chain.domain())).await.unwrap();
    let rpc: &dyn Chain = &rpc;
    let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(5));
    let hash = rpc.send(&owner, deposit, LIMITS).await.unwrap();
    assert!(rpc.receipt(hash).await.unwrap().unwrap().success);
}

#[tokio::test]
async fn chains_without_a_base_fee_get_transactions_of_one_price() {
    let chain = embedded();
    let owner = signer(1);
    chain.give(owner.address(), Wei(1 << 70)).unwrap();
    let server = Server::start(chain.clone()).await;
    server.set(|faults| faults.legacy = true);
    let rpc = Rpc::connect(config(vec![server.url.clone()], chain.domain())).await.unwrap();
    assert!(rpc.legacy());
    let rpc: &dyn Chain = &rpc;
    let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(5));
    let signed = rpc.prepare(&owner, deposit, LIMITS, None).await.unwrap();
    assert!(signed.raw[0] >= 0xc0, "a legacy transaction is an RLP list");
    assert_eq!(signed.place.max_fee, chain.fees().await.unwrap().price());
    rpc.broadcast(signed.raw).await.unwrap();
    assert_eq!(rpc.account(owner.address(), At::Latest).await.unwrap().balance, Wei(5));
}

#[tokio::test]
async fn long_ranges_of_events_are_asked_for_in_pieces() {
    let chain = embedded();
    let owner = signer(1);
    chain.give(owner.address(), Wei(1 << 70)).unwrap();
    let server = Server::start(chain.clone()).await;
    let mut config = config(vec![server.url.clone()], chain.domain());
    config.span = 2;
    let rpc = Rpc::connect(config).await.unwrap();
    let rpc: &dyn Chain = &rpc;
    for wei in 1..=5 {
        let deposit = Call::new(&chain.domain(), &OnionPay::depositCall { owner: owner.address() }, Wei(wei));
        rpc.send(&owner, deposit, LIMITS).await.unwrap();
    }
    let head = rpc.head(At::Latest).await.unwrap().number;
    assert_eq!(rpc.events(0, head).await.unwrap().len(), 5);
    let asked = server.asked.lock().unwrap().iter().filter(|method| *method == "eth_getLogs").count();
    assert_eq!(asked, 4, "blocks 0 to 6 in pairs");
}

#[tokio::test]
async fn anvil_behind_two_names_is_one_chain_and_a_dead_one_is_down() {
    let Some(anvil) = Anvil::start().await else { return };
    let rpc = Rpc::connect(config(
        vec![anvil.url.clone(), anvil.url.replace("127.0.0.1", "localhost")],
        anvil.domain,
    ));
    let rpc = rpc.await.unwrap();
    assert!(rpc.head(At::Finalized).await.is_ok());
    drop(anvil);
    let error = rpc.head(At::Latest).await.unwrap_err();
    assert!(matches!(error, Error::Down(_)), "{error}");
}
