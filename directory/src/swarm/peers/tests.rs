//! Rounds and patience, without a network.

use circuit::keys::IdentitySecret;
use rand_core::SeedableRng as _;

use super::*;
use crate::descriptor::{Descriptor, SignedDescriptor};
use crate::sample::{NETWORK, descriptor, identity};
use crate::swarm::patience::{Belief, Patience};

const POLICY: Policy = Policy { asked: 3, kept: 0, every: Duration::from_mins(1) };
const RELAY: Policy = Policy { kept: 8, ..POLICY };

/// Where everybody is whose place does not matter.
const PLACE: [u8; 4] = [192, 0, 2, 1];

struct World {
    peers: Peers,
    view: View,
    rng: Random,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "a beginning; time goes on by hand")]
fn beginning() -> Instant {
    Instant::now()
}

fn view(relays: impl IntoIterator<Item = u8>) -> View {
    let mut view = View::new(NETWORK);
    for n in relays {
        view.insert(SignedDescriptor::sign(descriptor(n), &identity(n)).unwrap()).unwrap();
    }
    view
}

fn peer(n: u8) -> PeerId {
    peer_of(&identity(n).id()).unwrap()
}

fn stranger(n: u8) -> PeerId {
    peer_of(&IdentitySecret::from_bytes(&[n ^ 0xf0; 32]).id()).unwrap()
}

impl World {
    fn new(policy: Policy, bootstrap: usize, relays: impl IntoIterator<Item = u8>) -> Self {
        let now = beginning();
        let peers = Peers::new(policy, Some(identity(200).id()), bootstrap, now);
        Self { peers, view: view(relays), rng: Random::from_seed([7; 32]), now }
    }

    fn plan(&mut self) -> Vec<Step> {
        self.peers.plan(self.now, &mut self.rng, &self.view)
    }

    fn connect(&mut self, id: PeerId, serves: bool) {
        self.peers.connected(self.now, id, PLACE.into(), serves);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Plans until nothing is left to do, with every dial and question going well; who was asked.
    fn run(&mut self) -> Vec<PeerId> {
        let mut asked = Vec::new();
        loop {
            let steps = self.plan();
            if steps.is_empty() {
                return asked;
            }
            for step in steps {
                match step {
                    Step::Ask(id) => {
                        asked.push(id);
                        self.peers.answered(&id, true);
                    }
                    Step::Dial(target @ Target::Relay(_, id)) => {
                        self.connect(id, true);
                        self.peers.reached(self.now, target, id, PLACE.into());
                    }
                    Step::Dial(target @ Target::Bootstrap(index)) => {
                        let id = stranger(u8::try_from(index).unwrap());
                        self.connect(id, true);
                        self.peers.reached(self.now, target, id, PLACE.into());
                    }
                }
            }
        }
    }
}

#[test]
fn a_round_asks_so_many_and_the_next_one_comes_in_time() {
    let mut world = World::new(POLICY, 2, 1..=9);
    let asked = world.run();
    assert_eq!(asked.len(), 3);
    assert!(
        asked.iter().all(|id| relay_of(id).is_some_and(|id| world.view.get(&id).is_some())),
        "relays suffice"
    );
    world.pass(Duration::from_secs(44));
    assert_eq!(world.plan(), []);
    world.pass(Duration::from_secs(32));
    let again = world.run();
    assert_eq!(again.len(), 3);
    assert!(again.iter().any(|id| !asked.contains(id)), "one of them is new");
}

#[test]
fn who_learns_otherwise_dials_nobody_and_begins_again_when_that_ends() {
    let mut world = World::new(POLICY, 1, 1..=9);
    for _ in 0..5 {
        world.peers.rest(world.now);
        for _ in 0..119 {
            assert_eq!(world.plan(), []);
            world.pass(Duration::from_secs(1));
        }
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.run().len(), 3);
}

#[test]
fn with_an_empty_view_the_bootstrap_addresses_are_dialed_with_growing_pauses() {
    let mut world = World::new(POLICY, 2, []);
    let both = [Step::Dial(Target::Bootstrap(0)), Step::Dial(Target::Bootstrap(1))];
    assert_eq!(world.plan(), both);
    assert_eq!(world.plan(), [], "nothing is dialed twice at once");
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failed = world.now;
        world.peers.missed(failed, Target::Bootstrap(0));
        world.peers.missed(failed, Target::Bootstrap(1));
        while world.plan().is_empty() {
            world.pass(Duration::from_secs(1));
        }
        // The other one is dialed in the same moment, or when its turn comes.
        world.plan();
        pauses.push(world.now.duration_since(failed).as_secs());
    }
    assert!(pauses.is_sorted() && pauses[0] >= 2, "{pauses:?}");
    assert!((60..=150).contains(&pauses[7]), "{pauses:?}");
}

#[test]
fn relays_that_fail_rest_and_the_bootstrap_addresses_take_their_place() {
    let mut world = World::new(POLICY, 1, 1..=3);
    let mut dialed = Vec::new();
    for _ in 0..10 {
        for step in world.plan() {
            let Step::Dial(target) = step else { panic!("{step:?}") };
            dialed.push(target);
            world.peers.missed(world.now, target);
        }
    }
    let relays = dialed.iter().filter(|target| matches!(target, Target::Relay(..))).count();
    assert_eq!((relays, dialed.len()), (3, 4), "each once: {dialed:?}");
    world.pass(Duration::from_mins(20));
    assert!(!world.plan().is_empty(), "nobody is given up");
}

#[test]
fn a_relay_keeps_connections_and_never_dials_itself_or_who_has_no_port() {
    let mut world = World::new(RELAY, 0, 1..=20);
    let own = SignedDescriptor::sign(descriptor(200), &identity(200)).unwrap();
    world.view.insert(own).unwrap();
    let silent = Descriptor { gossip_port: 0, ..descriptor(21) };
    world.view.insert(SignedDescriptor::sign(silent, &identity(21)).unwrap()).unwrap();
    world.run();
    assert!((8..=10).contains(&world.peers.serving()), "{}", world.peers.serving());
    assert!(world.peers.ip(&peer(200)).is_none() && world.peers.ip(&peer(21)).is_none());
    // One that goes is replaced at once, not in the next round.
    let gone: Vec<_> = (1..=20).map(peer).filter(|id| world.peers.ip(id).is_some()).take(5).collect();
    for id in &gone {
        world.peers.disconnected(id);
    }
    world.run();
    assert!(world.peers.serving() >= 8);
}

#[test]
fn who_is_silent_is_replaced_in_the_same_round_and_who_does_not_serve_is_not_asked() {
    let mut world = World::new(POLICY, 0, []);
    for n in 1..=5 {
        world.connect(peer(n), true);
    }
    world.connect(stranger(1), false);
    let asked: Vec<_> = world.plan();
    assert_eq!(asked.len(), 3);
    for step in asked {
        let Step::Ask(id) = step else { panic!("{step:?}") };
        world.peers.silent(&id, false);
    }
    let more = world.plan();
    assert_eq!(more.len(), 2, "all that are left, but no stranger");
    assert_eq!(world.peers.serving(), 2);
}

// directory.swarm.6
#[test]
fn who_hides_has_time_to_learn_and_is_left_then() {
    let mut world = World::new(POLICY, 0, []);
    for n in 1..=2 {
        world.connect(peer(n), true);
    }
    assert_eq!(world.plan().len(), 2);
    assert!(!world.peers.hides(world.now, peer(1)));
    assert!(!world.peers.hides(world.now, peer(1)), "not at once");
    assert!(!world.peers.hides(world.now, peer(2)));
    world.peers.answered(&peer(2), true);
    world.pass(Duration::from_secs(30));
    assert!(world.peers.hides(world.now, peer(1)));
    assert!(!world.peers.hides(world.now, peer(2)), "it had learned meanwhile");
    for n in 0..=255 {
        world.peers.hides(world.now, stranger(n));
    }
    assert!(world.peers.hiding.len() <= MAX_HIDING);
}

// directory.swarm.5
#[test]
fn gossip_and_requests_are_counted_by_the_minute() {
    let mut world = World::new(POLICY, 0, []);
    world.connect(peer(1), true);
    world.connect(peer(2), true);
    for _ in 0..2 {
        let gossip = (0..5_000).filter(|_| world.peers.may_gossip(world.now, &peer(1))).count();
        let requests = (0..5_000).filter(|_| world.peers.may_request(world.now, &peer(1))).count();
        assert_eq!((gossip, requests), (3_000, 120));
        assert!(world.peers.may_gossip(world.now, &peer(2)), "others are not meant");
        world.pass(Duration::from_mins(1));
    }
    assert!(!world.peers.may_gossip(world.now, &peer(3)), "who is not connected sends nothing");
}

#[test]
fn nobody_is_followed_without_end() {
    let mut world = World::new(POLICY, 0, []);
    world.connect(peer(1), true);
    world.plan();
    assert_eq!((0..1_000).filter(|_| world.peers.may_follow(&peer(1))).count(), 64);
}

#[test]
fn two_connections_are_one_peer() {
    let mut world = World::new(POLICY, 0, []);
    world.connect(peer(1), false);
    world.connect(peer(1), true);
    assert_eq!((world.peers.len(), world.peers.serving()), (1, 1));
    world.peers.disconnected(&peer(1));
    assert_eq!(world.peers.len(), 1);
    world.peers.disconnected(&peer(1));
    assert_eq!(world.peers.len(), 0);
}

// directory.exchange.6
#[test]
fn who_says_nothing_new_where_little_is_known_is_no_answer() {
    let mut world = World::new(POLICY, 0, []);
    for n in 1..=20 {
        world.connect(peer(n), true);
    }
    let (mut asked, mut steps) = (0, world.plan());
    while !steps.is_empty() {
        for step in steps {
            let Step::Ask(id) = step else { panic!("{step:?}") };
            asked += 1;
            world.peers.answered(&id, false);
        }
        steps = world.plan();
    }
    assert_eq!(asked, 9, "others are asked instead, up to three times as many");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.plan(), [], "and not without a pause");
}

// path.guard.9
#[test]
fn where_few_relays_are_known_the_bootstrap_addresses_are_asked_first() {
    let mut world = World::new(POLICY, 2, 1..=9);
    world.peers.note(Belief::Hidden);
    let named = [0, 1].map(stranger);
    let asked = world.run();
    assert!(asked.len() == 3 && named.iter().all(|id| asked.contains(id)), "{asked:?}");
    // Not any more once these are believed to be all.
    for belief in [Belief::Enough, Belief::All] {
        let mut world = World::new(POLICY, 2, 1..=9);
        world.peers.note(belief);
        let asked = world.run();
        assert!(asked.len() == 3 && !named.iter().any(|id| asked.contains(id)), "{asked:?}");
    }
}

// path.guard.9
#[test]
fn a_bootstrap_peer_speaks_for_the_address_that_led_to_it_wherever_else_it_is_met() {
    let mut world = World::new(POLICY, 2, 1..=9);
    let (near, far): ([u8; 4], [u8; 4]) = ([93, 1, 1, 1], [94, 1, 1, 1]);
    let mut patience = Patience::new(false, false);
    assert_eq!(patience.look(world.now, true), Belief::Hidden);
    let mut found = |world: &mut World, target, id, ip: [u8; 4]| {
        world.peers.connected(world.now, id, ip.into(), true);
        world.peers.reached(world.now, target, id, ip.into());
        let witnesses: Vec<_> = world.peers.witnesses(id).collect();
        for witness in &witnesses {
            patience.heard(*witness);
        }
        let subnets: Vec<_> = witnesses.iter().map(|witness| (witness.index, witness.subnet)).collect();
        world.peers.disconnected(&id);
        (subnets, patience.look(world.now + Duration::from_hours(1), true) == Belief::All)
    };
    let (near_one, far_one) = (Subnet::of(near.into()), Subnet::of(far.into()));
    let relay = Target::Relay(identity(1).id(), peer(1));
    assert_eq!(found(&mut world, relay, peer(1), far), (vec![], false), "a relay of the view");
    assert_eq!(found(&mut world, Target::Bootstrap(0), peer(1), near), (vec![(0, near_one)], false));
    // The same one, where its descriptor says.
    assert_eq!(found(&mut world, relay, peer(1), far), (vec![(0, near_one)], false));
    // The same name, which leads elsewhere now.
    assert_eq!(found(&mut world, Target::Bootstrap(0), peer(2), far), (vec![(0, far_one)], false));
    assert_eq!(found(&mut world, Target::Bootstrap(1), peer(3), near), (vec![(1, near_one)], true));
}
