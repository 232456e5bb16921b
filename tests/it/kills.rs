//! Processes that pay each other are killed again and again, in the middle of downloads: no win is lost, no wei paid twice, and
//! nobody charged above its own count.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use circuit::keys::Random;
use payments::Address;
use payments::abi::OnionPay::OnionPayEvents;
use payments::amount::Wei;
use payments::chain::rpc::{Config, Rpc};
use payments::chain::{At, Chain};
use payments::session::Domain;
use rand_core::{Rng as _, SeedableRng as _};

use super::paid::{CHAIN, Paid, program, wei};
use super::processes::{PATIENCE, Process, eventually};
use super::target::Target;

/// Kills in all, unless the environment's `CHIVE_KILLS` says otherwise.
const KILLS: usize = 200;
const RELAYS: usize = 3;
/// Bytes of a download.
const WHOLE: usize = 3_000_000;
/// What is in every pot at first, to spend.
const POT: i128 = 2_000_000_000_000_000_000;

/// Downloads through a proxy that may be killed, and says how much has come.
fn fetch(proxy: SocketAddr, target: SocketAddr, came: &AtomicUsize) -> io::Result<()> {
    let SocketAddr::V4(to) = target else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[5, 1, 0])?;
    stream.read_exact(&mut [0; 2])?;
    let [a, b, c, d] = to.ip().octets();
    let [high, low] = to.port().to_be_bytes();
    stream.write_all(&[5, 1, 0, 1, a, b, c, d, high, low])?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    if answer[1] != 0 {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.write_all(format!("give {WHOLE}\n").as_bytes())?;
    let mut buffer = vec![0; 1 << 16];
    while came.load(Ordering::Relaxed) < WHOLE {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => drop(came.fetch_add(count, Ordering::Relaxed)),
        }
    }
    Ok(())
}

/// A download that goes on beside.
struct Download {
    came: Arc<AtomicUsize>,
    thread: JoinHandle<io::Result<()>>,
}

impl Download {
    fn start(proxy: SocketAddr, target: SocketAddr) -> Self {
        let came = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&came);
        Self { came, thread: thread::spawn(move || fetch(proxy, target, &counted)) }
    }

    /// Waits for so many bytes; whether they came.
    fn wait_for(&self, bytes: usize) -> bool {
        while self.came.load(Ordering::Relaxed) < bytes {
            if self.thread.is_finished() {
                return false;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        true
    }
}

struct World {
    net: Paid,
    rng: Random,
    /// The client is the first.
    processes: Vec<Process>,
    proxy: SocketAddr,
    target: Target,
}

impl Drop for World {
    /// What everybody says of a test that has failed.
    fn drop(&mut self) {
        if thread::panicking() {
            for (number, process) in self.processes.iter().enumerate() {
                println!("{number}: {}", process.log());
            }
            for number in 1..=RELAYS {
                println!("{number}: {}", self.net.earned(number));
            }
        }
    }
}

impl World {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.rng.next_u32()).unwrap() % limit
    }

    fn download(&self) -> Download {
        Download::start(self.proxy, self.target.address)
    }

    /// Waits for a download that has come so far, however often it must be begun again.
    fn flowing(&self, bytes: usize) -> Download {
        eventually("a download", || Some(self.download()).filter(|download| download.wait_for(bytes)))
    }

    /// Kills some at moments that are not the same twice, and starts them again.
    fn kill(&mut self, victims: &[usize]) {
        for victim in victims {
            let pause = self.below(40);
            thread::park_timeout(Duration::from_millis(pause.try_into().unwrap()));
            self.processes[*victim].kill();
        }
        for victim in victims.iter().filter(|victim| **victim > 0) {
            self.processes[*victim] = self.net.relay(*victim).0;
        }
        if victims.contains(&0) {
            (self.processes[0], self.proxy) = self.net.client();
        }
    }

    fn order(&mut self) -> Vec<usize> {
        let mut left: Vec<_> = (0..=RELAYS).collect();
        let mut order = Vec::new();
        while !left.is_empty() {
            let next = self.below(left.len());
            order.push(left.swap_remove(next));
        }
        order
    }

    /// All that is paid is credited, and all that is won is redeemed, by what everybody says.
    fn agrees(&self) -> bool {
        let all: Vec<_> = (1..=RELAYS).map(|number| self.net.earned(number)).collect();
        let sum = |key| all.iter().map(|earned| wei(earned, key)).sum::<u128>();
        let paid = wei(&self.net.paid(), "paid") + sum("paid");
        println!(
            "paid {paid}, credited {}, won {}, redeemed {}",
            sum("credited"),
            sum("won"),
            sum("redeemed")
        );
        paid == sum("credited") && sum("won") == sum("redeemed")
    }
}

/// What the contract has done, compared with what everybody says.
fn audit(world: &World) -> usize {
    let contract: Address = world.net.anvil.contract.parse().unwrap();
    let domain = Domain { chain_id: CHAIN, contract };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rpc = Rpc::connect(Config::new(vec![world.net.anvil.url()], domain)).await.unwrap();
        let chain: &dyn Chain = &rpc;
        let head = chain.head(At::Latest).await.unwrap();
        let mut tickets = BTreeSet::new();
        let mut paid = Vec::new();
        for (_, event) in chain.events(0, head.number).await.unwrap() {
            let OnionPayEvents::Redeemed(event) = event else { continue };
            assert!(tickets.insert((event.payer, event.payee, event.nonce)), "a ticket is paid twice");
            assert!(!event.defaulted);
            paid.push((event.payer, event.payee, Wei::from(event.payout).0));
        }
        for number in 1..=RELAYS {
            let earned = world.net.earned(number);
            let owner: Address = earned["owner"].as_str().unwrap().parse().unwrap();
            let got = paid.iter().filter(|(_, payee, _)| *payee == owner);
            let got: u128 = got.map(|(.., payout)| payout).sum();
            assert_eq!((got, wei(&earned, "lost")), (wei(&earned, "won"), 0), "a win is lost: {earned}");
            let spent = paid.iter().filter(|(payer, ..)| *payer == owner);
            let spent: u128 = spent.map(|(.., payout)| payout).sum();
            let balance = chain.account(owner, At::Latest).await.unwrap().balance;
            assert_eq!(
                i128::try_from(balance.0).unwrap(),
                POT + i128::try_from(got).unwrap() - i128::try_from(spent).unwrap()
            );
        }
        tickets.len()
    })
}

// pay.disk.2, pay.disk.3, pay.redeem.1
#[test]
fn two_hundred_kills_of_payers_and_payees_lose_no_win_and_pay_none_twice() {
    let Some(program) = program() else { return };
    let kills = std::env::var("CHIVE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let net = Paid::new(&program, u8::try_from(RELAYS).unwrap());
    // Wins are small, and come often.
    for number in 1..=RELAYS {
        net.set(&format!("relay{number}/relay.toml"), "redemption_cost = \"40000 gwei\"");
    }
    let mut processes = net.relays();
    let (client, proxy) = net.client();
    processes.insert(0, client);
    let seed = 5;
    let rng = Random::seed_from_u64(seed);
    let mut world = World { net, rng, processes, proxy, target: Target::open() };
    let (mut done, mut round) = (0, 0);
    while done < kills {
        let bytes = 1 + world.below(WHOLE / 2);
        let download = world.flowing(bytes);
        // All at once, but every fourth time: then payer or payee go on, and meet one that has been restarted.
        let mut victims = world.order();
        if round % 4 == 3 {
            victims.truncate(1);
        }
        victims.truncate(kills - done);
        world.kill(&victims);
        drop(download);
        (done, round) = (done + victims.len(), round + 1);
        println!("seed {seed}, round {round}: {done} kills");
    }
    // Who lost a last word hears it when the two meet again, for which the client has to enter by that relay: a new guard.
    let mut agreed = false;
    for _ in 0..40 {
        world.flowing(WHOLE);
        agreed = (0..8).any(|_| {
            thread::park_timeout(Duration::from_millis(1_500));
            world.agrees()
        });
        if agreed {
            break;
        }
        world.processes[0].kill();
        fs::remove_file(world.net.file("state/guards")).unwrap();
        (world.processes[0], world.proxy) = world.net.client();
    }
    assert!(agreed, "the sums do not agree");
    let tickets = audit(&world);
    println!("{done} kills, {tickets} wins redeemed");
    assert!(tickets >= kills / 10, "{tickets} wins are too few to tell");
}
