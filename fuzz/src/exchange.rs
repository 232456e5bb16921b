//! Gossip and the exchange of sets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use circuit::keys::RelayId;
use circuit::node::Now;
use directory::chain::Wei;
use directory::descriptor::{Descriptor, SignedDescriptor};
use directory::exchange::{Exchange, MAX_ANSWER, MAX_REQUEST, PeerKey};
use directory::payment::Payment;
use directory::registry::Registry;
use directory::view::View;

use crate::descriptor::{chain, sample};
use crate::edits::edit;
use crate::fixture::{identity, pass, start};
use crate::input::Input;

/// The relays of the registry; there is one more that is in none.
const RELAYS: u8 = 4;

fn owner(n: u8) -> [u8; 20] {
    [n + 1; 20]
}

/// Relay `n` in its own words, of which the fuzzer chose some.
fn relay(n: u8, sequence: u64, link: u8) -> SignedDescriptor {
    let chain = chain();
    let payment = Payment {
        chain_id: chain.id,
        contract: chain.contract,
        owner: owner(n).into(),
        ask: directory::payment::Rate(1_000),
        exit_ask: directory::payment::Rate(0),
    };
    let descriptor = Descriptor {
        network: chain.open_network(),
        sequence,
        link_key: sample(link).link_key,
        payment: Some(payment),
        ..Descriptor::clone(&sample(n))
    };
    SignedDescriptor::sign(descriptor, &identity(n)).unwrap()
}

fn node() -> Exchange {
    let mut registry = Registry::default();
    for n in 0..RELAYS {
        registry.apply(u64::from(n) + 1, owner(n).into(), identity(n).id(), true).unwrap();
        registry.set_bond(owner(n).into(), Wei(u128::from(n) << 60));
    }
    let mut view = View::new(chain().open_network()).with_chain(chain()).with_local(true);
    view.set_registry(Arc::new(registry));
    Exchange::new(view, Some(identity(0).id()))
}

fn peer(n: u8) -> PeerKey {
    PeerKey::new([n; 32], Ipv4Addr::new(192, 0, n, 1).into())
}

/// Two nodes that gossip, ask and answer, while the fuzzer changes what it likes on the way.
///
/// Whatever comes, a node knows registered relays only, as they signed what they say; no descriptor takes the place of a newer
/// one; messages have their limits; and an honest node takes an honest answer.
pub fn exchange(data: &[u8]) {
    let (mut input, mut now) = (Input::new(data), start());
    let mut nodes = [node(), node()];
    let mut newest = [BTreeMap::new(), BTreeMap::new()];
    while !input.is_empty() {
        let one_descriptor = step(&mut input, &mut now, &mut nodes);
        for (node, newest) in nodes.iter_mut().zip(&mut newest) {
            // Of many, one may have put a relay out by its link key, whose older descriptor came then.
            if !one_descriptor {
                newest.clear();
            }
            check(now, node, newest);
        }
    }
}

/// Whether at most one descriptor came to a node.
fn step(input: &mut Input<'_>, now: &mut Now, nodes: &mut [Exchange; 2]) -> bool {
    let action = input.u8();
    let [one, two] = nodes;
    let (one, two) = if action & 0x80 == 0 { (one, two) } else { (two, one) };
    match action % 8 {
        0 => pass(now, Duration::from_secs(input.u16().into())),
        1 | 2 => {
            let n = input.u8() % (RELAYS + 1);
            let mut bytes = relay(n, (input.u8() % 16).into(), input.u8() % 6).bytes().to_vec();
            edit(input, &mut bytes);
            one.handle_gossip(*now, peer(input.u8()), &bytes);
        }
        3 => {
            let published = one.publish(now.unix(), relay(0, (input.u8() % 16).into(), 0));
            assert!(published.is_err() || one.poll_publish().is_none_or(|own| own.id == identity(0).id()));
        }
        4 => one.expire(now.unix()),
        _ => ask(input, *now, one, two, action),
    }
    action % 8 < 5
}

/// One request and its answer, either of them changed or not.
fn ask(input: &mut Input<'_>, now: Now, one: &mut Exchange, two: &mut Exchange, action: u8) {
    let all: Vec<_> = one.view().shared().cloned().collect();
    let mut request = match action % 8 {
        5 => one.probe(),
        6 => one.request(),
        _ => one.push(&all),
    };
    assert!(!request.is_empty() && request.len() <= MAX_REQUEST);
    let asked = edit(input, &mut request);
    let Ok(mut answer) = two.handle_request(now, peer(1), &request) else { return };
    assert!(answer.len() <= MAX_ANSWER);
    let answered = edit(input, &mut answer);
    let report = one.handle_response(now, peer(2), &answer);
    if asked || answered {
        return;
    }
    let Ok(report) = report else { return };
    assert_eq!(report.told, two.view().iter().len());
    if report.same {
        assert!(one.view().iter().eq(two.view().iter()));
    }
}

fn check(now: Now, node: &Exchange, newest: &mut BTreeMap<RelayId, u64>) {
    let view = node.view();
    newest.retain(|id, _| view.get(id).is_some());
    for relay in view.iter() {
        let n = (0..RELAYS).find(|n| identity(*n).id() == relay.id).expect("a registered relay");
        let again = SignedDescriptor::sign(Descriptor::clone(relay), &identity(n)).unwrap();
        assert_eq!(&again, relay);
        assert!(newest.insert(relay.id, relay.sequence).is_none_or(|old| old <= relay.sequence));
    }
    let count = view.count(now.unix());
    assert_eq!(count.known + count.missing, usize::from(RELAYS));
    let counters = node.counters();
    assert!(counters.taken + counters.forged <= counters.checked);
}
