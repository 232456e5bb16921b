//! The seeds that a test runs with, and what to type to repeat the one that failed.

/// The environment variable that names the one seed to run.
pub const SEED: &str = "NETSIM_SEED";
/// The environment variable that multiplies the number of seeds.
pub const SEEDS: &str = "NETSIM_SEEDS";

/// Runs `test` with `count` seeds, or with the one of [`SEED`]; a failure prints the command that repeats it.
pub fn each(count: u64, mut test: impl FnMut(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seeds = match number(SEED) {
        Some(seed) => seed..=seed,
        None => 1..=count.saturating_mul(number(SEEDS).unwrap_or(1)),
    };
    for seed in seeds {
        let guard = Guard(seed);
        test(seed);
        drop(guard);
    }
}

/// Speaks up when it is dropped by a panic.
struct Guard(u64);

impl Drop for Guard {
    #[expect(clippy::print_stderr, reason = "for the one who reads the output of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or_default();
            eprintln!(
                "repeat with: {SEED}={} cargo test -p netsim --test it {test} -- --exact --nocapture",
                self.0
            );
        }
    }
}
