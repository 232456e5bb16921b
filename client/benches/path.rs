//! How long the choice of a path takes in a large network: `cargo bench -p client --bench path`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use circuit::keys::{DhPublic, IdentitySecret, NetworkId, Random};
use circuit::node::Now;
use client::path::Paths;
use client::wishes::{Country, Wishes};
use directory::chain::{Chain, Wei};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor};
use directory::exit_summary::ExitSummary;
use directory::payment::Payment;
use directory::view::View;
use payments::Address;
use payments::amount::Rate;
use rand_core::{Rng as _, SeedableRng as _};

const RELAYS: u32 = 10_000;
const EPOCH: u32 = 80_000;
const NETWORK: NetworkId = NetworkId([1; 16]);
const PATHS: u32 = 1_000;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn chain() -> Chain {
    let contract = Address::repeat_byte(0xc0);
    Chain { id: 5, contract, rpc: vec![], minimum_bond: Wei::ZERO, exit_operators: 20, deployed: 0 }
}

/// Relays of as many owners, a tenth of them exits, spread over countries and subnets.
fn view(paid: bool) -> View {
    let mut rng = Random::seed_from_u64(1);
    let mut view = View::new(NETWORK);
    if paid {
        view = view.with_chain(chain());
    }
    for n in 0..RELAYS {
        let identity = IdentitySecret::random(&mut rng);
        let word = rng.next_u64().to_be_bytes();
        let mut owner = [0xee; 20];
        owner[..4].copy_from_slice(&n.to_be_bytes());
        let mut link_key = [7; 32];
        link_key[..4].copy_from_slice(&n.to_be_bytes());
        let is_exit = n % 10 == 0;
        let ask = |byte: u8| Rate(1000 + u64::from(byte));
        let payment = Payment {
            chain_id: 5,
            contract: chain().contract,
            owner: Address::from(owner),
            ask: ask(word[0]),
            exit_ask: if is_exit { ask(word[1]) } else { Rate::FREE },
        };
        let descriptor = Descriptor {
            id: identity.id(),
            network: NETWORK,
            sequence: 1,
            issued: u64::from(EPOCH) * EPOCH_SECONDS,
            expires: u64::from(EPOCH + 1) * EPOCH_SECONDS,
            link_key: DhPublic(link_key),
            first_epoch: EPOCH,
            onion_keys: vec![DhPublic([9; 32])],
            addresses: vec![([5 + word[2] % 90, word[3], word[4], 1], 443).into()],
            exit: is_exit.then(|| ExitSummary::new(vec![80..=80, 443..=443]).expect("two ports")),
            country: Some([b'A' + word[5] % 8, b'A']),
            operator: String::new(),
            version: String::new(),
            bandwidth: 100 + u32::from(word[6]) * 100,
            gossip_port: 0,
            payment: paid.then_some(payment),
        };
        let signed = SignedDescriptor::sign(descriptor, &identity).expect("a well-formed descriptor");
        view.insert(signed).expect("relays of their own");
    }
    view
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn measure(name: &str, view: &View, wishes: Wishes) {
    let now = Now { instant: clock(), unix_ms: u64::from(EPOCH) * EPOCH_SECONDS * 1000 + 1000 };
    let hops = wishes.hops;
    let mut paths = Paths::new(Random::seed_from_u64(2), view.clone(), wishes);
    let begun = clock();
    let entry = paths.entry(now).expect("an entry");
    let first = begun.elapsed();
    paths.choose(now, entry, Some(443)).expect("a path");
    let mut times: Vec<_> = (0..PATHS)
        .map(|_| {
            let begun = clock();
            black_box(paths.choose(now, entry, Some(443)).expect("a path"));
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |percent: usize| us(times[(times.len() - 1) * percent / 100]);
    println!(
        "{name}, {hops} hops of {RELAYS} relays: p50 {:.1} us, p99 {:.1} us, most {:.1} us; after a change of the view {:.1} ms once",
        at(50),
        at(99),
        at(100),
        us(first) / 1e3
    );
}

fn main() {
    let strict = Wishes {
        exit: [Country(*b"BA")].into(),
        excluded: [Country(*b"CA")].into(),
        distinct_countries: true,
        ..Wishes::hops(5)
    };
    for (name, view) in [("free", view(false)), ("paid", view(true))] {
        measure(name, &view, Wishes::hops(3));
        measure(name, &view, Wishes::hops(5));
        measure(&format!("{name}, wishes for countries"), &view, strict.clone());
    }
}
