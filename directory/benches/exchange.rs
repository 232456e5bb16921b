//! What a large directory costs on one core: `cargo bench -p directory --no-default-features`.
//!
//! A view of 10,000 registered relays is filled by asking another node for all of them. Then one in a hundred publishes
//! anew, and a second exchange brings these.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::AllocationInfo;
use circuit::keys::{DhPublic, DhSecret, IdentitySecret};
use circuit::node::Now;
use directory::chain::{Chain, Wei};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor};
use directory::exchange::{Exchange, PeerKey};
use directory::exit_summary::ExitSummary;
use directory::payment::{Payment, Rate};
use directory::registry::Registry;
use directory::view::View;

const RELAYS: u32 = 10_000;
/// One in so many is new in the second exchange.
const CHANGED: u32 = 100;
/// What a view may take, in bytes.
const GOAL: u64 = 60_000_000;
const EPOCH: u32 = 90_000;
const UNIX: u64 = EPOCH as u64 * EPOCH_SECONDS + 100;

fn main() {
    let registry = Arc::new(registry());
    let mut old = node(&registry);
    let mut descriptors: Vec<_> = (0..RELAYS).map(|n| relay(n, 1)).collect();
    let filling = timed(|| fill(&mut old, Duration::ZERO, &descriptors));
    row("verify and insert, relays per s", f64::from(RELAYS) / filling.as_secs_f64());

    // Everything that a client keeps: the registry, the view, the buckets.
    let mut kept = None;
    let memory: AllocationInfo = allocation_counter::measure(|| {
        let mut new = node(&Arc::new(Registry::clone(&registry)));
        let first = new.request();
        let (rounds, bytes, time) = ask(&mut new, &mut old, first);
        kept = Some((new, rounds, bytes, time));
    });
    let Some((mut new, rounds, bytes, time)) = kept else { return };
    row("memory of a view and its registry, MB", as_f64(memory.bytes_current.unsigned_abs()) / 1e6);
    row("goal, MB", as_f64(GOAL) / 1e6);
    row("all descriptors, answers", as_f64(rounds));
    row("all descriptors, kB", as_f64(bytes) / 1e3);
    row("all descriptors, ms of both sides", time.as_secs_f64() * 1e3);

    descriptors.truncate(0);
    descriptors.extend((0..RELAYS).step_by(CHANGED as usize).map(|n| relay(n, 2)));
    fill(&mut old, Duration::from_mins(1), &descriptors);
    let first = new.request();
    row("1 % exchange, request, kB", as_f64(first.len() as u64) / 1e3);
    let (rounds, bytes, time) = ask(&mut new, &mut old, first);
    row("1 % exchange, answers", as_f64(rounds));
    row("1 % exchange, answers, kB", as_f64(bytes) / 1e3);
    row("1 % exchange, ms of both sides", time.as_secs_f64() * 1e3);
    let first = new.probe();
    let sent = as_f64(first.len() as u64);
    let (_, bytes, _) = ask(&mut new, &mut old, first);
    row("equal sets, bytes both ways", sent + as_f64(bytes));
    assert!(new.view().iter().eq(old.view().iter()), "both know the same");

    let view = new.view();
    row("copy of a view, ms", timed(|| drop(view.clone())).as_secs_f64() * 1e3);
    row(
        "count by reasons, ms",
        timed(|| assert_eq!(view.count(UNIX).usable, view.iter().len())).as_secs_f64() * 1e3,
    );
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]
fn row(name: &str, value: f64) {
    println!("{name:<42}{value:>12.1}");
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Now {
    Now { instant: Instant::now(), unix_ms: UNIX * 1000 }
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = now().instant;
    act();
    now().instant.saturating_duration_since(start)
}

fn chain() -> Chain {
    Chain {
        id: 31_337,
        contract: [0xc0; 20].into(),
        rpc: vec![],
        minimum_bond: Wei(1),
        exit_operators: 20,
        deployed: 0,
    }
}

fn identity(n: u32) -> IdentitySecret {
    IdentitySecret::from_bytes(&key(n, 7))
}

fn key(n: u32, fill: u8) -> [u8; 32] {
    let mut key = [fill; 32];
    for (to, from) in key.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    key
}

fn owner(n: u32) -> [u8; 20] {
    let mut owner = [1; 20];
    for (to, from) in owner.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    owner
}

/// A descriptor as relays have it: two onion keys, both kinds of addresses, every third one an exit.
fn relay(n: u32, sequence: u64) -> SignedDescriptor {
    let [_, a, b, c] = n.to_be_bytes();
    let is_exit = n.is_multiple_of(3);
    let link = DhSecret::from_bytes(key(n, 8));
    let descriptor = Descriptor {
        id: identity(n).id(),
        network: chain().open_network(),
        sequence,
        issued: UNIX - 60,
        expires: UNIX + EPOCH_SECONDS,
        link_key: link.public(),
        first_epoch: EPOCH,
        onion_keys: vec![DhPublic(key(n, 9)), DhPublic(key(n, 10))],
        addresses: vec![([10, a, b, c], 4433).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4433).into()],
        exit: is_exit.then(|| ExitSummary::new(vec![1..=24, 26..=65_535]).ok()).flatten(),
        country: Some(*b"DE"),
        operator: "an operator and an address".to_owned(),
        version: "chive 0.1.0".to_owned(),
        bandwidth: 10_000,
        gossip_port: 4434,
        payment: Some(Payment {
            chain_id: chain().id,
            contract: chain().contract,
            owner: owner(n).into(),
            ask: Rate(1_000),
            exit_ask: Rate(if is_exit { 2_000 } else { 0 }),
        }),
    };
    SignedDescriptor::prove(descriptor, &identity(n), &link).expect("a descriptor of the right form")
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    for n in 0..RELAYS {
        let applied = registry.apply(u64::from(n) + 1, owner(n).into(), identity(n).id(), true);
        applied.expect("owners of one relay each");
        registry.set_bond(owner(n).into(), Wei(1));
    }
    registry
}

fn node(registry: &Arc<Registry>) -> Exchange {
    let mut view = View::new(chain().open_network()).with_chain(chain()).with_local(true);
    view.set_registry(Arc::clone(registry));
    Exchange::new(view, None)
}

fn peer(n: u32) -> PeerKey {
    PeerKey::new(key(n, 0), Ipv4Addr::from(n).into())
}

/// Takes all by gossip, from so many peers that no limit is met.
fn fill(node: &mut Exchange, later: Duration, descriptors: &[SignedDescriptor]) {
    let start = now();
    for (n, descriptor) in (0_u32..).zip(descriptors) {
        let now = Now { instant: start.instant + later + Duration::from_millis(2 * u64::from(n)), ..start };
        node.handle_gossip(now, peer(n << 8), descriptor.bytes());
    }
}

/// Asks until there is no more: the number of answers, their bytes, and the time that both sides took.
fn ask(asker: &mut Exchange, answerer: &mut Exchange, first: Vec<u8>) -> (u64, u64, Duration) {
    let (mut rounds, mut bytes) = (0, 0);
    let time = timed(|| {
        let mut request = Some(first);
        while let Some(question) = request.take() {
            let answer = answerer.handle_request(now(), peer(1), &question).expect("an answer");
            rounds += 1;
            bytes += answer.len() as u64;
            request = asker.handle_response(now(), peer(2), &answer).expect("an honest answer").next;
        }
    });
    (rounds, bytes, time)
}
