//! What happens to packets between two hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use circuit::keys::Random;
use circuit::packet::PACKET;
use rand_core::Rng as _;

/// A packet on the wire.
pub type Datagram = Box<[u8; PACKET]>;

/// How packets get lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each by itself, with this probability.
    Independent(f64),
    /// In bursts (Gilbert and Elliott): the line is bad for random times, and then loses everything.
    ///
    /// It is bad for a time and not for a number of packets: else a line would stay bad while nothing is sent.
    Bursts {
        /// The mean time from the end of one burst to the beginning of the next.
        every: Duration,
        /// The mean time that a burst lasts.
        last: Duration,
    },
}

/// A bottleneck with a drop-tail queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second.
    pub bytes: u32,
    /// How long a packet waits at most; those that would wait longer are lost.
    pub queue: Duration,
}

/// What happens to packets of one direction between two hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// The time a packet takes.
    pub delay: Duration,
    /// At most so much more, at random; packets stay in order.
    pub jitter: Duration,
    /// How packets get lost.
    pub loss: Loss,
    /// The probability that a packet is overtaken by later ones, for up to `late`.
    pub reorder: f64,
    /// The most that an overtaken packet takes longer.
    pub late: Duration,
    /// The probability that a packet comes twice.
    pub duplicate: f64,
    /// The probability that one bit of a packet is flipped.
    pub corrupt: f64,
    /// The bottleneck, if there is one.
    pub rate: Option<Rate>,
    /// Nothing gets through.
    pub cut: bool,
}

impl Default for Conditions {
    /// A perfect line of 25 ms.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(25),
            jitter: Duration::ZERO,
            loss: Loss::Independent(0.0),
            reorder: 0.0,
            late: Duration::from_millis(20),
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            cut: false,
        }
    }
}

impl Conditions {
    /// A perfect line with this delay.
    pub fn after(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Path {
    bad: bool,
    /// When it turns bad, or good again.
    turns: Duration,
    /// When the bottleneck is free.
    free: Duration,
    /// The latest arrival of a packet in order.
    last: Duration,
    packets: u64,
}

/// The network between all hosts.
#[derive(Debug, Default)]
pub struct Network {
    usual: Conditions,
    special: BTreeMap<(SocketAddr, SocketAddr), Conditions>,
    paths: BTreeMap<(SocketAddr, SocketAddr), Path>,
}

impl Network {
    /// The conditions where no others are set.
    pub const fn set_usual(&mut self, conditions: Conditions) {
        self.usual = conditions;
    }

    /// The conditions from one host to another.
    pub fn get(&self, from: SocketAddr, to: SocketAddr) -> Conditions {
        self.special.get(&(from, to)).copied().unwrap_or(self.usual)
    }

    /// Sets the conditions from one host to another.
    pub fn set(&mut self, from: SocketAddr, to: SocketAddr, conditions: Conditions) {
        self.special.insert((from, to), conditions);
    }

    /// Changes the conditions between two hosts, both ways.
    pub fn change(&mut self, a: SocketAddr, b: SocketAddr, change: impl Fn(&mut Conditions)) {
        for (from, to) in [(a, b), (b, a)] {
            let mut conditions = self.get(from, to);
            change(&mut conditions);
            self.set(from, to, conditions);
        }
    }

    /// Cuts the line between two hosts, or mends it.
    pub fn cut(&mut self, a: SocketAddr, b: SocketAddr, cut: bool) {
        self.change(a, b, |conditions| conditions.cut = cut);
    }

    /// The pairs of hosts between which packets were sent, and how many, lost ones included.
    pub fn traffic(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr, u64)> + '_ {
        self.paths.iter().map(|((from, to), path)| (*from, *to, path.packets))
    }

    /// Carries a packet that is sent at `at`: when it arrives, and as what, never or more than once.
    pub fn carry(
        &mut self,
        rng: &mut Random,
        at: Duration,
        (from, to): (SocketAddr, SocketAddr),
        mut packet: Datagram,
    ) -> Vec<(Duration, Datagram)> {
        let conditions = self.get(from, to);
        let path = self.paths.entry((from, to)).or_default();
        path.packets += 1;
        if conditions.cut || lost(rng, conditions.loss, path, at) {
            return vec![];
        }
        let mut leaves = at;
        if let Some(rate) = conditions.rate {
            let takes = Duration::from_nanos(PACKET as u64 * 1_000_000_000 / u64::from(rate.bytes));
            leaves = path.free.max(at);
            if leaves > at + rate.queue {
                return vec![];
            }
            leaves += takes;
            path.free = leaves;
        }
        let mut arrives = leaves + conditions.delay + conditions.jitter.mul_f64(fraction(rng));
        if chance(rng, conditions.reorder) {
            arrives += conditions.late.mul_f64(fraction(rng));
        } else {
            arrives = arrives.max(path.last);
            path.last = arrives;
        }
        if chance(rng, conditions.corrupt) {
            let at = usize::try_from(rng.next_u32()).unwrap_or(0) % PACKET;
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= 1 << (rng.next_u32() % 8);
            }
        }
        let again = chance(rng, conditions.duplicate)
            .then(|| (arrives + conditions.late.mul_f64(fraction(rng)), packet.clone()));
        [Some((arrives, packet)), again].into_iter().flatten().collect()
    }
}

/// A number from 0 up to 1.
fn fraction(rng: &mut Random) -> f64 {
    f64::from(rng.next_u32()) / 4_294_967_296.0
}

fn chance(rng: &mut Random, probability: f64) -> bool {
    probability > 0.0 && fraction(rng) < probability
}

/// A time that is long with a probability that falls exponentially, `mean` on average.
fn waiting_time(rng: &mut Random, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - fraction(rng)).ln())
}

fn lost(rng: &mut Random, loss: Loss, path: &mut Path, at: Duration) -> bool {
    match loss {
        Loss::Independent(probability) => chance(rng, probability),
        Loss::Bursts { every, last } => {
            if path.turns == Duration::ZERO {
                path.turns = at + waiting_time(rng, every);
            }
            while path.turns <= at {
                path.bad = !path.bad;
                path.turns += waiting_time(rng, if path.bad { last } else { every });
            }
            path.bad
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    fn ends() -> (SocketAddr, SocketAddr) {
        (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into())
    }

    /// The arrivals of `count` packets, one every millisecond.
    fn carried(conditions: Conditions, count: u32) -> Vec<Vec<(Duration, Datagram)>> {
        let mut network = Network::default();
        network.set_usual(conditions);
        let mut rng = Random::from_seed([1; 32]);
        let send = |n| network.carry(&mut rng, Duration::from_millis(n), ends(), Box::new([0; PACKET]));
        (0..u64::from(count)).map(send).collect()
    }

    #[test]
    fn a_perfect_line_only_takes_time() {
        for (n, arrivals) in (0..).zip(carried(Conditions::default(), 100)) {
            assert_eq!(arrivals, [(Duration::from_millis(n + 25), Box::new([0; PACKET]))]);
        }
    }

    #[test]
    fn losses_come_as_often_as_asked_for() {
        let count = |loss| {
            let lost: Vec<_> = carried(Conditions { loss, ..Conditions::default() }, 20_000)
                .iter()
                .map(Vec::is_empty)
                .collect();
            let pairs = lost.windows(2).filter(|pair| pair[0] && pair[1]).count();
            (lost.iter().filter(|lost| **lost).count(), pairs)
        };
        let (lost, pairs) = count(Loss::Independent(0.05));
        assert!((900..1100).contains(&lost) && pairs < 100, "{lost} {pairs}");
        // Bad for 5 % of the time.
        let (every, last) = (Duration::from_millis(190), Duration::from_millis(10));
        let (lost, pairs) = count(Loss::Bursts { every, last });
        assert!((800..1200).contains(&lost) && pairs > lost * 7 / 10, "{lost} {pairs}");
    }

    #[test]
    fn order_duplicates_and_bits_change_as_asked_for() {
        let jitter = Conditions { jitter: Duration::from_millis(9), ..Conditions::default() };
        let times = |conditions| -> Vec<_> {
            carried(conditions, 2000).iter().flatten().map(|(at, _)| *at).collect()
        };
        assert!(times(jitter).is_sorted());
        assert!(!times(Conditions { reorder: 0.1, ..jitter }).is_sorted());
        let doubled = times(Conditions { duplicate: 0.1, ..jitter }).len();
        assert!((2150..2250).contains(&doubled), "{doubled}");
        let corrupt = carried(Conditions { corrupt: 0.1, ..jitter }, 2000);
        let flipped: u32 =
            corrupt.iter().flatten().flat_map(|(_, packet)| packet.iter()).map(|b| b.count_ones()).sum();
        assert!((150..250).contains(&flipped), "{flipped}");
    }

    #[test]
    fn a_bottleneck_delays_and_then_drops() {
        // One packet takes 2 ms, and one comes every millisecond.
        let rate = Some(Rate { bytes: 706_000, queue: Duration::from_millis(10) });
        let arrivals = carried(Conditions { rate, ..Conditions::default() }, 100);
        assert_eq!(arrivals[0][0].0, Duration::from_millis(27));
        assert_eq!(arrivals[5][0].0, Duration::from_millis(37));
        let lost = arrivals.iter().filter(|a| a.is_empty()).count();
        assert!((40..50).contains(&lost), "{lost}");
        let cut = Conditions { cut: true, ..Conditions::default() };
        assert!(carried(cut, 10).iter().all(Vec::is_empty));
    }
}
