//! Signed relay descriptors and their exchange, the network file, the registry, and the verified view of the network
//! (docs/spec/04-directory.md).
//!
//! Nothing here reads a clock, a socket or a file: the wall clock comes in as unix seconds, files as text.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod atlas;
pub mod chain;
#[cfg(feature = "io")]
pub mod chain_watch;
pub mod descriptor;
pub mod exchange;
pub mod exit_summary;
#[cfg(feature = "io")]
pub mod geoip;
mod limit;
pub mod net;
pub mod network_file;
pub mod payment;
pub mod registry;
#[cfg(feature = "io")]
pub mod swarm;
pub mod view;

#[cfg(test)]
mod sample;
