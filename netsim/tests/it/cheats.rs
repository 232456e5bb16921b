//! Nodes that cheat for money: what they take is bounded, they are noticed and left, and honest relays lose nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::error::DropReason;
use circuit::ledger::Account;
use circuit::relay::Asks;
use client::pool::Circuit;
use client::socks::Credentials;
use netsim::app::{AppId, Outcome, Wish};
use netsim::chain::Account as Pot;
use netsim::content::{Ending, Exchange};
use netsim::host::{HostId, Program};
use netsim::world::{POT, Plan, World};
use payments::Address;

use crate::cheat::{Cheat, CheatRelay, Loot};

const ASKS: Asks = Asks { forward: 1_000, exit: 3_000 };
const LONG: Duration = Duration::from_mins(3);
/// What is paid ahead, in cells.
const AHEAD: u128 = 1_536 + 384;

fn owner(world: &World, host: HostId) -> Address {
    world.sim.host(host).money.expect("a host with a pot").owner()
}

/// What an honest relay has counted with a neighbour, if they have met.
fn met(world: &World, relay: HostId, neighbour: HostId) -> Option<Account> {
    let node = world.sim.relay(relay);
    let account = node.cashier()?.account_of(owner(world, neighbour))?;
    node.relay().ledger().get(account).copied()
}

fn at(world: &World, relay: HostId, neighbour: HostId) -> Account {
    met(world, relay, neighbour).expect("neighbours that have met")
}

/// A paid network in which one middle relay cheats, and another does not.
struct Scene {
    world: World,
    loot: Rc<RefCell<Loot>>,
    entry: HostId,
    cheat: HostId,
}

fn plan(seed: u64) -> Plan {
    Plan { relays: 4, asks: Some(ASKS), prebuilt: 1, ..Plan::new(seed, 3) }
}

fn corrupt(world: &mut World, host: HostId, cheat: Cheat) -> Rc<RefCell<Loot>> {
    let Program::Relay(program) = world.sim.host(host).program.clone() else { panic!("a relay") };
    let (now, seed) = (world.sim.now(), world.sim.draw());
    let (node, loot) = CheatRelay::new(now, *program, cheat, seed);
    world.sim.replace(host, Box::new(node));
    loot
}

fn scene(seed: u64, cheat: Cheat) -> Scene {
    let mut world = plan(seed).build();
    let (entry, exit) = (world.entry(), world.relays[3]);
    let middle = *world.relays.iter().find(|id| **id != entry && **id != exit).expect("a middle");
    let loot = corrupt(&mut world, middle, cheat);
    world.sim.run_for(Duration::from_secs(70));
    Scene { world, loot, entry, cheat: middle }
}

fn ask(world: &mut World, n: u8, exchange: Exchange) -> AppId {
    world.ask(Wish { isolation: Some(Credentials::new(&[n], b"")), ..Wish::new("site", exchange) })
}

fn upload(bytes: u64) -> Exchange {
    Exchange { upload: bytes, download: 0, seed: 5, ending: Ending::Finish }
}

fn download(bytes: u64) -> Exchange {
    Exchange { upload: 0, download: bytes, seed: 9, ending: Ending::Finish }
}

/// Whether a circuit that goes over a relay has streams.
fn uses(world: &World, relay: HostId) -> bool {
    let client = world.sim.client(world.client());
    let over = |circuit: &Circuit| circuit.path.iter().any(|id| world.host_of(id) == relay);
    client.pool().iter().any(|(key, circuit)| client.flows().on(*key) > 0 && over(circuit))
}

/// Whether a circuit that goes over a relay had its first stream after this.
fn took(world: &World, relay: HostId, since: Instant) -> bool {
    let client = world.sim.client(world.client());
    let over = |circuit: &Circuit| circuit.path.iter().any(|id| world.host_of(id) == relay);
    client.pool().values().any(|circuit| circuit.used.is_some_and(|used| used > since) && over(circuit))
}

/// Whether a circuit begins at a relay.
fn enters(world: &World, relay: HostId) -> bool {
    let client = world.sim.client(world.client());
    client.pool().values().any(|circuit| circuit.path.first().is_some_and(|id| world.host_of(id) == relay))
}

/// Asks until a circuit goes over the relay; the number of the next application.
fn lure(world: &mut World, relay: HostId, exchange: Exchange) -> u8 {
    for n in 0..40 {
        let app = ask(world, n, exchange);
        let drawn = world.sim.run_until(Duration::from_mins(2), |sim| {
            let client = sim.client(app.host);
            sim.app(app).done.is_some() || client.pool().values().any(|circuit| circuit.used.is_some())
        });
        assert!(drawn, "{:?}", world.sim.client(world.client()).counts());
        if uses(world, relay) {
            return n + 1;
        }
        assert_eq!(world.finish(app, LONG).map(|(outcome, _)| outcome), Some(Outcome::Finished));
        world.sim.run_for(Duration::from_secs(1));
    }
    panic!("no circuit goes over the relay");
}

/// How long until no circuit that has streams goes over a relay.
fn left_after(world: &mut World, relay: HostId) -> Duration {
    let start = world.sim.elapsed();
    while uses(world, relay) {
        world.sim.run_for(Duration::from_millis(250));
        assert!(world.sim.elapsed() < start + LONG, "it is never left");
    }
    world.sim.elapsed().saturating_sub(start)
}

// pay.deliver.1, pay.deliver.2
#[test]
fn a_relay_that_takes_pay_and_drops_is_left_within_seconds_and_a_few_cells() {
    for (cheat, exchange) in [
        (Cheat::DropForward(100), upload(30 << 20)),
        (Cheat::DropForward(25), upload(30 << 20)),
        (Cheat::DropBackward(100), download(60 << 20)),
        (Cheat::DropBackward(25), download(60 << 20)),
        (Cheat::Stall(3_000), upload(30 << 20)),
        (Cheat::Stall(3_000), download(60 << 20)),
    ] {
        let Scene { mut world, loot, entry, cheat: relay } = scene(21, cheat);
        let next = lure(&mut world, relay, exchange);
        let time = left_after(&mut world, relay);
        let dropped = loot.borrow().dropped;
        println!("{cheat:?}: left after {time:?}, {dropped} cells dropped");
        assert!(dropped > 0 && dropped < 6_000, "{cheat:?}: {dropped}");
        assert!(time < Duration::from_mins(1), "{cheat:?}: {time:?}");
        // Others serve at once, and the entry is kept.
        let left = world.sim.now().instant;
        for n in next..next + 3 {
            let app = ask(&mut world, n, download(1 << 20));
            let outcome = world.finish(app, Duration::from_secs(30));
            assert!(matches!(outcome, Some((Outcome::Finished, _))), "{cheat:?}: {outcome:?}");
            assert!(!took(&world, relay, left), "{cheat:?}");
        }
        assert!(met(&world, entry, world.client()).is_some());
        let (earned, spent) = (at(&world, entry, world.client()), at(&world, entry, relay));
        assert!(spent.owed <= earned.earned, "{cheat:?}: the entry does not pay for it");
    }
}

// pay.credit.6
#[test]
fn an_entry_that_answers_no_payment_is_left_also_when_it_was_paid_before() {
    for met in [true, false] {
        let mut world = plan(31).build();
        let entry = world.entry();
        if met {
            let app = ask(&mut world, 0, download(1 << 20));
            assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
        }
        corrupt(&mut world, entry, Cheat::Mute);
        let start = world.sim.elapsed();
        let elsewhere = |world: &World| {
            let mut stands = world.sim.client(world.client()).pool().values().filter(|c| c.opened.is_some());
            stands.any(|circuit| circuit.path.first().is_some_and(|id| world.host_of(id) != entry))
        };
        while !elsewhere(&world) {
            world.sim.run_for(Duration::from_millis(250));
            assert!(world.sim.elapsed() < start + LONG, "it is never left");
        }
        println!("left after {:?}", world.sim.elapsed().saturating_sub(start));
        let app = ask(&mut world, 1, download(1 << 20));
        assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
    }
}

// pay.deliver.3, pay.credit.5
#[test]
fn a_relay_that_does_not_pay_the_next_one_is_left() {
    let mut world = plan(22).build();
    let (entry, exit) = (world.entry(), world.relays[3]);
    let middles: Vec<_> = world.relays.iter().copied().filter(|id| ![entry, exit].contains(id)).collect();
    let poor = middles[0];
    // It keeps what it gets: its pot pays nobody.
    world.sim.chain.set(owner(&world, poor), Pot { balance: 0, reserve: POT, registered: true });
    world.sim.show_chain();
    let next = lure(&mut world, poor, download(30 << 20));
    let took = left_after(&mut world, poor);
    println!("left after {took:?}");
    assert!(took < Duration::from_mins(1));
    let mut finished = 0;
    for n in next..next + 12 {
        let app = ask(&mut world, n, download(1 << 20));
        let outcome = world.finish(app, Duration::from_mins(1));
        finished += u32::from(matches!(outcome, Some((Outcome::Finished, _))));
        world.sim.run_for(Duration::from_secs(10));
    }
    assert!(finished >= 11, "{finished} of 12");
    // The exit has served it for its credit line, and no more.
    let debt = at(&world, exit, poor);
    assert!(debt.earned <= debt.credited + debt.line && debt.line > 0, "{debt:?}");
}

/// The client signs nothing more, and sends and grants as if it had paid without end.
fn stop_paying(world: &mut World) {
    let client = world.client();
    world.sim.with_client(client, |node, now| {
        node.with_payer(now, |payer, ledger| {
            payer.own_pot(now, None);
            for account in payer.accounts() {
                if let Some(account) = ledger.get_mut(account) {
                    account.paid = u128::MAX;
                }
            }
        });
    });
}

/// No honest relay owes more than it was paid and trusted to owe, but for what it believes a payee in good faith
/// (pay.meter.1), nor has paid more ahead than it may.
fn assert_bounded(world: &World, path: &[HostId]) {
    for hop in path.windows(3) {
        let [before, relay, next] = hop else { panic!() };
        let (Some(income), Some(spent)) = (met(world, *relay, *before), met(world, *relay, *next)) else {
            continue;
        };
        assert!(income.earned <= income.credited + income.line, "{income:?}");
        let faith = u128::from(spent.rate_out) * 8_192 + spent.owed / 100;
        let covered = income.credited + income.line + faith;
        assert!(spent.owed <= covered, "{income:?}, {spent:?}");
        let cells = u128::from(spent.cells_out) * u128::from(spent.rate_out);
        assert!(cells <= income.credited + income.line, "{income:?}, {spent:?}");
        let cashier = world.sim.relay(*relay).cashier().expect("a relay that is paid");
        let paid = cashier.wallet().paid(owner(world, *next)).0;
        let ahead = u128::from(spent.rate_out) * AHEAD;
        assert!(paid <= covered + ahead, "{income:?}, {paid} paid");
        assert!(spent.committed <= covered, "{income:?}, {spent:?}");
    }
}

fn path(world: &World) -> Vec<HostId> {
    let client = world.sim.client(world.client());
    let circuit = client.pool().values().find(|circuit| circuit.used.is_some()).expect("a circuit in use");
    let relays = circuit.path.iter().map(|id| world.host_of(id));
    std::iter::once(world.client()).chain(relays).collect()
}

// pay.credit.1, pay.credit.2
#[test]
fn a_client_that_sends_unpaid_cells_to_its_own_exit_costs_the_relays_between_nothing() {
    let mut world = Plan { prebuilt: 0, ..plan(23) }.build();
    let app = ask(&mut world, 0, upload(60 << 20));
    world.sim.run_for(Duration::from_secs(2));
    assert_eq!(world.sim.app(app).outcome(), None, "it is under way");
    let path = path(&world);
    assert!(at(&world, path[2], path[1]).line > 0, "the middle trusts the entry");
    for _ in 0..90 {
        stop_paying(&mut world);
        world.sim.run_for(Duration::from_millis(500));
        assert_bounded(&world, &path);
    }
    let dropped = world.sim.host(path[1]).drops.get(DropReason::NoCredit);
    assert!(dropped > 0, "it has sent more than it paid for");
    assert_eq!(at(&world, path[1], path[0]).line, 0, "no client is trusted");
    assert_eq!(world.sim.relay(path[1]).relay().circuits(), (0, 0), "its circuits are closed");
}

// pay.meter.4
#[test]
fn honest_relays_are_kept_where_every_fourth_draw_wins() {
    for seed in 40..48 {
        let mut world = plan(seed).build();
        let apps = [upload(20 << 20), download(20 << 20)].map(|exchange| ask(&mut world, 0, exchange));
        for app in apps {
            let outcome = world.finish(app, LONG);
            let counts = world.sim.client(world.client()).counts();
            assert!(matches!(outcome, Some((Outcome::Finished, _))), "seed {seed}: {outcome:?}, {counts:?}");
        }
        let owners: Vec<_> = world.relays.iter().map(|relay| owner(&world, *relay)).collect();
        for owner in owners {
            let payer = world.sim.client(world.client()).payer().expect("it pays");
            assert!(!payer.distrusts(owner), "seed {seed}");
            for relay in &world.relays {
                let cashier = world.sim.relay(*relay).cashier().expect("it is paid");
                assert!(!cashier.distrusts(owner), "seed {seed}");
            }
        }
    }
}

// pay.grant.2, pay.grant.4
#[test]
fn an_exit_that_floods_is_paid_for_what_was_granted_and_paid_only() {
    for pays in [true, false] {
        let mut world = plan(24).build();
        let exit = world.relays[3];
        let loot = corrupt(&mut world, exit, Cheat::Flood(3_000));
        world.sim.run_for(Duration::from_secs(70));
        ask(&mut world, 0, download(1 << 20));
        assert!(world.sim.run_until(LONG, |_| loot.borrow().flooded > 0), "it floods");
        let path = path(&world);
        for _ in 0..60 {
            if !pays {
                stop_paying(&mut world);
            }
            world.sim.run_for(Duration::from_millis(250));
            assert_bounded(&world, &path);
        }
        let flooded = loot.borrow().flooded;
        let dropped = world.sim.host(path[2]).drops.get(DropReason::NoCredit);
        println!("pays {pays}: {flooded} cells flooded, {dropped} of them dropped by the middle");
        assert!(dropped > 0, "more came than was granted");
        let spent = at(&world, path[2], path[3]);
        assert!(spent.cells_out < flooded, "{spent:?}");
    }
}

// pay.meter.1, pay.meter.3
#[test]
fn a_relay_that_charges_for_more_than_it_carries_is_left_by_the_relay_before_it() {
    let Scene { mut world, loot, entry, cheat } = scene(25, Cheat::Overbill(40));
    let next = lure(&mut world, cheat, download(120 << 20));
    let time = left_after(&mut world, cheat);
    let spent = at(&world, entry, cheat);
    let node = world.sim.relay(entry);
    assert!(node.cashier().unwrap().distrusts(owner(&world, cheat)), "after {time:?}: {spent:?}");
    let credited: u128 = loot.borrow().credited.values().sum();
    let carried = u128::from(spent.cells_out) * u128::from(spent.rate_out);
    println!("left after {time:?}, {carried} carried, {credited} credited");
    let tolerance = u128::from(spent.rate_out) * (8_192 + 4_096 + AHEAD);
    assert!(credited <= carried + carried / 50 + tolerance, "{credited} for {carried}");
    // No circuit goes there any more, whoever asks; others serve.
    let left = world.sim.now().instant;
    for n in next..next + 8 {
        let app = ask(&mut world, n, download(1 << 20));
        let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
        assert_eq!(outcome, Some(Outcome::Finished));
        assert!(!took(&world, cheat, left));
    }
}

// pay.meter.1
#[test]
fn an_entry_that_charges_for_more_than_it_carries_is_left_by_its_clients() {
    let mut world = plan(26).build();
    let entry = world.entry();
    let loot = corrupt(&mut world, entry, Cheat::Overbill(40));
    world.sim.run_for(Duration::from_secs(5));
    let app = ask(&mut world, 0, download(120 << 20));
    // It may have left it when the real one was replaced: it comes back to the one it knew first.
    world.finish(app, LONG);
    world.sim.run_for(Duration::from_secs(70));
    let client = world.client();
    let cheater = owner(&world, entry);
    let distrusts = |world: &World| world.sim.client(client).payer().expect("it pays").distrusts(cheater);
    for n in 1..20 {
        if distrusts(&world) {
            break;
        }
        let app = ask(&mut world, n, download(40 << 20));
        world.finish(app, LONG);
    }
    assert!(distrusts(&world), "{:?}", loot.borrow());
    let app = ask(&mut world, 100, download(1 << 20));
    assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
    assert!(!enters(&world, entry), "it is not used again");
    world.sim.run_for(Duration::from_mins(5));
    let app = ask(&mut world, 101, download(1 << 20));
    assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
    assert!(!enters(&world, entry), "nor five minutes later");
}
