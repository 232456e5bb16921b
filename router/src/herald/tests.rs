//! Days of a relay, in virtual time.

use proptest::prelude::*;
use rand_core::SeedableRng as _;

use super::*;

const NETWORK: NetworkId = NetworkId([7; 16]);
/// The beginning of an epoch.
const START: u64 = 90_000 * EPOCH_SECONDS;

fn facts() -> Facts {
    Facts {
        addresses: vec!["203.0.113.7:7000".parse().unwrap()],
        exit: None,
        country: Some(*b"DE"),
        operator: "me".to_owned(),
        version: "chive".to_owned(),
        bandwidth: 10_000,
        gossip_port: 7000,
        payment: None,
    }
}

fn herald_with(keys: BTreeMap<u32, DhSecret>, sequence: u64) -> Herald {
    let config = HeraldConfig {
        identity: IdentitySecret::from_bytes(&[3; 32]),
        network: NETWORK,
        link: DhSecret::from_bytes([5; 32]),
        keys,
        sequence,
    };
    Herald::new(config, facts(), Random::seed_from_u64(sequence)).unwrap()
}

fn moment(herald: &Herald) -> u64 {
    u64::from_be_bytes(*herald.id.0.first_chunk().unwrap()) % SPREAD
}

/// A relay with its disk.
struct Life {
    herald: Herald,
    unix: u64,
    disk: (BTreeMap<u32, DhSecret>, u64),
    disk_works: bool,
    used: BTreeMap<u32, DhPublic>,
    said: Vec<(u64, SignedDescriptor)>,
}

impl Life {
    fn new(unix: u64) -> Self {
        Self {
            herald: herald_with(BTreeMap::new(), 0),
            unix,
            disk: (BTreeMap::new(), 0),
            disk_works: true,
            used: BTreeMap::new(),
            said: vec![],
        }
    }

    fn settle(&mut self) {
        while let Some(act) = self.herald.poll(self.unix) {
            match act {
                Act::Keep { keys, sequence } => {
                    assert!(self.herald.poll(self.unix).is_none(), "nothing else before it is kept");
                    if self.disk_works {
                        self.disk = (keys.unwrap_or_else(|| self.disk.0.clone()), sequence);
                    }
                    self.herald.kept(self.unix, self.disk_works);
                }
                Act::Use(keys) => {
                    for (epoch, key) in keys {
                        // operate.keys.2
                        assert_eq!(self.disk.0.get(&epoch).map(DhSecret::public), Some(key.public()));
                        // operate.keys.3
                        assert_eq!(*self.used.entry(epoch).or_insert_with(|| key.public()), key.public());
                    }
                }
                Act::Publish(descriptor) => {
                    assert!(SignedDescriptor::parse(descriptor.bytes(), NETWORK, self.unix).is_ok());
                    // operate.publish.1
                    assert!(descriptor.sequence <= self.disk.1);
                    assert!(descriptor.sequence >= self.unix);
                    assert!(self.said.iter().all(|(_, before)| before.sequence < descriptor.sequence));
                    // operate.publish.3
                    let first = epoch(self.unix);
                    assert_eq!((descriptor.first_epoch, descriptor.onion_keys.len()), (first, 2));
                    assert!(descriptor.bytes().len() <= directory::descriptor::MAX_GOSSIPED);
                    assert_eq!(descriptor.expires, u64::from(first + 2) * EPOCH_SECONDS);
                    for (epoch, key) in (first..).zip(&descriptor.onion_keys) {
                        assert_eq!(self.used.get(&epoch), Some(key), "used before it is published");
                    }
                    self.said.push((self.unix, *descriptor));
                }
            }
        }
        assert!(self.herald.poll_timeout(self.unix) > self.unix, "the herald is never idle");
    }

    fn run_until(&mut self, unix: u64) {
        loop {
            self.settle();
            let next = self.herald.poll_timeout(self.unix);
            if next > unix {
                self.unix = unix;
                return;
            }
            self.unix = next;
        }
    }

    fn restart(&mut self) {
        self.herald = herald_with(self.disk.0.clone(), self.disk.1);
    }
}

#[test]
fn a_relay_publishes_at_its_start_and_once_in_every_epoch() {
    // operate.publish.2
    let mut life = Life::new(START + 20_000);
    life.run_until(START + 10 * EPOCH_SECONDS);
    let moment = moment(&life.herald);
    assert!(moment < EPOCH_SECONDS / 2);
    let times: Vec<_> = life.said.iter().map(|(at, _)| *at - START).collect();
    let expected = (1..10).map(|n| n * EPOCH_SECONDS + moment);
    assert_eq!(times, [20_000].into_iter().chain(expected).collect::<Vec<_>>());
}

#[test]
fn the_keys_of_this_and_the_next_epoch_are_always_there_and_old_ones_are_erased() {
    // operate.keys.1, circuit.setup.9
    let mut life = Life::new(START + 5);
    for at in (START + 5..START + 4 * EPOCH_SECONDS).step_by(61) {
        life.run_until(at);
        let held: Vec<_> = life.herald.keys.keys().copied().collect();
        let now = epoch(at);
        let old = (at % EPOCH_SECONDS < GRACE && now > epoch(START)).then(|| now - 1);
        assert_eq!(held, old.into_iter().chain([now, now + 1]).collect::<Vec<_>>(), "{}", at - START);
        // What is published can be used at every moment.
        let (_, last) = life.said.last().unwrap();
        assert!(last.expires > at && last.onion_key(now).is_some());
    }
}

#[test]
fn a_change_is_published_soon_and_changes_at_once_are_published_together() {
    // operate.publish.2
    let mut life = Life::new(START + 20_000);
    life.run_until(START + 20_100);
    for n in 0..20 {
        life.herald.set_facts(Facts { operator: format!("me {n}"), ..facts() }).unwrap();
        life.run_until(START + 20_101 + n);
    }
    life.run_until(START + 20_200);
    let said: Vec<_> = life.said.iter().map(|(at, d)| (*at - START, d.operator.as_str())).collect();
    assert_eq!(said, [(20_000, "me"), (20_100, "me 0"), (20_110, "me 9"), (20_120, "me 19")]);
    // Back and forth within the gap is no news.
    life.herald.set_facts(facts()).unwrap();
    life.herald.set_facts(Facts { operator: "me 19".to_owned(), ..facts() }).unwrap();
    life.run_until(START + 20_300);
    assert_eq!(life.said.len(), 4);
}

#[test]
fn what_no_descriptor_may_say_is_refused_and_nothing_changes() {
    let mut life = Life::new(START);
    life.run_until(START + 10);
    let before = life.said.len();
    assert!(life.herald.set_facts(Facts { addresses: vec![], ..facts() }).is_err());
    assert!(life.herald.set_facts(Facts { operator: "ü".to_owned(), ..facts() }).is_err());
    life.run_until(START + 100);
    assert_eq!(life.said.len(), before);
}

#[test]
fn a_restart_publishes_at_once_with_the_same_keys() {
    // operate.keys.3, operate.publish.1, operate.publish.2
    let mut life = Life::new(START + 100);
    for _ in 0..5 {
        life.settle();
        life.restart();
    }
    life.settle();
    // In one second: the numbers run ahead of the clock.
    assert_eq!(
        life.said.iter().map(|(_, d)| d.sequence - START).collect::<Vec<_>>(),
        (100..106).collect::<Vec<_>>()
    );
    assert!(life.said.iter().all(|(_, d)| d.onion_keys == life.said[0].1.onion_keys));
}

#[test]
fn without_a_disk_nothing_is_used_or_published_and_it_is_tried_again() {
    // operate.keys.2
    let mut life = Life::new(START + 100);
    life.disk_works = false;
    life.run_until(START + 1_000);
    assert!(life.said.is_empty() && life.used.is_empty());
    life.disk_works = true;
    life.run_until(START + 1_011);
    assert_eq!((life.said.len(), life.used.len()), (1, 2));
}

#[test]
fn a_relay_that_drains_is_silent_and_speaks_again_when_it_does_not() {
    // operate.drain.1
    let mut life = Life::new(START + 100);
    life.run_until(START + 200);
    life.herald.set_silent(true);
    life.herald.set_facts(Facts { operator: "new".to_owned(), ..facts() }).unwrap();
    life.run_until(START + 3 * EPOCH_SECONDS);
    assert_eq!(life.said.len(), 1);
    assert!(life.herald.keys.contains_key(&(epoch(life.unix) + 1)), "keys are made all the same");
    life.herald.set_silent(false);
    life.settle();
    assert_eq!(life.said.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_sleeps_restarts_or_fails_numbers_grow_and_published_keys_stay(
        jumps in proptest::collection::vec((0_u64..4 * EPOCH_SECONDS, any::<[bool; 3]>()), 1..10),
    ) {
        let mut life = Life::new(START);
        let mut top = 0;
        for (jump, [sleeps, restarts, works]) in jumps {
            life.disk_works = works;
            if sleeps {
                life.unix += jump;
            }
            // Without a disk it tries often.
            life.run_until(life.unix + if works { jump } else { jump % 100 });
            if restarts {
                life.restart();
            }
            prop_assert!(life.disk.1 >= top);
            top = life.disk.1;
        }
        life.disk_works = true;
        life.run_until(life.unix + 2 * AGAIN);
        let (_, last) = life.said.last().unwrap();
        prop_assert!(last.onion_key(epoch(life.unix)).is_some());
        prop_assert!(last.expires > life.unix);
    }
}
