//! The contract put on a chain by one command, and a network opened with it.

use std::fs;

use serde_json::json;

use super::paid::{Anvil, CHAIN, ask, create, program, refused, run};

/// The ether of an address, in wei.
fn ether(anvil: &Anvil, address: &str) -> u128 {
    let wei = anvil.ask("eth_getBalance", &json!([address, "latest"]));
    u128::from_str_radix(wei.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn the_contract_is_deployed_by_one_command_and_a_network_is_opened_with_it() {
    let Some(program) = program() else { return };
    let anvil = Anvil::start(&program);
    let folder = tempfile::tempdir().unwrap();
    let wallet = folder.path().join("wallet.json");
    let address = create(&wallet);
    let (chain, url) = (CHAIN.to_string(), anvil.url());
    let deploy =
        ["network", "deploy", "--chain-id", &chain, "--rpc", &url, "--wallet", wallet.to_str().unwrap()];

    // The fee is shown before anything is asked or sent.
    let said = refused(6, &run(&[&deploy[..], &["--yes"]].concat()));
    assert!(said.contains("fee on chain 31337: about") && said.contains("send it ether"), "{said}");
    anvil.fund(&address);
    let before = ether(&anvil, &address);
    let said = refused(2, &run(&deploy));
    assert!(said.contains("fee on chain 31337: about") && said.contains("add --yes"), "{said}");
    let elsewhere = ["network", "deploy", "--chain-id", "1", "--rpc", &url, "--wallet"];
    let said = refused(1, &run(&[&elsewhere[..], &[wallet.to_str().unwrap(), "--yes"]].concat()));
    assert!(said.contains("serves chain 31337, not 1"), "{said}");
    assert_eq!(ether(&anvil, &address), before, "nothing was sent");

    let done = ask(&[&deploy[..], &["--yes"]].concat());
    let contract = done["contract"].as_str().unwrap();
    assert_ne!(contract.to_lowercase(), anvil.contract.to_lowercase());
    let code = anvil.ask("eth_getCode", &json!([contract, "latest"]));
    assert_eq!(code, payments::abi::runtime_code().to_string());
    let fee: u128 = done["fee"].as_str().unwrap().parse().unwrap();
    assert_eq!(ether(&anvil, &address), before - fee);
    assert_eq!(done["chain_id"], CHAIN);

    // The next command is the one that is told, with the places filled in.
    let next = done["next"].as_str().unwrap();
    let net = folder.path().join("net");
    let next = next.replace("URL", &url).replace("HOST:PORT", "127.0.0.1:7000");
    let next = next.replace("DIR", net.to_str().unwrap());
    let words: Vec<_> = next.split(' ').skip(1).chain(["--local"]).collect();
    ask(&words);
    let file = fs::read_to_string(net.join("network.toml")).unwrap();
    let block = done["deployed"].as_u64().unwrap();
    assert!(file.contains(contract) && file.contains(&format!("deployed = {block}")), "{file}");
}
