//! Descriptors, registry and messages are those of the independent reference (docs/spec/vectors/directory.json).

use serde_json::Value;

use circuit::keys::DhSecret;

use super::*;
use crate::descriptor::Refused;
use crate::exit_summary::ExitSummary;
use crate::payment::{Payment, Rate};

fn file() -> Value {
    serde_json::from_str(include_str!("../../../../docs/spec/vectors/directory.json")).unwrap()
}

fn number<T: TryFrom<u64, Error: core::fmt::Debug>>(value: &Value) -> T {
    value.as_u64().unwrap().try_into().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn chain_of(file: &Value) -> Chain {
    Chain { id: number(&file["chain_id"]), contract: array(&file["contract"]).into(), ..chain() }
}

/// The descriptor that these fields and this seed make; with a proof if they have the secret of the link key.
fn signed(json: &Value) -> SignedDescriptor {
    let identity = IdentitySecret::from_bytes(&array(&json["seed"]));
    let secret = json["link_secret"].is_string().then(|| DhSecret::from_bytes(array(&json["link_secret"])));
    let address = |json: &Value| {
        std::net::SocketAddr::new(json[0].as_str().unwrap().parse().unwrap(), number(&json[1]))
    };
    let ranges: Vec<_> = list(json, "exit").iter().map(|r| number(&r[0])..=number(&r[1])).collect();
    let paid = &json["payment"];
    let descriptor = Descriptor {
        id: identity.id(),
        network: NetworkId(array(&json["network"])),
        sequence: number(&json["sequence"]),
        issued: number(&json["issued"]),
        expires: number(&json["expires"]),
        link_key: DhPublic(array(&json["link_key"])),
        first_epoch: number(&json["first_epoch"]),
        onion_keys: list(json, "onion_keys").iter().map(|key| DhPublic(array(key))).collect(),
        addresses: list(json, "addresses").iter().map(address).collect(),
        exit: ExitSummary::new(ranges).ok(),
        country: text(&json["country"]).as_bytes().try_into().ok(),
        operator: text(&json["operator"]),
        version: text(&json["version"]),
        bandwidth: number(&json["bandwidth"]),
        gossip_port: number(&json["gossip_port"]),
        payment: Some(Payment {
            chain_id: number(&paid["chain_id"]),
            contract: array(&paid["contract"]).into(),
            owner: array(&paid["owner"]).into(),
            ask: Rate(number(&paid["ask"])),
            exit_ask: Rate(number(&paid["exit_ask"])),
        }),
    };
    match secret {
        Some(secret) => SignedDescriptor::prove(descriptor, &identity, &secret).unwrap(),
        None => SignedDescriptor::sign(descriptor, &identity).unwrap(),
    }
}

/// The registry after all changes; its hash after each is checked.
fn replayed(file: &Value) -> Registry {
    let mut registry = Registry::default();
    for change in list(file, "registry") {
        let (owner, id) = (array(&change["owner"]).into(), RelayId(array(&change["id"])));
        let registered = change["registered"].as_bool().unwrap();
        registry.apply(number(&change["seq"]), owner, id, registered).unwrap();
        assert_eq!(registry.root().0, array(&change["root"]));
    }
    registry
}

// directory.descriptor.2 directory.file.8
#[test]
fn descriptors_are_those_of_the_reference() {
    let file = file();
    let (network, now) = (NetworkId(array(&file["network"])), number(&file["now"]));
    assert_eq!(chain_of(&file).open_network(), network);
    assert!(list(&file, "descriptors").len() > 5);
    for json in list(&file, "descriptors") {
        let (signed, expected) = (signed(json), bytes(&json["descriptor"]));
        assert_eq!((signed.bytes(), signed.digest()), (&expected[..], &array(&json["digest"])));
        assert_eq!(SignedDescriptor::parse(&expected, network, now), Ok(signed));
    }
}

// directory.link.1
#[test]
fn proofs_of_link_keys_are_those_of_the_reference() {
    let file = file();
    let (network, now) = (NetworkId(array(&file["network"])), number(&file["now"]));
    assert!(list(&file, "proved").len() > 1 && list(&file, "refused").len() > 5);
    for json in list(&file, "proved") {
        let (own, expected) = (signed(json), bytes(&json["descriptor"]));
        let read = SignedDescriptor::parse(&expected, network, now).unwrap();
        assert!(read.holds_link_key() && read.digest() == &array(&json["digest"]));
        // Before the proof's signature, whose nonce is its maker's choice, and the relay's own.
        let same = expected.len() - 2 * 64;
        assert_eq!((own.bytes().len(), &own.bytes()[..same]), (expected.len(), &expected[..same]));
    }
    for json in list(&file, "refused") {
        let refused = SignedDescriptor::parse(&bytes(json), network, now);
        assert!(matches!(refused, Err(Refused::Forged(_))), "{refused:?}");
    }
}

// directory.registry.1 directory.exchange.1 directory.exchange.2 directory.exchange.3
#[test]
fn requests_and_answers_are_those_of_the_reference() {
    let file = file();
    let (network, registry) = (NetworkId(array(&file["network"])), Arc::new(replayed(&file)));
    let relays: Vec<_> = list(&file, "descriptors").iter().map(|json| Arc::new(signed(json))).collect();
    let now = Now { unix_ms: number::<u64>(&file["now"]) * 1000, ..start() };
    let pick =
        |json: &[Value]| -> Vec<_> { json.iter().map(|n| Arc::clone(&relays[number::<usize>(n)])).collect() };
    let node = |known: &[Arc<SignedDescriptor>]| {
        let mut view = View::new(network).with_chain(chain_of(&file)).with_local(true);
        view.set_registry(Arc::clone(&registry));
        for relay in known {
            view.insert(Arc::clone(relay)).unwrap();
        }
        Exchange::new(view, None)
    };
    assert!(list(&file, "exchanges").len() > 5);
    for json in list(&file, "exchanges") {
        let known = pick(list(json, "asker"));
        let (mut asker, mut other) = (node(&known), node(&pick(list(json, "other"))));
        assert_eq!(asker.digest(), array(&json["digest"]));
        assert_eq!(asker.push(&known), bytes(&json["request_push"]));
        for (request, wanted, answer) in
            [(asker.probe(), "request_state", "answer_state"), (asker.request(), "request_set", "answer_set")]
        {
            assert_eq!(request, bytes(&json[wanted]));
            assert_eq!(other.handle_request(now, peer(1), &request), Ok(bytes(&json[answer])));
        }
    }
}
