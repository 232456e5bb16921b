//! Processor time of processes, and how fast the machine is at the moment.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a tick of `/proc/PID/stat` is, in seconds.
const TICK: f64 = 0.01;

/// A stretch of time and what the processes used in it.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    pub(crate) processor_seconds: f64,
}

/// Runs `work`; what it gave, and what it cost the processes whose `/proc/PID/stat` these are.
pub(crate) fn of<T>(processes: &[PathBuf], work: impl FnOnce() -> T) -> (T, Cost) {
    let (before, since) = (ticks(processes), Instant::now());
    let result = work();
    let time = since.elapsed();
    (result, Cost { time, processor_seconds: (ticks(processes) - before) * TICK })
}

/// User and system time of all processes, in ticks.
#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn ticks(processes: &[PathBuf]) -> f64 {
    let of = |stat: &PathBuf| {
        let stat = fs::read_to_string(stat).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    processes.iter().map(of).sum::<u64>() as f64
}

/// Seconds for a fixed piece of work on one core; figures that were taken together are compared by it.
pub(crate) fn calibration() -> f64 {
    let bytes = vec![7; 1 << 20];
    let since = Instant::now();
    for _ in 0..256 {
        std::hint::black_box(blake3::hash(&bytes));
    }
    since.elapsed().as_secs_f64()
}
