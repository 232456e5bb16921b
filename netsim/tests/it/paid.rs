//! Networks whose relays are paid: everybody earns for every cell, to the wei, and nobody pays for others.

use std::time::Duration;

use circuit::ledger::Account;
use circuit::relay::{Asks, SETUP_CELLS};
use client::socks::Credentials;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::HostId;
use netsim::money::Money;
use netsim::network::{Conditions, Loss};
use netsim::world::{POT, Plan, World};
use payments::Address;

const ASKS: Asks = Asks { forward: 1_000, exit: 3_000 };
const LONG: Duration = Duration::from_mins(3);

fn plan(seed: u64, hops: usize) -> Plan {
    Plan { asks: Some(ASKS), ..Plan::new(seed, hops) }
}

fn money(world: &World, host: HostId) -> Money {
    world.sim.host(host).money.expect("a host with a pot")
}

fn owner(world: &World, host: HostId) -> Address {
    money(world, host).owner()
}

/// What a relay has counted with a neighbour.
fn at(world: &World, relay: HostId, neighbour: HostId) -> Account {
    let node = world.sim.relay(relay);
    let cashier = node.cashier().expect("a relay that is paid");
    let account = cashier.account_of(owner(world, neighbour)).expect("a neighbour that pays or is paid");
    *node.relay().ledger().get(account).expect("the account of a neighbour")
}

/// The hosts of the only circuit, in the order of the path, the client first.
fn path(world: &World) -> Vec<HostId> {
    let client = world.sim.client(world.client());
    let circuit =
        client.pool().values().find(|circuit| circuit.used.is_some()).expect("a circuit with streams");
    let relays = circuit.path.iter().map(|id| world.host_of(id));
    std::iter::once(world.client()).chain(relays).collect()
}

/// Everybody who is in a world.
fn everybody(world: &World) -> Vec<HostId> {
    world.clients.iter().chain(&world.relays).copied().collect()
}

// pay.bill.1
#[test]
fn every_hop_earns_for_every_cell_and_is_paid_for_it() {
    for hops in 2..=5 {
        let mut world = plan(7, hops).build();
        let exchange = Exchange { upload: 1 << 20, download: 3 << 20, seed: 7, ending: Ending::Finish };
        let app = world.ask(Wish::new("site", exchange));
        let (outcome, took) = world.finish(app, LONG).unwrap_or_else(|| {
            let client = world.sim.client(world.client());
            panic!(
                "{hops} hops: {:?} {:?} {:#?}",
                client.counts(),
                world.sim.app(app),
                client.payer().unwrap().wallet().snapshot()
            )
        });
        assert_eq!(
            outcome,
            Outcome::Finished,
            "{hops} hops: {:?}",
            world.sim.client(world.client()).counts()
        );
        assert!(world.sim.app(app).is_whole());
        world.sim.run_for(Duration::from_secs(30));

        let path = path(&world);
        let cells = u64::from(1u32 << 20) * 4 / 1_278;
        for (n, pair) in path.windows(2).enumerate() {
            let [payer, payee] = pair else { panic!() };
            let rate =
                u128::from(ASKS.exit) + u128::try_from(hops - 1 - n).unwrap() * u128::from(ASKS.forward);
            let charged = at(&world, *payee, *payer);
            assert!(charged.cells_in > SETUP_CELLS + cells, "{charged:?}");
            assert!(
                charged.earned >= rate * u128::from(charged.cells_in),
                "class prices are not below the asks"
            );
            let owed = if n == 0 {
                let ledger = world.sim.client(*payer).ledger();
                *ledger
                    .get(world.sim.client(*payer).payer().unwrap().account_of(owner(&world, *payee)).unwrap())
                    .unwrap()
            } else {
                at(&world, *payer, *payee)
            };
            assert_eq!(owed.owed, charged.earned, "hop {n} of {hops}");
            let credited = world.sim.relay(*payee).cashier().unwrap().till().credited(owner(&world, *payer));
            let paid = if n == 0 {
                world.sim.client(*payer).payer().unwrap().wallet().paid(owner(&world, *payee))
            } else {
                world.sim.relay(*payer).cashier().unwrap().wallet().paid(owner(&world, *payee))
            };
            assert_eq!(credited, paid, "hop {n} of {hops}");
            assert!(credited.0 >= charged.earned, "hop {n} of {hops}: {credited} of {}", charged.earned);
            println!(
                "{hops} hops, {took:?}, hop {n}: {} cells, {} earned, {credited} credited, {:?} redeemed",
                charged.cells_in,
                charged.earned,
                world.sim.chain.redeemed.get(&owner(&world, *payee))
            );
        }
        let total = POT * 2 * everybody(&world).len() as u128;
        assert_eq!(world.sim.chain.total(), total, "no wei is made or lost");
    }
}

fn download(bytes: u64) -> Exchange {
    Exchange { upload: 0, download: bytes, seed: 9, ending: Ending::Finish }
}

#[test]
fn a_paid_download_takes_as_long_as_a_free_one_but_for_the_first_session() {
    let time = |asks| {
        let mut world = Plan { asks, prebuilt: 1, face: 10_000, ..Plan::new(11, 3) }.build();
        // The circuit stands before it is used, as it does in a browser's second page.
        world.sim.run_for(Duration::from_secs(3));
        let app = world.ask(Wish::new("site", download(30 << 20)));
        let (outcome, took) = world.finish(app, LONG).expect("it ends");
        assert_eq!(outcome, Outcome::Finished);
        let client = world.sim.host(world.client()).address;
        let sent: u64 = world
            .sim
            .network
            .traffic()
            .filter(|(from, to, _)| *from == client || *to == client)
            .map(|(.., n)| n)
            .sum();
        (took, sent)
    };
    let ((paid, with), (free, without)) = (time(Some(ASKS)), time(None));
    println!(
        "30 MiB through 3 hops: {paid:?} paid, {free:?} free; {with} packets at the client, {without} free"
    );
    assert!(paid < free.mul_f64(1.1), "{paid:?} and {free:?}");
    // pay.credit.3: payment is few packets; those of sessions that end at once are many here (faces of four draws).
    assert!(with < without + without / 100, "{with} packets, {without} on a free network");
}

// pay.credit.1, pay.credit.4
#[test]
fn a_client_that_stops_paying_is_cut_and_costs_nobody_anything() {
    let mut world = plan(3, 3).build();
    let app = world.ask(Wish::new("site", download(60 << 20)));
    world.sim.run_for(Duration::from_secs(3));
    assert_eq!(world.sim.app(app).outcome(), None, "it is under way");
    let path = path(&world);
    let (client, entry, middle) = (path[0], path[1], path[2]);
    for _ in 0..120 {
        // It signs nothing more, and sends and grants as if it had paid without end.
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
        world.sim.run_for(Duration::from_millis(500));
    }
    let charged = at(&world, entry, client);
    assert!(charged.credit >= 0, "{charged:?}");
    assert!(charged.earned <= charged.credited);
    assert!(at(&world, entry, middle).owed <= charged.earned, "the entry pays on what it was paid, no more");
    assert_eq!(world.sim.relay(entry).relay().circuits(), (0, 0), "the client's circuits are closed");
    assert_ne!(world.sim.app(app).outcome(), Some(Outcome::Finished));
}

#[test]
fn losses_on_the_way_stop_no_payment() {
    let mut world = Plan {
        conditions: Conditions { loss: Loss::Independent(0.02), ..Conditions::default() },
        ..plan(5, 3)
    }
    .build();
    let exchange = Exchange { upload: 4 << 20, download: 8 << 20, seed: 5, ending: Ending::Finish };
    let app = world.ask(Wish::new("site", exchange));
    let (outcome, took) = world.finish(app, LONG).expect("it ends");
    assert_eq!(outcome, Outcome::Finished, "{took:?}");
    world.sim.run_for(Duration::from_mins(1));
    let path = path(&world);
    for pair in path.windows(2) {
        let charged = at(&world, pair[1], pair[0]);
        assert!(charged.credit >= 0 && charged.earned <= charged.credited + charged.line, "{charged:?}");
        let payee = owner(&world, pair[1]);
        let paid = match world.sim.host(pair[0]).program {
            netsim::host::Program::Client(_) => {
                world.sim.client(pair[0]).payer().unwrap().wallet().paid(payee)
            }
            _ => world.sim.relay(pair[0]).cashier().unwrap().wallet().paid(payee),
        };
        assert_eq!(paid.0, charged.credited, "every draw that counts was credited");
    }
}

// pay.grant.5
#[test]
fn circuits_in_use_share_what_is_paid_ahead() {
    const CIRCUITS: usize = 12;
    let mut world = Plan { face: 10_000, ..plan(8, 3) }.build();
    for n in 0..CIRCUITS {
        let isolation = Some(Credentials::new(&[u8::try_from(n).unwrap()], b""));
        world.ask(Wish { isolation, ..Wish::new("site", download(40 << 20)) });
    }
    world.sim.run_for(Duration::from_secs(8));
    let client = world.sim.client(world.client());
    let used = client.pool().values().filter(|circuit| circuit.used.is_some()).count();
    assert_eq!(used, CIRCUITS);
    for account in client.payer().unwrap().accounts() {
        let account = client.ledger().get(account).unwrap();
        let ahead = (account.committed - account.owed) / u128::from(account.rate_out.max(1));
        assert!((1..=6_500).contains(&ahead), "{ahead} cells are granted");
        assert!(account.paid >= account.owed, "{account:?}");
    }
}
