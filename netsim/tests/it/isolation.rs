//! Who shares a circuit with whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circuit::keys::Random;
use client::pool::Purpose;
use client::socks::Credentials;
use netsim::app::Wish;
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::world::Plan;
use rand_core::{Rng as _, SeedableRng as _};

// circuit.isolation.1
#[test]
fn different_credentials_never_share_a_circuit_and_equal_ones_do() {
    seeds::each(10, |seed| {
        let mut rng = Random::seed_from_u64(seed);
        let prebuilt = usize::try_from(seed % 4).unwrap();
        let mut world = Plan { relays: 8, exits: 3, prebuilt, ..Plan::new(seed, 3) }.build();
        let who = [None, Some(("a", "")), Some(("a", "b")), Some(("b", "")), Some(("", "a"))]
            .map(|who| who.map(|(user, password)| Credentials::new(user.as_bytes(), password.as_bytes())));
        let mut apps = vec![];
        for n in 0..30 {
            let isolation = who[usize::try_from(rng.next_u32() % 5).unwrap()].clone();
            let exchange = Exchange { upload: 10, download: 10, seed: n, ending: Ending::Hold };
            apps.push((isolation.clone(), world.ask(Wish { isolation, ..Wish::new("site", exchange) })));
            if rng.next_u32() % 3 == 0 {
                world.sim.run_for(Duration::from_millis(u64::from(rng.next_u32() % 500)));
            }
        }
        world.sim.run_for(Duration::from_secs(10));
        let client = world.sim.client(world.client());
        let mut used = BTreeMap::<_, BTreeSet<_>>::new();
        for (isolation, app) in &apps {
            assert!(world.sim.app(*app).is_whole(), "{:?}", world.sim.app(*app));
            let circuit = client.flows().circuit(app.flow).expect("the stream is open");
            assert_eq!(client.pool()[&circuit].purpose, Purpose::Streams(isolation.clone()));
            used.entry(isolation).or_default().insert(circuit);
        }
        assert!(used.values().all(|circuits| circuits.len() == 1), "equal ones share: {used:?}");
        let all: BTreeSet<_> = used.values().flatten().collect();
        assert_eq!(all.len(), used.len(), "different ones do not: {used:?}");
        let spare = client.pool().values().filter(|circuit| circuit.is_spare()).count();
        assert_eq!(spare, prebuilt.max(client.pool().len() - used.len()));
        println!("seed {seed}: {} circuits for {} applications", client.pool().len(), used.len());
    });
}
