//! The origin: paths, circuits, streams, and the SOCKS5 entry.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod node;
pub mod path;
pub mod pool;
pub mod socks;
pub mod status;
