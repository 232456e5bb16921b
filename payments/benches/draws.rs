//! What checking payments costs on one core: `cargo bench -p payments --no-default-features --bench draws`.
//!
//! A session of 64 draws is opened and drawn one by one, as on a link: offer, signature check, draws, end. The table at
//! the end gives draws per second, with the session's signature shared by its 64 draws, and sets the fastest pass
//! against the goal. Other programs on the machine spoil the medians, and hardly the fastest passes.

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use criterion::{Criterion, Throughput};
use payments::amount::Wei;
use payments::frame::Frame;
use payments::offer::Face;
use payments::session::{Domain, Signer};
use payments::till::{PayerAccount, Till, TillLimits};
use payments::wallet::{Pot, Wallet, WalletLimits};

/// What a core is to check per second.
const GOAL: f64 = 400_000.0;
const NOW: u64 = 1_800_000_000;
const DRAWS: u16 = 64;
/// The sessions of a pass.
const SESSIONS: u32 = 8;
const VALUE: Wei = Wei(1_000_000);
const PAYER: Address = Address::repeat_byte(1);
const PAYEE: Address = Address::repeat_byte(2);

fn main() {
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut bench = Bench { criterion, rows: vec![] };
    let mut pair = Pair::new();
    bench.stage("payee: session and 64 draws", || pair.pass(true));
    bench.stage("payer: session and 64 draws", || pair.pass(false));
    bench.criterion.final_summary();
    bench.print();
}

/// The stages measured so far: name, median and fastest pass in draws per second.
struct Bench {
    criterion: Criterion,
    rows: Vec<(String, f64, f64)>,
}

impl Bench {
    fn stage(&mut self, name: &str, mut pass: impl FnMut() -> Duration) {
        let mut passes = vec![];
        let draws = SESSIONS * u32::from(DRAWS);
        let mut group = self.criterion.benchmark_group("draws");
        group.throughput(Throughput::Elements(draws.into()));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let first = passes.len();
                passes.extend((0..count).map(|_| pass()));
                passes.iter().skip(first).sum()
            });
        });
        group.finish();
        passes.sort();
        let per_second = |pass: &Duration| f64::from(draws) / pass.as_secs_f64();
        if let (Some(fastest), Some(median)) = (passes.first(), passes.get(passes.len() / 2)) {
            self.rows.push((name.to_owned(), per_second(median), per_second(fastest)));
        }
    }

    #[expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]
    fn print(&self) {
        println!("\n{:<32}{:>14}{:>14}", "draws per second and core", "median", "fastest");
        for (name, median, fastest) in &self.rows {
            println!("{name:<32}{median:>14.0}{fastest:>14.0}");
        }
        if let Some((_, _, fastest)) = self.rows.first() {
            println!("goal for the payee: {GOAL:.0}, reached {:.0} %", fastest / GOAL * 100.0);
        }
    }
}

/// A payer and a payee, and the time that each has used.
struct Pair {
    wallet: Wallet,
    till: Till,
    account: PayerAccount,
    target: Wei,
    payer: Duration,
    payee: Duration,
    up: Vec<Frame>,
    down: Vec<Frame>,
}

/// Runs `act`, and adds what it takes to `time`.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed<T>(time: &mut Duration, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    *time += start.elapsed();
    result
}

impl Pair {
    fn new() -> Self {
        let domain = Domain { chain_id: 1, contract: Address::repeat_byte(3) };
        let signer = Signer::from_bytes([7; 32]).expect("a secret key");
        let account = PayerAccount {
            balance: Wei(1 << 94),
            reserve: Wei(1 << 94),
            unlocking: false,
            signer: signer.address(),
            only_payee: None,
            head_stale: false,
            registered: true,
        };
        let cost = Wei(VALUE.0 * 1_000_000);
        let limits = WalletLimits { redemption_cost: cost, max_open: 1, value: VALUE, max_value: VALUE };
        let mut wallet = Wallet::new(domain, PAYER, signer, [1; 32], limits);
        let pot =
            Pot { balance: account.balance, reserve: account.reserve, unlocking: false, only_payee: None };
        wallet.on_account(NOW, Some(pot));
        let limits = TillLimits { face: Face::Costs(cost), min_value: Wei(1), draws: DRAWS, max_payers: 10 };
        let till = Till::new(domain, PAYEE, [2; 32], [3; 32], limits);
        let (payer, payee) = (Duration::ZERO, Duration::ZERO);
        Self { wallet, till, account, target: Wei(0), payer, payee, up: vec![], down: vec![] }
    }

    /// The time that a side takes for the sessions of a pass.
    fn pass(&mut self, payee: bool) -> Duration {
        (self.payer, self.payee) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..SESSIONS * u32::from(DRAWS) {
            self.target = self.target.saturating_add(VALUE);
            self.pay();
            self.exchange();
        }
        assert_eq!(self.till.credited(PAYER), self.target);
        if payee { self.payee } else { self.payer }
    }

    fn pay(&mut self) {
        let Self { wallet, target, payer, up, .. } = self;
        timed(payer, || {
            wallet.pay(NOW, PAYEE, *target);
            drain_wallet(wallet, up);
        });
    }

    /// Carries frames until there are none, and calls everything written at once.
    fn exchange(&mut self) {
        let Self { wallet, till, account, payer, payee, up, down, .. } = self;
        while !(up.is_empty() && down.is_empty()) {
            timed(payee, || {
                for frame in up.drain(..) {
                    till.handle(NOW, PAYER, &frame, Some(account)).expect("an honest payer");
                }
                while let Some((id, _)) = till.poll_record() {
                    till.persisted(id);
                }
                down.extend(core::iter::from_fn(|| till.poll_frame()).map(|(_, frame)| frame));
            });
            if down.is_empty() {
                break;
            }
            timed(payer, || {
                for frame in down.drain(..) {
                    wallet.handle(NOW, PAYEE, &frame).expect("an honest payee");
                }
                drain_wallet(wallet, up);
            });
        }
    }
}

fn drain_wallet(wallet: &mut Wallet, up: &mut Vec<Frame>) {
    while let Some((id, _)) = wallet.poll_record() {
        wallet.persisted(NOW, id);
    }
    up.extend(core::iter::from_fn(|| wallet.poll_frame()).map(|(_, frame)| frame));
}
