//! Options of a benchmark's command line.

/// The number that is given as `--name N`.
pub(crate) fn option(name: &str, default: u64) -> u64 {
    let arguments: Vec<_> = std::env::args().collect();
    let pair = arguments.windows(2).find(|pair| pair[0] == format!("--{name}"));
    pair.map_or(default, |pair| pair[1].parse().unwrap_or_else(|_| panic!("--{name} wants a number")))
}
