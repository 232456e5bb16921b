//! A network with relays, clients and sites, ready to run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use circuit::keys::{DhSecret, IdentitySecret, NetworkId, RelayId};
use circuit::seen::SeenSetups;
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor, epoch};
use directory::view::View;
use router::node::Keys;
use router::policy::ExitPolicy;

use circuit::relay::Asks;
use directory::chain::Chain as NetworkChain;
use directory::payment::Payment;
use payments::amount::{Rate, Wei};
use rand_core::Rng as _;

use crate::app::{AppId, Outcome, Wish};
use crate::chain::Account;
use crate::host::{ClientProgram, HostId, Program, RelayProgram, Running};
use crate::money::{DOMAIN, Disk, Money};
use crate::network::Conditions;
use crate::sim::{START_MS, Sim};
use crate::site::{Service, Site};

/// The network that all nodes are of.
pub const NETWORK: NetworkId = NetworkId([0x11; 16]);
/// Epochs for which relays have onion keys.
const EPOCHS: u32 = 8;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// Relays; the last `exits` of them are exits.
    pub relays: usize,
    /// Exits.
    pub exits: usize,
    /// Clients.
    pub clients: usize,
    /// Relays in each path.
    pub hops: usize,
    /// Circuits that each client keeps ready.
    pub prebuilt: usize,
    /// Between any two hosts.
    pub conditions: Conditions,
    /// From the exits to each site.
    pub site_delay: Duration,
    /// What every relay asks, on a paid network.
    pub asks: Option<Asks>,
    /// The draws that a win is worth; few, so that there are wins.
    pub face: u32,
}

/// What every pot begins with, spendable and as collateral each.
pub const POT: u128 = 1 << 90;

impl Plan {
    /// As many relays as hops, one of them an exit, one client that keeps no circuits ready, and 25 ms everywhere.
    pub fn new(seed: u64, hops: usize) -> Self {
        Self {
            seed,
            relays: hops,
            exits: 1,
            clients: 1,
            hops,
            prebuilt: 0,
            conditions: Conditions::default(),
            site_delay: Duration::from_millis(25),
            asks: None,
            face: 4,
        }
    }

    /// Builds the world; the clients start at once.
    ///
    /// # Panics
    ///
    /// When there are more than 250 relays or clients.
    pub fn build(&self) -> World {
        let mut sim = Sim::new(self.seed);
        sim.network.set_usual(self.conditions);
        for (n, (name, service)) in (1..).zip([
            ("echo", Service::Echo),
            ("site", Service::Exchange),
            ("refuse", Service::Refuse),
            ("reset", Service::Reset),
            ("silent", Service::Silent),
            ("lost", Service::Lost),
            ("deaf", Service::Deaf),
        ]) {
            sim.sites.add(name, Site { ip: [198, 0, 0, n].into(), delay: self.site_delay, service });
        }
        // The default policy does not serve this one.
        sim.sites.add(
            "private",
            Site { ip: [10, 0, 0, 1].into(), delay: self.site_delay, service: Service::Echo },
        );
        let members: Vec<_> = (0..self.relays)
            .map(|n| Member::draw(&mut sim, n, n + self.exits >= self.relays, self))
            .collect();
        let mut view = View::new(NETWORK);
        if self.asks.is_some() {
            view = view.with_chain(NetworkChain {
                id: DOMAIN.chain_id,
                contract: DOMAIN.contract,
                rpc: vec![],
                minimum_bond: Wei(1),
                exit_operators: 1,
                deployed: 0,
            });
        }
        for member in &members {
            view.insert(member.descriptor()).expect("descriptors of different relays");
        }
        let mut world = World { sim, view, relays: vec![], clients: vec![], ids: BTreeMap::new() };
        for member in members {
            world.add_relay(member, self.hops == 1);
        }
        for n in 0..self.clients {
            world.add_client(n, self);
        }
        world.sim.show_chain();
        world
    }
}

/// What a relay is, before it runs.
#[derive(Debug)]
pub struct Member {
    /// Its secrets.
    pub keys: Keys,
    /// Its address.
    pub address: SocketAddr,
    /// What it connects to, if it is an exit.
    pub exit: Option<ExitPolicy>,
    /// Its pot and its prices, on a paid network.
    pub money: Option<Money>,
}

fn secret(sim: &mut Sim) -> [u8; 32] {
    let mut secret = [0; 32];
    sim.rng.fill_bytes(&mut secret);
    secret
}

/// A pot that is full.
fn pot(sim: &mut Sim, asks: Asks, face: u32, registered: bool) -> Money {
    let money = Money { secret: secret(sim), asks, face };
    sim.chain.set(money.owner(), Account { balance: POT, reserve: POT, registered });
    money
}

fn address(net: u8, n: usize) -> SocketAddr {
    let n = u8::try_from(n + 1).expect("few hosts");
    SocketAddr::new(IpAddr::from([5, n, net, 1]), 4433)
}

impl Member {
    /// The `n`th relay, with fresh keys.
    fn draw(sim: &mut Sim, n: usize, exit: bool, plan: &Plan) -> Self {
        let first = epoch(START_MS / 1000);
        let onion = (first..first + EPOCHS).map(|epoch| (epoch, DhSecret::random(&mut sim.rng))).collect();
        let keys = Keys {
            identity: IdentitySecret::random(&mut sim.rng),
            link: DhSecret::random(&mut sim.rng),
            onion,
        };
        let money = plan.asks.map(|asks| pot(sim, asks, plan.face, true));
        Self { keys, address: address(0, n), exit: exit.then(ExitPolicy::default), money }
    }

    fn descriptor(&self) -> SignedDescriptor {
        let (first_epoch, _) = self.keys.onion.first_key_value().expect("a relay has onion keys");
        let descriptor = Descriptor {
            id: self.keys.identity.id(),
            network: NETWORK,
            sequence: 1,
            issued: START_MS / 1000 - 3600,
            expires: START_MS / 1000 + u64::from(EPOCHS - 1) * EPOCH_SECONDS,
            link_key: self.keys.link.public(),
            first_epoch: *first_epoch,
            onion_keys: self.keys.onion.values().map(DhSecret::public).collect(),
            addresses: vec![self.address],
            exit: self.exit.as_ref().and_then(ExitPolicy::summary),
            country: None,
            operator: String::new(),
            version: String::new(),
            bandwidth: 0,
            gossip_port: 0,
            payment: self.money.map(|money| Payment {
                chain_id: DOMAIN.chain_id,
                contract: DOMAIN.contract,
                owner: money.owner(),
                ask: Rate(money.asks.forward),
                exit_ask: Rate(if self.exit.is_some() { money.asks.exit } else { 0 }),
            }),
        };
        SignedDescriptor::sign(descriptor, &self.keys.identity).expect("a well-formed descriptor")
    }
}

/// A network that runs.
#[derive(Debug)]
pub struct World {
    /// The simulation.
    pub sim: Sim,
    /// What everybody knows.
    pub view: View,
    /// The hosts of the relays; the exits last.
    pub relays: Vec<HostId>,
    /// The hosts of the clients.
    pub clients: Vec<HostId>,
    ids: BTreeMap<RelayId, HostId>,
}

impl World {
    fn add_relay(&mut self, member: Member, allow_single_hop: bool) {
        let id = member.keys.identity.id();
        let program = RelayProgram {
            keys: member.keys,
            network: NETWORK,
            view: self.view.clone(),
            exit: member.exit,
            allow_single_hop,
            money: member.money,
        };
        let seed = self.sim.draw();
        let node = program.start(SeenSetups::restored([]), &Disk::default(), seed);
        let host =
            self.sim.add(member.address, Program::Relay(Box::new(program)), Running::Relay(Box::new(node)));
        self.relays.push(host);
        self.ids.insert(id, host);
    }

    fn add_client(&mut self, n: usize, plan: &Plan) {
        let program = ClientProgram {
            network: NETWORK,
            view: self.view.clone(),
            hops: plan.hops,
            prebuilt: plan.prebuilt,
            money: plan.asks.map(|_| pot(&mut self.sim, Asks::default(), plan.face, false)),
        };
        let (now, seed) = (self.sim.now(), self.sim.draw());
        let node = program.start(now, &Disk::default(), &[], seed);
        let host =
            self.sim.add(address(1, n), Program::Client(Box::new(program)), Running::Client(Box::new(node)));
        self.clients.push(host);
    }

    /// The host of a relay.
    ///
    /// # Panics
    ///
    /// When it is not of this world.
    pub fn host_of(&self, id: &RelayId) -> HostId {
        *self.ids.get(id).expect("a relay of this world")
    }

    /// The only client.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn client(&self) -> HostId {
        *self.clients.first().expect("a world with a client")
    }

    /// The relay that the only client dials.
    ///
    /// # Panics
    ///
    /// When it has sent nothing yet, or to several.
    pub fn entry(&self) -> HostId {
        let client = self.sim.host(self.client()).address;
        let mut dialled =
            self.sim.network.traffic().filter(|(from, ..)| *from == client).map(|(_, to, _)| to);
        let (Some(entry), None) = (dialled.next(), dialled.next()) else {
            panic!("the client has no single entry")
        };
        *self
            .relays
            .iter()
            .find(|id| self.sim.host(**id).address == entry)
            .expect("an entry among the relays")
    }

    /// An application of the only client asks.
    pub fn ask(&mut self, wish: Wish) -> AppId {
        let client = self.client();
        self.sim.open(client, wish)
    }

    /// Lets time pass until an application is done, at most `time`; how it ended, and what it took.
    pub fn finish(&mut self, app: AppId, time: Duration) -> Option<(Outcome, Duration)> {
        self.sim.run_until(time, |sim| sim.app(app).done.is_some());
        let app = self.sim.app(app);
        app.done.map(|(at, outcome)| (outcome, app.since_asked(at)))
    }
}
