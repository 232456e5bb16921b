//! The contract's bytecode on an Ethereum machine in memory.
#![expect(clippy::cast_possible_truncation, reason = "random words are cut to size")]

#[cfg(test)]
mod agree;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod gas;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod world;
