//! The origin: paths, circuits, streams, and the SOCKS5 entry.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod backoff;
mod build_time;
#[cfg(feature = "io")]
pub mod driver;
#[cfg(feature = "io")]
mod guard_file;
pub mod guards;
#[cfg(feature = "io")]
pub mod money;
pub mod node;
pub mod path;
pub mod payer;
pub mod pool;
mod ports;
#[cfg(feature = "io")]
mod proxy;
pub mod quality;
pub mod socks;
pub mod status;
pub mod wishes;
